"""From the maps of units to masks on a grid over the picture, cell by cell.

A cell is the part of the grid between neighbouring places of a map. What bilinear interpolation makes there lies
between the values at its corners, so that a cell with no corner above a threshold has no pixel above it: of a map of
which few places are above, few cells have to be looked at. Masks of units and concepts are packed into bits by cell.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]

BILINEAR, NEAREST = "bilinear", "nearest"
RULES = (BILINEAR, NEAREST)

_WORD = 8
_bit_count: Any = getattr(np, "bitwise_count", None)
"""Of NumPy 2 alone."""


@dataclass(frozen=True, slots=True)
class _Side:
    """One axis: which cell each pixel is in, and what it weighs the cell's two ends by.

    Attributes
    ----------
    first, second
        The places of the map at the ends of each cell, (cells,).
    weights
        What each pixel of a cell weighs its ends by, (cells, pixels, 2); 0 both where a cell has no such pixel.
    pixels
        Where each pixel of a cell is on the grid, (cells, pixels); the length of the grid where there is none.
    """

    first: Indices
    second: Indices
    weights: Floats
    pixels: Indices


def _side(places: int, length: int, rule: str) -> _Side:
    """Divide `length` pixels over `places` of a map, whose centres are aligned with the grid's as a whole."""
    at = (np.arange(length) + 0.5) * places / length
    if rule == NEAREST:
        cell = np.minimum(np.floor(at).astype(np.int64), places - 1)
        share, cells = np.zeros(length), places
        first = second = np.arange(places)
    else:
        # Beyond the outermost centres the value is that of the outermost place.
        begin = np.floor(at - 0.5)
        cell, share, cells = begin.astype(np.int64) + 1, at - 0.5 - begin, places + 1
        first, second = np.maximum(np.arange(cells) - 1, 0), np.minimum(np.arange(cells), places - 1)
    number = np.arange(length) - np.searchsorted(cell, cell)
    weights = np.zeros((cells, int(number.max()) + 1, 2), np.float32)
    weights[cell, number] = np.stack([1 - share, share], axis=1)
    pixels = np.full(weights.shape[:2], length, np.int64)
    pixels[cell, number] = np.arange(length)
    return _Side(first, second, weights, pixels)


@dataclass(frozen=True, slots=True)
class Masks:
    """Masks of some maps, as far as they are on.

    Attributes
    ----------
    maps, cells
        The cells that may be on: of which map, in increasing order, and which, (n,) each.
    bits
        Which of its pixels are on, (n, words).
    """

    maps: Indices
    cells: Indices
    bits: npt.NDArray[np.uint64]


class Upsampling:
    """The rule by which maps of one size become masks on one grid.

    Parameters
    ----------
    shape
        Height and width of the maps.
    grid
        Height and width of the grid, in pixels.
    rule
        "bilinear": the centres of map and grid are aligned (what is known as `align_corners=False`), and beyond the
        outermost centres the value is that of the outermost place; or "nearest": each pixel has the value of the place
        that its centre lies in.
    """

    def __init__(self, shape: tuple[int, int], grid: tuple[int, int], rule: str) -> None:
        self.shape, self.grid, self.rule = shape, grid, rule
        self._rows, self._columns = _side(shape[0], grid[0], rule), _side(shape[1], grid[1], rule)
        rows, columns = self._rows.pixels, self._columns.pixels
        inside = (rows[:, None, :, None] < grid[0]) & (columns[None, :, None, :] < grid[1])
        flat = np.where(inside, rows[:, None, :, None] * grid[1] + columns[None, :, None, :], grid[0] * grid[1])
        self._pixels = flat.reshape(len(rows) * len(columns), -1)
        self._corners = np.stack(
            [
                (one[:, None] * shape[1] + other[None, :]).reshape(-1)
                for one in (self._rows.first, self._rows.second)
                for other in (self._columns.first, self._columns.second)
            ],
            axis=1,
        )

    @property
    def positions(self) -> int:
        """How many places a map has."""
        return self.shape[0] * self.shape[1]

    def masks(self, maps: Floats, thresholds: Floats, *, of_upsampled: bool = False) -> Masks:
        """Return where upsampled maps, (maps, positions), are above their thresholds, (maps,).

        The difference is interpolated: its sign is right to the last bit where all corners are on one side.
        With `of_upsampled` thresholds are upsampled values themselves, and compared with those of `values`.
        """
        if of_upsampled:
            of, cell, found = self._values(maps, thresholds)
            return Masks(of, cell, self._packed(found > thresholds[of][:, None]))
        above = maps - thresholds[:, None]
        of, cell = np.nonzero((above > 0)[:, self._corners].any(2))
        return Masks(of, cell, self._packed(self._interpolated(above[of[:, None], self._corners[cell]], cell) > 0))

    def values(self, maps: Floats, floors: Floats) -> tuple[Indices, Floats]:
        """Return upsampled values that may be above the maps' floors: of which map, and (n, pixels of a cell).

        Pixels that a cell does not have are -inf.
        """
        of, _, found = self._values(maps, floors)
        return of, found

    def _values(self, maps: Floats, floors: Floats) -> tuple[Indices, Indices, Floats]:
        of, cell = np.nonzero((maps > floors[:, None])[:, self._corners].any(2))
        corners = maps[of[:, None], self._corners[cell]]
        # Rounding must not lift a plateau above its own height.
        found = np.clip(self._interpolated(corners, cell), corners.min(1)[:, None], corners.max(1)[:, None])
        found[self._pixels[cell] == self.grid[0] * self.grid[1]] = -np.inf
        return of, cell, found

    def packed(self, masks: Flags) -> npt.NDArray[np.uint64]:
        """Pack masks on the grid, (masks, height, width), cell by cell, (masks, cells, words)."""
        flat = np.zeros((len(masks), self.grid[0] * self.grid[1] + 1), np.bool_)
        flat[:, :-1] = masks.reshape(len(masks), self.grid[0] * self.grid[1])
        return self._packed(flat[:, self._pixels])

    def unpacked(self, masks: Masks, count: int) -> Flags:
        """Return masks as flags on the grid, (count, height, width)."""
        flat = np.zeros((count, self.grid[0] * self.grid[1] + 1), np.bool_)
        bits = np.unpackbits(masks.bits.view(np.uint8), axis=1, count=self._pixels.shape[1]).astype(np.bool_)
        flat[masks.maps[:, None], self._pixels[masks.cells]] = bits
        return flat[:, :-1].reshape(count, *self.grid)

    def _interpolated(self, corners: Floats, cell: Indices) -> Floats:
        """Interpolate between the four corners of cells, (n, 4), to (n, pixels of a cell)."""
        rows = self._rows.weights[cell // len(self._columns.first)]
        columns = self._columns.weights[cell % len(self._columns.first)]
        left = corners[:, :1] * rows[:, :, 0] + corners[:, 2:3] * rows[:, :, 1]
        right = corners[:, 1:2] * rows[:, :, 0] + corners[:, 3:] * rows[:, :, 1]
        found = left[:, :, None] * columns[:, None, :, 0]
        found += right[:, :, None] * columns[:, None, :, 1]
        return found.reshape(len(cell), self._pixels.shape[1])

    @staticmethod
    def _packed(flags: Flags) -> npt.NDArray[np.uint64]:
        packed: npt.NDArray[np.uint8] = np.packbits(flags, axis=-1)
        missing = -packed.shape[-1] % _WORD
        if missing:
            packed = np.concatenate([packed, np.zeros((*packed.shape[:-1], missing), np.uint8)], axis=-1)
        words: npt.NDArray[np.uint64] = packed.view(np.uint64)
        return words


def count_bits(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Count the bits that are set along the last axis, (..., words) to (...)."""
    if _bit_count is None:
        bits: Any = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=-1)
    else:
        bits = _bit_count(words)
    found: npt.NDArray[np.int64] = bits.sum(-1, dtype=np.int64)
    return found


def areas(masks: Masks, concepts: npt.NDArray[np.uint64]) -> tuple[Indices, Indices, Indices]:
    """Return the maps that are on somewhere, on how many pixels, and on how many together with each concept.

    Parameters
    ----------
    concepts
        Packed masks of concepts of the same picture, (concepts, cells, words).

    Returns
    -------
    maps, areas
        (on,) each.
    both
        (on, concepts).
    """
    maps, begins = np.unique(masks.maps, return_index=True)
    if not len(maps):
        return maps, np.zeros(0, np.int64), np.zeros((0, len(concepts)), np.int64)
    alone = np.add.reduceat(count_bits(masks.bits), begins)
    each = [np.add.reduceat(count_bits(masks.bits & mask[masks.cells]), begins) for mask in concepts]
    both = np.stack(each, axis=1) if each else np.zeros((len(maps), 0), np.int64)
    on = alone > 0
    return maps[on], alone[on], both[on]
