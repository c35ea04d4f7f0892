"""Loads a `.pt2` file without running anything that it holds.

A `.pt2` file can make torch run code in many ways, some of which are plain text: pickled sample
inputs, weights and objects, guards, size expressions, names of operators and classes, names that
end up in generated source code. So a file is rebuilt, not inspected: its entries are read here, its
text is turned into the objects of torch's schema, part by part and each held to a rule
(`serialized_program`), its tensors are made from their bytes, and torch sees those alone. What is not
known is refused.
"""

import math
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import CRITICAL, getLogger
from pathlib import Path

import torch
from torch._export.serde import schema
from torch._export.serde.schema import Layout, ScalarType
from torch._export.serde.serialize import ExportedProgramDeserializer

from pellucid_server.engine.models.exported.serialized_program import (
    REMEDY,
    ModelFileError,
    rebuilt_payloads,
    rebuilt_program,
)
from pellucid_server.engine.models.exported.torch_versions import DTYPES

__all__ = ["ModelFileError", "load_program", "program_bytes"]

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


@dataclass(frozen=True, slots=True)
class _Parts:
    """What torch makes a program of."""

    program: schema.ExportedProgram
    weights: dict[str, torch.Tensor]
    constants: dict[str, torch.Tensor]


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
        trace the author's line is left. The shapes that the file gives of values between inputs and
        outputs are gone too: `functional` derives them.

    Raises
    ------
    ModelFileError
        The file cannot be read, is damaged, is too large, was written by another version of torch's
        format, or holds something that is not known to be harmless.
    """
    try:
        with zipfile.ZipFile(path) as file:
            parts = _rebuilt_parts(_Entries(file, path.stat().st_size))
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}.") from error
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ModelFileError(f"{path} is no .pt2 file, or is damaged: copy it again, or {REMEDY}.") from error
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error
    return _loaded(parts, path)


def program_bytes(path: Path) -> int:
    """Return the bytes of a file's graph, as its list of entries says; 0 if that cannot be read."""
    try:
        with zipfile.ZipFile(path) as file:
            sizes = [info.file_size for info in file.infolist() if info.filename.partition("/")[2] == _PROGRAM]
    except (zipfile.BadZipFile, zipfile.LargeZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError):
        return 0
    return max(sizes, default=0)


def _loaded(parts: _Parts, path: Path) -> torch.export.ExportedProgram:
    # Not torch.export.load: it reads an archive, with what it may hold, and takes twice as long.
    try:
        with _silenced():
            program: torch.export.ExportedProgram = ExportedProgramDeserializer().deserialize(
                parts.program, parts.weights, parts.constants
            )
    except Exception as error:
        raise ModelFileError(
            f"{path}: torch cannot build the graph that model.json describes ({type(error).__name__}): "
            f"the file contradicts itself; {REMEDY}."
        ) from error
    return program


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep torch from warning of what is meant: dropped guards leave sizes that no operator names."""
    logger = getLogger("torch._export.serde.serialize")
    level = logger.level
    logger.setLevel(CRITICAL)
    try:
        yield
    finally:
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

    def read_into(self, name: str, buffer: memoryview) -> None:
        """Read an entry whole into a buffer of its size."""
        with self._file.open(self._info(name)) as entry:
            while buffer:
                read = entry.readinto(buffer)  # type: ignore[attr-defined]
                if not read:
                    raise EOFError
                buffer = buffer[read:]

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


def _rebuilt_parts(entries: _Entries) -> _Parts:
    for name, content in _FIXED.items():
        if entries.read(name) != content:
            raise ModelFileError(f"the entry {name!r} is not {content.decode()!r}: {REMEDY}.")
    program = rebuilt_program(entries.read(_PROGRAM))
    weights, constants = (_tensors(entries, folder, prefix) for folder, prefix in _FOLDERS.items())
    return _Parts(program, weights, constants)


@dataclass(frozen=True, slots=True)
class _Place:
    """A tensor's place in an entry: sizes, strides and offset in elements, each of which lies in the entry."""

    entry: str
    dtype: torch.dtype
    sizes: list[int]
    strides: list[int]
    offset: int
    is_parameter: bool
    requires_grad: bool


def _tensors(entries: _Entries, folder: str, prefix: str) -> dict[str, torch.Tensor]:
    """Make the tensors of a list; those that share an entry share its memory."""
    payloads = rebuilt_payloads(entries.read(_LISTS[folder]), _LISTS[folder])
    places = {name: _checked_place(entries, name, payload, folder, prefix) for name, payload in payloads.items()}
    types: dict[str, torch.dtype] = {}
    for place in places.values():
        if types.setdefault(place.entry, place.dtype) != place.dtype:
            raise ModelFileError(f"{place.entry} is read as two types of number: refused.")
    stored = {entry: _stored(entries, entry, dtype) for entry, dtype in types.items()}
    return {name: _tensor(stored[place.entry], place) for name, place in places.items()}


def _tensor(stored: torch.Tensor, place: _Place) -> torch.Tensor:
    tensor = stored.as_strided(place.sizes, place.strides, place.offset)
    return torch.nn.Parameter(tensor, requires_grad=place.requires_grad) if place.is_parameter else tensor


def _stored(entries: _Entries, entry: str, dtype: torch.dtype) -> torch.Tensor:
    """Read the numbers of an entry."""
    stored = torch.empty(entries.size(entry), dtype=torch.uint8)
    entries.read_into(entry, memoryview(stored.numpy()))  # type: ignore[arg-type]
    # A byte that is neither 0 nor 1 is no truth value, and what operators make of one is not defined.
    return stored != 0 if dtype is torch.bool else stored.view(dtype)


def _checked_place(entries: _Entries, tensor: str, payload: schema.PayloadMeta, folder: str, prefix: str) -> _Place:
    path, meta = payload.path_name, payload.tensor_meta
    if meta is None:
        raise ModelFileError(f"the tensor {tensor!r} has no sizes: the file is damaged; {REMEDY}.")
    if not path.startswith(prefix):
        raise ModelFileError(f"the tensor {tensor!r} is said to be in {folder}{path}, where none can be: refused.")
    dtype = DTYPES.get(meta.dtype)
    if dtype is None or meta.layout != Layout.Strided:
        raise ModelFileError(
            f"the tensor {tensor!r} has the type {ScalarType(meta.dtype).name} and the layout "
            f"{Layout(meta.layout).name}; dense tensors of plain numbers are read."
        )
    sizes, strides, (offset,) = (
        _integers(values, tensor) for values in (meta.sizes, meta.strides, [meta.storage_offset])
    )
    _check_extent(tensor, (sizes, strides, offset), entries.size(folder + path), dtype.itemsize)
    requires_grad = meta.requires_grad and (dtype.is_floating_point or dtype.is_complex)
    return _Place(folder + path, dtype, sizes, strides, offset, payload.is_param, requires_grad)


def _check_extent(tensor: str, place: tuple[list[int], list[int], int], stored_bytes: int, item_bytes: int) -> None:
    """Check that every element lies in the stored bytes."""
    sizes, strides, offset = place
    elements, stored = math.prod(sizes), stored_bytes // item_bytes
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    outside = elements > 0 and last >= stored
    if outside or stored_bytes % item_bytes or elements * item_bytes > LARGEST_TENSOR_BYTES:
        raise ModelFileError(
            f"the tensor {tensor!r} of sizes {sizes}, strides {strides} and offset {offset} "
            f"does not lie in the {stored} numbers that are stored: refused; {REMEDY}."
        )


def _integers(values: list[schema.SymInt], tensor: str) -> list[int]:
    integers = [entry.value if entry.type == "as_int" else -1 for entry in values]
    if any(integer < 0 for integer in integers):
        raise ModelFileError(f"the tensor {tensor!r} has sizes, strides or an offset that are no counts: refused.")
    return integers
