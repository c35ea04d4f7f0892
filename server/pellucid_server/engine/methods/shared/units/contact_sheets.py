"""Sheets of the pictures that a unit is largest in: where it is on, and what is there."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from pellucid_server.engine.asking.probes import Concept, Pixels
from pellucid_server.engine.methods.shared.pngs import encoded
from pellucid_server.engine.methods.shared.units.dictionary import Named
from pellucid_server.vocabulary.findings import Picture

Flags = npt.NDArray[np.bool_]

SIDE = 112
"""Pixels of a picture's longer side on a sheet."""

_GAP = 2
_DIM = 0.35
_EDGE = (255, 221, 51)
_COLOURS = 128
"""Colours of a sheet: it is a third of the size then, and looks the same at this size."""


def tile(named: Named, unit: int, rank: int, picture: Pixels, values: npt.NDArray[np.float32]) -> Pixels:
    """Draw one of the pictures that a unit is largest in, dimmed where the unit is off; below, what is at its peak.

    Parameters
    ----------
    unit
        Its place among those looked at.
    rank
        Which of its pictures it is.
    values
        The unit's map of it, (positions,).
    """
    layer = named.layer
    height, width = layer.upsampling.shape
    at = int(layer.top.positions[unit, rank])
    peak = ((at // width + 0.5) / height, (at % width + 0.5) / width)
    mask = layer.lit(values[None], unit)[0]
    return np.concatenate([_dimmed(picture, mask), np.zeros_like(_thumbnail(picture)[:_GAP]), _crop(picture, peak)])


def unit_sheet(named: Named, unit: int, concepts: Sequence[Concept], tiles: Sequence[Pixels]) -> tuple[str, Picture]:
    """Put a unit's tiles side by side; return the sheet under its name, "LAYER/unit N"."""
    number, concept, known_as = int(named.layer.units[unit]), int(named.best[unit]), "no concept"
    if concept >= 0:
        known_as = f"{concepts[concept].name}, IoU {named.best_iou[unit]:.2f}"
    text = f"{named.layer.name}, unit {number} ({known_as}): the pictures that it is largest in, and what is there."
    gap = np.zeros((tiles[0].shape[0], _GAP, 3), np.uint8)
    row = np.concatenate([part for each in tiles for part in (each, gap)][:-1], axis=1)
    image = Image.fromarray(row).quantize(_COLOURS)
    return f"{named.layer.name}/unit {number}", Picture(encoded(image, small=True), image.width, image.height, text)


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
