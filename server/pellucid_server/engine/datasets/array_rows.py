"""Reads the rows of `.npz` files: each array is inflated block by block, beside the others."""

import math
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

from pellucid_server.engine.datasets.opening import DataFile, DataSetError

_BLOCK_BYTES = 1 << 20

_Header = tuple[tuple[int, ...], "np.dtype[Any]", int]
"""Shape, type, and how many bytes come before the elements."""


def array_names(source: DataFile) -> tuple[str, ...]:
    """Return the names of the arrays.

    Raises
    ------
    DataSetError
        The file cannot be read.
    """
    with _archive(source) as file:
        return tuple(_members(file, source))


def array_count(source: DataFile) -> int:
    """Return how many rows the arrays have.

    Raises
    ------
    DataSetError
        The file cannot be read, or the arrays differ.
    """
    with _archive(source) as file:
        shapes = {name: _read_header(file, entry)[0] for name, entry in _members(file, source).items()}
        return _rows_of(shapes, source)


def array_rows(source: DataFile) -> Iterator[dict[str, Any]]:
    """Give each row's part of every array.

    Raises
    ------
    DataSetError
        The file cannot be read.
    """
    with _archive(source) as file:
        members = _members(file, source)
        headers = {name: _read_header(file, entry) for name, entry in members.items()}
        total = _rows_of({name: header[0] for name, header in headers.items()}, source)
        streams = {name: file.open(entry) for name, entry in members.items()}
        for name, stream in streams.items():
            stream.read(headers[name][2])
        for _ in range(total):
            yield {name: _row(streams[name], headers[name], source) for name in members}


def _row(stream: IO[bytes], header: _Header, source: DataFile) -> Any:
    shape, dtype, _ = header
    wanted = math.prod(shape[1:]) * dtype.itemsize
    data, filled = bytearray(wanted), 0
    while filled < wanted and (part := stream.read(min(_BLOCK_BYTES, wanted - filled))):
        data[filled : filled + len(part)] = part
        filled += len(part)
    if filled < wanted:
        raise DataSetError(f"{source} is damaged: an array ends before its last row.")
    array = np.frombuffer(data, dtype).reshape(shape[1:])
    return array if shape[1:] else array[()].item()


def _members(file: zipfile.ZipFile, source: DataFile) -> dict[str, zipfile.ZipInfo]:
    found = {entry.filename.removesuffix(".npy"): entry for entry in file.infolist()}
    if not found or len(found) != len(file.infolist()):
        raise DataSetError(f"{source} must have arrays, each of a name of its own; write it with numpy.savez.")
    return found


def _rows_of(shapes: Mapping[str, tuple[int, ...]], source: DataFile) -> int:
    counts = {name: shape[0] if shape else None for name, shape in shapes.items()}
    if len(set(counts.values())) != 1 or None in counts.values():
        listed = ", ".join(f"{name} has the shape {shape}" for name, shape in shapes.items())
        raise DataSetError(f"{source}: {listed[:400]}; all arrays must have one row for each row of the others.")
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
def _archive(source: DataFile) -> Iterator[zipfile.ZipFile]:
    with source.opened() as opened, zipfile.ZipFile(opened) as file:
        yield file
