"""What callers hand over, turned into the schema's inputs by what the model takes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pellucid.catalogue import Column, InputSignature, Model
from pellucid.cells import listed, missing
from pellucid.checks import checked_text, shortened
from pellucid.csv_files import is_csv, read_csv
from pellucid.errors import InvalidRequestError, invalid
from pellucid.frames import Frame, is_frame, is_row, kinds_of_tables, read_frame, read_rows
from pellucid.tensors import Array, TensorError, to_tensor
from pellucid.v1 import input_pb2


@dataclass(frozen=True, slots=True)
class Sent:
    """Inputs of a request, and what each row was made of."""

    messages: Mapping[str, input_pb2.Input]
    sources: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """By input name, for each row: a picture as it was given, or a table's row."""

    @property
    def count(self) -> int:
        """Rows of the first input; the server checks that the others have as many."""
        return next((_row_count(message) for message in self.messages.values()), 0)

    def source(self, row: int) -> dict[str, Any]:
        """Return what one row was made of, by input name."""
        return {name: rows[row] for name, rows in self.sources.items() if row < len(rows)}


def read_inputs(model: Model, given: Any, *, where: str = "inputs") -> Sent:
    """Read what a caller handed over for `model`.

    A mapping whose keys are all names of the model's inputs gives each input its own; anything else is
    the model's only input. So a table's row whose only column has the input's name must be written
    `{input: row}`.

    Rows of a table are dicts, a DataFrame of pandas or polars, a Series of pandas with columns for labels, a Table or
    RecordBatch of pyarrow, records of numpy, named tuples, or the path of a `.csv` file: their columns are matched by
    name. An array of numbers, which has no names, is read in the order of the model's columns.

    Raises
    ------
    InvalidRequestError
        It is nothing that the model's inputs are made of.
    """
    by_input = _by_input(model, given, where)
    signatures = {each.name: each for each in model.inputs}
    messages, sources = {}, {}
    for name, value in by_input.items():
        messages[name], sources[name] = _input(signatures[name], value, f"{where}[{name!r}]")
    return Sent(messages, {name: rows for name, rows in sources.items() if rows})


def _row_count(message: input_pb2.Input) -> int:
    match message.WhichOneof("value"):
        case "tensor":
            return message.tensor.shape[0] if message.tensor.shape else 0
        case "pictures":
            return len(message.pictures.encoded)
        case "texts":
            return len(message.texts.texts)
    return len(message.table.rows)


def _by_input(model: Model, given: Any, where: str) -> Mapping[str, Any]:
    names = [each.name for each in model.inputs]
    if isinstance(given, Mapping) and given and set(given) <= set(names):
        return given
    if len(names) == 1 and (not isinstance(given, Mapping) or model.inputs[0].modality == "tabular"):
        return {names[0]: given}
    listed = ", ".join(repr(name) for name in names)
    if isinstance(given, Mapping):
        unknown = ", ".join(repr(key) for key in given if key not in names) or "none"
        raise invalid(where, f"has the keys {unknown}; {model.name} takes a dict with its inputs' names: {listed}")
    raise invalid(where, f"must be a dict, as {model.name} has several inputs: {listed}")


def _input(signature: InputSignature, given: Any, where: str) -> tuple[input_pb2.Input, Sequence[Any]]:
    """Return the message, and for pictures and tables what each row was made of."""
    match signature.modality:
        case "image":
            return _pictures(signature, given, where)
        case "tabular":
            return _table(signature, given, where)
        case "text":
            return _texts(given, where), ()
    if hasattr(given, "columns") or hasattr(given, "column_names"):
        what = f"is a {type(given).__name__}, whose columns have names, and this input's have none"
        raise invalid(where, f"{what}; give an array in the order that the model was trained with")
    return _tensor(_with_rows(_numbers(given, where, signature.data_type), signature, where), where), ()


def _pictures(signature: InputSignature, given: Any, where: str) -> tuple[input_pb2.Input, Sequence[Any]]:
    if isinstance(given, np.ndarray):
        if given.dtype == np.uint8:
            pixels = _pixel_rows(given, where)
            return _tensor(pixels, where), tuple(pixels)
        if given.dtype.kind == "f":
            return _tensor(_with_rows(given.astype(np.float32, copy=False), signature, where), where), ()
        raise invalid(where, f"is an array of {given.dtype}; pixels must be uint8, preprocessed pictures float32")
    rows = tuple(given) if isinstance(given, list | tuple) else (given,)
    if not rows:
        raise invalid(where, "is empty; give at least one picture")
    many = isinstance(given, list | tuple)
    encoded = [_encoded(each, f"{where}[{number}]" if many else where) for number, each in enumerate(rows)]
    return input_pb2.Input(pictures=input_pb2.Pictures(encoded=encoded)), rows


def _pixel_rows(pixels: Array, where: str) -> Array:
    """Return pixels as (rows, height, width, channels): one picture has no axis of rows, grey may have no channels."""
    if pixels.ndim == 2:
        return pixels[None, :, :, None]
    if pixels.ndim == 3:
        return pixels[None]
    if pixels.ndim == 4:
        return pixels
    raise invalid(
        where,
        f"is uint8 of shape {pixels.shape}; pixels must be (height, width), (height, width, channels) or "
        "(rows, height, width, channels)",
    )


def _encoded(given: Any, where: str) -> bytes:
    """Return one picture as a file's bytes."""
    if isinstance(given, str | os.PathLike):
        return _file(Path(given), where)
    if isinstance(given, bytes | bytearray | memoryview):
        return bytes(given)
    if isinstance(given, np.ndarray):
        if given.dtype != np.uint8 or not _drawable(given.shape):
            what = f"is an array of {given.dtype} of shape {given.shape}"
            raise invalid(where, f"{what}; a picture in a list must be uint8, (height, width[, channels])")
        return _encoded_by_pillow(given, where)
    # Told by its methods, so that Pillow need not be there.
    if all(hasattr(given, name) for name in ("mode", "size", "convert", "save")):
        return _encoded_by_pillow(given, where)
    kinds = "a file's path, its bytes, a PIL image, uint8 pixels, or a list of those"
    raise invalid(where, f"is of type {type(given).__name__}; a picture must be {kinds}")


def _drawable(shape: tuple[int, ...]) -> bool:
    """Tell whether pixels of that shape are a picture: (height, width), or 1 to 4 channels with it."""
    return len(shape) in (2, 3) and 0 not in shape and (len(shape) == 2 or shape[2] <= 4)


def is_file(path: str) -> bool:
    """Tell whether a text is a file's path; also for texts that cannot be any path."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def _file(path: Path, where: str) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        # A ValueError is for a path that holds a null byte or half of a surrogate pair.
        missing = isinstance(error, FileNotFoundError | ValueError)
        reason = "there is no such file" if missing else "the file cannot be read"
        raise invalid(where, f"is {shortened(str(path))}, but {reason}; give the path of a picture") from error


def _encoded_by_pillow(picture: Any, where: str) -> bytes:
    try:
        from pellucid import pictures  # noqa: PLC0415 - Pillow is an extra
    except ImportError as error:
        raise invalid(where, "needs Pillow to be sent; pip install 'pellucid[plot]', or give a file's path") from error
    try:
        return pictures.encode(picture)
    except pictures.PictureError as error:
        raise invalid(where, str(error)) from error


def _table(signature: InputSignature, given: Any, where: str) -> tuple[input_pb2.Input, Sequence[Any]]:
    """Read what has names by its columns' names, and arrays of numbers by position."""
    columns = signature.columns
    path = _csv_path(given, where)
    if path is not None:
        return _cells(read_csv(columns, path, where))
    if is_row(given):
        return _cells(read_rows(columns, [given], where))
    if is_frame(given):
        return _cells(read_frame(columns, given, where))
    listed_rows = isinstance(given, Sequence) and not isinstance(given, str | bytes)
    if listed_rows and (not given or any(is_row(row) for row in given)):
        return _cells(read_rows(columns, given, where))
    return _by_position(columns, given, where)


def _csv_path(given: Any, where: str) -> Path | None:
    """Return the path of a table's file; None if none was given."""
    paths = given if isinstance(given, list | tuple) and given else (given,)
    if not all(isinstance(path, str | os.PathLike) and is_csv(path) for path in paths):
        return None
    if len(paths) > 1:
        raise invalid(where, f"is {len(paths)} files; give one file with all rows")
    return Path(paths[0])


def _cells(frame: Frame) -> tuple[input_pb2.Input, Sequence[Any]]:
    sources = [dict(zip(frame.names, row, strict=True)) for row in frame.rows]
    kinds = ["category" if isinstance(column[0], str) else "number" for column in frame.columns]
    table = input_pb2.Table()
    for row in frame.rows:
        cells = table.rows.add().cells
        for name, kind, value in zip(frame.names, kinds, row, strict=True):
            setattr(cells[name], kind, value)
    return input_pb2.Input(table=table), sources


def _by_position(columns: Sequence[Column], given: Any, where: str) -> tuple[input_pb2.Input, Sequence[Any]]:
    numbers = _positions(columns, given, where)
    names = [column.name for column in columns]
    numbers = numbers[None] if numbers.ndim == 1 else numbers
    if numbers.ndim != 2:
        return _tensor(numbers, where), ()
    if numbers.shape[1] == len(names) and numbers.dtype.kind == "f" and np.isnan(numbers).any():
        row, place = np.argwhere(np.isnan(numbers))[0]
        raise missing(f"{where}[{row}][{names[place]!r}]", numbers[row, place])
    return _tensor(numbers, where), [dict(zip(names, row, strict=False)) for row in numbers.tolist()]


def _positions(columns: Sequence[Column], given: Any, where: str) -> Array:
    many = isinstance(given, Sequence | memoryview) and not isinstance(given, str | bytes)
    files = [each for each in given if isinstance(each, os.PathLike)] if isinstance(given, list | tuple) else []
    if files or not (many or hasattr(given, "__array__")):
        raise invalid(where, kinds_of_tables(files[0] if files else given))
    if isinstance(given, np.ma.MaskedArray) and np.ma.is_masked(given):
        raise invalid(where, "has masked elements; the model takes no missing values: fill them in")
    try:
        return _numbers(given, where, None)
    except InvalidRequestError as error:
        categorical = [column.name for column in columns if column.categories]
        if not categorical:
            raise
        what = f"can hold numbers alone without names, and these columns have categories: {listed(categorical)}"
        raise invalid(where, f"{what}; give dicts or a DataFrame") from error


def _texts(given: Any, where: str) -> input_pb2.Input:
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise invalid(where, "must be a text or a list of texts")
    checked = [checked_text(text, f"{where}[{number}]") for number, text in enumerate(texts)]
    return input_pb2.Input(texts=input_pb2.Texts(texts=checked))


def _numbers(given: Any, where: str, data_type: str | None) -> Array:
    """Return an array; sequences, which have no type of their own, take the model's where it can hold them."""
    try:
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        # A RuntimeError is for a tensor of torch that needs a gradient.
        raise invalid(where, "must be an array, or nested lists of numbers of equal length on each axis") from error
    if array.dtype.kind not in "biuf":
        what = f"is of type {type(given).__name__}" if array.dtype.kind == "O" else f"is an array of {array.dtype}"
        raise invalid(where, f"{what}; it must be an array of numbers")
    if array.dtype == np.float64 and not isinstance(given, np.ndarray) and data_type in ("float16", "float32"):
        return array.astype(np.float32)
    return array


def _with_rows(array: Array, signature: InputSignature, where: str) -> Array:
    """Return the array with an axis of rows; one row may be given without."""
    axes = len(signature.shape)
    if array.ndim == axes:
        return array[None]
    if array.ndim == axes + 1:
        return array
    lengths = ", ".join("any" if length < 0 else str(length) for length in signature.shape)
    raise invalid(where, f"has shape {array.shape}; it must be (rows, {lengths}), or ({lengths}) for one row")


def _tensor(array: Array, where: str) -> input_pb2.Input:
    try:
        return input_pb2.Input(tensor=to_tensor(array))
    except TensorError as error:
        raise InvalidRequestError(
            f"{where}: {error}.", metadata={"field": where}, violations={where: error.what}
        ) from error
