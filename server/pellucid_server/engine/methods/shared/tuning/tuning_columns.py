"""Tuning curves of units for the columns of a table: each is swept while the others are held."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.counterfactuals import CellColumn, Cells
from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.probes import ProbeLayer, ProbeQuestion, Yielded
from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.methods.shared.columns import number_column
from pellucid_server.engine.methods.shared.tuning.tuning_answers import PREFERENCES, unit_axis
from pellucid_server.engine.methods.shared.tuning.tuning_measures import NEAR, Floats, lines, peak
from pellucid_server.engine.methods.shared.tuning.unit_responses import UnitResponses, grouped
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.findings import Axis, Column, Findings, NamedArray, Table

_DEVIATIONS = 2.0
"""Standard deviations on either side of the mean that are swept where nothing else gives a range."""


@dataclass(frozen=True, slots=True)
class SweptColumn:
    """A column that is swept.

    Attributes
    ----------
    column
        The column.
    elements
        Which elements of the input's row it becomes, bool, (elements,).
    values
        The values, (points,), in the column's unit; of categories, their indices.
    encoded
        The rows that the values are, (points, elements); only `elements` of them count.
    """

    column: CellColumn
    elements: npt.NDArray[np.bool_]
    values: Floats
    encoded: npt.NDArray[np.generic]

    @property
    def axis(self) -> Axis:
        """The axis of its values."""
        if self.column.categories:
            return Axis(self.column.name, labels=self.column.categories)
        return Axis(self.column.name, coordinates=self.values, unit=self.column.unit)


def swept_columns(
    question: ProbeQuestion, name: str, chosen: Sequence[int], points: int, low: float | None, high: float | None
) -> tuple[SweptColumn, ...]:
    """Return the sweeps of some columns of an input.

    A numeric column goes from `low` to `high`; without them over the range that the model states, else over that of
    the background if its rows may be shown, else over two standard deviations on either side of the mean.

    Raises
    ------
    InvalidRequestError
        The range is empty.
    """
    cells = question.cells[name]
    zeros = np.zeros((1, len(cells.columns)))
    groups = question.features[name].groups
    elements = np.arange(len(cells.columns)) if groups is None else groups
    found = []
    for at in chosen:
        column = cells.columns[at]
        if column.categories:
            values = np.arange(len(column.categories), dtype=np.float64)
        else:
            values = np.linspace(*_range(cells, at, low, high, shown=question.disclosable), points)
        # What other columns are in these rows makes no difference: only this one's elements are taken.
        table = np.repeat(zeros, len(values), axis=0)
        table[:, at] = values
        found.append(SweptColumn(column, elements == at, values, cells.encode(table)))
    return tuple(found)


def _range(cells: Cells, at: int, low: float | None, high: float | None, *, shown: bool) -> tuple[float, float]:
    column = cells.columns[at]
    if np.isfinite(column.minimum) and np.isfinite(column.maximum):
        least, most = column.minimum, column.maximum
    elif shown and len(cells.background):
        least, most = float(cells.background[:, at].min()), float(cells.background[:, at].max())
    else:
        zero = float(cells.encode(np.zeros((1, len(cells.columns))))[0, cells.elements[at]])
        least, most = (float((way * _DEVIATIONS - zero) / cells.slopes[at]) for way in (-1, 1))
    least, most = least if low is None else low, most if high is None else high
    if not least < most:
        text = f"Column {column.name!r} would be swept from {least:g} to {most:g}; set low and high so that low < high."
        raise InvalidRequestError(text, field='parameters["low"]')
    return least, most


class ColumnTuning:
    """Measures how units respond to the columns of a table.

    Parameters
    ----------
    name
        The input that is the table.
    reference
        The row that the others are held at, (1, *features) each, every input.
    """

    def __init__(
        self, handle: Handle, columns: tuple[SweptColumn, ...], name: str, reference: Arrays, *, response: str
    ) -> None:
        self._handle = handle
        self._columns = columns
        self._name = name
        self._reference = reference
        self._response = response
        self._rows = self._table()

    def run(self, question: ProbeQuestion) -> Iterator[Yielded]:
        """Yield states to go on from, and what is found of each layer."""
        count = len(self._rows)
        groups = grouped(question.layers, count)
        state = question.state
        first = 0 if state is None else int(state.values["group"])
        for number, layers in enumerate(groups[first:], first):
            responses = UnitResponses(self._handle, layers, self._response, count, state, group=number)
            yield from responses.gather(self._make, 0, count, number * count, len(groups) * count)
            for place, each in enumerate(layers):
                yield self._findings(each, responses.of(place), float(responses.scales[place]))
            state = None

    def _table(self) -> npt.NDArray[np.generic]:
        """Return the reference, and behind it every swept row, (1 + points of all columns, elements)."""
        reference = np.asarray(self._reference[self._name])
        parts = [reference]
        for each in self._columns:
            rows = np.repeat(reference, len(each.values), axis=0)
            rows[:, each.elements] = each.encoded[:, each.elements]
            parts.append(rows)
        return np.concatenate(parts)

    def _make(self, first: int, last: int) -> Arrays:
        beside = {name: np.repeat(row, last - first, axis=0) for name, row in self._reference.items()}
        return {**beside, self._name: self._rows[first:last]}

    def _findings(self, layer: ProbeLayer, values: Floats, scale: float) -> Findings:
        arrays, parts, start = {}, [], 1
        for each in self._columns:
            curves = values[:, start : start + len(each.values)]
            start += len(each.values)
            text = f"Response over {each.column.name}, the other columns held at the reference."
            arrays[f"{layer.name}/column/{each.column.name}"] = NamedArray(
                curves, (unit_axis(layer), each.axis), text=text
            )
            parts.append(_preferences(each, curves, scale))
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return Findings(arrays=arrays, tables={PREFERENCES: self._preferred(layer, values[:, 0], joined)})

    def _preferred(self, layer: ProbeLayer, reference: Floats, joined: dict[str, Floats]) -> Table:
        count, units = len(self._columns), len(layer.units)
        names = tuple(each.column.name for each in self._columns for _ in range(units))
        labels = [
            each.column.categories[int(place)] if each.column.categories and not np.isnan(place) else ""
            for each, places in zip(self._columns, joined["place"].reshape(count, units), strict=True)
            for place in places
        ]
        columns = {
            "layer": Column((layer.name,) * (count * units)),
            "unit": Column(np.tile(layer.units, count)),
            "column": Column(names),
            "responsive": Column(
                joined["responsive"] > 0, text="Whether the column makes a difference, beyond rounding."
            ),
            "reference": Column(np.tile(reference, count), text="Response to the reference row."),
            "preferred value": number_column(
                joined["value"], text="The measured one with most response, in the column's unit."
            ),
            "preferred category": Column(
                tuple(labels), missing=np.array([not label for label in labels]), text="Likewise, of a category."
            ),
            "highest": Column(joined["highest"], text="Highest response."),
            "lowest": Column(joined["lowest"], text="Lowest response."),
            "slope": number_column(joined["slope"], text="Of the line by least squares, a unit of the column."),
            "linearity": number_column(
                joined["linearity"], text="Share of the curve's variance that the line explains."
            ),
        }
        return Table(columns, "How each unit responds to each column; missing where a column makes no difference.")


def _preferences(each: SweptColumn, curves: Floats, scale: float) -> dict[str, Floats]:
    responsive = np.ptp(curves, axis=1) > NEAR * scale
    none = np.where(responsive, 0.0, np.nan)
    coded = np.full(len(curves), np.nan if each.column.categories else 0.0)
    place = peak(curves - curves.min(axis=1, keepdims=True))
    slope, linearity = lines(curves, each.values)
    return {
        "responsive": responsive.astype(np.float64),
        "place": place + none,
        "value": each.values[place] + none + coded,
        "highest": curves.max(axis=1),
        "lowest": curves.min(axis=1),
        "slope": slope + none + coded,
        "linearity": linearity + none + coded,
    }
