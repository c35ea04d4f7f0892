"""A thread that evaluates chunks on the device, one after another."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass

import torch

from pellucid_server.engine.asking.recipe import HostTensors, Tensors
from pellucid_server.engine.device import accelerator, batch_spans
from pellucid_server.engine.device.batch_log import BatchLog, kind_of
from pellucid_server.engine.device.copies import Copies, copies
from pellucid_server.engine.device.evaluation import ChunkPart, Evaluation, pack
from pellucid_server.engine.device.lane import Lane, Packing
from pellucid_server.engine.device.memory import out_of_memory
from pellucid_server.engine.device.schedule import Schedule
from pellucid_server.engine.device.throughput import ThroughputStats
from pellucid_server.errors import OverloadedError, PellucidError

_log = logging.getLogger(__name__)

_CALM_SECONDS = 10.0
"""Time after the last work of a heavier class from which on chunks are long: nobody is taken to wait for their end."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a chunk may be, how many threads it has, how many lanes are remembered, and where it runs."""

    chunk_seconds: float
    chunk_bytes: int
    threads: int
    most_lanes: int
    device: str = "cpu"
    niceness: int = 0
    """How much the threads that evaluate give way to others of the system, 0 to 19."""


class DeviceThread:
    """Owns a schedule, the lanes of its evaluations, and the thread that runs them.

    Parameters
    ----------
    name
        The thread's name.
    limits, weights, times
        Bounds of a chunk, shares of the device by class, and where row times are noted.
    before
        Called on the thread with each chunk before it runs, and with nothing after it.
    log
        Where batches and the time that they take are noted.
    """

    def __init__(
        self,
        name: str,
        *,
        limits: Limits,
        weights: Mapping[str, float],
        times: ThroughputStats,
        before: Callable[[list[ChunkPart]], None],
        log: BatchLog,
    ) -> None:
        self._limits = limits
        self._times = times
        self._before = before
        self._log = log
        self._schedule = Schedule(weights)
        self._lanes: dict[Hashable, Lane] = {}
        self._running: tuple[Hashable, Lane] | None = None
        self._since: float | None = None
        self._copies = copies(limits.device)
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, evaluation: Evaluation, make_lane: Callable[[], Lane]) -> None:
        """Queue an evaluation of at least one row; `make_lane` makes its lane if there is none yet."""
        key = evaluation.lane_key
        made = make_lane() if key not in self._lanes else None
        with self._change:
            if key not in self._lanes:
                self._forget_idle_lanes()
                lane = self._lanes[key] = made or make_lane()
                lane.chunk_rows = min(lane.chunk_rows, lane.most_rows(self._limits.chunk_bytes))
            self._schedule.add(evaluation, time.monotonic())
            self._change.notify()

    def knows(self, key: Hashable) -> bool:
        """Whether there is a lane for a key."""
        return key in self._lanes

    def busy_seconds(self) -> float:
        """Return how long the chunk in progress has run, 0 if there is none; callable from any thread."""
        since = self._since
        return 0.0 if since is None else time.monotonic() - since

    def keep(self, models: Collection[Hashable]) -> None:
        """Forget the lanes of other models than these, where nothing of theirs runs or waits."""
        with self._change:
            busy = self._schedule.lane_keys()
            if self._since is not None and self._running is not None:
                busy.add(self._running[0])
            kept = {key: lane for key, lane in self._lanes.items() if key in busy or lane.model in models}
            if self._running is not None and self._running[0] not in kept:
                self._running = None
            self._lanes = kept

    def close(self) -> None:
        """Stop the thread after the chunk in progress."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join()

    def _forget_idle_lanes(self) -> None:
        """Keep the number of lanes bounded: models of any length have one for each length seen."""
        if len(self._lanes) >= self._limits.most_lanes:
            busy = self._schedule.lane_keys()
            kept = {key: lane for key, lane in self._lanes.items() if key in busy}
            if self._running is not None:
                # Its evaluations may have rows left, which go back into this very lane.
                kept[self._running[0]] = self._running[1]
            self._lanes = kept

    def _run(self) -> None:
        # First of all: the threads that torch then starts to help this one inherit it.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._limits.niceness)
        # torch's thread count is a setting of each thread.
        torch.set_num_threads(self._limits.threads)
        accelerator.prepare_thread(self._limits.device)
        # Each chunk in a call of its own: while the thread waits for the next, it keeps nothing of the last.
        while self._go_on():
            pass

    def _go_on(self) -> bool:
        """Wait for work and run a chunk of it; False once the thread is to end."""
        with self._change:
            while not (self._closed or self._schedule):
                self._change.wait()
            if self._closed:
                return False
            stopped = self._schedule.drop_stopped(time.monotonic())
            taken = self._take() if self._schedule else None
            if taken is not None:
                self._since = time.monotonic()
        for evaluation, error in stopped:
            evaluation.finish(error)
        if stopped:
            self._copies.forget()
        if taken is not None:
            self._evaluate(*taken)
        return True

    def _take(self) -> tuple[Lane, list[ChunkPart]]:
        """Choose the next chunk."""
        first = self._schedule.next()
        lane = self._lanes[first.lane_key]
        self._running = (first.lane_key, lane)
        if lane.packing is Packing.WHOLE:
            return lane, self._schedule.take(first, first.count, packed=False)
        # The wait of a prediction behind others is what short chunks are for, whatever its class.
        calm = time.monotonic() - self._schedule.heavier_arrived(first) > _CALM_SECONDS
        room = lane.open(long=calm and not first.prediction)
        # Where the size is fixed, what an answer is made of must not depend on how many rows it has in all.
        return lane, self._schedule.take(first, room, even=lane.packing is not Packing.FIXED)

    def _evaluate(self, lane: Lane, chunk: list[ChunkPart]) -> None:
        """Run one chunk and hand its results out. Evaluations with rows left go back into the schedule."""
        self._since = time.monotonic()
        self._log.began()
        self._before(chunk)
        kind, backward = kind_of(lane.kernel.kind), lane.kernel.backward
        for evaluation, count in chunk:
            # Beforehand: a part of a request may end while its batch is in progress.
            evaluation.request.count(count, kind=kind, backward=backward)
        started = time.monotonic()
        results, error = _attempt(lane, chunk, self._copies)
        if results is not None and lane.kernel.device == self._limits.device:
            # The chunk computes until its results are fetched.
            self._copies.ahead(self._upcoming)
        failed = {} if results is None else _fold(lane, chunk, results)
        ended = time.monotonic()
        seconds = ended - started
        batch_spans.note(lane.kernel, chunk, started, ended, error)
        for each in (error, *failed.values()):
            if each is not None and accelerator.lost(self._limits.device, each):
                # The thread ends, and the process with it. The record still says whose rows it was at.
                raise accelerator.DeviceLostError(
                    f"The device {self._limits.device} is lost to this process."
                ) from each
        self._before([])
        self._since = None
        self._log.ended(kind, 0 if results is None else sum(count for _, count in chunk))
        if results is None:
            for evaluation, count in chunk:
                evaluation.request.count(-count, kind=kind, backward=backward)
        if results is not None:
            self._hand_out(lane, chunk, failed, seconds)
        elif error is not None and out_of_memory(error):
            self._shrink(lane, chunk, seconds)
        elif error is not None:
            self._settle_failure(chunk, error, seconds)

    def _upcoming(self) -> list[Evaluation]:
        """Find whose rows would be next if nothing else came, as far as they go to the device."""
        with self._change:
            first = self._schedule.upcoming()
            if first is None:
                return []
            lane = self._lanes[first.lane_key]
            if lane.kernel.device != self._limits.device:
                return []
            chunk = self._schedule.chunk(first, lane.chunk_rows, packed=lane.packing is Packing.SHARED)
        return [evaluation for evaluation, _ in chunk]

    def _hand_out(
        self, lane: Lane, chunk: list[ChunkPart], failed: dict[Evaluation, Exception], seconds: float
    ) -> None:
        limits, kernel = self._limits, lane.kernel
        rows = sum(count for _, count in chunk)
        full = lane.adapt(rows, seconds, chunk_seconds=limits.chunk_seconds, chunk_bytes=limits.chunk_bytes)
        note = self._times.add if full else self._times.add_small
        note(lane.model, seconds / rows / lane.growth, kind=kernel.kind)
        kept = [evaluation for evaluation, _ in chunk if evaluation not in failed]
        self._settle(chunk, seconds, [evaluation for evaluation in kept if evaluation.done < evaluation.count])
        for evaluation, error in failed.items():
            evaluation.finish(error)
        for evaluation in kept:
            if evaluation.done == evaluation.count:
                evaluation.finish()

    def _settle(self, chunk: list[ChunkPart], seconds: float, unfinished: list[Evaluation]) -> None:
        """Put back what has rows left, and charge for the time, whatever came of it."""
        with self._change:
            for evaluation in unfinished:
                self._schedule.put_back(evaluation)
            self._schedule.charge(chunk, seconds)

    def _settle_failure(self, chunk: list[ChunkPart], error: Exception, seconds: float) -> None:
        """Fail the evaluation at fault and no other: one request's bad row must not hurt those packed with it."""
        if len(chunk) > 1:
            for evaluation, _ in chunk:
                evaluation.alone = True
            self._settle(chunk, seconds, [evaluation for evaluation, _ in chunk])
            return
        self._settle(chunk, seconds, [])
        if not isinstance(error, PellucidError):
            _log.error("an evaluation failed", exc_info=error)
        chunk[0][0].finish(error)

    def _shrink(self, lane: Lane, chunk: list[ChunkPart], seconds: float) -> None:
        """Answer to being out of memory: halve the chunk and try again, down to one row."""
        self._copies.drop()
        torch.cuda.empty_cache()
        rows = sum(count for _, count in chunk)
        again = rows > 1 and lane.packing is Packing.SHARED
        self._settle(chunk, seconds, [evaluation for evaluation, _ in chunk] if again else [])
        if again:
            lane.shrink(rows)
            return
        what = (
            "these rows, which have to be evaluated together,"
            if lane.packing in {Packing.WHOLE, Packing.FIXED}
            else "one row of this evaluation"
        )
        for evaluation, _ in chunk:
            text = f"The device's memory cannot hold {what} beside what it already holds."
            evaluation.finish(OverloadedError(text))


def _attempt(lane: Lane, chunk: list[ChunkPart], staged: Copies) -> tuple[Tensors | None, Exception | None]:
    """Evaluate a chunk; return the results or what went wrong, without what its traceback holds in memory."""
    try:
        staged.join(chunk)
        batch = pack(chunk, lane.kernel.device)
        return lane.kernel(batch, [(entry.ask, count) for entry, count in chunk]), None
    except Exception as error:  # noqa: BLE001 - whatever a model raises must reach its requests, not end the thread
        if out_of_memory(error):
            return None, error.with_traceback(None)
        return None, error


def _fold(lane: Lane, chunk: list[ChunkPart], results: Tensors) -> dict[Evaluation, Exception]:
    """Hand the results to the evaluations' folds; return what went wrong with whose."""
    kernel, start = lane.kernel, 0
    failed: dict[Evaluation, Exception] = {}
    rows = sum(count for _, count in chunk)
    # A kernel's own kind of results is its own fold's to read.
    if type(results) is dict:
        results = HostTensors.of(results) or results
    for evaluation, count in chunk:
        try:
            evaluation.keep(results, start, count)
        except MemoryError as error:
            # Room for the results of all its rows is made with the first of them.
            failed[evaluation] = error.with_traceback(None)
        except Exception as error:  # noqa: BLE001 - one evaluation's fold must not end the thread
            failed[evaluation] = error
        evaluation.tally.add(
            kernel.evaluation, rows=count, batch_rows=rows, backward=kernel.backward, runtime=kernel.runtime
        )
        start += count
    return failed
