"""Rows that were found, as callers would send them: pictures of 8 bits, columns in their units, tensors as they are."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.counterfactuals import Cells
from pellucid_server.engine.asking.probes import ProbeQuestion
from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.methods.shared.pngs import row_picture
from pellucid_server.vocabulary.findings import Axis, Column, Findings, NamedArray, Picture, Table

Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float64]

_DIGITS = 6
"""Significant digits of a column's value, by its standard deviation."""


@dataclass(frozen=True, slots=True)
class ShownRows:
    """Rows as they are shown.

    Attributes
    ----------
    arrays
        As the model takes them once they are sent, (rows, *features) each.
    levels
        Of pictures, by input, the levels from 0 to 255, (rows, channels, height, width) uint8.
    values
        Of tables, by input, the values in the caller's terms, (rows, columns): of a category, its index.
    """

    arrays: Arrays
    levels: dict[str, npt.NDArray[np.uint8]]
    values: dict[str, Floats]


def shown_rows(question: ProbeQuestion, rows: Arrays) -> ShownRows:
    """Round rows, (rows, *features) each, to what can be sent: 256 levels, or six significant digits."""
    arrays: dict[str, Array] = dict(rows)
    levels: dict[str, npt.NDArray[np.uint8]] = {}
    values: dict[str, Floats] = {}
    for name, each in rows.items():
        image = question.inputs[name].image
        if image is not None:
            mean, deviation = (
                np.array(numbers, np.float32)[:, None, None] for numbers in (image.mean, image.standard_deviation)
            )
            found = np.clip(np.rint(each.astype(np.float64) * deviation + mean), 0, 255)
            levels[name] = found.astype(np.uint8)
            arrays[name] = ((levels[name].astype(np.float32) - mean) / deviation).astype(each.dtype)
        elif name in question.cells:
            cells = question.cells[name]
            values[name] = _values(question, name, cells, each)
            arrays[name] = cells.encode(values[name])
    return ShownRows(arrays, levels, values)


def _values(question: ProbeQuestion, name: str, cells: Cells, rows: Array) -> Floats:
    """Return a table's values, (rows, columns), of rows as the model takes them, (rows, elements)."""
    groups = question.features[name].groups
    assert groups is not None  # noqa: S101 - tables have columns
    zero = cells.encode(np.zeros((1, len(cells.columns))))[0].astype(np.float64)
    found = np.empty((len(rows), len(cells.columns)))
    for at, column in enumerate(cells.columns):
        elements = np.flatnonzero(groups.reshape(-1) == at)
        if column.categories:
            one_hot = len(elements) > 1
            found[:, at] = rows[:, elements].argmax(axis=1) if one_hot else np.rint(rows[:, elements[0]])
            continue
        slope = float(cells.slopes[at])
        exact = (rows[:, elements[0]].astype(np.float64) - zero[elements[0]]) / slope
        digits = int(np.clip(_DIGITS - 1 - np.floor(np.log10(1 / slope)), -15, 15))
        # A bound is no multiple of the last digit.
        found[:, at] = np.clip(np.round(exact, digits), column.minimum, column.maximum)
    return found


def row_findings(question: ProbeQuestion, rows: ShownRows, number: int, name: str, text: str) -> Findings:
    """Return one row as pictures, tables and arrays, "NAME/INPUT" each; `text` says what it is."""
    pictures: dict[str, Picture] = {}
    tables: dict[str, Table] = {}
    arrays: dict[str, NamedArray] = {}
    for key, each in rows.arrays.items():
        where = f"{name}/{key}"
        if key in rows.levels:
            image = question.inputs[key].image
            pictures[where] = row_picture(
                rows.levels[key][number], text, 0 if image is None else image.resize, mirrored=True
            )
        elif key in rows.values:
            tables[where] = Table(dict(_columns(question.cells[key], rows.values[key][number])), text)
        else:
            axes = tuple(Axis(f"axis {at}") for at in range(each.ndim - 1))
            arrays[where] = NamedArray(np.asarray(each[number]), axes, text=text)
    return Findings(arrays=arrays, tables=tables, pictures=pictures)


def _columns(cells: Cells, values: Floats) -> Iterator[tuple[str, Column]]:
    """Yield the columns of a table of one row's cells."""
    coded = np.array([bool(column.categories) for column in cells.columns])
    names = [
        column.categories[int(value)] if column.categories else ""
        for column, value in zip(cells.columns, values, strict=True)
    ]
    yield "column", Column(tuple(column.name for column in cells.columns))
    yield "value", Column(np.where(coded, 0.0, values), missing=coded, text="The value in the column's unit.")
    yield "category", Column(tuple(names), missing=~coded)
    yield "unit", Column(tuple(column.unit for column in cells.columns))


def joined(parts: list[Findings]) -> Findings:
    """Put what is shown of several rows together."""
    return Findings(
        arrays={name: each for part in parts for name, each in part.arrays.items()},
        tables={name: each for part in parts for name, each in part.tables.items()},
        pictures={name: each for part in parts for name, each in part.pictures.items()},
    )
