"""Shapes, textures and grounds in whole numbers, so that they have the same pixels on every machine.

Nothing is smoothed: a pixel belongs to a shape if its centre does, and has one colour.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

Flags = npt.NDArray[np.bool_]
Pixels = npt.NDArray[np.uint8]
Grid = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Rows (height, 1) and columns (1, width)."""

COLORS: Mapping[str, tuple[int, int, int]] = {
    "red": (200, 30, 35),
    "orange": (235, 130, 25),
    "yellow": (235, 215, 40),
    "green": (40, 150, 60),
    "cyan": (50, 190, 200),
    "blue": (35, 70, 195),
    "purple": (125, 45, 160),
    "pink": (235, 130, 175),
    "white": (242, 242, 242),
    "black": (18, 18, 18),
}
"""The middle of each colour; see `JITTER`."""

JITTER = 13
"""By how much each channel of a colour may differ from its middle. Two colours never meet."""


def grid(height: int, width: int) -> Grid:
    """Return the numbers of rows and columns, to be combined by broadcasting."""
    return np.arange(height, dtype=np.int64)[:, None], np.arange(width, dtype=np.int64)[None, :]


def circle(side: int, turn: int) -> Flags:
    """Return the disc in a square, (side, side): pixels whose centres are within half a side of the middle."""
    rows, columns = grid(side, side)
    disc: Flags = (2 * rows + 1 - side) ** 2 + (2 * columns + 1 - side) ** 2 <= side**2
    return disc


def square(side: int, turn: int) -> Flags:
    """Return the square itself, (side, side)."""
    return np.ones((side, side), np.bool_)


def triangle(side: int, turn: int) -> Flags:
    """Return a triangle, (side, side), on one side of the square, its tip in the middle of the opposite one."""
    rows, columns = grid(side, side)
    return np.rot90(np.abs(2 * columns + 1 - side) <= rows + 1, turn)


def cross(side: int, turn: int) -> Flags:
    """Return a cross, (side, side), of two bars a third of the side wide; turned oddly, of two diagonals."""
    rows, columns = grid(side, side)
    if turn % 2:
        width = side // 4
        diagonals: Flags = (np.abs(rows - columns) <= width) | (np.abs(rows + columns + 1 - side) <= width)
        return diagonals
    inner = (side - side // 3) // 2
    return ((rows >= inner) & (rows < side - inner)) | ((columns >= inner) & (columns < side - inner))


SHAPES: Mapping[str, Callable[[int, int], Flags]] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "cross": cross,
}
"""Shapes in a square of a side in pixels, turned by so many quarters."""


def horizontal(rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], period: int) -> Flags:
    """Return stripes that lie, half a period each."""
    return np.broadcast_to(2 * (rows % period) < period, (len(rows), columns.size))


def vertical(rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], period: int) -> Flags:
    """Return stripes that stand, half a period each."""
    return np.broadcast_to(2 * (columns % period) < period, (len(rows), columns.size))


def rising(rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], period: int) -> Flags:
    """Return stripes that rise to the right at 45 degrees; a period is along a row."""
    return 2 * ((rows + columns) % period) < period


def falling(rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], period: int) -> Flags:
    """Return stripes that fall to the right at 45 degrees; a period is along a row."""
    return 2 * ((columns - rows) % period) < period


def dots(rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], period: int) -> Flags:
    """Return discs on a square lattice, 0.6 periods across."""
    down, across = 2 * (rows % period) + 1 - period, 2 * (columns % period) + 1 - period
    discs: Flags = 100 * (down**2 + across**2) <= 36 * period**2
    return discs


def checks(rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64], period: int) -> Flags:
    """Return a chessboard whose fields are half a period wide."""
    fields: Flags = ((2 * rows // period) + (2 * columns // period)) % 2 == 0
    return fields


TEXTURES: Mapping[str, Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64], int], Flags]] = {
    "horizontal stripes": horizontal,
    "vertical stripes": vertical,
    "rising stripes": rising,
    "falling stripes": falling,
    "dots": dots,
    "checks": checks,
}
"""Textures of two colours: where the first one is, by row and column and period in pixels."""


def plain(size: int, source: np.random.Generator) -> Pixels:
    """Return one grey, (size, size, 3)."""
    return np.full((size, size, 3), source.integers(70, 191), np.uint8)


def gradient(size: int, source: np.random.Generator) -> Pixels:
    """Return greys that change evenly along one of four directions, (size, size, 3)."""
    first, last = int(source.integers(50, 120)), int(source.integers(140, 211))
    rows, columns = grid(size, size)
    along = (rows + np.zeros_like(columns), 2 * rows, rows + columns)[int(source.integers(3))]
    along = np.broadcast_to(along, (size, size))
    levels = first + (last - first) * along // max(int(along.max()), 1)
    return np.repeat(np.rot90(levels, int(source.integers(4)))[:, :, None], 3, axis=2).astype(np.uint8)


def noise(size: int, source: np.random.Generator) -> Pixels:
    """Return greys that are drawn for squares of some pixels, (size, size, 3)."""
    side = int(source.integers(1, max(size // 24, 1) + 1))
    count = -(-size // side)
    levels = source.integers(60, 196, (count, count)).astype(np.uint8)
    return np.repeat(levels.repeat(side, 0).repeat(side, 1)[:size, :size, None], 3, axis=2)


GROUNDS: Mapping[str, Callable[[int, np.random.Generator], Pixels]] = {
    "plain": plain,
    "gradient": gradient,
    "noise": noise,
}
"""Grounds of greys, of a size in pixels."""
