"""Reads `background.npz`: rows of every input, as numpy writes them.

Names and headers are read first and held to what is expected; only then is any array inflated. A file of some
kilobytes can claim terabytes, and one of megabytes hold gigabytes of zeros.
"""

import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from pellucid_server.engine.models.inputs.preprocessing import UnfitManifestError
from pellucid_server.vocabulary.requests import Array

MOST_INFLATED_BYTES = 256 << 20
"""Bytes of all arrays of a compressed file, unless the file itself has half as many."""

_ENDING = ".npy"
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, NotImplementedError, RuntimeError, zlib.error)


@dataclass(frozen=True, slots=True)
class _Header:
    """What an entry says of its array; `head_bytes` come before the elements."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[np.generic]
    head_bytes: int

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_background(path: Path, names: Sequence[str]) -> Mapping[str, Array]:
    """Read the array of each input, in the order of `names`.

    Raises
    ------
    UnfitManifestError
        The file is none of numpy's, has other arrays, or ones that are not of plain numbers or too large.
    """
    try:
        with zipfile.ZipFile(path) as file:
            entries = _entries(file, path, names)
            headers = {name: _header(file, entry, path) for name, entry in entries.items()}
            _require_size(path, sum(header.size_bytes for header in headers.values()))
            return {name: _array(file, entries[name], headers[name]) for name in names}
    except (*_UNREADABLE, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise _unreadable(path) from error


def _entries(file: zipfile.ZipFile, path: Path, names: Sequence[str]) -> dict[str, zipfile.ZipInfo]:
    infos = file.infolist()
    found = {info.filename.removesuffix(_ENDING): info for info in infos}
    if len(infos) != len(found) or sorted(found) != sorted(names):
        listed = ", ".join(sorted(found)[: len(names) + 1])
        raise UnfitManifestError(
            f"{path.name} has the arrays {listed[:500] or 'none'}; it must have one for each input: {', '.join(names)}"
        )
    return found


def _header(file: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> _Header:
    with file.open(entry) as stream:
        shape, fortran, dtype = _read_header(stream)
        header = _Header(tuple(shape), fortran, dtype, stream.tell())
    if dtype.kind in "OV" or any(length < 0 for length in header.shape):
        raise _unreadable(path)
    if header.head_bytes + header.size_bytes > entry.file_size:
        raise UnfitManifestError(
            f"{path.name} is damaged: its array {entry.filename.removesuffix(_ENDING)!r} claims {header.size_bytes} "
            f"bytes, and {entry.file_size} are stored; write it again with numpy.savez"
        )
    return header


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ValueError("numpy writes other versions only for names of fields, which numbers have none of")


def _require_size(path: Path, size_bytes: int) -> None:
    most = max(MOST_INFLATED_BYTES, 2 * path.stat().st_size)
    if size_bytes > most:
        raise UnfitManifestError(
            f"{path.name} holds {size_bytes} bytes of numbers; at most {most} are read. Keep fewer rows: some hundreds "
            "are enough"
        )


def _array(file: zipfile.ZipFile, entry: zipfile.ZipInfo, header: _Header) -> Array:
    with file.open(entry) as stream:
        stream.seek(header.head_bytes)
        data = bytearray(header.size_bytes)
        view, filled = memoryview(data), 0
        while filled < len(data) and (part := stream.read(min(1 << 20, len(data) - filled))):
            view[filled : filled + len(part)] = part
            filled += len(part)
    if filled < len(data):
        raise EOFError("the entry ends before its array")
    order = "F" if header.fortran else "C"
    array: Array = np.frombuffer(data, header.dtype).reshape(header.shape, order=order)  # type: ignore[call-overload]
    return array


def _unreadable(path: Path) -> UnfitManifestError:
    return UnfitManifestError(
        f"{path.name} cannot be read as arrays of numbers; write it with numpy.savez, one array for each input"
    )
