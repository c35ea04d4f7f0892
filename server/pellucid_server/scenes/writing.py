"""Writes pictures and masks as a data set: `dataset.toml`, `pictures.csv`, the pictures, and the folder of masks.

It is the layout that servers read; see `docs/datasets.md`.
"""

import csv
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pellucid_server.scenes.forms import Flags, Pixels

PICTURES, MASKS = "pictures", "masks"
_PALETTE_SEED = 1
_LEVEL = 4
"""Of compression: a picture takes a third of the time of the default, and some per cent more bytes."""


@dataclass(frozen=True, slots=True)
class Row:
    """A picture, (height, width, 3), where concepts are in it by category and name, and its cells by column."""

    picture: Pixels
    masks: Mapping[tuple[str, str], Flags]
    cells: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Layout:
    """What a data set has.

    Attributes
    ----------
    description
        A sentence.
    label
        The column of labels.
    groups
        Columns that results can be broken down by.
    maps
        Categories that are written as label maps, and their concepts: those of one may not overlap.
    """

    description: str
    label: str
    groups: tuple[str, ...]
    maps: Mapping[str, tuple[str, ...]]


def write_data_set(folder: Path, layout: Layout, rows: Iterable[Row]) -> int:
    """Write a data set into a folder that is empty or not there; return how many rows it has.

    `dataset.toml` comes last: what is not whole is no data set.

    Raises
    ------
    FileExistsError
        There is something in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; name a new folder")
    count = 0
    (folder / MASKS).mkdir()
    with (folder / "pictures.csv").open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["file", layout.label, *layout.groups])
        for count, row in enumerate(rows, 1):
            name = f"{count - 1:06d}"
            _save(row.picture, folder / PICTURES / f"{name}.png")
            _write_masks(folder / MASKS, layout, row, f"{PICTURES}/{name}.png")
            lines.writerow([f"{PICTURES}/{name}.png", *(row.cells[each] for each in (layout.label, *layout.groups))])
    with (folder / MASKS / "concepts.csv").open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(["category", "index", "name"])
        for category, names in layout.maps.items():
            lines.writerows([category, place, name] for place, name in _numbered(names))
    _write_toml(folder, layout)
    return count


def _write_masks(folder: Path, layout: Layout, row: Row, name: str) -> None:
    places = {(category, each): place for category, names in layout.maps.items() for place, each in _numbered(names)}
    maps: dict[str, Pixels] = {}
    for (category, concept), mask in row.masks.items():
        if category in layout.maps:
            labels = maps.setdefault(category, np.zeros(mask.shape, np.uint8))
            labels[mask] = places[category, concept]
        else:
            _save(mask, folder / category / concept / name)
    for category, labels in maps.items():
        _save(labels, folder / category / name, palette=True)


def _numbered(names: tuple[str, ...]) -> Iterable[tuple[int, str]]:
    return enumerate(names, 1)


def _save(array: Pixels | Flags, path: Path, *, palette: bool = False) -> None:
    picture = Image.fromarray(array)
    if palette:
        picture.putpalette(_palette())
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, "PNG", compress_level=_LEVEL)


def _palette() -> bytes:
    """Return colours that differ, black first, so that a label map can be looked at."""
    colours = np.random.default_rng(_PALETTE_SEED).integers(40, 256, (256, 3)).astype(np.uint8)
    colours[0] = 0
    return colours.tobytes()


def _write_toml(folder: Path, layout: Layout) -> None:
    groups = ", ".join(f'"{each}"' for each in layout.groups)
    lines = (
        f'description = "{layout.description}"',
        'kind = "pictures"',
        'data = "pictures.csv"',
        f'label = "{layout.label}"',
        f"groups = [{groups}]",
        f'masks = "{MASKS}"',
    )
    unfinished = folder / ".dataset.toml"
    unfinished.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(unfinished, folder / "dataset.toml")
