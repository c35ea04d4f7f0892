"""A session of ONNX Runtime: its options, its device, and the working memory that it gives back."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as states

from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.device.arenas import Arena
from pellucid_server.engine.models.onnx.file import SessionError, one_line
from pellucid_server.vocabulary.requests import Array

_log = logging.getLogger(__name__)

CUDA = "CUDAExecutionProvider"

REFUSALS = (
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


@dataclass(frozen=True, slots=True)
class Options:
    """How sessions of a file are opened.

    Attributes
    ----------
    folder
        Where data beside the file is.
    threads
        Threads of ONNX Runtime; they do not spin while they wait, as they share their cores.
    device
        "cpu" or "cuda:N".
    trim_seconds
        How often a run gives back the working memory that ONNX Runtime keeps.
    """

    folder: Path
    threads: int
    device: str
    trim_seconds: float


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights that sessions share, in place of data in their models.

    `beside` are bytes of those that are in no session's model and not here either: in files.
    """

    values: Mapping[str, onnxruntime.OrtValue] = field(default_factory=dict)
    beside: int = 0

    def bytes_of(self, names: Sequence[str]) -> int:
        """Return the bytes of some of them."""
        return sum(self.values[name].numpy().nbytes for name in names)


class Session:
    """Runs a model forward, and gives working memory back. Safe to share between threads.

    Parameters
    ----------
    content
        The model, serialized.
    largest_value_bytes
        Bytes of the largest value in the model, for a row.
    optimized
        Whether ONNX Runtime may rewrite the model: that takes time, and is worth it for more than a run or two.

    Raises
    ------
    SessionError
        The model cannot be loaded, or the device cannot be had.
    """

    def __init__(
        self,
        content: bytes,
        options: Options,
        *,
        weights: Weights,
        largest_value_bytes: int,
        optimized: bool = True,
    ) -> None:
        self._arena = _arena(options.device)
        self._session = _open(content, options, self._arena, weights, optimized=optimized)
        self._largest_value_bytes = largest_value_bytes
        self._device = options.device
        self._trim_seconds = options.trim_seconds
        self._trimmed_at = time.monotonic()
        self._trimming = _trimming("cpu:0" if self._arena is None else f"cpu:0;gpu:{_index(self._arena)}")

    @property
    def inputs(self) -> list[Any]:
        """What goes in, as ONNX Runtime describes it."""
        return list(self._session.get_inputs())

    @property
    def outputs(self) -> list[Any]:
        """What comes out, as ONNX Runtime describes it."""
        return list(self._session.get_outputs())

    def run(self, names: Sequence[str], rows: Arrays) -> list[Array]:
        """Return the outputs called so, of rows of every input. Raises what ONNX Runtime raises (`REFUSALS`)."""
        now = time.monotonic()
        trims = now - self._trimmed_at >= self._trim_seconds or self._outgrown(rows)
        if trims:
            self._trimmed_at = now
        return self._trimmed(names, rows) if trims else list(self._session.run(names, rows))

    def _outgrown(self, rows: Arrays) -> bool:
        if self._arena is None:
            return False
        return self._arena.outgrown(len(next(iter(rows.values()))), self._largest_value_bytes)

    def _trimmed(self, names: Sequence[str], rows: Arrays) -> list[Array]:
        """Run, and give working memory back."""
        try:
            return list(self._session.run(names, rows, self._trimming))
        except states.InvalidArgument as error:
            if self._arena is None or _NO_ARENA not in str(error):
                raise
        # Nothing has run yet. The limit of the arena holds all the same.
        _log.warning("ONNX Runtime keeps its working memory on %s: it has no arena there to shrink", self._device)
        self._trimming = _trimming("cpu:0")
        return list(self._session.run(names, rows, self._trimming))


def nearest_device(device: str) -> str:
    """Return the device on which ONNX Runtime runs for a worker on `device`: the CPU where it has no CUDA."""
    there = device == "cpu" or CUDA in onnxruntime.get_available_providers()
    return device if there else "cpu"


def _trimming(arenas: str) -> onnxruntime.RunOptions:
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", arenas)
    return options


def _open(
    content: bytes, wanted: Options, arena: Arena | None, weights: Weights, *, optimized: bool
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = wanted.threads
    options.inter_op_num_threads = 1
    # Its errors are raised as well; written to standard error, they would quote what a caller sent.
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # Else a file that is both would be read as ONNX Runtime's own format, of which nothing is checked.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(wanted.folder))
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if arena is not None:
        # Weights beside working memory would keep a block from being given back.
        options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    names = list(weights.values)
    if names:
        options.add_external_initializers(names, [weights.values[name] for name in names])
    providers = _providers(arena, len(content) + weights.beside + weights.bytes_of(names))
    try:
        session = onnxruntime.InferenceSession(content, options, providers=providers)
    except REFUSALS as error:
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
    if CUDA not in onnxruntime.get_available_providers():
        raise SessionError(
            f"the installed ONNX Runtime cannot use the device {device!r}; install pellucid[server-gpu] in place of "
            "pellucid[server]"
        )
    return Arena(device)


def _index(arena: Arena) -> str:
    return arena.device.partition(":")[2] or "0"


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
    return [(CUDA, cuda), cpu]
