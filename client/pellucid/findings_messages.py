"""Findings read off the message that both streams carry. Preview: it may change."""

from collections.abc import Iterable

import numpy as np

from pellucid import dissection_records
from pellucid.ablation_records import read_record
from pellucid.accuracy import read_accuracy
from pellucid.errors import unreadable
from pellucid.findings import Axis, Column, Findings, NamedArray, Picture, Table
from pellucid.receipts import read_parameter, read_receipt
from pellucid.tensors import Array, TensorError, from_tensor
from pellucid.v1 import findings_pb2


def read_findings(message: findings_pb2.Findings) -> Findings:
    """Read findings off a message.

    Raises
    ------
    PellucidError
        An array is malformed, or its axes, a table's columns or a column's values do not fit together.
    """
    try:
        return _findings(message)
    except TensorError as error:
        raise unreadable() from error


def _findings(message: findings_pb2.Findings) -> Findings:
    return Findings(
        arrays={name: _read_array(name, each) for name, each in sorted(message.arrays.items())},
        tables={name: _read_table(name, each) for name, each in sorted(message.tables.items())},
        pictures={name: _read_picture(name, each) for name, each in sorted(message.pictures.items())},
        accuracy=read_accuracy(message.accuracy) if message.HasField("accuracy") else None,
        warnings=tuple(message.warnings),
        resolved={name: read_parameter(value) for name, value in sorted(message.resolved.items())},
        receipt=read_receipt(message.receipt) if message.HasField("receipt") else None,
        record=read_record(message.ablation) if message.HasField("ablation") else None,
        dissection=dissection_records.read_record(message.dissection) if message.HasField("dissection") else None,
    )


def _read_array(name: str, message: findings_pb2.NamedArray) -> NamedArray:
    values = from_tensor(message.values)
    if len(message.axes) != values.ndim:
        raise TensorError("shape", f"has {values.ndim} axes, and {len(message.axes)} are named")
    axes = tuple(_read_axis(axis, length) for axis, length in zip(message.axes, values.shape, strict=True))
    if len({axis.name for axis in axes}) < len(axes):
        raise TensorError("shape", "has two axes of one name")
    return NamedArray(name, values, axes, message.unit, message.text, message.missing)


def _read_axis(message: findings_pb2.Axis, length: int) -> Axis:
    coordinates = from_tensor(message.coordinates) if message.HasField("coordinates") else None
    if len(message.labels) not in (0, length):
        raise TensorError("shape", f"has an axis of length {length} with {len(message.labels)} labels")
    if coordinates is not None and (message.labels or coordinates.shape != (length,)):
        raise TensorError("shape", f"has an axis of length {length} with coordinates that do not fit it")
    return Axis(message.name, tuple(message.labels), coordinates, message.unit)


def _read_table(name: str, message: findings_pb2.NamedTable) -> Table:
    columns = {each.name: _read_column(each) for each in message.columns}
    if len(columns) < len(message.columns):
        raise TensorError("data", "has two columns of one name")
    if len({len(column.values) for column in columns.values()}) > 1:
        raise TensorError("data", "has columns of different lengths")
    return Table(name, columns, message.text)


def _read_column(message: findings_pb2.NamedColumn) -> Column:
    which = message.WhichOneof("values")
    if which is None:
        raise TensorError("data", f"of column {message.name!r} is not set")
    values = _texts(message.texts.texts) if which == "texts" else from_tensor(message.numbers)
    missing = from_tensor(message.missing) if message.HasField("missing") else None
    if values.ndim != 1:
        raise TensorError("shape", f"of column {message.name!r} is {list(values.shape)}; it must be one axis")
    if missing is not None:
        if missing.shape != values.shape or missing.dtype != np.bool_:
            raise TensorError("shape", f"of column {message.name!r} is not that of the flags of what is missing")
        values = _lacking(values, missing)
    return Column(message.name, values, message.unit, message.text)


def _texts(texts: Iterable[str]) -> Array:
    found = list(texts)
    values = np.empty(len(found), object)
    values[:] = found
    values.flags.writeable = False
    return values


def _lacking(values: Array, missing: Array) -> Array:
    """Return values without those that are missing: NaN, None or masked by the type of the values."""
    if values.dtype.kind in "biu":
        masked: Array = np.ma.MaskedArray(values, missing)
        return masked
    found = values.copy()
    found[missing] = None if values.dtype == object else np.nan
    found.flags.writeable = False
    return found


def _read_picture(name: str, message: findings_pb2.Picture) -> Picture:
    return Picture(name, message.data, message.media_type, message.width, message.height, message.text)
