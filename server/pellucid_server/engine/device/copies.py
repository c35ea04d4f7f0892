"""Copies to a CUDA device before their turn: on a stream of their own, while a chunk computes.

What a recipe's rows are made of is staged ahead; no row is chosen ahead. The schedule chooses each chunk when the one
before it is done, so that a prediction that has just come need not wait for two, and who leaves meanwhile costs nothing
but the copy. Growing rows takes the device's own time, and stays on the stream that computes.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass

import torch

from pellucid_server.engine.device import accelerator
from pellucid_server.engine.device.evaluation import ChunkPart, Evaluation


class Copies:
    """Stages nothing ahead: on a CPU there is nothing to copy. Of one device thread."""

    def ahead(self, upcoming: Callable[[], Sequence[Evaluation]]) -> None:
        """Stage what is likely to be next; called while a chunk computes. `upcoming` finds it, if it is of use."""

    def join(self, chunk: Sequence[ChunkPart]) -> None:
        """Let the stream that computes wait for what was staged ahead of a chunk's evaluations."""

    def drop(self) -> None:
        """Give back the memory of what was staged ahead, and had no turn yet; it is staged again in its turn."""

    def forget(self) -> None:
        """Let go of evaluations that were staged ahead and stopped before their turn."""


class StreamCopies(Copies):
    """Stages ahead on a stream of its own.

    Memory that is allocated for one stream is free for its next use there at once when the last tensor of it goes,
    whatever another stream still reads. So each tensor is recorded as used on the stream that computes as well. The
    pinned buffers that `to_device` copies from are kept by torch until their copy is done.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        self._ahead: dict[Evaluation, torch.cuda.Event] = {}

    def ahead(self, upcoming: Callable[[], Sequence[Evaluation]]) -> None:
        """Stage what is likely to be next. What cannot be is left: it fails, or not, in its turn."""
        now = time.monotonic()
        for evaluation in upcoming():
            if evaluation.staged or evaluation.request.error(now) is not None:
                continue
            try:
                self._ahead[evaluation] = self._stage(evaluation)
            except Exception:  # noqa: BLE001 - no error of what comes next may hurt the chunk that computes
                evaluation.unstage()
                return

    def join(self, chunk: Sequence[ChunkPart]) -> None:
        """Let the stream that computes wait for what was staged ahead of a chunk's evaluations."""
        for evaluation, _ in chunk:
            event = self._ahead.pop(evaluation, None)
            if event is None:
                continue
            computing = torch.cuda.current_stream(self._device)
            computing.wait_event(event)
            for tensor in tensors_of(evaluation.stage(self._device)):
                if tensor.is_cuda:
                    tensor.record_stream(computing)

    def drop(self) -> None:
        """Give back the memory of what was staged ahead, and had no turn yet."""
        for evaluation in self._ahead:
            evaluation.unstage()
        self._ahead.clear()

    def forget(self) -> None:
        """Let go of evaluations that were staged ahead and stopped before their turn."""
        self._ahead = {evaluation: event for evaluation, event in self._ahead.items() if evaluation.staged}

    def _stage(self, evaluation: Evaluation) -> torch.cuda.Event:
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            evaluation.stage(self._device)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._stream)
        return event


def copies(device: str) -> Copies:
    """Return what stages ahead on a device."""
    return StreamCopies(device) if accelerator.is_cuda(device) else Copies()


def tensors_of(found: object) -> Iterator[torch.Tensor]:
    """Find the tensors of a stage: a dataclass of tensors, of mappings and tuples of them, and of other stages."""
    if isinstance(found, torch.Tensor):
        yield found
    elif is_dataclass(found):
        for field in fields(found):
            yield from tensors_of(getattr(found, field.name))
    elif isinstance(found, Mapping):
        for value in found.values():
            yield from tensors_of(value)
    elif isinstance(found, tuple | list):
        for value in found:
            yield from tensors_of(value)
