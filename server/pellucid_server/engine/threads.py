"""Job threads and their baton: many jobs wait at once, and only one of them runs Python.

Threads that run Python beside the device thread take the interpreter from it at every switch: with
four of them a forward pass took 18 times as long. So a job thread holds the baton while it runs, and
drops it while it waits.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

_log = logging.getLogger(__name__)

Item = TypeVar("Item")
Found = TypeVar("Found")
Task = Callable[[], None]

_MOST_HANDS = 8
"""Threads that may work on one job at once, so that one job of many rows leaves room for others."""


class Baton:
    """What a thread must hold to run Python for a job."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the baton inside the block."""
        with self._lock:
            yield

    @contextmanager
    def dropped(self) -> Iterator[None]:
        """Let others hold the baton inside the block; the caller holds it before and after."""
        self._lock.release()
        try:
            yield
        finally:
            self._lock.acquire()


class JobThreads:
    """A pool of threads that run tasks under the baton, predictions first.

    `reserved` of the threads take nothing but predictions, so that a prediction never waits until an
    explanation has ended.
    """

    def __init__(self, count: int, *, reserved: int) -> None:
        self.baton = Baton()
        self._predictions: deque[Task] = deque()
        self._others: deque[Task] = deque()
        # Two queues of waiting threads, one lock.
        lock = threading.Lock()
        self._ready = threading.Condition(lock)
        self._ready_reserved = threading.Condition(lock)
        for number in range(count + reserved):
            threading.Thread(target=self._run, args=(number >= count,), name=f"job-{number}", daemon=True).start()

    def submit(self, task: Task, *, prediction: bool = False) -> None:
        """Run `task` soon; it must not raise."""
        with self._ready:
            (self._predictions if prediction else self._others).append(task)
            self._ready.notify()
            if prediction:
                self._ready_reserved.notify()

    def map(self, function: Callable[[Item], Found], items: Iterable[Item]) -> list[Found]:
        """Apply `function` to every item, several at a time; called with the baton held.

        Raises
        ------
        Exception
            What the first failing item raised, once those in progress have ended.
        """
        work = _SharedWork(function, list(items))
        for _ in range(min(work.count - 1, _MOST_HANDS - 1)):
            self.submit(work.drain)
        work.drain()
        with self.baton.dropped():
            work.ended.wait()
        return work.results()

    def _run(self, reserved: bool) -> None:
        condition = self._ready_reserved if reserved else self._ready
        while True:
            with self._ready:
                while (task := self._next(reserved)) is None:
                    condition.wait()
            with self.baton.held():
                task()

    def _next(self, reserved: bool) -> Task | None:
        if self._predictions:
            return self._predictions.popleft()
        if self._others and not reserved:
            return self._others.popleft()
        return None


class _SharedWork(Generic[Item, Found]):
    """Items that several threads take in turn."""

    def __init__(self, function: Callable[[Item], Found], items: Sequence[Item]) -> None:
        self.count = len(items)
        self.ended = threading.Event()
        self._function = function
        self._left = deque(enumerate(items))
        self._results: dict[int, Found] = {}
        self._error: BaseException | None = None
        self._ended_items = 0
        self._lock = threading.Lock()
        if not items:
            self.ended.set()

    def drain(self) -> None:
        """Work until no item is left."""
        while True:
            try:
                number, item = self._left.popleft()
            except IndexError:
                return
            try:
                if self._error is None:
                    self._results[number] = self._function(item)
            except Exception as error:  # noqa: BLE001 - raised again in the thread that asked
                self._error = self._error or error
            with self._lock:
                self._ended_items += 1
                if self._ended_items == self.count:
                    self.ended.set()

    def results(self) -> list[Found]:
        if self._error is not None:
            raise self._error
        return [self._results[number] for number in range(self.count)]
