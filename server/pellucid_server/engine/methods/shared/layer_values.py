"""Values of layers over a probe set: by row, unit and position, and where positions are."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.probes import ProbeBatch, ProbeLayer, ProbeQuestion, ProbeSet
from pellucid_server.engine.evaluations.capture import Capture
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.errors import InvalidRequestError

Values = npt.NDArray[np.generic]
Numbers = npt.NDArray[np.int64]

_MOST_ROWS = 32
_LARGEST = float(np.finfo(np.float32).max)
"""Some values are kept in float32."""
_BATCH_BYTES = 16 << 20
"""Bytes of the values of a batch: more would hold up what other requests do in Python."""


@dataclass(frozen=True, slots=True)
class PositionClass:
    """Some positions of a layer that are looked at together: their indices, in row-major order, (places,)."""

    name: str
    indices: Numbers


def probe_of(question: ProbeQuestion, method: str) -> ProbeSet:
    """Return the rows that a question is about.

    Raises
    ------
    InvalidRequestError
        There are none, or no layers.
    """
    if question.probe is None:
        raise InvalidRequestError(f"probe is not set; {method} needs rows to run the model on.", field="probe")
    if not question.layers:
        raise InvalidRequestError("layers is empty; name the layers to look at.", field="layers")
    return question.probe


def position_shape(layer: ProbeLayer) -> tuple[int, ...]:
    """Return the lengths of the axes that do not count units: () for none, (length,), (height, width), ..."""
    shape, axis = layer.layer.shape, layer.layer.unit_axis
    return shape[:axis] + shape[axis + 1 :]


def by_position(layer: ProbeLayer, values: Values) -> Values:
    """Return a layer's values as (rows, units, positions), of the units that are looked at."""
    if values.ndim == 1:
        return values[:, None, None]
    units = np.moveaxis(values, 1 + layer.layer.unit_axis, 1)
    found = units.reshape(*units.shape[:2], -1)
    return found if len(layer.units) == found.shape[1] else found[:, layer.units]


def layer_batches(
    handle: Handle, question: ProbeQuestion, probe: ProbeSet, first: int = 0
) -> Iterator[tuple[ProbeBatch, dict[str, Values]]]:
    """Give rows from number `first` on, with each layer's values, (rows, units, positions), all finite in float32.

    Raises
    ------
    InvalidRequestError
        A value is NaN or infinite, or rows have other positions than the first one.
    PellucidError
        A row cannot be read.
    """
    names = tuple(each.name for each in question.layers)
    row_bytes = sum(4 * each.layer.units * each.layer.positions for each in question.layers)
    rows = int(np.clip(_BATCH_BYTES // max(row_bytes, 1), 1, _MOST_ROWS))
    for batch in probe.batches(rows, first=first):
        arrays = handle.ask(Capture(Rows(batch.rows), names)).arrays
        found = {each.name: by_position(each, arrays[each.name]) for each in question.layers}
        for each in question.layers:
            _require_positions(each, found[each.name], batch)
            _require_finite(handle, each, found[each.name], batch, probe)
        yield batch, found


def position_classes(layer: ProbeLayer, classes: str) -> tuple[PositionClass, ...]:
    """Divide the positions of a layer: "all", "border and centre" of a map, "first and others" of a sequence.

    "auto" is what fits the layer. A layer that has no such positions has them all in one class.
    """
    shape = position_shape(layer)
    every = np.arange(int(np.prod(shape)))
    if len(every) > 1 and len(shape) == 2 and classes in ("auto", "border and centre"):
        y, x = np.indices(shape).reshape(2, -1)
        border = (y == 0) | (x == 0) | (y == shape[0] - 1) | (x == shape[1] - 1)
        parts = (PositionClass("border", every[border]), PositionClass("centre", every[~border]))
    elif len(every) > 1 and (classes == "first and others" or (len(shape) == 1 and classes == "auto")):
        parts = (PositionClass("first", every[:1]), PositionClass("others", every[1:]))
    else:
        return (PositionClass("all", every),)
    return tuple(part for part in parts if len(part.indices))


def _require_positions(layer: ProbeLayer, values: Values, batch: ProbeBatch) -> None:
    if values.shape[2] != layer.layer.positions:
        text = (
            f"probe has rows of several lengths: {layer.name} has {layer.layer.positions} positions for the first row, "
            f"and {values.shape[2]} for row {int(batch.numbers[0])}; give rows of one length."
        )
        raise InvalidRequestError(text, field="probe")


def _require_finite(handle: Handle, layer: ProbeLayer, values: Values, batch: ProbeBatch, probe: ProbeSet) -> None:
    wrong = handle.beside(partial(_unfit, values))
    if wrong is None:
        return
    place, unit, position = wrong
    number = int(batch.numbers[place])
    (name,) = probe.names([number])
    text = (
        f"probe has a row for which {layer.name} is not finite, or too large to add up: row {number} ({name}) makes "
        f"unit {int(layer.units[unit])} {values[place, unit, position]}; take the row out, or look at layers before "
        "this one."
    )
    raise InvalidRequestError(text, field="probe")


def _unfit(values: Values) -> tuple[int, int, int] | None:
    """Return the first row, unit and position whose value cannot be added up; None if there is none."""
    wrong = ~np.isfinite(values)
    if values.dtype == np.float64:
        wrong |= np.abs(values) > _LARGEST
    if not wrong.any():
        return None
    place, unit, position = (int(part) for part in np.argwhere(wrong)[0])
    return place, unit, position
