"""What a method found, as numpy arrays, tables of columns and pictures. Preview: it may change.

pandas and xarray are imported only where a result is turned into theirs.
"""

import base64
import html
import importlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.ablation_records import AblationRecord
from pellucid.accuracy import Accuracy
from pellucid.dissection_records import DissectionRecord
from pellucid.receipts import ParameterValue, Receipt, plain
from pellucid.tensors import Array

_MOST_SHOWN = 20
_MOST_NAMED = 6
"""Rows of a table that a notebook shows."""


@dataclass(frozen=True, slots=True, eq=False)
class Axis:
    """An axis of an array: its name, and a label or a coordinate for each element, or neither.

    `labels` is empty and `coordinates`, (length,), None where there are none; `unit` is the coordinates'.
    """

    name: str
    labels: tuple[str, ...] = ()
    coordinates: Array | None = None
    unit: str = ""

    @property
    def places(self) -> tuple[str, ...] | Array | None:
        """The labels or the coordinates; None if there are neither."""
        return self.labels or self.coordinates


@dataclass(frozen=True, slots=True, eq=False)
class NamedArray:
    """An array that says what it is.

    Attributes
    ----------
    name
        Its name among the findings.
    values
        The numbers or flags. Read-only.
    axes
        One for each axis of `values`, in order.
    unit, text
        The values' unit, and what they are; may be empty.
    missing
        Whether NaN stands for a value that there is not.
    """

    name: str
    values: Array
    axes: tuple[Axis, ...] = ()
    unit: str = ""
    text: str = ""
    missing: bool = False

    @property
    def coords(self) -> dict[str, tuple[str, ...] | Array]:
        """The labels or coordinates of the axes that have some, by the axis's name."""
        return {axis.name: axis.places for axis in self.axes if axis.places is not None}

    def to_pandas(self) -> Any:
        """Return a Series of one axis or a DataFrame of two, with the axes' names and labels. Needs pandas.

        Raises
        ------
        ImportError
            pandas is not installed.
        ValueError
            There are no axes, or more than two.
        """
        if len(self.axes) not in (1, 2):
            text = f"{self.name!r} has {len(self.axes)} axes; pandas has room for one or two. Select some of `values`."
            raise ValueError(text)
        pandas = _imported("pandas", "to_pandas")
        index = [
            pandas.Index(_index(axis, length), name=axis.name)
            for axis, length in zip(self.axes, self.values.shape, strict=True)
        ]
        if len(index) == 1:
            return pandas.Series(self.values, index[0], name=self.name)
        return pandas.DataFrame(self.values, *index)

    def to_xarray(self) -> Any:
        """Return an xarray DataArray with the same axes, coordinates and unit. Needs xarray.

        Raises
        ------
        ImportError
            xarray is not installed.
        """
        xarray = _imported("xarray", "to_xarray")
        coords = {
            axis.name: (axis.name, np.asarray(axis.places), {"units": axis.unit} if axis.unit else {})
            for axis in self.axes
            if axis.places is not None
        }
        attributes = {key: text for key, text in (("units", self.unit), ("long_name", self.text)) if text}
        dims = [axis.name for axis in self.axes]
        return xarray.DataArray(self.values, coords, dims, name=self.name, attrs=attributes)

    def __repr__(self) -> str:
        axes = ", ".join(f"{axis.name} {length}" for axis, length in zip(self.axes, self.values.shape, strict=True))
        return f"<NamedArray {self.name!r} of {self.values.dtype}{_in(self.unit)}: {axes or 'one value'}>"


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """A table's column.

    Attributes
    ----------
    name
        Its name in the table.
    values
        float64, with NaN where a value is missing; int64 or bool, a masked array where the column may lack values; or
        texts in an array of objects, with None where one is missing. (rows,), read-only.
    unit, text
        The values' unit, and what they are; may be empty.
    """

    name: str
    values: Array
    unit: str = ""
    text: str = ""

    def __repr__(self) -> str:
        return f"<Column {self.name!r} of {_kind(self.values)}{_in(self.unit)}: {len(self.values)} rows>"


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Columns of equal length by name, in the order in which they are shown.

    Iterating gives each row as a dict of plain values, with None for what is missing.
    """

    name: str
    columns: Mapping[str, Column]
    text: str = ""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())).values) if self.columns else 0

    def __getitem__(self, name: str) -> Array:
        """Return the values of a column."""
        return self.columns[name].values

    def __iter__(self) -> Iterator[dict[str, Any]]:
        columns = [_plain_cells(column.values) for column in self.columns.values()]
        return (dict(zip(self.columns, row, strict=True)) for row in zip(*columns, strict=True))

    def to_pandas(self) -> Any:
        """Return a DataFrame; whole numbers and flags that may be missing take pandas's nullable types. Needs pandas.

        Raises
        ------
        ImportError
            pandas is not installed.
        """
        pandas = _imported("pandas", "to_pandas")
        return pandas.DataFrame({name: _pandas_cells(pandas, each.values) for name, each in self.columns.items()})

    def __repr__(self) -> str:
        return f"<Table {self.name!r}: {len(self)} rows of {', '.join(self.columns) or 'no columns'}>"

    def _repr_html_(self) -> str:
        """Return the first rows for a notebook."""
        heads = "".join(
            f"<th>{html.escape(each.name)}{html.escape(_in(each.unit))}</th>" for each in self.columns.values()
        )
        columns = [_plain_cells(column.values[:_MOST_SHOWN]) for column in self.columns.values()]
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_cell(each))}</td>" for each in row) + "</tr>"
            for row in zip(*columns, strict=True)
        )
        rest = f"<p>{len(self) - _MOST_SHOWN} more rows</p>" if len(self) > _MOST_SHOWN else ""
        return f"<table><tr>{heads}</tr>{rows}</table>{rest}"


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An encoded picture, `width` by `height` pixels; `text` says what it shows. A notebook shows a PNG."""

    name: str
    data: bytes
    media_type: str
    width: int
    height: int
    text: str

    def save(self, path: str | Path) -> None:
        """Write the encoded bytes to a file, as they are.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        Path(path).write_bytes(self.data)

    def __repr__(self) -> str:
        return f"<Picture {self.name!r}, {self.width} x {self.height}: {self.text}>"

    def _repr_png_(self) -> bytes | None:
        """Return the picture for a notebook; None, and so the text, for one of another type."""
        return self.data if self.media_type == "image/png" else None


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """What a method found, or a part of it.

    Attributes
    ----------
    arrays, tables, pictures
        By name, in alphabetical order.
    accuracy
        How good they are; None if the method does not say.
    warnings
        What a reader should know, in sentences.
    resolved
        Parameters that the method settled itself; giving them makes this very answer again.
    receipt
        What they are a function of; None in parts before the last.
    record
        What else an ablation is a function of; None for other methods, and in parts before the last.
    dissection
        What else a dissection is a function of; None for other methods, and in parts before the last.
    """

    arrays: Mapping[str, NamedArray] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    accuracy: Accuracy | None = None
    warnings: tuple[str, ...] = ()
    resolved: Mapping[str, ParameterValue] = field(default_factory=dict)
    receipt: Receipt | None = None
    record: AblationRecord | None = None
    dissection: DissectionRecord | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, texts and numbers; arrays as nested lists, without the pictures' bytes.

        "record" is the ablation's or the dissection's.
        """
        record = self.record or self.dissection
        return {
            "arrays": plain(self.arrays),
            "tables": {name: [*table] for name, table in self.tables.items()},
            "pictures": {
                name: {"media_type": each.media_type, "width": each.width, "height": each.height, "text": each.text}
                for name, each in self.pictures.items()
            },
            "accuracy": plain(self.accuracy),
            "warnings": list(self.warnings),
            "resolved": plain(self.resolved),
            "receipt": None if self.receipt is None else self.receipt.to_dict(),
            "record": None if record is None else record.to_dict(),
        }

    def __repr__(self) -> str:
        named = {"arrays": self.arrays, "tables": self.tables, "pictures": self.pictures}
        parts = [f"{kind} {_some(list(each))}" for kind, each in named.items() if each]
        warned = f"; {len(self.warnings)} warning{'s' if len(self.warnings) > 1 else ''}" if self.warnings else ""
        return f"<Findings: {'; '.join(parts) or 'none'}{warned}>"

    def _repr_html_(self) -> str:
        """Return the warnings, the arrays' descriptions, the tables and the pictures for a notebook."""
        warnings = [f"<p>{html.escape(text)}</p>" for text in self.warnings]
        arrays = [f"<p>{html.escape(repr(each))} {html.escape(each.text)}</p>" for each in self.arrays.values()]
        tables = [
            f"<h4>{html.escape(name)}</h4><p>{html.escape(each.text)}</p>{each._repr_html_()}"
            for name, each in self.tables.items()
        ]
        pictures = [_figure(name, each) for name, each in self.pictures.items()]
        return "".join(warnings + arrays + tables + pictures) or html.escape(repr(self))


def _some(names: list[str]) -> str:
    """Join names; of many the first ones, and how many more there are."""
    more = len(names) - _MOST_NAMED
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:_MOST_NAMED])} and {more} more"


def _figure(name: str, picture: Picture) -> str:
    """Show a PNG within the page; of another type, only what it shows."""
    png = picture._repr_png_()
    encoded = "" if png is None else base64.b64encode(png).decode()
    shown = f'<img src="data:image/png;base64,{encoded}" alt="{html.escape(picture.text)}">' if encoded else ""
    caption = f"{html.escape(name)}: {html.escape(picture.text)}"
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def _imported(name: str, caller: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{caller} needs {name}: pip install {name}") from error


def _index(axis: Axis, length: int) -> Any:
    places = axis.places
    return range(length) if places is None else list(places) if isinstance(places, tuple) else places


def _plain_cells(values: Array) -> list[Any]:
    """Return plain Python values, None for what is missing."""
    cells = values.tolist()
    return [None if math.isnan(each) else each for each in cells] if values.dtype.kind == "f" else cells


def _pandas_cells(pandas: Any, values: Array) -> Any:
    if not isinstance(values, np.ma.MaskedArray):
        return values
    kind = "boolean" if values.dtype.kind == "b" else "Int64"
    return pandas.array(values.tolist(), kind)


def _kind(values: Array) -> str:
    return {"f": "numbers", "i": "whole numbers", "u": "whole numbers", "b": "flags"}.get(values.dtype.kind, "texts")


def _in(unit: str) -> str:
    return f" in {unit}" if unit else ""


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
