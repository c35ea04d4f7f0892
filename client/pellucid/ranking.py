"""Tables in an order of their own: by the size of effects, and by how much worse a change makes a study's groups."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid.findings import Column, Table
from pellucid.tensors import Array

UNCHANGED = "none"
"""What a study's column "change" has for the unchanged model."""

_STUDY = ["change", "by", "group", "rows"]


def ranked(table: Table) -> Table:
    """Return a table by |effect|, a study by |difference|: the largest first and what has none last.

    A table without either is returned as it is.
    """
    column = difference_column(table) if is_study(table) else "effect"
    if column not in table.columns or table[column].dtype.kind not in "biuf":
        return table
    # A stable sort, in which NaN comes last.
    return rows_of(table, np.argsort(-np.abs(numbers(table, column)), kind="stable"))


def first_rows(table: Table, count: int) -> Table:
    """Return the first rows of a table."""
    return rows_of(table, np.arange(min(max(count, 0), len(table))))


def rows_of(table: Table, rows: Array) -> Table:
    """Return some rows of a table, by their places or by a flag for each."""
    columns = {name: replace(each, values=_taken(each.values, rows)) for name, each in table.columns.items()}
    return replace(table, columns=columns)


def numbers(table: Table, name: str) -> npt.NDArray[np.float64]:
    """Return a column of numbers as float64, (rows), with NaN for what is missing; all NaN where there is no column."""
    column = table.columns.get(name)
    if column is None or column.values.dtype.kind not in "biuf":
        return np.full(len(table), np.nan)
    found: npt.NDArray[np.float64] = np.ma.filled(np.ma.asarray(column.values).astype(np.float64), np.nan)
    return found


def is_study(table: Table) -> bool:
    """Tell whether a table has a measure of each change and group of rows."""
    return [*table.columns][:4] == _STUDY and len(table.columns) > 4


def measure_of(study: Table) -> str:
    """Return the name of what a study measures: "accuracy", or the first error."""
    return [*study.columns][4]


def difference_column(study: Table) -> str:
    """Return the name of a study's column of differences from the unchanged model."""
    return "difference" if "difference" in study.columns else f"{measure_of(study)} difference"


def worst_first(study: Table, by: str | None = None) -> Table:
    """Return what the changes do to the groups of a study, the largest loss of accuracy or rise of an error first.

    Parameters
    ----------
    by
        "all", "class", or the column that groups; None for all of them.

    Raises
    ------
    LookupError
        The study is not broken down by it.
    """
    known = list(dict.fromkeys(study["by"].tolist()))
    if by is not None and by not in known:
        raise LookupError(f"The study has no groups by {by!r}; it has: {', '.join(map(repr, known))}.")
    kept = (study["change"] != UNCHANGED) & ((study["by"] == by) if by is not None else True)
    table = rows_of(study, np.flatnonzero(kept))
    sign = 1 if measure_of(study) == "accuracy" else -1
    return rows_of(table, np.argsort(sign * numbers(table, difference_column(study)), kind="stable"))


def unchanged_rows(study: Table) -> Table:
    """Return a study's lines of the unchanged model."""
    return rows_of(study, np.flatnonzero(study["change"] == UNCHANGED))


def with_differences(study: Table) -> Table:
    """Return a study with differences from the unchanged model, of one that has none."""
    name = difference_column(study)
    if name in study.columns:
        return study
    before = {
        (by, group): value
        for by, group, value in zip(
            unchanged_rows(study)["by"],
            unchanged_rows(study)["group"],
            numbers(unchanged_rows(study), measure_of(study)),
            strict=True,
        )
    }
    places = zip(study["by"], study["group"], strict=True)
    values = numbers(study, measure_of(study)) - np.array([before.get(place, np.nan) for place in places])
    return replace(study, columns={**study.columns, name: Column(name, values)})


def _taken(values: Array, rows: Array) -> Any:
    taken: Array = values[rows]
    if not isinstance(taken, np.ma.MaskedArray):
        taken.flags.writeable = False
    return taken
