"""Values of a layer with parts of other values in them: what a network is run on from a site."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pellucid_server.engine.asking.handle import Held
from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.asking.recipe import Layout, Stage, Tensors
from pellucid_server.engine.device.accelerator import to_device

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A part of a layer's value that is replaced.

    Attributes
    ----------
    other
        Which of `Patchwork.others` it becomes.
    units
        Indices of whole units, increasing; None for the whole value.
    elements
        Elements beside those, as unit times the number of positions plus position, where a position is a place on the
        axes that do not count units, row-major; None for none.
    """

    other: int
    units: npt.NDArray[np.int64] | None = None
    elements: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Patchwork:
    """A layer's value with pieces of other values in it, row by row; later pieces of a row lie on earlier ones.

    Attributes
    ----------
    held
        What holds the layer's own value: it is not sent to the device again.
    number
        Which of the held rows.
    unit_axis
        The axis of the value's shape that counts units.
    others
        The values that pieces are of, (others, *shape).
    pieces
        The pieces of each row.
    """

    held: Held
    number: int
    unit_axis: int
    others: Floats
    pieces: tuple[tuple[Piece, ...], ...]

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.pieces)

    @property
    def layout(self) -> Layout:
        """Name, type and shape of the layer's value."""
        values = self.held.values
        return ((self.held.layer, values.dtype.str, values.shape[1:]),)

    def stage(self, device: str) -> Stage:
        """Put the other values on a device; the layer's own lies there."""
        value = self.held.context.value[self.number]
        others = to_device(np.ascontiguousarray(self.others, self.held.values.dtype), device)
        return _Pieced(self.held.layer, value, others, self.unit_axis, self.pieces)

    def row(self, number: int) -> Arrays:
        """Return one row."""
        found = np.empty((1, *self.held.values.shape[1:]), self.held.values.dtype)
        self.grow({self.held.layer: found}, number)
        return {self.held.layer: found[0]}

    def grow(self, out: Arrays, first: int) -> None:
        """Grow rows on the host."""
        own = torch.from_numpy(self.held.values[self.number])
        others = torch.from_numpy(np.ascontiguousarray(self.others, self.held.values.dtype))
        stage = _Pieced(self.held.layer, own, others, self.unit_axis, self.pieces)
        stage.write({name: torch.from_numpy(array) for name, array in out.items()}, first)


@dataclass(frozen=True, slots=True)
class _Pieced:
    layer: str
    value: torch.Tensor
    others: torch.Tensor
    unit_axis: int
    pieces: tuple[tuple[Piece, ...], ...]

    def rows(self, first: int, count: int) -> None:
        return None

    def write(self, out: Tensors, first: int) -> None:
        rows = out[self.layer]
        rows.copy_(self.value.expand_as(rows))
        chosen = self.pieces[first : first + len(rows)]
        # Rows, units, positions: a view, so that what is written there is written to the rows.
        value = rows if rows.ndim > 1 else rows[:, None]
        value = value.movedim(self.unit_axis + 1, 1)
        others = (self.others if self.others.ndim > 1 else self.others[:, None]).movedim(self.unit_axis + 1, 1)
        if self._write_single_units(value, others, chosen):
            return
        for number, pieces in enumerate(chosen):
            for piece in pieces:
                _put(value[number], others[piece.other], piece)

    @staticmethod
    def _write_single_units(value: torch.Tensor, others: torch.Tensor, chosen: tuple[tuple[Piece, ...], ...]) -> bool:
        """Write rows that have at most one piece each, a single unit at all positions, by one call."""
        numbers, units, of = [], [], []
        for number, pieces in enumerate(chosen):
            if not pieces:
                continue
            (piece,) = pieces if len(pieces) == 1 else (None,)
            if piece is None or piece.units is None or len(piece.units) != 1:
                return False
            if piece.elements is not None and len(piece.elements):
                return False
            numbers.append(number)
            units.append(int(piece.units[0]))
            of.append(piece.other)
        if numbers:
            places, axis, other = (torch.tensor(each, device=value.device) for each in (numbers, units, of))
            value[places, axis] = others[other, axis]
        return True


def _put(row: torch.Tensor, other: torch.Tensor, piece: Piece) -> None:
    """Write a piece into a row; both are (units, *positions)."""
    if piece.units is None:
        row.copy_(other)
        return
    units = torch.from_numpy(piece.units).to(row.device)
    row[units] = other[units]
    if piece.elements is not None and len(piece.elements):
        places = np.unravel_index(piece.elements, tuple(row.shape))
        there = tuple(torch.from_numpy(np.array(axis)).to(row.device) for axis in places)
        row[there] = other[there]
