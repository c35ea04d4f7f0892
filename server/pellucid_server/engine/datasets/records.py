"""Streams the records of a data set out of its files, one by one: no more than a few of them are in memory at once.

Nothing is skipped: what cannot be read is an error that names the file and the place.
"""

import csv
import importlib
import itertools
import json
import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from pellucid_server.engine.datasets.description import Description
from pellucid_server.engine.models.files.plain_files import UnfitFileError, check_file, shown

MOST_LINE_CHARACTERS = 1 << 24
"""Characters of a line of a CSV or JSON lines file."""

MOST_FILE_BYTES = 64 << 20
"""Bytes of a picture's file."""

_PARQUET_ROWS = 256
_BLOCK_BYTES = 1 << 20
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    zlib.error,
    zipfile.BadZipFile,
)


class DataSetError(Exception):
    """A data set that cannot be read; the message names the file and the row, and what would be right."""


@dataclass(frozen=True, slots=True)
class Record:
    """A row of a data set as its file has it.

    Attributes
    ----------
    number
        The row's number, from 0.
    where
        Where it is, for messages: "rows.csv, line 12".
    cells
        Its values by column: texts, numbers, flags, None, or, of `.npz` files, arrays. Of pictures, the path of the
        file is under the column of files.
    """

    number: int
    where: str
    cells: Mapping[str, Any]


def records(folder: Path, description: Description) -> Iterator[Record]:
    """Give the records in the order of the file; of a folder of pictures, by class, then name.

    Raises
    ------
    DataSetError
        Something cannot be read.
    """
    path = folder / description.data
    if description.kind == "pictures" and path.is_dir():
        return _picture_folder(folder, path, description)
    if description.kind == "tensor":
        return _arrays(path)
    ending = path.suffix.lower()
    read = {".csv": _csv_rows, ".parquet": _parquet_rows, ".jsonl": _json_lines}[ending]
    return read(path)


def columns(folder: Path, description: Description) -> tuple[str, ...] | None:
    """Return the names of the columns, or arrays; None where each record has its own.

    Raises
    ------
    DataSetError
        The file's beginning cannot be read, or two columns have one name.
    """
    path = folder / description.data
    if path.is_dir() or path.suffix.lower() == ".jsonl":
        return None
    if description.kind == "tensor":
        with _archive(path) as file:
            return tuple(_members(file, path))
    if path.suffix.lower() == ".parquet":
        with _reading(path):
            return _distinct(tuple(_parquet_file(path).schema_arrow.names), path)
    with _text(path) as file:
        return _header(csv.reader(_lines(file, path), strict=True), path)


def count(folder: Path, description: Description, *, most_bytes: int) -> int | None:
    """Return how many records there are, if that is known without reading more than `most_bytes`; else None.

    Raises
    ------
    DataSetError
        Something cannot be read.
    """
    path = folder / description.data
    if path.is_dir():
        return sum(1 for _ in records(folder, description))
    if description.kind == "tensor":
        with _archive(path) as file:
            return _rows_of({name: _read_header(file, entry)[0] for name, entry in _members(file, path).items()}, path)
    if path.suffix.lower() == ".parquet":
        with _reading(path):
            return int(_parquet_file(path).metadata.num_rows)
    if path.stat().st_size > most_bytes:
        return None
    return sum(1 for _ in records(folder, description))


def picture_classes(path: Path) -> tuple[str, ...]:
    """Return the names of the subfolders of a folder of pictures, in order."""
    with _reading(path):
        return tuple(sorted(each.name for each in os.scandir(path) if each.is_dir() and not each.name.startswith(".")))


def picture_bytes(path: Path, folder: Path) -> bytes:
    """Read a picture's file, which must lie within the data set's folder.

    Raises
    ------
    DataSetError
        It cannot be read, is too large, or lies elsewhere.
    """
    try:
        check_file(path, folder, most_bytes=MOST_FILE_BYTES)
        return path.read_bytes()
    except UnfitFileError as error:
        raise DataSetError(str(error)) from error
    except OSError as error:
        raise DataSetError(f"{shown(path)} cannot be read: {error.strerror}.") from error


def _picture_folder(folder: Path, path: Path, description: Description) -> Iterator[Record]:
    number = 0
    for name in picture_classes(path):
        with _reading(path / name):
            files = sorted(each.name for each in os.scandir(path / name) if not each.name.startswith("."))
        for file in files:
            where = path / name / file
            cells = {description.content: str(where.relative_to(folder)), description.label: name}
            yield Record(number, shown(where.relative_to(folder)), cells)
            number += 1


def _csv_rows(path: Path) -> Iterator[Record]:
    with _text(path) as file:
        reader = csv.reader(_lines(file, path), strict=True)
        names = _header(reader, path)
        for number, cells in enumerate(_checked(reader, path)):
            where = f"{path.name}, line {reader.line_num}"
            if len(cells) != len(names):
                raise DataSetError(f"{where}: it has {len(cells)} cells; it must have {len(names)}, as the header has.")
            yield Record(number, where, dict(zip(names, cells, strict=True)))


def _checked(reader: Any, path: Path) -> Iterator[list[str]]:
    """Give the rows of a CSV reader, but for the empty line at a file's end that some programs leave."""
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataSetError(f"{path.name}, line {reader.line_num}: it is no CSV ({error}).") from error
        if cells is None:
            return
        if cells:
            yield cells


def _header(reader: Any, path: Path) -> tuple[str, ...]:
    return _distinct(tuple(next(_checked(reader, path), ())), path)


def _distinct(names: tuple[str, ...], path: Path) -> tuple[str, ...]:
    if not names:
        raise DataSetError(f"{shown(path)} is empty; its first line must name the columns.")
    second = next((place for place, name in enumerate(names) if name in names[:place]), None)
    if second is not None:
        # A file without a header line has a row of data there.
        first = names.index(names[second])
        raise DataSetError(
            f"{shown(path)}: columns {first + 1} and {second + 1} have the same name in the first line, which must "
            "name the columns; give each a name of its own."
        )
    return names


def _json_lines(path: Path) -> Iterator[Record]:
    with _text(path) as file:
        number = 0
        for line, text in enumerate(_lines(file, path), 1):
            if not text.strip():
                continue
            where = f"{path.name}, line {line}"
            try:
                cells = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise DataSetError(f"{where}: it is not JSON.") from error
            if not isinstance(cells, dict):
                raise DataSetError(f"{where}: it is not an object; each line must be one, with a value by column.")
            yield Record(number, where, cells)
            number += 1


def _parquet_rows(path: Path) -> Iterator[Record]:
    number = 0
    with _reading(path):
        file = _parquet_file(path)
        _distinct(tuple(file.schema_arrow.names), path)
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
            for cells in batch.to_pylist():
                yield Record(number, f"{path.name}, row {number}", cells)
                number += 1


def _parquet_file(path: Path) -> Any:
    try:
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataSetError(
            f"{shown(path)} is a Parquet file, which the server reads with pyarrow; install pellucid[parquet], or save "
            "the data as CSV."
        ) from error
    return parquet.ParquetFile(str(path))


def _arrays(path: Path) -> Iterator[Record]:
    """Give the rows of an `.npz` file: each array is inflated block by block, beside the others."""
    with _archive(path) as file:
        members = _members(file, path)
        with _reading(path):
            headers = {name: _read_header(file, entry) for name, entry in members.items()}
            total = _rows_of({name: header[0] for name, header in headers.items()}, path)
            streams = {name: file.open(entry) for name, entry in members.items()}
            for name, stream in streams.items():
                stream.read(headers[name][2])
            for number in range(total):
                cells = {name: _row(streams[name], headers[name], path) for name in members}
                yield Record(number, f"{path.name}, row {number}", cells)


_Header = tuple[tuple[int, ...], "np.dtype[Any]", int]
"""Shape, type, and how many bytes come before the elements."""


def _row(stream: IO[bytes], header: _Header, path: Path) -> Any:
    shape, dtype, _ = header
    wanted = math.prod(shape[1:]) * dtype.itemsize
    data, filled = bytearray(wanted), 0
    while filled < wanted and (part := stream.read(min(_BLOCK_BYTES, wanted - filled))):
        data[filled : filled + len(part)] = part
        filled += len(part)
    if filled < wanted:
        raise DataSetError(f"{shown(path)} is damaged: an array ends before its last row.")
    array = np.frombuffer(data, dtype).reshape(shape[1:])
    return array if shape[1:] else array[()].item()


def _members(file: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    found = {entry.filename.removesuffix(".npy"): entry for entry in file.infolist()}
    if not found or len(found) != len(file.infolist()):
        raise DataSetError(f"{shown(path)} must have arrays, each of a name of its own; write it with numpy.savez.")
    return found


def _rows_of(shapes: Mapping[str, tuple[int, ...]], path: Path) -> int:
    counts = {name: shape[0] if shape else None for name, shape in shapes.items()}
    if len(set(counts.values())) != 1 or None in counts.values():
        listed = ", ".join(f"{name} has the shape {shape}" for name, shape in shapes.items())
        raise DataSetError(f"{shown(path)}: {listed[:400]}; all arrays must have one row for each row of the others.")
    return int(next(iter(counts.values())) or 0)


def _read_header(file: zipfile.ZipFile, entry: zipfile.ZipInfo) -> _Header:
    name = entry.filename.removesuffix(".npy")
    with file.open(entry) as stream:
        version = np.lib.format.read_magic(stream)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None:
            raise DataSetError(f"the array {name!r} is not of plain numbers or texts; write it with numpy.savez.")
        shape, fortran, dtype = read(stream)
        head = stream.tell()
    if dtype.kind not in "biufU" or min(shape, default=0) < 0:
        raise DataSetError(f"the array {name!r} is of {dtype}; it must be of numbers, flags or texts.")
    if fortran and len(shape) > 1:
        raise DataSetError(f"the array {name!r} is stored by columns; store numpy.ascontiguousarray of it.")
    if head + math.prod(shape) * dtype.itemsize > entry.file_size:
        raise DataSetError(f"the array {name!r} claims more rows than are stored; write it again with numpy.savez.")
    return tuple(shape), dtype, head


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    with _reading(path), zipfile.ZipFile(path) as file:
        yield file


@contextmanager
def _text(path: Path) -> Iterator[IO[str]]:
    with _reading(path), path.open(encoding="utf-8-sig", newline="") as file:
        yield file


def _lines(file: IO[str], path: Path) -> Iterator[str]:
    for number in itertools.count(1):
        line = file.readline(MOST_LINE_CHARACTERS + 1)
        if not line:
            return
        if len(line) > MOST_LINE_CHARACTERS:
            raise DataSetError(f"{path.name}, line {number}: it has more than {MOST_LINE_CHARACTERS} characters.")
        yield line


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what libraries raise on files that they cannot read into the data set's own error."""
    try:
        yield
    except DataSetError as error:
        if path.name in str(error):
            raise
        raise DataSetError(f"{shown(path)}: {error}") from error
    except UnicodeDecodeError as error:
        raise DataSetError(f"{shown(path)} must be UTF-8 text; it is not.") from error
    except OSError as error:
        raise DataSetError(f"{shown(path)} cannot be read: {error.strerror or 'it is damaged'}.") from error
    except _UNREADABLE as error:
        raise DataSetError(f"{shown(path)} is damaged, or not what its name says it is.") from error
