"""An ONNX file, checked and run by ONNX Runtime."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.device.memory import out_of_memory
from pellucid_server.engine.models.graph.index_ranges import index_error, names_an_index
from pellucid_server.engine.models.graph.lengths import Lengths, Size, length_error, names_a_length, values_error
from pellucid_server.engine.models.onnx.file import SessionError, one_line, read_onnx
from pellucid_server.engine.models.onnx.guards import tripped
from pellucid_server.engine.models.onnx.ready import ReadyFile
from pellucid_server.engine.models.onnx.session import REFUSALS, Options, Session, nearest_device
from pellucid_server.errors import InvalidRequestError
from pellucid_server.memory_hygiene import TRIM_SECONDS
from pellucid_server.vocabulary.requests import Array

__all__ = ["OnnxModel", "SessionError", "Value", "nearest_device"]

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
    cuttable
        Whether to keep what is needed to cut it (`OnnxCuts`).
    ready
        What another process has made of the file, which is not read then; it was made `cuttable` if that is wanted.

    Raises
    ------
    SessionError
        The file is refused, cannot be loaded, has a fixed number of rows or other outputs than
        tensors, or the device cannot be had.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int,
        device: str,
        trim_seconds: float = TRIM_SECONDS,
        cuttable: bool = False,
        ready: ReadyFile | None = None,
    ) -> None:
        self.device = device
        """Where it runs."""
        self.options = Options(path.parent.resolve(), threads, device, trim_seconds)
        """How sessions of the file are opened."""
        if ready is None:
            ready = ReadyFile.of(read_onnx(path), self.options.folder, cuttable=cuttable)
        self.ready: ReadyFile | None = ready
        """What the session was opened with; None once it is not needed (`load_version`)."""
        self.largest_value_bytes = ready.largest_value_bytes
        """Bytes of the largest value in the file, for a row."""
        self.skeleton = ready.skeleton
        """What it can be cut by; None where that was not asked for."""
        self._session = Session(
            ready.content, self.options, weights=ready.weights, largest_value_bytes=ready.largest_value_bytes
        )
        self._guards = ready.harms
        self._refusing = ready.refusing
        self.inputs = tuple(_value(entry, path, "input") for entry in self._session.inputs)
        self.outputs = tuple(_value(entry, path, "output") for entry in self._session.outputs)
        self.lengths = Lengths({entry.name: _sizes(entry.shape) for entry in self._session.inputs}, {})
        """Which open axes have one name, and so one length."""
        self._open = any(None in value.shape for value in self.inputs)
        self._names = [entry.name for entry in self.outputs]

    @property
    def guarded(self) -> bool:
        """Whether some of its operators are refused, by what their operands hold."""
        return bool(self._guards)

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
        except REFUSALS as error:
            unfit = self.unfit(error, rows)
            if unfit is None:
                raise
            raise unfit from error

    def unfit(self, error: Exception, rows: Arrays) -> InvalidRequestError | None:
        """Return what is wrong with rows on which a run of the file, or of a part, ended; None if nothing is."""
        names = [entry.name for entry in self.inputs]
        harm = tripped(error, self._guards) or self._refused(error)
        if harm is not None:
            return values_error(names, f"Its {harm}.")
        if names_an_index(error):
            return index_error(names)
        if self._open and names_a_length(error):
            return length_error({name: array.shape for name, array in rows.items()})
        return None

    def _run(self, rows: Arrays) -> dict[str, Array]:
        return dict(zip(self._names, self._session.run(self._names, rows), strict=True))

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
        except REFUSALS as error:
            harm = tripped(error, self._guards)
            if harm is not None:
                raise SessionError(f"its {harm}, on which ONNX Runtime must not be run") from error
            raise SessionError(f"ONNX Runtime cannot run it: {one_line(error)}") from error


def _require_filled(rows: Arrays) -> None:
    """Refuse an axis of length 0: ONNX Runtime ends the process at one in some operators."""
    for name, array in rows.items():
        if 0 in array.shape:
            raise InvalidRequestError(
                f'inputs["{name}"] has the length 0 on axis {array.shape.index(0)}; it must be at least 1.',
                field=f'inputs["{name}"]',
            )


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
