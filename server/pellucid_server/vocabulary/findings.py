"""What a method of any verb yields, at once or in parts: named arrays, tables and pictures, and how good they are.

The constructors check what a method built and raise ValueError: a mistake here is one of the server's own.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pellucid_server.vocabulary.requests import Array, ColumnRule, InterventionSpec, LayerSpec, ParamValue, Wanted
from pellucid_server.vocabulary.results import Accuracy, Receipt

DATA_TYPES = frozenset(np.dtype(kind) for kind in ("?", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8"))
"""The types of an array's elements, all of which the schema has."""

_COLUMN_TYPES = frozenset(np.dtype(kind) for kind in ("?", "i8", "f8"))
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_SIZE = struct.Struct(">II")
_PNG_SIZE_AT = 16


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of an array: its name, and where its elements stand.

    Attributes
    ----------
    name
        The name, unique in its array: "row", "unit", "height".
    labels
        A text for each element, not necessarily unique; empty for none.
    coordinates
        A finite number for each element, (length,), in `unit`; None for none.
    unit
        Unit of `coordinates`; empty if they have none.
    """

    name: str
    labels: tuple[str, ...] = ()
    coordinates: Array | None = None
    unit: str = ""

    def __post_init__(self) -> None:
        _require(bool(self.name), "an axis has no name")
        if self.coordinates is not None:
            _require(not self.labels, f"axis {self.name!r} has labels and coordinates; give one of them")
            _require(self.coordinates.ndim == 1, f"the coordinates of axis {self.name!r} have more axes than one")
            _require_numbers(self.coordinates, f"the coordinates of axis {self.name!r}")
        _require(not self.unit or self.coordinates is not None, f"axis {self.name!r} has a unit and no coordinates")


@dataclass(frozen=True, slots=True)
class NamedArray:
    """An array that says what it is.

    Attributes
    ----------
    values
        The numbers or flags, of one of `DATA_TYPES`; infinite nowhere, and NaN only if `missing`.
    axes
        One for each axis of `values`, in order.
    unit
        Unit of the values; empty if they have none.
    text
        What the values are, in a sentence; may be empty.
    missing
        Whether NaN stands for a value that there is not.
    """

    values: Array
    axes: tuple[Axis, ...] = ()
    unit: str = ""
    text: str = ""
    missing: bool = False

    def __post_init__(self) -> None:
        names = [axis.name for axis in self.axes]
        _require(len(names) == self.values.ndim, f"{len(names)} axes are named {names}; there are {self.values.ndim}")
        _require(len(set(names)) == len(names), f"two axes have one name: {names}")
        for axis, length in zip(self.axes, self.values.shape, strict=True):
            labels, coordinates = len(axis.labels), axis.coordinates
            _require(labels in (0, length), f"axis {axis.name!r} of length {length} has {labels} labels")
            if coordinates is not None:
                count = len(coordinates)
                _require(count == length, f"axis {axis.name!r} of length {length} has {count} coordinates")
        _require_numbers(self.values, "the values", missing=self.missing)


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column: real numbers, whole numbers, flags or texts.

    Attributes
    ----------
    values
        float64, int64 or bool, (rows,), or a text for each row. A number is finite.
    missing
        For a column that may lack values: which rows do, bool, (rows,); None for one that may not. What `values` has
        in such a row is 0, False or "".
    unit
        Unit of the values; empty if they have none.
    text
        What the values are, in a sentence; may be empty.
    """

    values: Array | tuple[str, ...]
    missing: npt.NDArray[np.bool_] | None = None
    unit: str = ""
    text: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.values, tuple):
            kind = self.values.dtype
            _require(kind in _COLUMN_TYPES, f"a column is of {kind}; make it float64, int64, bool or texts")
            _require(self.values.ndim == 1, f"a column has {self.values.ndim} axes; it must have one")
            _require_numbers(self.values, "the values")
        if self.missing is not None:
            shape, count = self.missing.shape, len(self.values)
            _require(shape == (count,), f"a column of {count} rows says of {shape} which are missing")
            _require(self.missing.dtype == np.bool_, f"which rows are missing is of {self.missing.dtype}, not bool")
            _require(not self._filled(self.missing), "a missing row has a value; make it 0, False or an empty text")

    def _filled(self, missing: npt.NDArray[np.bool_]) -> bool:
        if isinstance(self.values, tuple):
            return any(text for text, none in zip(self.values, missing.tolist(), strict=True) if none)
        return bool(self.values[missing].any())


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of equal length by name, in the order in which they are shown; `text` says what the rows are."""

    columns: Mapping[str, Column]
    text: str = ""

    def __post_init__(self) -> None:
        _require("" not in self.columns, "a column has no name")
        lengths = {name: len(column.values) for name, column in self.columns.items()}
        _require(len(set(lengths.values())) <= 1, f"columns differ in length: {lengths}")


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture.

    Attributes
    ----------
    data
        The encoded bytes.
    width, height
        Its size in pixels, at least 1.
    text
        What it shows, in a sentence. Required: it stands in for the picture where there is none to be seen.
    media_type
        "image/png", the only one.
    """

    data: bytes
    width: int
    height: int
    text: str
    media_type: str = "image/png"

    def __post_init__(self) -> None:
        _require(self.media_type == "image/png", f"a picture is of {self.media_type!r}; encode it as image/png")
        _require(bool(self.text), "a picture does not say what it shows")
        _require(self.data.startswith(_PNG) and len(self.data) >= _PNG_SIZE_AT + 8, "a picture's bytes are no PNG")
        size = _PNG_SIZE.unpack_from(self.data, _PNG_SIZE_AT)
        _require(size == (self.width, self.height), f"a picture of {size} pixels says {(self.width, self.height)}")
        _require(min(size) > 0, f"a picture has {size} pixels")


@dataclass(frozen=True, slots=True)
class AblationRecord:
    """What an answer of `Ablate` is a function of, beside its receipt; see `AblationRecord` in the schema."""

    metric: str
    interventions: tuple[InterventionSpec, ...] = ()
    source_digest: str = ""
    reference_digest: str = ""
    dataset: str = ""
    dataset_digest: str = ""
    wanted: Wanted | None = None
    columns: tuple[ColumnRule, ...] = ()


@dataclass(frozen=True, slots=True)
class DissectionRecord:
    """What an answer of `Dissect` is a function of, beside its receipt; see `DissectionRecord` in the schema."""

    layers: tuple[LayerSpec, ...] = ()
    dataset: str = ""
    dataset_digest: str = ""
    rows: int = 0
    masks_digest: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """Where a method stands: what it needs to go on from here, on another worker, another day.

    Attributes
    ----------
    arrays
        Its arrays by name, of any of `DATA_TYPES`; they may hold NaN and infinities.
    values
        Its numbers and texts by name.
    parts
        Parts of the answer that were yielded behind it: a method that goes on from here yields them again, and they
        are dropped.
    probe
        Digest of the rows that it has seen some of; empty without any.
    """

    arrays: Mapping[str, Array] = field(default_factory=dict)
    values: Mapping[str, ParamValue] = field(default_factory=dict)
    parts: int = 0
    probe: str = ""

    @property
    def size_bytes(self) -> int:
        """The bytes of its arrays."""
        return sum(array.nbytes for array in self.arrays.values())


@dataclass(frozen=True, slots=True)
class Findings:
    """What a method found, or a part of it.

    Attributes
    ----------
    arrays, tables, pictures
        By name; the names of a kind are unique, and none is empty.
    accuracy
        How good they are; None if the method does not say. Its warnings stand in `warnings`.
    warnings
        What a reader should know, in plain sentences.
    resolved
        Parameters that the method settled itself, such that giving them makes this very answer again.
    receipt
        What they are a function of; None in a part that is not the last.
    ablation
        What else an answer of `Ablate` is a function of; None in others, and in parts before the last.
    dissection
        What else an answer of `Dissect` is a function of; likewise.
    """

    arrays: Mapping[str, NamedArray] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    accuracy: Accuracy | None = None
    warnings: tuple[str, ...] = ()
    resolved: Mapping[str, ParamValue] = field(default_factory=dict)
    receipt: Receipt | None = None
    ablation: AblationRecord | None = None
    dissection: DissectionRecord | None = None

    @property
    def size_bytes(self) -> int:
        """About the bytes that they take on their way: those of arrays, pictures and texts."""
        columns = (column for table in self.tables.values() for column in table.columns.values())
        return (
            sum(_array_bytes(array) for array in self.arrays.values())
            + sum(_size(column.values) + _size(column.missing) for column in columns)
            + sum(len(picture.data) for picture in self.pictures.values())
        )

    def __post_init__(self) -> None:
        _require(all("" not in named for named in (self.arrays, self.tables, self.pictures)), "a name is empty")
        if self.accuracy is not None:
            _require(not self.accuracy.warnings, "the accuracy has warnings; they belong in the findings' own")
            numbers = (self.accuracy.signed_gap, self.accuracy.absolute_gap, self.accuracy.standard_error)
            _require(all(each is None or math.isfinite(each) for each in numbers), f"{self.accuracy} is not finite")


def _array_bytes(array: NamedArray) -> int:
    return array.values.nbytes + sum(_size(axis.labels) + _size(axis.coordinates) for axis in array.axes)


def _size(values: Array | tuple[str, ...] | None) -> int:
    """Return the bytes of the elements; of texts, in UTF-8."""
    if values is None:
        return 0
    return sum(len(text.encode()) for text in values) if isinstance(values, tuple) else values.nbytes


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _require_numbers(values: Array, what: str, *, missing: bool = False) -> None:
    """Refuse what is infinite, and NaN unless it may stand for a missing value."""
    _require(values.dtype in DATA_TYPES, f"{what} are of {values.dtype}, which the schema does not have")
    if values.dtype.kind == "f":
        bad = np.isinf(values) if missing else ~np.isfinite(values)
        _require(not bad.any(), f"{what} are not finite in {int(bad.sum())} of {bad.size} places")
