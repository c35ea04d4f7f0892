"""Values of layers over a probe set: by row, unit and position, and where positions are."""

from collections.abc import Callable, Iterator, Mapping
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
Take = Callable[[ProbeBatch, Mapping[str, Values]], None]
"""Takes a batch in, with each layer's values."""

MAP_AXES = ("y", "x")
"""The axes of positions of a feature map."""

_HEADS = ":heads"
"""Ends the name of the heads of an attention, whose values are (heads, length, width)."""
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


def position_axes(layer: ProbeLayer) -> tuple[str, ...]:
    """Return what the axes of positions are called: y and x of maps, position of sequences."""
    count = len(position_shape(layer))
    if layer.name.endswith(_HEADS):
        return ("position", "element")
    return {0: (), 1: ("position",), 2: MAP_AXES}.get(count, tuple(f"axis {number}" for number in range(count)))


def by_position(layer: ProbeLayer, values: Values) -> Values:
    """Return a layer's values as (rows, units, positions), of the units that are looked at."""
    if values.ndim == 1:
        return values[:, None, None]
    units = np.moveaxis(values, 1 + layer.layer.unit_axis, 1)
    found = units.reshape(*units.shape[:2], -1)
    return found if len(layer.units) == found.shape[1] else found[:, layer.units]


def looked_at(
    handle: Handle, question: ProbeQuestion, probe: ProbeSet, take: Take, first: int = 0
) -> Iterator[ProbeBatch]:
    """Hand rows from number `first` on to `take`, with each layer's values; give each batch when it is taken.

    While the network runs on a batch, the next one is read and the last one is taken. Values are (rows, units,
    positions), all finite in float32.

    Raises
    ------
    InvalidRequestError
        A value is NaN or infinite, or rows have other positions than the first one.
    PellucidError
        A row cannot be read.
    """
    row_bytes = sum(4 * each.layer.units * each.layer.positions for each in question.layers)
    rows = int(np.clip(_BATCH_BYTES // max(row_bytes, 1), 1, _MOST_ROWS))
    stream = probe.batches(rows, first=first) if first < probe.count else iter(())
    ahead = next(stream, None)
    last: ProbeBatch | None = None
    values: dict[str, Values] | None = None
    while ahead is not None or last is not None:
        this, before = ahead, last
        values, ahead, _ = handle.together(
            partial(_captured, handle, question, probe, this),
            partial(next, stream, None),
            partial(_taken, take, before, values),
        )
        if before is not None:
            yield before
        last = this


def _captured(
    handle: Handle, question: ProbeQuestion, probe: ProbeSet, batch: ProbeBatch | None
) -> dict[str, Values] | None:
    """Return each layer's values for a batch, if there is one."""
    if batch is None:
        return None
    arrays = handle.ask(Capture(Rows(batch.rows), tuple(each.name for each in question.layers))).arrays
    found = {each.name: by_position(each, arrays[each.name]) for each in question.layers}
    for each in question.layers:
        _require_positions(each, found[each.name], batch)
        _require_finite(handle, each, found[each.name], batch, probe)
    return found


def _taken(take: Take, batch: ProbeBatch | None, values: Mapping[str, Values] | None) -> None:
    if batch is not None and values is not None:
        take(batch, values)


def position_classes(layer: ProbeLayer, classes: str) -> tuple[PositionClass, ...]:
    """Divide the positions of a layer: "all", "border and centre" of a map, "first and others" of a sequence.

    "auto" is what fits the layer. A layer that has no such positions has them all in one class.
    """
    shape, axes = position_shape(layer), position_axes(layer)
    every = np.arange(int(np.prod(shape)))
    auto = {
        MAP_AXES: "border and centre",
        ("position",): "first and others",
        ("position", "element"): "first and others",
    }
    wanted = auto.get(axes, "all") if classes == "auto" else classes
    if wanted == "border and centre" and axes == MAP_AXES:
        y, x = np.indices(shape).reshape(2, -1)
        border = (y == 0) | (x == 0) | (y == shape[0] - 1) | (x == shape[1] - 1)
        parts = (PositionClass("border", every[border]), PositionClass("centre", every[~border]))
    elif wanted == "first and others" and axes:
        first = np.indices(shape)[0].reshape(-1) == 0
        parts = (PositionClass("first", every[first]), PositionClass("others", every[~first]))
    else:
        return (PositionClass("all", every),)
    found = tuple(part for part in parts if len(part.indices))
    return found if len(found) > 1 else (PositionClass("all", every),)


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
