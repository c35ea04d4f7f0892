"""The hub: runs every request's Python on one thread, as greenlets that give way while they wait.

Threads that run Python beside the device thread take the interpreter from it at every switch: with
four of them a forward pass took 18 times as long, and threads woken to find the baton taken cost more
than the work of a small request. On one thread only one request ever runs, a wait costs microseconds, and
methods stay straight-line code. A request that computes for long holds up the others: Python belongs into a
helper process then (`Handle.compute`), and work on large arrays, which lets go of the interpreter, on a thread
beside (`Hub.heavy`). A turn that takes long all the same is logged.
"""

import contextlib
import functools
import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from greenlet import getcurrent, greenlet

from pellucid_server.engine.tasks.offload import Offload
from pellucid_server.engine.tasks.turns import LONG_TURN_SECONDS, LongTurns
from pellucid_server.recorder import Recorder

_log = logging.getLogger(__name__)

Item = TypeVar("Item")
Found = TypeVar("Found")
Task = Callable[[], None]

MOST_HANDS = 8
"""Items of one request that are worked on at once, so that one request of many rows leaves room for others."""
HEAVY_BYTES = 1 << 20
"""Bytes of arrays above which work on them leaves the hub: hashing them takes 1 ms, narrowing them 5."""

_OFFLOAD_THREADS = 4
_FEW_ALARMS = 64
"""Alarms up to which those of signals that were set are left to lie."""
_MOST_IN_A_ROW = 16
"""Turns of predictions after which another task has one: theirs are short, and others must not starve."""
_LONGEST_BLOCK = 3600.0
"""Seconds after which the clock is looked at again: a lock cannot wait for as long as a deadline may be off."""


class Signal:
    """Something that one task waits for and any thread sets, once."""

    __slots__ = ("_hub", "done", "waiter")

    def __init__(self, hub: "Hub") -> None:
        self._hub = hub
        self.done = False
        self.waiter: Any = None

    def set(self) -> None:
        """Let the waiting task go on; callable from any thread."""
        self.done = True
        self._hub.wake(self)

    def wait(self, until: float | None = None) -> bool:
        """Let other tasks run until the signal is set; called by a task.

        With `until`, a time of `time.monotonic()`, no longer than until then. Return whether it was set.
        """
        if not self.done:
            self.waiter = getcurrent()
            if until is not None:
                self._hub.wake_at(until, self)
            self._hub.pause()
        return self.done


class _Runner(greenlet):  # type: ignore[misc]  # greenlet has no types
    """What a task runs in, or a hand of it: it knows whose it is."""

    def __init__(self, run: Task, parent: Any, request_number: int, prediction: bool, name: str) -> None:
        super().__init__(run, parent)
        self.request_number = request_number
        self.prediction = prediction
        self.name = self.turn_name = name


class Hub:
    """Runs tasks as they come, those of predictions first.

    `on_turn` is called on the hub's thread before each task goes on, with False, and, with True, before the
    hub waits because none can. The recorder learns whose Python runs, and whose work the threads beside do.
    """

    def __init__(
        self, *, on_turn: Callable[[bool], None] = lambda idle: None, recorder: Recorder | None = None
    ) -> None:
        self._on_turn = on_turn
        self._note: Callable[[int], None] = _unnoted if recorder is None else recorder.python
        self._inbox: SimpleQueue[Signal | tuple[Task, int, bool, str]] = SimpleQueue()
        self._predictions: deque[_Runner] = deque()
        self._others: deque[_Runner] = deque()
        self._in_a_row = 0
        self._turn_began = 0.0
        self._long_turns = LongTurns()
        self._offload = Offload(_OFFLOAD_THREADS, recorder)
        self._loop: Any = None
        self._alarms: list[tuple[float, int, Signal]] = []
        self._alarm_numbers = itertools.count()
        self._most_alarms = _FEW_ALARMS
        threading.Thread(target=self._run, name="requests", daemon=True).start()

    def submit(self, task: Task, *, request_number: int = 0, prediction: bool = False, name: str = "") -> None:
        """Run `task`, on behalf of a request, soon; callable from any thread. It must not raise.

        `name` says in the log what it does, and holds nothing of the caller's.
        """
        self._inbox.put((task, request_number, prediction, name))

    def busy_seconds(self) -> float:
        """Return how long the task whose turn it is has kept it, 0 if it is nobody's; callable from any thread."""
        began = self._turn_began
        return time.monotonic() - began if began else 0.0

    def offloaded_seconds(self) -> float:
        """Return how long the call that was offloaded and has run longest has run; callable from any thread."""
        return self._offload.busy_seconds()

    def signal(self) -> Signal:
        """Return a new signal."""
        return Signal(self)

    def wake(self, signal: Signal) -> None:
        """Take note that `signal` was set; callable from any thread."""
        self._inbox.put(signal)

    def wake_at(self, when: float, signal: Signal) -> None:
        """Let the task that waits for `signal` go on at a time, set or not; called by that task."""
        if len(self._alarms) >= self._most_alarms:
            # Most signals are set long before their time.
            self._alarms = [alarm for alarm in self._alarms if alarm[2].waiter is not None]
            heapq.heapify(self._alarms)
            self._most_alarms = max(_FEW_ALARMS, 2 * len(self._alarms))
        heapq.heappush(self._alarms, (when, next(self._alarm_numbers), signal))

    def pause(self) -> None:
        """Run other tasks until the calling one's signal is set, or its time has come."""
        self._loop.switch()

    def offload(self, function: Callable[[], Found]) -> Found:
        """Call `function`, which blocks, on a thread beside; the calling task waits."""
        runner: Any = getcurrent()
        ended = self.signal()
        future = self._offload.submit(function, request_number=runner.request_number, prediction=runner.prediction)
        future.add_done_callback(lambda _: ended.set())
        ended.wait()
        found: Found = future.result()
        return found

    def begin(self, task: Task) -> None:
        """Run `task` beside the calling one, on behalf of the same request. It must not raise."""
        runner: Any = getcurrent()
        guarded = functools.partial(_guarded, task)
        self._make_ready(_Runner(guarded, self._loop, runner.request_number, runner.prediction, runner.name))

    def heavy(self, byte_count: int, function: Callable[[], Found]) -> Found:
        """Call `function`, which works on arrays of `byte_count` bytes: here if they are few, else on a thread beside.

        Called by a task.
        """
        return function() if byte_count <= HEAVY_BYTES else self.offload(function)

    @contextlib.contextmanager
    def named(self, name: str) -> Iterator[None]:
        """Log long turns of the calling task under `name` meanwhile, and the turn in which that ends; see `submit`."""
        runner: Any = getcurrent()
        before, runner.name, runner.turn_name = runner.name, name, name
        try:
            yield
        finally:
            runner.name = before

    def map(self, function: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
        """Apply `function` to every item, several at a time; called by a task.

        Raises
        ------
        Exception
            What the first failing item raised, once those in progress have ended.
        """
        work = _SharedWork(function, list(items), self.signal())
        runner: Any = getcurrent()
        for _ in range(min(work.count - 1, MOST_HANDS - 1)):
            self._make_ready(_Runner(work.drain, self._loop, runner.request_number, runner.prediction, runner.name))
        work.drain()
        return work.results()

    def _run(self) -> None:
        self._loop = getcurrent()
        while True:
            self._take_in()
            self._on_turn(False)
            runner = self._next()
            if runner is None:
                continue
            self._note(runner.request_number)
            self._take_turn(runner)
            self._note(0)

    def _take_turn(self, runner: _Runner) -> None:
        """Let a task go on until it gives way."""
        runner.turn_name = runner.name
        processor_began = time.thread_time()
        began = self._turn_began = time.monotonic()
        runner.switch()
        self._turn_began = 0.0
        seconds = time.monotonic() - began
        if seconds > LONG_TURN_SECONDS:
            processor_seconds = time.thread_time() - processor_began
            self._long_turns.note(
                runner.turn_name, runner.request_number, wall_seconds=seconds, processor_seconds=processor_seconds
            )

    def _next(self) -> _Runner | None:
        """Choose whose turn it is; None if nobody can go on."""
        if self._predictions and (self._in_a_row < _MOST_IN_A_ROW or not self._others):
            self._in_a_row += 1
            return self._predictions.popleft()
        self._in_a_row = 0
        return self._others.popleft() if self._others else None

    def _make_ready(self, runner: _Runner) -> None:
        (self._predictions if runner.prediction else self._others).append(runner)

    def _take_in(self) -> None:
        """Sort what has arrived; block if there is nothing to run."""
        seconds = self._ring()
        idle = not (self._predictions or self._others)
        if idle and self._inbox.empty():
            self._on_turn(True)
        try:
            while True:
                arrived = self._inbox.get(block=idle, timeout=seconds)
                idle = False
                if not isinstance(arrived, Signal):
                    task, request_number, prediction, name = arrived
                    guarded = functools.partial(_guarded, task)
                    self._make_ready(_Runner(guarded, self._loop, request_number, prediction, name))
                else:
                    self._release(arrived)
        except Empty:
            return

    def _ring(self) -> float | None:
        """Let those go on whose time has come; return for how long none has at most, None if none waits for a time."""
        while self._alarms:
            when, _, signal = self._alarms[0]
            seconds = when - time.monotonic()
            if seconds > 0 and signal.waiter is not None:
                return min(seconds, _LONGEST_BLOCK)
            heapq.heappop(self._alarms)
            self._release(signal)
        return None

    def _release(self, signal: Signal) -> None:
        """Let the task go on that waits for a signal, if one does still."""
        waiter, signal.waiter = signal.waiter, None
        if waiter is not None:
            self._make_ready(waiter)


def _unnoted(request_number: int) -> None:
    """Stand in for the recorder where there is none."""


def _guarded(task: Task) -> None:
    """Run a task; what it raises, it should not have, and must not end the hub."""
    try:
        task()
    except Exception:  # noqa: BLE001 - the hub runs all requests, and one must not end it
        _log.exception("a task failed")


class _SharedWork(Generic[Item, Found]):
    """Items that several greenlets take in turn."""

    def __init__(self, function: Callable[[Item], Found], items: list[Item], ended: Signal) -> None:
        self.count = len(items)
        self._function = function
        self._left = deque(enumerate(items))
        self._in_progress = 0
        self._results: dict[int, Found] = {}
        self._error: Exception | None = None
        self._ended = ended

    def drain(self) -> None:
        """Work until no item is left."""
        while self._left and self._error is None:
            number, item = self._left.popleft()
            self._in_progress += 1
            try:
                self._results[number] = self._function(item)
            except Exception as error:  # noqa: BLE001 - raised again in the task that asked
                self._error = self._error or error
            self._in_progress -= 1
        if self._in_progress == 0 and not self._ended.done:
            self._ended.set()

    def results(self) -> list[Found]:
        """Wait for the items in progress; return all results in order."""
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return [self._results[number] for number in range(self.count)]
