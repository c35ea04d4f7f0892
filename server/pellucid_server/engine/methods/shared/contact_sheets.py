"""Sheets of the pictures that a unit is largest in: where it is on, and what is there."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from pellucid_server.engine.asking.probes import Concept, Pixels
from pellucid_server.engine.methods.shared.dictionary import Named
from pellucid_server.vocabulary.findings import Picture

Flags = npt.NDArray[np.bool_]

SIDE = 112
"""Pixels of a picture's longer side on a sheet."""

_GAP = 2
_DIM = 0.35
_EDGE = (255, 221, 51)
_COLOURS = 128
"""Colours of a sheet: it is a third of the size then, and looks the same at this size."""


def unit_sheets(
    named: Named,
    units: npt.NDArray[np.int64],
    concepts: Sequence[Concept],
    pictures: Mapping[int, Pixels],
    maps: Mapping[tuple[int, int], npt.NDArray[np.float32]],
) -> dict[str, Picture]:
    """Draw the top pictures of some units of a layer, by "LAYER/unit N".

    Parameters
    ----------
    units
        Their places among those looked at.
    pictures, maps
        By the row's number, and by unit and row, (positions,).
    """
    layer, found = named.layer, {}
    height, width = layer.upsampling.shape
    for unit in units.tolist():
        rows = [row for row in layer.top.rows[unit].tolist() if row >= 0]
        lit = layer.lit(np.stack([maps[unit, row] for row in rows]), unit)
        places = [
            ((at // width + 0.5) / height, (at % width + 0.5) / width)
            for at in layer.top.positions[unit, : len(rows)].tolist()
        ]
        number, concept, known_as = int(layer.units[unit]), int(named.best[unit]), "no concept"
        if concept >= 0:
            known_as = f"{concepts[concept].name}, IoU {named.best_iou[unit]:.2f}"
        text = f"{layer.name}, unit {number} ({known_as}): the pictures that it is largest in, and what is there."
        found[f"{layer.name}/unit {number}"] = sheet([pictures[row] for row in rows], lit, places, text)
    return found


def sheet(pictures: Sequence[Pixels], masks: Flags, places: Sequence[tuple[float, float]], text: str) -> Picture:
    """Draw pictures side by side, dimmed where a unit is off; below each, what is around its largest value.

    Parameters
    ----------
    masks
        Where the unit is on, over each whole picture, (pictures, height, width).
    places
        Where its largest value is in each, as shares of height and width.
    """
    tiles = [
        np.concatenate([_dimmed(picture, mask), np.zeros_like(_thumbnail(picture)[:_GAP]), _crop(picture, place)])
        for picture, mask, place in zip(pictures, masks, places, strict=True)
    ]
    gap = np.full((tiles[0].shape[0], _GAP, 3), 0, np.uint8)
    row = np.concatenate([part for tile in tiles for part in (tile, gap)][:-1], axis=1)
    image = Image.fromarray(row).quantize(_COLOURS)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return Picture(file.getvalue(), image.width, image.height, text)


def _thumbnail(picture: Pixels) -> Pixels:
    height, width = picture.shape[:2]
    scale = SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    shrunk = Image.fromarray(np.ascontiguousarray(picture)).convert("RGB").resize(size, Image.Resampling.BILINEAR)
    return np.asarray(shrunk)


def _dimmed(picture: Pixels, mask: Flags) -> Pixels:
    """Dim a picture outside of a mask, and draw the mask's edge."""
    small = _thumbnail(picture)
    rows = np.arange(small.shape[0]) * mask.shape[0] // small.shape[0]
    columns = np.arange(small.shape[1]) * mask.shape[1] // small.shape[1]
    on = mask[rows[:, None], columns[None, :]]
    wide = np.pad(on, 1)
    core = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    found = np.where(on[:, :, None], small, (small * _DIM).astype(np.uint8))
    found[on & ~core] = _EDGE
    return found


def _crop(picture: Pixels, place: tuple[float, float]) -> Pixels:
    """Cut out the part of half the height and width around a place, and show it at the picture's size."""
    size = [max(1, length // 2) for length in picture.shape[:2]]
    begin = [
        int(np.clip(share * length - part / 2, 0, length - part))
        for share, length, part in zip(place, picture.shape[:2], size, strict=True)
    ]
    part = picture[begin[0] : begin[0] + size[0], begin[1] : begin[1] + size[1]]
    whole = _thumbnail(picture)
    wanted = (whole.shape[1], whole.shape[0])
    return np.asarray(
        Image.fromarray(np.ascontiguousarray(part)).convert("RGB").resize(wanted, Image.Resampling.BILINEAR)
    )
