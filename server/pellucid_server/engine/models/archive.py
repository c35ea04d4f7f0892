"""Loads a `.pt2` file without running anything that it holds.

A `.pt2` file can make torch run code in many ways, some of which are plain text: pickled sample
inputs, weights and objects, guards, size expressions, names of operators and classes, names that
end up in generated source code. So a file is rebuilt, not inspected: its entries are read here, its
text and the bytes of its tensors are copied into a new archive in memory, part by part and each
held to a rule (`serialized_program`), and torch sees that archive alone. What is not known is refused.
"""

import io
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import CRITICAL, getLogger
from pathlib import Path
from typing import Any

import torch
from torch._export.serde.schema import Layout, ScalarType
from torch.export.pt2_archive._package import PT2ArchiveWriter, load_pt2

from pellucid_server.engine.models.serialized_program import (
    REMEDY,
    ModelFileError,
    rebuilt_payloads,
    rebuilt_program,
)

__all__ = ["ModelFileError", "load_program"]

LARGEST_TEXT_BYTES = 256 * 2**20
"""Bytes of model.json, and of each list of payloads; a network of 10,000 operators has some 30 MiB."""

LARGEST_TENSOR_BYTES = 8 * 2**30
"""Bytes of one parameter, buffer or constant."""

LARGEST_ARCHIVE_BYTES = 32 * 2**30
"""Bytes of a whole file."""

_MOST_ENTRIES = 100_000
_PROGRAM = "models/model.json"
_WEIGHTS = "data/weights/"
_CONSTANTS = "data/constants/"
_FOLDERS = {_WEIGHTS: "weight_", _CONSTANTS: "tensor_"}
_LISTS = {_WEIGHTS: f"{_WEIGHTS}model_weights_config.json", _CONSTANTS: f"{_CONSTANTS}model_constants_config.json"}
_SAMPLE_INPUTS = "data/sample_inputs/model.pt"
_PAYLOAD = re.compile(r"data/(weights/weight|constants/tensor)_\d{1,9}")
_NEVER_READ = re.compile(r"data/sample_inputs/model\.pt|extra/[^/\\]{1,255}|\.data/(version|serialization_id)")
_FIXED = {"archive_format": b"pt2", "archive_version": b"0", "byteorder": b"little"}
_LIMITS = dict.fromkeys([_PROGRAM, *_LISTS.values()], LARGEST_TEXT_BYTES) | dict.fromkeys(_FIXED, 64)

_ITEM_BYTES: Mapping[int, int] = {
    ScalarType.BYTE: 1,
    ScalarType.CHAR: 1,
    ScalarType.BOOL: 1,
    ScalarType.SHORT: 2,
    ScalarType.HALF: 2,
    ScalarType.BFLOAT16: 2,
    ScalarType.UINT16: 2,
    ScalarType.INT: 4,
    ScalarType.FLOAT: 4,
    ScalarType.UINT32: 4,
    ScalarType.LONG: 8,
    ScalarType.DOUBLE: 8,
    ScalarType.UINT64: 8,
    ScalarType.COMPLEXFLOAT: 8,
    ScalarType.COMPLEXDOUBLE: 16,
}


def load_program(path: Path) -> torch.export.ExportedProgram:
    """Load an exported program from a `.pt2` file, on the CPU; no code from the file is run.

    Parameters
    ----------
    path
        A file that `torch.export.save` wrote, with plain tensors as parameters and buffers.

    Returns
    -------
    torch.export.ExportedProgram
        Parameters, buffers and operators are bit for bit those of the file, and `nn_module_stack`
        still names each operator's modules. Guards, example inputs and extra files are gone; of a stack
        trace the author's line is left.

    Raises
    ------
    ModelFileError
        The file cannot be read, is damaged, is too large, was written by another version of torch's
        format, or holds something that is not known to be harmless.
    """
    try:
        with zipfile.ZipFile(path) as file:
            archive = _rebuilt_archive(_Entries(file, path.stat().st_size))
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}.") from error
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ModelFileError(f"{path} is no .pt2 file, or is damaged: copy it again, or {REMEDY}.") from error
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error
    return _loaded(archive, path)


def _loaded(archive: io.BytesIO, path: Path) -> torch.export.ExportedProgram:
    # Not torch.export.load: it is this call and, when it fails, a second reading in an older format.
    try:
        with _silenced():
            program: torch.export.ExportedProgram = load_pt2(archive).exported_programs["model"]
    except Exception as error:
        raise ModelFileError(
            f"{path}: torch cannot build the graph that model.json describes ({type(error).__name__}): "
            f"the file contradicts itself; {REMEDY}."
        ) from error
    return program


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep torch from warning of what is meant: dropped guards leave sizes that no operator names."""
    loggers = [getLogger(name) for name in ("torch._export.serde.serialize", "torch.export.pt2_archive._package")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class _Entries:
    """The entries of a file by their name below its root folder: known ones, each once, none compressed."""

    def __init__(self, file: zipfile.ZipFile, file_bytes: int) -> None:
        self._file = file
        self._infos: dict[str, zipfile.ZipInfo] = {}
        infos = file.infolist()
        if file_bytes > LARGEST_ARCHIVE_BYTES or not 0 < len(infos) <= _MOST_ENTRIES:
            raise ModelFileError(
                f"the file has {file_bytes} bytes and {len(infos)} entries; "
                f"up to {LARGEST_ARCHIVE_BYTES} bytes and {_MOST_ENTRIES} entries are read."
            )
        if min(info.header_offset for info in infos) > 0:
            # A file cut short ends in another archive, its sample inputs, and zipfile finds that one.
            raise zipfile.BadZipFile("the archive does not begin with the file")
        root = infos[0].filename.partition("/")[0]
        for info in infos:
            name = _known_name(info.filename, root)
            if name in self._infos:
                raise ModelFileError(f"the entry {name!r} is there twice: refused.")
            _check_size(info, _LIMITS.get(name, LARGEST_TENSOR_BYTES), file_bytes)
            self._infos[name] = info
        if sum(info.file_size for info in infos) > file_bytes:
            raise ModelFileError("its entries overlap: refused.")

    def size(self, name: str) -> int:
        """Bytes of an entry."""
        return self._info(name).file_size

    def read(self, name: str) -> bytes:
        """Read an entry whole."""
        return self._file.read(self._info(name))

    def _info(self, name: str) -> zipfile.ZipInfo:
        if name not in self._infos:
            raise ModelFileError(f"the entry {name!r} is missing: the file is damaged; {REMEDY}.")
        return self._infos[name]


def _known_name(full_name: str, root: str) -> str:
    folder, slash, name = full_name.partition("/")
    known = name in _LIMITS or _PAYLOAD.fullmatch(name) or _NEVER_READ.fullmatch(name)
    if folder != root or not slash or not known:
        raise ModelFileError(
            f"it holds the entry {full_name[:120]!r}, which is none that a server reads (it reads one exported program "
            f"with plain tensors; no compiled code, no pickled objects): refused. If the file is your own, {REMEDY}."
        )
    return name


def _check_size(info: zipfile.ZipInfo, limit: int, file_bytes: int) -> None:
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
        raise ModelFileError(f"the entry {info.filename!r} is compressed or encrypted: refused; {REMEDY}.")
    if info.file_size > limit:
        raise ModelFileError(f"the entry {info.filename!r} has {info.file_size} bytes; up to {limit} are read.")
    if info.header_offset + info.file_size > file_bytes:
        raise ModelFileError(
            f"the entry {info.filename!r} claims {info.file_size} bytes, more than the file has: refused."
        )


def _rebuilt_archive(entries: _Entries) -> io.BytesIO:
    for name, content in _FIXED.items():
        if entries.read(name) != content:
            raise ModelFileError(f"the entry {name!r} is not {content.decode()!r}: {REMEDY}.")
    archive = io.BytesIO()
    with PT2ArchiveWriter(archive) as writer:
        writer.write_bytes(_PROGRAM, rebuilt_program(entries.read(_PROGRAM)))
        writer.write_bytes(_SAMPLE_INPUTS, b"")
        for folder, prefix in _FOLDERS.items():
            text, payloads = rebuilt_payloads(entries.read(_LISTS[folder]), _LISTS[folder])
            writer.write_bytes(_LISTS[folder], text)
            for name in _checked_payloads(entries, payloads, folder, prefix):
                writer.write_bytes(name, entries.read(name))
    archive.seek(0)
    return archive


def _checked_payloads(
    entries: _Entries, payloads: Mapping[str, Mapping[str, Any]], folder: str, prefix: str
) -> Iterator[str]:
    """Check each tensor against its entry, and name the entries in use, each once."""
    types: dict[str, int] = {}
    for tensor, payload in payloads.items():
        path, meta = payload["path_name"], payload["tensor_meta"]
        if not path.startswith(prefix):
            raise ModelFileError(f"the tensor {tensor!r} is said to be in {folder}{path}, where none can be: refused.")
        new = path not in types
        if types.setdefault(path, meta["dtype"]) != meta["dtype"]:
            raise ModelFileError(f"{folder}{path} is read as two types of number: refused.")
        _check_extent(tensor, meta, entries.size(folder + path))
        if new:
            yield folder + path


def _check_extent(tensor: str, meta: Mapping[str, Any], stored_bytes: int) -> None:
    """Check that every element lies in the stored bytes."""
    item_bytes = _ITEM_BYTES.get(meta["dtype"])
    if item_bytes is None or meta["layout"] != Layout.Strided:
        raise ModelFileError(
            f"the tensor {tensor!r} has the type {ScalarType(meta['dtype']).name} and the layout "
            f"{Layout(meta['layout']).name}; dense tensors of plain numbers are read."
        )
    sizes, strides, (offset,) = (_integers(meta[name], tensor) for name in ("sizes", "strides", "storage_offset"))
    elements, stored = math.prod(sizes), stored_bytes // item_bytes
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    outside = elements > 0 and last >= stored
    if outside or stored_bytes % item_bytes or elements * item_bytes > LARGEST_TENSOR_BYTES:
        raise ModelFileError(
            f"the tensor {tensor!r} of sizes {sizes}, strides {strides} and offset {offset} "
            f"does not lie in the {stored} numbers that are stored: refused; {REMEDY}."
        )


def _integers(values: Any, tensor: str) -> list[int]:
    entries = values if isinstance(values, list) else [values]
    integers = [entry.get("as_int", -1) for entry in entries]
    if any(integer < 0 for integer in integers):
        raise ModelFileError(f"the tensor {tensor!r} has sizes, strides or an offset that are no counts: refused.")
    return integers
