"""An ONNX file, checked and run by ONNX Runtime."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as states

from pellucid_server.engine.models.index_ranges import index_error, names_an_index
from pellucid_server.engine.models.lengths import Lengths, Size, length_error, names_a_length
from pellucid_server.engine.question import Arrays
from pellucid_server.housekeeping import TRIM_SECONDS
from pellucid_server.jobs import Array

_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
_READS_FILES = ("EPContext",)
"""Operators of those domains that name a file to read."""

_OPEN_LENGTH = 256
"""Assumed length of an axis that is open, where memory is estimated."""

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


class SessionError(Exception):
    """An ONNX file that cannot be served; the message says why, and what would be right."""


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output: `shape` is a row's, with None where it is not fixed."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int | None, ...]


class Session:
    """Runs an ONNX file forward. Safe to share between threads.

    Parameters
    ----------
    path
        The file. What it names outside its folder, and operators that ONNX Runtime itself does not
        bring, are refused before it is loaded.
    threads
        Threads of ONNX Runtime; they do not spin while they wait, as they share their cores.
    device
        "cpu" or "cuda:N".
    trim_seconds
        How often a run gives back the working memory that ONNX Runtime keeps. It grows by powers of two up to
        several times what the largest batch needs, and without that would stay for good.

    Raises
    ------
    SessionError
        The file is refused, cannot be loaded, has a fixed number of rows or other outputs than
        tensors, or the device cannot be had.
    """

    def __init__(self, path: Path, *, threads: int, device: str, trim_seconds: float = TRIM_SECONDS) -> None:
        model = _checked(path)
        self.largest_value_bytes = _largest_value_bytes(model)
        """Bytes of the largest value in the file, for a row."""
        self._session = _open(path, threads, device)
        self.inputs = tuple(_value(entry, path, "input") for entry in self._session.get_inputs())
        self.outputs = tuple(_value(entry, path, "output") for entry in self._session.get_outputs())
        self.lengths = Lengths({entry.name: _sizes(entry.shape) for entry in self._session.get_inputs()}, {})
        """Which open axes have one name, and so one length."""
        self._open = any(None in value.shape for value in self.inputs)
        self._names = [entry.name for entry in self.outputs]
        self._trim_seconds = trim_seconds
        self._trimmed_at = time.monotonic()
        self._trimming = onnxruntime.RunOptions()
        self._trimming.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    def run(self, rows: Arrays) -> dict[str, Array]:
        """Return every output by name, (rows, *shape), of rows of every input, (rows, *features).

        Raises
        ------
        InvalidRequestError
            A whole number in the rows is beyond a table that it indexes, or open axes are of lengths that do not
            go together.
        """
        try:
            return self._run(rows)
        except _REFUSALS as error:
            if names_an_index(error):
                raise index_error([entry.name for entry in self.inputs]) from error
            if self._open and names_a_length(error):
                raise length_error({name: array.shape for name, array in rows.items()}) from error
            raise

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
            raise SessionError(f"ONNX Runtime cannot run it: {_line(error)}") from error

    def _run(self, rows: Arrays) -> dict[str, Array]:
        now = time.monotonic()
        trims = now - self._trimmed_at >= self._trim_seconds
        if trims:
            self._trimmed_at = now
        values = self._session.run(self._names, rows, self._trimming if trims else None)
        return dict(zip(self._names, values, strict=True))


def _checked(path: Path) -> onnx.ModelProto:
    """Read a file; refuse one that is no ONNX model, or would have other files read or other code run."""
    try:
        # Parses as well, and turns a damaged file into an error of its own.
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, OSError, ValueError) as error:
        raise SessionError(
            f"it is not an ONNX file that can be served ({_line(error)}); export the model again"
        ) from error
    model = onnx.load(str(path), load_external_data=False)
    own = {(function.domain, function.name) for function in model.functions}
    for message in _messages(model):
        if isinstance(message, onnx.TensorProto):
            _check_location(message, path.parent)
        elif isinstance(message, onnx.NodeProto):
            _check_operator(message, own)
    return model


def _messages(message: Any) -> Iterator[Any]:
    """Walk all tensors and nodes of a model, in whatever part of it they are."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    if isinstance(message, onnx.NodeProto):
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if isinstance(value, Sequence) else (value,):
                yield from _messages(part)


def _check_location(tensor: onnx.TensorProto, folder: Path) -> None:
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), None)
    if location is None:
        return
    relative = PurePosixPath(location)
    inside = folder.joinpath(location).resolve().is_relative_to(folder.resolve())
    if relative.is_absolute() or ".." in relative.parts or "\\" in location or not inside:
        raise SessionError(
            f"tensor {tensor.name!r} has its data in {location!r}, outside the folder of the file; save the model with "
            "its data beside it"
        )
    if not folder.joinpath(location).is_file():
        raise SessionError(f"tensor {tensor.name!r} has its data in {location!r}, which is missing; copy it there too")


def _check_operator(node: onnx.NodeProto, own: set[tuple[str, str]]) -> None:
    known = node.domain in _DOMAINS or (node.domain, node.op_type) in own
    if not known or node.op_type in _READS_FILES:
        raise SessionError(
            f"node {node.name!r} is an operator {node.op_type!r} of the domain {node.domain!r}; only the standard "
            f"operators can be served (domains: {', '.join(domain for domain in _DOMAINS if domain)})"
        )


def _largest_value_bytes(model: onnx.ModelProto) -> int:
    try:
        graph = onnx.shape_inference.infer_shapes(model).graph
    except onnx.shape_inference.InferenceError:
        graph = model.graph
    return max(_row_bytes(value) for value in (*graph.value_info, *graph.input, *graph.output))


def _row_bytes(value: onnx.ValueInfoProto) -> int:
    lengths = [dim.dim_value or _OPEN_LENGTH for dim in value.type.tensor_type.shape.dim]
    return 8 * math.prod(lengths[1:])


def _open(path: Path, threads: int, device: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Its errors are raised as well; written to standard error, they would quote what a caller sent.
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    providers = _providers(device)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except _REFUSALS as error:
        raise SessionError(f"ONNX Runtime cannot load it: {_line(error)}") from error
    session.disable_fallback()
    if session.get_providers()[0] != providers[0][0]:
        raise SessionError(f"ONNX Runtime cannot use the device {device!r}; it would run on the CPU instead")
    return session


def _providers(device: str) -> list[tuple[str, dict[str, str]]]:
    cpu: tuple[str, dict[str, str]] = ("CPUExecutionProvider", {})
    kind, _, index = device.partition(":")
    if kind == "cpu":
        return [cpu]
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise SessionError(
            f"the installed ONNX Runtime cannot use the device {device!r}; install pellucid[server-gpu] in place of "
            "pellucid[server]"
        )
    # An exhaustive search would be repeated for each number of rows in a batch.
    cuda = {"device_id": index or "0", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    return [("CUDAExecutionProvider", cuda), cpu]


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
    return Value(entry.name, np.dtype(_DTYPES[entry.type]), shape)


def _sizes(shape: Sequence[int | str | None]) -> tuple[Size | None, ...]:
    """Read the names of a row's open axes; one called as the rows are has to do with the batch, and is left alone."""
    rows, *lengths = shape
    return tuple(Size(length) if isinstance(length, str) and length != rows else None for length in lengths)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
