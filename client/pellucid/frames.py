"""Tables of other libraries and rows with names, read as columns by name.

No library is imported for it: pandas, polars and pyarrow are known by the names of their classes. What has names is
never read by position; a table of a library that is not known here is refused.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pellucid.catalogue import Column
from pellucid.cells import column_order, column_values
from pellucid.checks import shortened
from pellucid.errors import invalid

_LIBRARIES = ("pandas", "polars", "pyarrow")
_DATES = ("timestamp", "date", "time", "duration")
_KINDS = "a dict, a pandas or polars DataFrame, a pyarrow Table, the path of a .csv file, or a list of dicts"


@dataclass(frozen=True, slots=True)
class Frame:
    """A table's columns, each with a value for each row, in the order of the model's columns."""

    names: tuple[str, ...]
    columns: tuple[Sequence[float] | Sequence[str], ...]

    @property
    def rows(self) -> list[tuple[float | str, ...]]:
        """The rows."""
        return list(zip(*self.columns, strict=True))


def is_frame(given: Any) -> bool:
    """Tell whether columns or labels give names to the values, so that their order must not count."""
    if isinstance(given, np.ndarray | np.void):
        return given.dtype.names is not None
    if isinstance(given, list | tuple | str | bytes | Mapping):
        return False
    marks = ("columns", "column_names", "coords", "__dataframe__", "__arrow_c_stream__")
    return _library(given) in _LIBRARIES or any(hasattr(given, mark) for mark in marks)


def is_row(given: Any) -> bool:
    """Tell whether something is one row with names."""
    return _row(given) is not None


def read_frame(columns: Sequence[Column], given: Any, where: str) -> Frame:
    """Read a table of a library's, or one row with labels.

    Raises
    ------
    InvalidRequestError
        It is empty, of a library that is not known, or its columns or values are not the model's.
    """
    if isinstance(given, np.ndarray | np.void):
        return _structured(columns, given, where)
    library = _library(given)
    if library == "pandas" and _is(given, "DataFrame"):
        values = [given.iloc[:, place] for place in range(given.shape[1])]
        return _frame(columns, list(given.columns), values, len(given), where, hint=_index_hint(columns, given))
    if library == "pandas" and _is(given, "Series"):
        return read_rows(columns, [given], where)
    if library == "polars" and _is(given, "DataFrame"):
        return _frame(columns, given.columns, given.get_columns(), given.height, where)
    if library == "pyarrow" and (_is(given, "Table") or _is(given, "RecordBatch")):
        return _frame(columns, list(given.schema.names), list(given.columns), given.num_rows, where)
    raise invalid(where, f"is a {_kind(given)}; {_instead(given)}")


def read_rows(columns: Sequence[Column], given: Sequence[Any], where: str) -> Frame:
    """Read rows that each have names.

    Raises
    ------
    InvalidRequestError
        There is none, or one is no such row, or its columns or values are not the model's.
    """
    if not given:
        raise invalid(where, "is empty; give at least one row")
    rows: list[list[Any]] = []
    order: list[int] = []
    last: list[Any] | None = None
    for number, each in enumerate(given):
        named = _row(each)
        if named is None:
            what = f"is of type {type(each).__name__}; each row must be a dict with a value for each column"
            raise invalid(f"{where}[{number}]", what)
        names, values = named
        # Compared as texts alone: pandas' NA, which may be a label, answers no comparison.
        if not all(isinstance(name, str) for name in names) or names != last:
            order, last = column_order(names, columns, f"{where}[{number}]"), names
        rows.append([values[place] for place in order])
    return _checked(columns, list(zip(*rows, strict=True)), where)


def _frame(
    columns: Sequence[Column], names: Sequence[Any], values: Sequence[Any], rows: int, where: str, *, hint: str = ""
) -> Frame:
    order = column_order(names, columns, where, hint=hint)
    if not rows:
        raise invalid(where, "has no rows; give at least one")
    return _checked(columns, [_values(values[place], f"{where}[{names[place]!r}]") for place in order], where)


def _checked(columns: Sequence[Column], values: Sequence[Sequence[Any]], where: str) -> Frame:
    def place(row: int, name: str) -> str:
        return f"{where}[{row}][{name!r}]"

    found = (column_values(column, each, place) for column, each in zip(columns, values, strict=True))
    return Frame(tuple(column.name for column in columns), tuple(found))


def _values(column: Any, where: str) -> Sequence[Any]:
    """Return a column's values as those of Python, or as they are where Python has none."""
    if isinstance(column, np.ndarray):
        if column.ndim != 1:
            raise invalid(where, f"has values of shape {column.shape[1:]}; each cell must be a number or a category")
        # As a list, dates would be whole numbers.
        return list(column) if column.dtype.kind in "mM" else column.tolist()
    if _library(column) == "pyarrow":
        if str(column.type).startswith(_DATES):
            raise invalid(where, f"has dates or times ({column.type}); give numbers, such as counts of days")
        return list(column.to_pylist())
    return list(column.to_list())


def _structured(columns: Sequence[Column], given: Any, where: str) -> Frame:
    array = np.atleast_1d(given) if isinstance(given, np.ndarray) else np.array([given], given.dtype)
    if array.ndim != 1:
        raise invalid(where, f"is an array of records of shape {array.shape}; it must have one axis, the rows")
    names = list(array.dtype.names or ())
    return _frame(columns, names, [array[name] for name in names], len(array), where)


def _row(given: Any) -> tuple[list[Any], list[Any]] | None:
    """Return the names and the values of one row; None if it is none."""
    if isinstance(given, Mapping):
        return list(given), list(given.values())
    if _library(given) == "pandas" and _is(given, "Series"):
        return list(given.index), given.tolist()
    if isinstance(given, np.void) and given.dtype.names is not None:
        return list(given.dtype.names), [given[name] for name in given.dtype.names]
    if isinstance(given, tuple) and hasattr(given, "_fields"):
        return list(given._fields), list(given)
    if _library(given) == "sqlite3" and callable(getattr(given, "keys", None)):
        return list(given.keys()), list(given)
    return None


def _index_hint(columns: Sequence[Column], frame: Any) -> str:
    """Say so if a column that is missing is the index, which is not read."""
    named = [name for name in frame.index.names if name in {column.name for column in columns}]
    return f"; pandas' index is not read, and frame.reset_index() makes it the column {named[0]!r}" if named else ""


def _instead(given: Any) -> str:
    """Say what to give in place of something that has names but is no table that is known."""
    if _is(given, "LazyFrame"):
        return "it is not computed yet: give frame.collect()"
    if _library(given) in _LIBRARIES:
        return f"it has no columns with names: give {_KINDS}"
    for method in ("compute", "to_pandas", "toPandas", "to_pandas_df", "df"):
        if callable(getattr(given, method, None)):
            return f"give its .{method}(), if that is a pandas DataFrame; a table is {_KINDS}"
    return f"a table is {_KINDS}"


def kinds_of_tables(given: Any) -> str:
    """Say what something is that is no table, and what is one."""
    what = f"of type {type(given).__name__}"
    if isinstance(given, str | os.PathLike):
        what = f"the {'text' if isinstance(given, str) else 'file'} {shortened(str(given))}"
    return f"is {what}; a table's rows must be {_KINDS}, or an array of numbers in the order of the columns"


def _kind(given: Any) -> str:
    return f"{type(given).__module__.partition('.')[0]} {type(given).__name__}"


def _library(given: Any) -> str:
    """Return the first of the libraries that a value's class or one of its bases is from, or else its class's own."""
    roots = [base.__module__.partition(".")[0] for base in type(given).__mro__]
    return next((root for root in roots if root in _LIBRARIES), roots[0])


def _is(given: Any, name: str) -> bool:
    return any(
        base.__name__ == name and base.__module__.partition(".")[0] in _LIBRARIES for base in type(given).__mro__
    )
