"""Rows of named columns become rows of numbers: standardized, one-hot or ordinal.

Columns go by their names alone. A cell must be of its column's kind; the one leniency is for codes: a whole number
stands for the category that is written as it, as 2 for "2".
"""

from collections import Counter
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.question import Feature
from pellucid_server.engine.models.files.manifest import ColumnManifest, InputManifest
from pellucid_server.engine.models.inputs.preprocessing import (
    Prepared,
    RowShape,
    UnfitManifestError,
    checked_rows,
    shape_text,
    unexpected,
)
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.descriptions import ColumnInfo, InputInfo
from pellucid_server.vocabulary.requests import Array, Input, TableInput, TensorInput

_EXACT = 2.0**53
"""Whole numbers below this are each a float of their own."""
_MOST_NAMES = 40

Rows = tuple[dict[str, float | str], ...]


class TablePreprocessor:
    """Standardizes and encodes named columns, in the manifest's order: rows are (elements,).

    A numeric or ordinal column is one element, a one-hot column an element for each category.
    """

    def __init__(self, manifest: InputManifest, dtype: np.dtype[np.generic], shape: RowShape) -> None:
        columns = manifest.columns
        widths = [len(column.categories) if _one_hot(column) else 1 for column in columns]
        width = sum(widths)
        if dtype.kind != "f" or len(shape) != 1 or shape[0] not in (None, width):
            raise UnfitManifestError(
                f"input {manifest.name!r} takes rows of {dtype.name} {shape_text(shape)}, and its {len(columns)} "
                f"columns make rows of ({width},) floating-point numbers; a numeric or ordinal column is "
                "one, a one-hot column one for each category"
            )
        starts = np.cumsum([0, *widths[:-1]])
        self.starts = starts
        """The first element of each column in a row, (columns,)."""
        self.slopes = np.array([0.0 if column.categories else 1 / column.standard_deviation for column in columns])
        """By how much a numeric column's element changes for one unit of it, (columns,); 0 for categories."""
        self._width = width
        self._dtype = dtype
        self.columns = tuple(column.name for column in columns)
        self._columns = columns
        self._names = frozenset(self.columns)
        self._numbers = _Numbers(columns, starts)
        self._ordinals = [(c.name, int(at), _codes(c, 0)) for c, at in zip(columns, starts, strict=True) if _ordinal(c)]
        self._one_hots = [(c.name, _codes(c, int(at))) for c, at in zip(columns, starts, strict=True) if _one_hot(c)]
        groups = np.repeat(np.arange(len(columns), dtype=np.int32), widths)
        coded = np.repeat(np.array([bool(column.categories) for column in columns]), widths)
        self.feature = Feature(
            "tabular",
            True,
            groups=groups,
            ranges=_ranges(columns),
            columns=self.columns,
            coded=coded if coded.any() else None,
            uncentred=tuple(column.name for column in columns if not _centred(column)),
        )
        infos = tuple(ColumnInfo(c.name, c.categories, c.minimum, c.maximum, c.unit) for c in columns)
        self.info = InputInfo(manifest.name, "tabular", dtype.name, (width,), columns=infos)

    def prepare(self, given: Input, field: str) -> Prepared:
        """Prepare a table; or, if every column is numeric, a tensor (rows, columns) in the columns' own units."""
        if isinstance(given, TableInput):
            rows = self._table(given.rows, f"{field}.table")
        elif isinstance(given, TensorInput):
            rows = self._tensor(given.array, field)
        else:
            raise unexpected(given, field, "a table")
        return Prepared(rows, (None,) * len(rows))

    def values(self, given: Input) -> npt.NDArray[np.float64]:
        """Return what `prepare` takes in the caller's own terms, (rows, columns): of a category, its index."""
        if isinstance(given, TensorInput):
            return given.array.astype(np.float64)
        rows = given.rows if isinstance(given, TableInput) else ()
        codes = [(c.name, _codes(c, 0) if c.categories else None) for c in self._columns]
        found = [[row[name] if known is None else known[row[name]] for name, known in codes] for row in rows]
        return np.array(found, np.float64).reshape(len(rows), len(self.columns))

    def encode(self, values: npt.NDArray[np.float64]) -> Array:
        """Make rows of values in the caller's terms, (rows, columns), to the last bit those that `prepare` makes."""
        rows = np.zeros((len(values), self._width), self._dtype)
        if self._numbers.names:
            self._numbers.fill(rows, values[:, self._numbers.columns])
        for column, start in zip(range(len(self.columns)), self.starts.tolist(), strict=True):
            if _one_hot(self._columns[column]):
                rows[np.arange(len(values)), start + values[:, column].astype(np.int64)] = 1
            elif self._columns[column].categories:
                rows[:, start] = values[:, column]
        return rows

    def decode(self, rows: Array) -> npt.NDArray[np.float64]:
        """Return values in the caller's terms, (rows, columns), of rows as the model takes them: the reverse."""
        found = np.empty((len(rows), len(self.columns)))
        for at, (column, start) in enumerate(zip(self._columns, self.starts.tolist(), strict=True)):
            if _one_hot(column):
                found[:, at] = rows[:, start : start + len(column.categories)].argmax(axis=1)
            elif column.categories:
                found[:, at] = np.clip(np.rint(rows[:, start]), 0, len(column.categories) - 1)
            else:
                found[:, at] = rows[:, start].astype(np.float64) * column.standard_deviation + (column.mean or 0.0)
        return found

    def _table(self, table: Rows, field: str) -> Array:
        if not table:
            raise InvalidRequestError(f"{field} has no row; it must have at least one.", field=f"{field}.rows")
        for index, row in enumerate(table):
            if row.keys() != self._names:
                raise self._wrong_columns(row, f"{field}.rows[{index}]")
        rows = np.zeros((len(table), self._width), self._dtype)
        if self._numbers.names:
            self._numbers.fill(rows, self._numbers.of(table, field))
            if not np.isfinite(rows).all():
                raise self._numbers.not_finite(table, rows, field)
        if self._ordinals or self._one_hots:
            self._fill_categories(rows, table, field)
        return rows

    def _fill_categories(self, rows: Array, table: Rows, field: str) -> None:
        try:
            for index, row in enumerate(table):
                for name, codes in self._one_hots:
                    rows[index, codes[row[name]]] = 1
                for name, at, codes in self._ordinals:
                    rows[index, at] = codes[row[name]]
        except KeyError as error:
            raise self._wrong_category(table, field) from error

    def _tensor(self, array: Array, field: str) -> Array:
        if self._ordinals or self._one_hots:
            categorical = [column.name for column in self._columns if column.categories]
            raise InvalidRequestError(
                f"{field} is a tensor; it must be a table, as these columns have categories: {', '.join(categorical)}.",
                field=field,
            )
        numbers = checked_rows(array, np.dtype(np.float64), (len(self._columns),), f"{field}.tensor")
        rows = np.empty((len(numbers), self._width), self._dtype)
        self._numbers.fill(rows, numbers)
        if not np.isfinite(rows).all():
            index, column = (int(at) for at in np.argwhere(~np.isfinite(rows))[0])
            raise InvalidRequestError(
                f"{field}.tensor is {numbers[index, column]} at index {[index, column]}, column "
                f"{self._columns[column].name!r}; standardized, that is beyond {self._dtype.name}.",
                field=f"{field}.tensor.data",
            )
        return rows

    def _wrong_columns(self, row: dict[str, float | str], field: str) -> InvalidRequestError:
        missing = [name for name in self.columns if name not in row]
        unknown = sorted(name for name in row if name not in self._names)
        wrong = [f"has no {_columns(missing)}"] if missing else []
        if unknown:
            wrong.append(f"has {_columns(unknown)}, which the model does not know")
        first = missing[0] if missing else unknown[0]
        text = f"{field} {' and '.join(wrong)}; its columns are: {', '.join(self.columns)}."
        return InvalidRequestError(text, field=_cell(field, first))

    def _wrong_category(self, table: Rows, field: str) -> InvalidRequestError:
        codes = dict(self._one_hots) | {name: known for name, _, known in self._ordinals}
        index, column = next(
            (index, column)
            for index, row in enumerate(table)
            for column in self._columns
            if column.categories and row[column.name] not in codes[column.name]
        )
        path = _cell(f"{field}.rows[{index}]", column.name)
        value = table[index][column.name]
        what = repr(value) if isinstance(value, str) else f"the number {value!r}"
        return InvalidRequestError(
            f"{path} is {what}; it must be a category, one of: {', '.join(column.categories)}.",
            field=path,
        )


class _Numbers:
    """The numeric columns of a table, and where their elements are in a row."""

    def __init__(self, columns: tuple[ColumnManifest, ...], starts: npt.NDArray[np.int64]) -> None:
        numeric = [(column, at) for column, at in zip(columns, starts, strict=True) if not column.categories]
        self.names = tuple(column.name for column, _ in numeric)
        self.columns = [number for number, column in enumerate(columns) if not column.categories]
        self._get: Any = itemgetter(*self.names) if self.names else None
        self._mean = np.array([0.0 if column.mean is None else column.mean for column, _ in numeric])
        self._scale = np.array([column.standard_deviation for column, _ in numeric])
        self._at: Any = np.array([at for _, at in numeric], np.int64)
        if len(numeric) == len(columns):
            self._at = slice(None)

    def of(self, table: Rows, field: str) -> npt.NDArray[np.float64]:
        """Return the columns' values, (rows, numeric columns)."""
        numbers = np.array([self._get(row) for row in table]).reshape(len(table), len(self.names))
        # An array of numbers has a numeric type only if no text was among them.
        if numbers.dtype.kind not in "fiu":
            raise self._not_number(table, field)
        return numbers.astype(np.float64, copy=False)

    def fill(self, rows: Array, numbers: npt.NDArray[Any]) -> None:
        """Standardize values, (rows, numeric columns), into their elements of `rows`."""
        with np.errstate(over="ignore", invalid="ignore"):
            rows[:, self._at] = (numbers - self._mean) / self._scale

    def not_finite(self, table: Rows, rows: Array, field: str) -> InvalidRequestError:
        """Make the error for the first value that is not finite, or is not once it is standardized."""
        index, column = (int(at) for at in np.argwhere(~np.isfinite(rows[:, self._at]))[0])
        path = _cell(f"{field}.rows[{index}]", self.names[column])
        value = float(table[index][self.names[column]])
        right = f"within the range of {rows.dtype.name} once standardized" if np.isfinite(value) else "finite"
        return InvalidRequestError(f"{path} is {value}; it must be {right}.", field=path)

    def _not_number(self, table: Rows, field: str) -> InvalidRequestError:
        index, name = next(
            (index, name)
            for index, row in enumerate(table)
            for name in self.names
            if not isinstance(row[name], float | int)
        )
        path = _cell(f"{field}.rows[{index}]", name)
        return InvalidRequestError(
            f"{path} is {table[index][name]!r}, a category; it must be a number, as the column is numeric.", field=path
        )


def _columns(names: Sequence[str]) -> str:
    listed = ", ".join(repr(name) for name in names[:_MOST_NAMES])
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"column{'s' if len(names) > 1 else ''} {listed}{more}"


def _cell(field: str, name: str) -> str:
    return f'{field}.cells["{name}"]'


def _one_hot(column: ColumnManifest) -> bool:
    return bool(column.categories) and column.encoding == "one-hot"


def _ordinal(column: ColumnManifest) -> bool:
    return bool(column.categories) and column.encoding == "ordinal"


def _codes(column: ColumnManifest, first: int) -> dict[Any, int]:
    """Return the code of each category, also under the number that it is the text of."""
    codes: dict[Any, int] = {category: first + index for index, category in enumerate(column.categories)}
    numbers = [_number(category) for category in column.categories]
    times = Counter(numbers)
    for index, (category, number) in enumerate(zip(column.categories, numbers, strict=True)):
        # "2" beside "2.0" leaves open which one 2 means.
        if number is not None and times[number] == 1 and category == str(int(number)):
            codes[number] = first + index
    return codes


def _number(category: str) -> float | None:
    try:
        number = float(category)
    except ValueError:
        return None
    return number if abs(number) < _EXACT else None


def _centred(column: ColumnManifest) -> bool:
    """Whether zero is the column's mean: one that is stated, and lies inside the stated range.

    A "mean" at an end of the range is one of columns that are scaled to lie between 0 and 1.
    """
    if column.categories or column.mean is None:
        return False
    if column.minimum is not None and column.minimum == column.maximum:
        return column.mean == column.minimum
    above = column.minimum is None or column.mean > column.minimum
    return above and (column.maximum is None or column.mean < column.maximum)


def _ranges(columns: tuple[ColumnManifest, ...]) -> npt.NDArray[np.float32] | None:
    """Return the range of each element, or None if a numeric column does not state its own."""
    ranges: list[float] = []
    for column in columns:
        if _one_hot(column):
            ranges += [1.0] * len(column.categories)
        elif _ordinal(column):
            ranges.append(len(column.categories) - 1)
        elif column.minimum is None or column.maximum is None:
            return None
        else:
            ranges.append((column.maximum - column.minimum) / column.standard_deviation)
    return np.array(ranges, np.float32)
