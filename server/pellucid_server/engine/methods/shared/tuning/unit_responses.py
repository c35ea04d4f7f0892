"""The responses of layers' units to rows that are made for the purpose: one number for each unit and row."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.probes import ProbeLayer, Saved
from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.evaluations.capture import Capture
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.errors import InvalidRequestError, UnsupportedError
from pellucid_server.vocabulary.findings import State

RESPONSES = ("centre", "mean", "max")
"""How the positions of a unit become one number: the middle one, their mean, or their largest."""

MOST_TOGETHER = 1 << 21
"""Responses, units times rows, that are gathered at once, and saved with each state; layers are grouped so."""

MOST_OF_A_LAYER = 1 << 23
"""Responses of one layer, at most: a state has to hold them."""

_MOST_ROWS = 32
_MOST_CHUNK_BYTES = 32 << 20
_LARGEST = 1e37
"""The largest magnitude of a response: differences and sums of some stay within float32."""
_SAVED_BYTES = 1 << 20
"""A state is saved after each chunk of rows, or after as many as it has of these."""

Make = Callable[[int, int], Arrays]
"""Makes the rows from one number up to another, (rows, *features) each."""


def grouped(layers: Sequence[ProbeLayer], columns: int) -> list[tuple[ProbeLayer, ...]]:
    """Divide layers, in order, into groups whose responses are gathered together.

    Parameters
    ----------
    columns
        Responses of each unit.

    Raises
    ------
    InvalidRequestError
        A layer has too many units for so many responses.
    """
    groups: list[list[ProbeLayer]] = []
    room = 0
    for number, each in enumerate(layers):
        size = len(each.units) * columns
        if size > MOST_OF_A_LAYER:
            text = (
                f"layers[{number}] has {len(each.units):,} units with {columns:,} responses each; {MOST_OF_A_LAYER:,} "
                "are gathered of one layer. Name some of its units, or ask for fewer stimuli."
            )
            raise InvalidRequestError(text, field=f"layers[{number}].units")
        if not groups or size > room:
            groups.append([])
            room = MOST_TOGETHER
        groups[-1].append(each)
        room -= size
    return [tuple(group) for group in groups]


def unit_values(values: npt.NDArray[np.generic], layer: ProbeLayer, response: str) -> npt.NDArray[np.float64]:
    """Return one number for each row and unit of a layer, (rows, units), of its values, (rows, *shape)."""
    if not layer.layer.shape:
        return values.astype(np.float64).reshape(-1, 1)[:, layer.units]
    by_unit = np.moveaxis(values, 1 + layer.layer.unit_axis, 1)
    chosen = by_unit if len(layer.units) == layer.layer.units else by_unit[:, layer.units]
    if response == "centre":
        middle = tuple(length // 2 for length in chosen.shape[2:])
        return chosen[(slice(None), slice(None), *middle)].astype(np.float64)
    flat = chosen.reshape(*chosen.shape[:2], -1)
    return np.asarray(flat.mean(axis=2, dtype=np.float64) if response == "mean" else flat.max(axis=2), np.float64)


@dataclass(frozen=True, slots=True)
class Follow:
    """Rows of which each is for some units alone: `each` rows one after the other for each of several stimuli.

    Attributes
    ----------
    owners
        The stimulus of each unit of the group, -1 for none, (units,).
    each
        Rows of a stimulus.
    first
        The column that the first of a stimulus's rows fills.
    """

    owners: npt.NDArray[np.int64]
    each: int
    first: int


class UnitResponses:
    """The responses of some layers' units, gathered in chunks of rows, so that a lost worker's can be gone on with.

    Attributes
    ----------
    values
        float32, (units of all layers, columns); NaN where there is none.
    scales
        The largest magnitude of each layer, whatever the unit, in rows that are for all units, (layers,).
    done
        Rows evaluated.
    """

    def __init__(
        self,
        handle: Handle,
        layers: tuple[ProbeLayer, ...],
        response: str,
        columns: int,
        state: State | None,
        **at: int,
    ) -> None:
        self._handle = handle
        self._layers = layers
        self._response = response
        self._at = at
        sizes = [len(each.units) for each in layers]
        ends = list(itertools.accumulate(sizes, initial=0))
        self._spans = [slice(first, last) for first, last in itertools.pairwise(ends)]
        self.values = np.full((sum(sizes), columns), np.nan, np.float32)
        self.scales = np.zeros(len(layers))
        self.done = 0
        if state is not None:
            self.values[...] = state.arrays["responses"]
            self.scales[...] = state.arrays["scales"]
            self.done = int(state.values["done"])

    def of(self, number: int) -> npt.NDArray[np.float64]:
        """Return the responses of one layer's units, (units, columns)."""
        return self.values[self._spans[number]].astype(np.float64)

    def gather(
        self, make: Make, start: int, count: int, before: int, rows: int, follow: Follow | None = None
    ) -> Iterator[Saved]:
        """Evaluate rows `start` to `start + count` that are not done yet, and yield states to go on from.

        Parameters
        ----------
        make
            Makes rows by their numbers, counted from `start` on.
        before, rows
            Rows evaluated before those of this group, and rows in all, for the progress.
        follow
            Which units the rows are for; None for all, each row filling a column of its own from `start` on.
        """
        names = tuple(each.name for each in self._layers)
        chunk = self._rows_together(make)
        stride = max(1, self.values.nbytes // _SAVED_BYTES)
        for number, first in enumerate(range(0, count, chunk)):
            last = min(first + chunk, count)
            if start + last <= self.done:
                continue
            found = self._handle.ask(Capture(Rows(make(first, last)), names)).arrays
            self._take(found, start + first, first, follow)
            self.done = start + last
            if last == count or not (number + 1) % stride:
                yield Saved(self.state(), before + self.done, rows)

    def state(self) -> State:
        """Return what to go on from."""
        arrays: Arrays = {"responses": self.values.copy(), "scales": self.scales.copy()}
        return State(arrays, {"done": self.done, **self._at})

    def _take(self, found: Arrays, column: int, first: int, follow: Follow | None) -> None:
        for number, (each, span) in enumerate(zip(self._layers, self._spans, strict=True)):
            values = found[each.name]
            responses = unit_values(values, each, self._response)
            _require_finite(responses, each)
            if follow is None:
                self.scales[number] = max(self.scales[number], float(np.abs(values).max(initial=0.0)))
                self.values[span, column : column + len(responses)] = responses.T
                continue
            for place, row in enumerate(responses):
                stimulus, step = divmod(first + place, follow.each)
                mine = follow.owners[span] == stimulus
                self.values[span, follow.first + step][mine] = row[mine]

    def _rows_together(self, make: Make) -> int:
        """Return how many rows are evaluated by one call: a function of the request alone."""
        row = sum(array.nbytes for array in make(0, 1).values())
        row += sum(4 * int(np.prod(each.layer.shape)) for each in self._layers)
        return min(_MOST_ROWS, max(1, _MOST_CHUNK_BYTES // row))


def _require_finite(responses: npt.NDArray[np.float64], layer: ProbeLayer) -> None:
    """Refuse a network that overflows on such rows: what is not finite can be neither compared nor averaged."""
    # NaN compares with nothing.
    bad = np.argwhere(~(np.abs(responses) <= _LARGEST))
    if len(bad):
        row, unit = (int(each) for each in bad[0])
        text = (
            f"Unit {int(layer.units[unit])} of {layer.name} responds {responses[row, unit]} to a stimulus; there is no "
            f"tuning curve of a response that is not finite, or beyond {_LARGEST:g}. Name other units, or a lower "
            "contrast."
        )
        raise UnsupportedError(text, subject=layer.name)
