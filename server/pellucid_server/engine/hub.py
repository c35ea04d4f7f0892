"""The hub: runs every job's Python on one thread, as greenlets that give way while they wait.

Threads that run Python beside the device thread take the interpreter from it at every switch: with
four of them a forward pass took 18 times as long, and threads woken to find the baton taken cost more
than the work of a small request. On one thread only one job ever runs, a wait costs microseconds, and
methods stay straight-line code. A job that computes for long holds up the others: such Python belongs
into the helper process (`Handle.compute`).
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from greenlet import getcurrent, greenlet

_log = logging.getLogger(__name__)

Item = TypeVar("Item")
Found = TypeVar("Found")
Task = Callable[[], None]

MOST_HANDS = 8
"""Items of one job that are worked on at once, so that one job of many rows leaves room for others."""
_OFFLOAD_THREADS = 4


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

    def wait(self) -> None:
        """Let other tasks run until the signal is set; called by a task."""
        if not self.done:
            self.waiter = getcurrent()
            self._hub.pause()


class Hub:
    """Runs tasks, predictions first and at most `concurrent` others at once.

    `on_turn` is called on the hub's thread before each task goes on, with False, and, with True, before the
    hub waits because none can.
    """

    def __init__(self, *, concurrent: int, on_turn: Callable[[bool], None] = lambda idle: None) -> None:
        self._on_turn = on_turn
        self._inbox: SimpleQueue[Signal | tuple[Task, bool]] = SimpleQueue()
        self._predictions: deque[Task] = deque()
        self._others: deque[Task] = deque()
        self._woken: deque[Any] = deque()
        self._places = concurrent
        self._offloaded = ThreadPoolExecutor(_OFFLOAD_THREADS, "offloaded")
        self._loop: Any = None
        threading.Thread(target=self._run, name="jobs", daemon=True).start()

    def submit(self, task: Task, *, prediction: bool = False) -> None:
        """Run `task` soon; callable from any thread. It must not raise."""
        self._inbox.put((task, prediction))

    def signal(self) -> Signal:
        """Return a new signal."""
        return Signal(self)

    def wake(self, signal: Signal) -> None:
        """Take note that `signal` was set; callable from any thread."""
        self._inbox.put(signal)

    def pause(self) -> None:
        """Run other tasks until the calling one's signal is set."""
        self._loop.switch()

    def offload(self, function: Callable[[], Found]) -> Found:
        """Call `function`, which blocks, on a thread of its own; the calling task waits."""
        ended = self.signal()
        future = self._offloaded.submit(function)
        future.add_done_callback(lambda _: ended.set())
        ended.wait()
        return future.result()

    def map(self, function: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
        """Apply `function` to every item, several at a time; called by a task.

        Raises
        ------
        Exception
            What the first failing item raised, once those in progress have ended.
        """
        work = _SharedWork(function, list(items), self.signal())
        for _ in range(min(work.count - 1, MOST_HANDS - 1)):
            self._woken.append(greenlet(work.drain, self._loop))
        work.drain()
        return work.results()

    def _run(self) -> None:
        self._loop = getcurrent()
        while True:
            self._take_in()
            self._on_turn(False)
            if self._predictions:
                greenlet(_guarded, self._loop).switch(self._predictions.popleft())
            elif self._woken:
                self._woken.popleft().switch()
            elif self._others and self._places:
                self._places -= 1
                greenlet(self._in_place, self._loop).switch(self._others.popleft())

    def _in_place(self, task: Task) -> None:
        _guarded(task)
        self._places += 1

    def _take_in(self) -> None:
        """Sort what has arrived; block if there is nothing to run."""
        idle = not (self._predictions or self._woken or (self._others and self._places))
        if idle and self._inbox.empty():
            self._on_turn(True)
        try:
            while True:
                arrived = self._inbox.get(block=idle)
                idle = False
                if isinstance(arrived, Signal):
                    if arrived.waiter is not None:
                        self._woken.append(arrived.waiter)
                else:
                    task, prediction = arrived
                    (self._predictions if prediction else self._others).append(task)
        except Empty:
            return


def _guarded(task: Task) -> None:
    """Run a task; what it raises, it should not have, and must not end the hub."""
    try:
        task()
    except Exception:  # noqa: BLE001 - the hub runs all jobs, and one must not end it
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
