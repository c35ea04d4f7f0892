"""The evaluation queue: one device thread packs the rows that all jobs ask for into device batches.

Evaluations with equal keys share batches. Predictions go before explanations. A batch, or chunk, takes
about `chunk_seconds` by the row time measured for its key, or four times as long while nobody predicts,
and at most `chunk_bytes` by the bytes its rows need; between two chunks every waiting job's deadline and
cancellation is looked at.
"""

import logging
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from pellucid_server.engine.job_state import JobState, Tally
from pellucid_server.engine.programs import Program
from pellucid_server.engine.question import Arrays
from pellucid_server.errors import OverloadedError, PellucidError

_log = logging.getLogger(__name__)

_FIRST_CHUNK = 4
_GROWTH = 4
_QUIET_FACTOR = 4
"""Larger chunks are up to a tenth faster, and with no predictions about there is nobody to wait for their end."""
_QUIET_SECONDS = 10.0
"""Time after the last prediction from which on nobody is taken to predict."""
_MOST_LANES = 1024


@dataclass(slots=True)
class Lane:
    """All evaluations of one key share a lane: its program, its measured pace, its waiting evaluations."""

    program: Program
    row_bytes: int
    prediction: bool
    whole: bool = False
    """Never split and never packed: a request's rows run together, because they depend on one another."""
    single: bool = False
    """One row at a time, for the explanations of such a model."""
    waiting: "deque[Evaluation]" = field(default_factory=deque)
    chunk_rows: int = _FIRST_CHUNK
    """Rows of a chunk while nobody predicts."""
    room: int = _FIRST_CHUNK
    """Rows that the chunk in progress might have had."""
    row_limit: int = 1 << 30
    """Most rows that the model takes at once; smaller when the device's memory could not take as many."""


class Settable(Protocol):
    """What somebody waits for: a `Signal` or a `threading.Event`."""

    def set(self) -> None:
        """Let the waiting one go on."""
        ...


class Evaluation:
    """Rows of one job on their way through a lane. Its answer is there once `finished` is set."""

    __slots__ = ("_finished", "count", "done", "error", "job", "lane_key", "results", "rows", "tally")

    def __init__(self, lane_key: Hashable, rows: Arrays, job: JobState, tally: Tally, finished: Settable) -> None:
        self.lane_key = lane_key
        self.rows = rows
        self.count = len(next(iter(rows.values())))
        self.job = job
        self.tally = tally
        self.done = 0
        self.results: dict[str, npt.NDArray[np.generic]] = {}
        self.error: BaseException | None = None
        self._finished = finished

    def answer(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the results of all rows, (rows, ...) each.

        Raises
        ------
        PellucidError
            The job was cancelled or its deadline passed, or the device could not do it.
        """
        if self.error is not None:
            raise self.error
        return self.results

    def finish(self, error: BaseException | None = None) -> None:
        """Let the waiting job go on; called once, by the device thread."""
        self.error = error
        self._finished.set()

    def keep(self, results: Arrays, start: int, taken: int) -> None:
        """Store the results of the next `taken` rows, found at `start` of a batch's results."""
        if taken == self.count:
            self.results = {name: rows[start : start + taken] for name, rows in results.items()}
        else:
            if not self.results:
                self.results = {
                    name: np.empty((self.count, *rows.shape[1:]), rows.dtype) for name, rows in results.items()
                }
            for name, rows in results.items():
                self.results[name][self.done : self.done + taken] = rows[start : start + taken]
        self.done += taken


class Engine:
    """Owns the device thread and the lanes."""

    def __init__(self, *, chunk_seconds: float, chunk_bytes: int, threads: int, most_lanes: int = _MOST_LANES) -> None:
        self._most_lanes = most_lanes
        self._running: tuple[Hashable, Lane] | None = None
        self._last_prediction = -math.inf
        self._chunk_seconds = chunk_seconds
        self._chunk_bytes = chunk_bytes
        self._threads = threads
        self._lanes: dict[Hashable, Lane] = {}
        self._busy: tuple[OrderedDict[Hashable, Lane], OrderedDict[Hashable, Lane]] = (OrderedDict(), OrderedDict())
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    def submit(self, evaluation: Evaluation, make_lane: Callable[[], Lane]) -> None:
        """Queue an evaluation of at least one row; `make_lane` makes its lane if there is none yet."""
        key = evaluation.lane_key
        made = make_lane() if key not in self._lanes else None
        with self._change:
            lane = self._lanes.get(key)
            if lane is None:
                self._forget_idle_lanes()
                lane = self._lanes[key] = made or make_lane()
                lane.chunk_rows = min(lane.chunk_rows, self._most_rows(lane))
            lane.waiting.append(evaluation)
            if lane.prediction:
                self._last_prediction = time.monotonic()
            self._busy[not lane.prediction][evaluation.lane_key] = lane
            self._change.notify()

    def close(self) -> None:
        """Stop the device thread after the chunk in progress."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join()

    def _forget_idle_lanes(self) -> None:
        """Keep the number of lanes bounded: models of any length have one for each length seen."""
        if len(self._lanes) >= self._most_lanes:
            kept = {key: lane for busy in self._busy for key, lane in busy.items()}
            if self._running is not None:
                # Its evaluations may have rows left, which go back into this very lane.
                kept[self._running[0]] = self._running[1]
            self._lanes = kept

    def _run(self) -> None:
        # torch's thread count is a setting of each thread.
        torch.set_num_threads(self._threads)
        while True:
            with self._change:
                while not (self._closed or self._busy[0] or self._busy[1]):
                    self._change.wait()
                if self._closed:
                    return
                self._drop_stopped()
                lane, taken = self._take()
            if lane is not None:
                self._evaluate(lane, taken)

    def _drop_stopped(self) -> None:
        """Fail every waiting evaluation whose job was cancelled or is late."""
        now = time.monotonic()
        for busy in self._busy:
            for key, lane in list(busy.items()):
                stopped = [(entry, error) for entry in lane.waiting if (error := entry.job.error(now)) is not None]
                for entry, error in stopped:
                    lane.waiting.remove(entry)
                    entry.finish(error)
                if not lane.waiting:
                    del busy[key]

    def _take(self) -> tuple[Lane | None, list[tuple[Evaluation, int]]]:
        """Choose a lane, predictions first and then in turn, and the rows of its next chunk."""
        busy = self._busy[0] or self._busy[1]
        if not busy:
            return None, []
        key, lane = next(iter(busy.items()))
        quiet = time.monotonic() - self._last_prediction > _QUIET_SECONDS
        lane.room = lane.chunk_rows if quiet else max(1, lane.chunk_rows // _QUIET_FACTOR)
        taken = _share(lane)
        self._running = (key, lane)
        if lane.waiting:
            busy.move_to_end(key)
        else:
            del busy[key]
        return lane, taken

    def _evaluate(self, lane: Lane, taken: list[tuple[Evaluation, int]]) -> None:
        """Run one chunk and hand its results out. Evaluations with rows left go back to the lane's end."""
        rows = sum(count for _, count in taken)
        started = time.perf_counter()
        try:
            results = lane.program(_pack(taken))
        except torch.cuda.OutOfMemoryError:
            self._shrink(lane, taken, rows)
            return
        except Exception as error:  # noqa: BLE001 - whatever a model raises must reach its jobs, not end the thread
            self._settle_failure(lane, taken, error)
            return
        self._pace(lane, rows, time.perf_counter() - started)
        self._hand_out(lane, taken, rows, results)

    def _hand_out(self, lane: Lane, taken: list[tuple[Evaluation, int]], rows: int, results: Arrays) -> None:
        start, unfinished = 0, []
        for evaluation, count in taken:
            evaluation.keep(results, start, count)
            evaluation.tally.add(lane.program.evaluation, rows=count, batch_rows=rows, backward=lane.program.backward)
            evaluation.job.count(count, backward=lane.program.backward)
            start += count
            if evaluation.done == evaluation.count:
                evaluation.finish()
            else:
                unfinished.append(evaluation)
        if unfinished:
            self._requeue(lane, unfinished)

    def _requeue(self, lane: Lane, evaluations: list[Evaluation]) -> None:
        with self._change:
            lane.waiting.extend(evaluations)
            self._busy[not lane.prediction][evaluations[0].lane_key] = lane

    def _settle_failure(self, lane: Lane, taken: list[tuple[Evaluation, int]], error: Exception) -> None:
        """Fail the evaluation at fault and no other: one job's bad row must not hurt those packed with it."""
        if len(taken) > 1:
            for entry in taken:
                self._evaluate(lane, [entry])
            return
        if not isinstance(error, PellucidError):
            _log.error("an evaluation failed", exc_info=error)
        self._fail(taken, error)

    def _fail(self, taken: list[tuple[Evaluation, int]], error: BaseException) -> None:
        for evaluation, _ in taken:
            evaluation.finish(error)

    def _pace(self, lane: Lane, rows: int, seconds: float) -> None:
        """Set the lane's next chunk from the time that this one took."""
        most_seconds = _QUIET_FACTOR * self._chunk_seconds
        fitting = int(rows * most_seconds / max(seconds, 1e-6))
        if seconds > most_seconds:
            lane.chunk_rows = max(1, fitting)
        elif 2 * rows >= lane.room:
            # A chunk much smaller than allowed says little of larger ones: growth goes by steps.
            lane.chunk_rows = max(1, min(fitting, lane.chunk_rows * _GROWTH, self._most_rows(lane)))

    def _most_rows(self, lane: Lane) -> int:
        return max(1, min(self._chunk_bytes // max(lane.row_bytes, 1), lane.row_limit))

    def _shrink(self, lane: Lane, taken: list[tuple[Evaluation, int]], rows: int) -> None:
        """Answer to the device's being out of memory: halve the chunk and try again, down to one row."""
        torch.cuda.empty_cache()
        if rows == 1 or lane.whole:
            text = "The device's memory cannot hold one row of this evaluation beside what it already holds."
            self._fail(taken, OverloadedError(text))
            return
        lane.row_limit = lane.chunk_rows = rows // 2
        self._requeue(lane, [evaluation for evaluation, _ in taken])


def _share(lane: Lane) -> list[tuple[Evaluation, int]]:
    """Take the next chunk's rows out of the lane, in equal shares and what is left in order of arrival."""
    if lane.whole:
        evaluation = lane.waiting.popleft()
        return [(evaluation, evaluation.count)]
    room = 1 if lane.single else lane.room
    chosen = [lane.waiting.popleft() for _ in range(min(room, len(lane.waiting)))]
    fair = max(1, room // len(chosen))
    counts = [min(fair, entry.count - entry.done) for entry in chosen]
    room -= sum(counts)
    for number, entry in enumerate(chosen):
        more = min(room, entry.count - entry.done - counts[number])
        counts[number] += more
        room -= more
    return list(zip(chosen, counts, strict=True))


def _pack(taken: list[tuple[Evaluation, int]]) -> Arrays:
    """Stack the chosen rows, without a copy where they are of one evaluation."""
    pieces = [
        {name: rows[entry.done : entry.done + count] for name, rows in entry.rows.items()} for entry, count in taken
    ]
    if len(pieces) == 1:
        return pieces[0]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
