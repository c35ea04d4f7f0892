"""The engine: packs the rows that all requests ask for into device batches, and shares the device out between requests.

Evaluations with equal keys share batches. A batch, or chunk, takes about `chunk_seconds` by the row time measured for
its key, or four times as long while nothing more urgent is about, and at most `chunk_bytes` by the bytes its rows need;
between two chunks every waiting request's deadline and cancellation is looked at. In which order is the schedule's to
say. One thread evaluates; on a CPU a second one, for predictions, so that they do not wait behind others' rows. Both
have all cores that the worker may use; the first one's threads have a lower priority in the system.
"""

import threading
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import replace

from pellucid_server.engine.device.batch_log import BatchLog
from pellucid_server.engine.device.device_thread import DeviceThread, Limits
from pellucid_server.engine.device.evaluation import ChunkPart, Evaluation
from pellucid_server.engine.device.lane import Lane
from pellucid_server.engine.device.throughput import ThroughputStats
from pellucid_server.faults import Faults
from pellucid_server.recorder import Recorder

__all__ = ["Engine", "Evaluation", "Lane"]

_MOST_LANES = 1024

_NICENESS = 10
"""Of the threads that evaluate what is not urgent: they have all cores, and give them up for a prediction at once."""


class Engine:
    """Owns the device's threads and what is known of its pace.

    Parameters
    ----------
    chunk_seconds, chunk_bytes
        Aim for the length of a chunk, and most memory that one may take.
    threads
        Threads of one evaluation on the CPU.
    class_weights
        Shares of a busy device by class of requests; a class that is not named weighs 1.
    express
        Whether predictions of the heaviest class have a thread of their own.
    recorder
        Where it is noted whose rows are on the device.
    faults
        The fault points of the process; `chunk` is reached before each chunk.
    most_lanes
        Lanes that a thread remembers.
    device
        "cpu" or "cuda:N". Where a CUDA device is lost, its thread ends with `DeviceLostError`.
    """

    def __init__(
        self,
        *,
        chunk_seconds: float,
        chunk_bytes: int,
        threads: int,
        class_weights: Mapping[str, float] | None = None,
        express: bool = False,
        recorder: Recorder | None = None,
        faults: Faults | None = None,
        most_lanes: int = _MOST_LANES,
        device: str = "cpu",
    ) -> None:
        self._weights = class_weights or {}
        self._heaviest = max(self._weights.values(), default=1.0)
        self._times = ThroughputStats()
        self.batches = BatchLog()
        """The batches of all its threads."""
        watch = _Watch(recorder, faults or Faults())
        limits = Limits(chunk_seconds, chunk_bytes, threads, most_lanes, device)

        def thread(name: str, niceness: int = 0) -> DeviceThread:
            bounds, before = replace(limits, niceness=niceness), watch.of(name)
            return DeviceThread(
                name, limits=bounds, weights=self._weights, times=self._times, before=before, log=self.batches
            )

        self._main = thread("device", _NICENESS if express else 0)
        self._express = thread("express") if express else self._main

    def submit(self, evaluation: Evaluation, make_lane: Callable[[], Lane]) -> None:
        """Queue an evaluation of at least one row; `make_lane` makes its lane if its thread has none yet."""
        self._thread(evaluation).submit(evaluation, make_lane)

    def knows(self, evaluation: Evaluation) -> bool:
        """Whether there is a lane for an evaluation already."""
        return self._thread(evaluation).knows(evaluation.lane_key)

    def _thread(self, evaluation: Evaluation) -> DeviceThread:
        urgent = evaluation.prediction and self._weights.get(evaluation.request.priority, 1.0) >= self._heaviest
        return self._express if urgent else self._main

    def busy_seconds(self) -> float:
        """Return how long the chunk in progress has run, the longer of two, 0 if idle; callable from any thread."""
        return max(self._main.busy_seconds(), self._express.busy_seconds())

    def row_seconds(self, model: Hashable, *, kind: str) -> float:
        """Return the least seconds that a row of a model took recently; 0 if none was measured."""
        return self._times.least(model, kind=kind)

    def likely_row_seconds(self, model: Hashable, *, kind: str) -> float:
        """Return the seconds that a row took recently, in chunks of any size; infinity if none was measured."""
        return self._times.likely(model, kind=kind)

    def keep(self, models: Collection[Hashable]) -> None:
        """Forget what is kept for other models than these, where nothing of theirs runs or waits.

        Callable from any thread.
        """
        for thread in {self._main, self._express}:
            thread.keep(models)
        self._times.keep(models)

    def close(self) -> None:
        """Stop the threads after the chunks in progress."""
        for thread in {self._main, self._express}:
            thread.close()


class _Watch:
    """Notes whose rows are on the device, and reaches the fault point before each chunk."""

    def __init__(self, recorder: Recorder | None, faults: Faults) -> None:
        self._recorder = recorder
        self._faults = faults
        self._lock = threading.Lock()
        self._requests: dict[str, set[int]] = {}

    def of(self, thread: str) -> Callable[[list[ChunkPart]], None]:
        """Return what a thread calls before and after each chunk."""

        def before(chunk: list[ChunkPart]) -> None:
            self._record(thread, {evaluation.request.request_number for evaluation, _ in chunk})
            for model in {evaluation.request.model for evaluation, _ in chunk}:
                self._faults.reach("chunk", model=model)

        return before

    def _record(self, thread: str, requests: set[int]) -> None:
        if self._recorder is None:
            return
        with self._lock:
            self._requests[thread] = requests
            self._recorder.device(set().union(*self._requests.values()))
