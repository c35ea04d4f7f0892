"""An ONNX file, checked and run by ONNX Runtime."""

import logging
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as states

from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.device.arenas import Arena
from pellucid_server.engine.device.memory import out_of_memory
from pellucid_server.engine.models.graph.index_ranges import index_error, names_an_index
from pellucid_server.engine.models.graph.lengths import Lengths, Size, length_error, names_a_length, values_error
from pellucid_server.engine.models.onnx.file import OnnxFile, SessionError, one_line, read_onnx
from pellucid_server.engine.models.onnx.guards import tripped
from pellucid_server.errors import InvalidRequestError
from pellucid_server.memory_hygiene import TRIM_SECONDS
from pellucid_server.vocabulary.requests import Array

__all__ = ["OnnxModel", "SessionError", "Value", "nearest_device"]

_log = logging.getLogger(__name__)

_CUDA = "CUDAExecutionProvider"

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int16)": "int16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}

_REFUSALS = (
    states.Fail,
    states.InvalidArgument,
    states.InvalidGraph,
    states.InvalidProtobuf,
    states.NoSuchFile,
    states.NotImplemented,
    states.RuntimeException,
)
"""What ONNX Runtime raises for a file that it cannot load or run; their only common base is Exception."""


_NO_ARENA = "memory arena shrink list"
"""In the words of ONNX Runtime, where an arena that is to shrink is not there; nothing has run yet."""

_FAILED = re.compile(r"while running (\w+) node")


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output: `shape` is a row's, with None where it is not fixed."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int | None, ...]


class OnnxModel:
    """Runs an ONNX file forward. Safe to share between threads.

    Parameters
    ----------
    path
        The file. What must not be run of it is refused before it is loaded (`read_onnx`).
    threads
        Threads of ONNX Runtime; they do not spin while they wait, as they share their cores.
    device
        "cpu" or "cuda:N".
    trim_seconds
        How often a run gives back the working memory that ONNX Runtime keeps. It grows by powers of two up to
        several times what the largest batch needs, and without that would stay for good. On CUDA, a run that took more
        than an idle session may keep gives it back at once (`Arena`).

    Raises
    ------
    SessionError
        The file is refused, cannot be loaded, has a fixed number of rows or other outputs than
        tensors, or the device cannot be had.
    """

    def __init__(self, path: Path, *, threads: int, device: str, trim_seconds: float = TRIM_SECONDS) -> None:
        self.device = device
        """Where it runs."""
        file = read_onnx(path)
        self.largest_value_bytes = file.largest_value_bytes
        """Bytes of the largest value in the file, for a row."""
        self._arena = _arena(device)
        self._session = _open(path, file, threads, self._arena)
        self._guards = file.guards
        self._refusing = file.refusing
        self.inputs = tuple(_value(entry, path, "input") for entry in self._session.get_inputs())
        self.outputs = tuple(_value(entry, path, "output") for entry in self._session.get_outputs())
        self.lengths = Lengths({entry.name: _sizes(entry.shape) for entry in self._session.get_inputs()}, {})
        """Which open axes have one name, and so one length."""
        self._open = any(None in value.shape for value in self.inputs)
        self._names = [entry.name for entry in self.outputs]
        self._trim_seconds = trim_seconds
        self._trimmed_at = time.monotonic()
        self._trimming = _trimming("cpu:0" if self._arena is None else f"cpu:0;gpu:{_index(self._arena)}")

    def run(self, rows: Arrays) -> dict[str, Array]:
        """Return every output by name, (rows, *shape), of rows of every input, (rows, *features).

        Raises
        ------
        InvalidRequestError
            A whole number in the rows is beyond a table that it indexes, open axes are of lengths that do not go
            together, an axis is empty, of the rows or of a value made of them that must not be, or a value made of
            them is too large or of a shape that an operator does not take.
        """
        _require_filled(rows)
        try:
            return self._run(rows)
        except _REFUSALS as error:
            harm = tripped(error, self._guards) or self._refused(error)
            if harm is not None:
                raise values_error([entry.name for entry in self.inputs], f"Its {harm}.") from error
            if names_an_index(error):
                raise index_error([entry.name for entry in self.inputs]) from error
            if self._open and names_a_length(error):
                raise length_error({name: array.shape for name, array in rows.items()}) from error
            raise

    def _refused(self, error: Exception) -> str | None:
        """Say which node did not take a shape or a place that it was given, of those that follow the rows' values."""
        failed = _FAILED.search(str(error))
        described = self._refusing.get(failed.group(1)) if failed and not out_of_memory(error) else None
        return None if described is None else f"node {described} does not take a shape or a place that they come to"

    def run_checked(self, rows: Arrays) -> dict[str, Array]:
        """Run as `run` does, and say what fails as the model's fault.

        Raises
        ------
        SessionError
            ONNX Runtime cannot run the file on these rows.
        """
        try:
            return self._run(rows)
        except _REFUSALS as error:
            harm = tripped(error, self._guards)
            if harm is not None:
                raise SessionError(f"its {harm}, on which ONNX Runtime must not be run") from error
            raise SessionError(f"ONNX Runtime cannot run it: {one_line(error)}") from error

    def _run(self, rows: Arrays) -> dict[str, Array]:
        now = time.monotonic()
        trims = now - self._trimmed_at >= self._trim_seconds or self._outgrown(rows)
        if trims:
            self._trimmed_at = now
        values = self._trimmed(rows) if trims else self._session.run(self._names, rows)
        return dict(zip(self._names, values, strict=True))

    def _outgrown(self, rows: Arrays) -> bool:
        if self._arena is None:
            return False
        return self._arena.outgrown(len(next(iter(rows.values()))), self.largest_value_bytes)

    def _trimmed(self, rows: Arrays) -> list[Array]:
        """Run, and give working memory back."""
        try:
            return list(self._session.run(self._names, rows, self._trimming))
        except states.InvalidArgument as error:
            if self._arena is None or _NO_ARENA not in str(error):
                raise
        # Nothing has run yet. The limit of the arena holds all the same.
        _log.warning("ONNX Runtime keeps its working memory on %s: it has no arena there to shrink", self.device)
        self._trimming = _trimming("cpu:0")
        return list(self._session.run(self._names, rows, self._trimming))


def nearest_device(device: str) -> str:
    """Return the device on which ONNX Runtime runs for a worker on `device`: the CPU where it has no CUDA."""
    there = device == "cpu" or _CUDA in onnxruntime.get_available_providers()
    return device if there else "cpu"


def _require_filled(rows: Arrays) -> None:
    """Refuse an axis of length 0: ONNX Runtime ends the process at one in some operators."""
    for name, array in rows.items():
        if 0 in array.shape:
            raise InvalidRequestError(
                f'inputs["{name}"] has the length 0 on axis {array.shape.index(0)}; it must be at least 1.',
                field=f'inputs["{name}"]',
            )


def _trimming(arenas: str) -> onnxruntime.RunOptions:
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", arenas)
    return options


def _open(path: Path, file: OnnxFile, threads: int, arena: Arena | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its errors are raised as well; written to standard error, they would quote what a caller sent.
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Else a file that is both would be read as ONNX Runtime's own format, of which nothing is checked.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent.resolve()))
    if arena is not None:
        # Weights beside working memory would keep a block from being given back.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    content = file.model.SerializeToString()
    providers = _providers(arena, len(content) + _bytes_beside(file.model))
    # The weights need not be in memory once more while ONNX Runtime reads them.
    file.model.Clear()
    try:
        session = onnxruntime.InferenceSession(content, options, providers=providers)
    except _REFUSALS as error:
        raise SessionError(f"ONNX Runtime cannot load it: {one_line(error)}") from error
    session.disable_fallback()
    if session.get_providers()[0] != providers[0][0]:
        device = "cpu" if arena is None else arena.device
        raise SessionError(f"ONNX Runtime cannot use the device {device!r}; it would run on the CPU instead")
    return session


def _arena(device: str) -> Arena | None:
    """Return the bounds of a session's memory on a CUDA device; a CPU needs none."""
    if device.partition(":")[0] == "cpu":
        return None
    if _CUDA not in onnxruntime.get_available_providers():
        raise SessionError(
            f"the installed ONNX Runtime cannot use the device {device!r}; install pellucid[server-gpu] in place of "
            "pellucid[server]"
        )
    return Arena(device)


def _index(arena: Arena) -> str:
    return arena.device.partition(":")[2] or "0"


def _bytes_beside(model: onnx.ModelProto) -> int:
    """Return the bytes of the weights in other files, as if each number took eight: no less than they take."""
    beside = [each for each in model.graph.initializer if each.data_location == onnx.TensorProto.EXTERNAL]
    return sum(8 * math.prod(each.dims) for each in beside)


def _providers(arena: Arena | None, weight_bytes: int) -> list[tuple[str, dict[str, str]]]:
    cpu: tuple[str, dict[str, str]] = ("CPUExecutionProvider", {})
    if arena is None:
        return [cpu]
    cuda = {
        "device_id": _index(arena),
        "use_tf32": "0",
        # An exhaustive search would be repeated for each number of rows in a batch.
        "cudnn_conv_algo_search": "HEURISTIC",
        # Weights count, whether they are in the arena or beside it.
        "gpu_mem_limit": str(arena.most_bytes + weight_bytes),
        # By powers of two, it would take twice what is needed, up to its limit.
        "arena_extend_strategy": "kSameAsRequested",
    }
    return [(_CUDA, cuda), cpu]


def _value(entry: Any, path: Path, role: str) -> Value:
    if not entry.type.startswith("tensor("):
        raise SessionError(
            f"{role} {entry.name!r} is a {entry.type}, not a tensor; convert the model so that it is one (with "
            "skl2onnx: options={'zipmap': False})"
        )
    if entry.type not in _DTYPES:
        raise SessionError(
            f"{role} {entry.name!r} is a {entry.type}; it must be one of: {', '.join(_DTYPES.values())}, which the "
            "model can be made to take and give"
        )
    if not entry.shape or isinstance(entry.shape[0], int):
        raise SessionError(
            f"{role} {entry.name!r} has the shape {entry.shape}; its axis 0 must be the rows, any number of them: "
            "export the model with a dynamic axis 0, as pellucid-export does"
        )
    shape = tuple(length if isinstance(length, int) else None for length in entry.shape[1:])
    if role == "input" and any(length is not None and length < 1 for length in shape):
        raise SessionError(
            f"{role} {entry.name!r} has the shape {entry.shape}; each axis of a row must be open or at least 1 long"
        )
    return Value(entry.name, np.dtype(_DTYPES[entry.type]), shape)


def _sizes(shape: Sequence[int | str | None]) -> tuple[Size | None, ...]:
    """Read the names of a row's open axes; one called as the rows are has to do with the batch, and is left alone."""
    rows, *lengths = shape
    return tuple(Size(length) if isinstance(length, str) and length != rows else None for length in lengths)
