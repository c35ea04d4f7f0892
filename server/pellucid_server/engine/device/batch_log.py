"""What the device did since it was last asked: batches by size and kind, and for how long it was busy."""

import functools
import threading
import time
from bisect import bisect_left
from collections.abc import Callable

from pellucid_server.vocabulary.messages import BATCH_BOUNDS, BatchCounts


class BatchLog:
    """Counts the batches of all device threads; callable from any of them.

    The device is busy while at least one batch runs: two threads at work at once do not count twice.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._running = 0
        self._since = 0.0
        self._busy_seconds = 0.0
        self._counts: dict[str, list[int]] = {}
        self._rows: dict[str, int] = {}

    def began(self) -> None:
        """Note that a batch begins."""
        with self._lock:
            if not self._running:
                self._since = self._clock()
            self._running += 1

    def ended(self, kind: str, rows: int) -> None:
        """Note that a batch has ended; with 0 rows, one that failed, which counts for the time alone."""
        with self._lock:
            self._running -= 1
            if not self._running:
                self._busy_seconds += self._clock() - self._since
            if rows:
                counts = self._counts.get(kind)
                if counts is None:
                    counts = self._counts[kind] = [0] * (len(BATCH_BOUNDS) + 1)
                counts[bisect_left(BATCH_BOUNDS, rows)] += 1
                self._rows[kind] = self._rows.get(kind, 0) + rows

    def take(self) -> tuple[float, tuple[BatchCounts, ...]]:
        """Return the busy seconds, of a batch in progress too, and the ended batches since the last call."""
        with self._lock:
            now = self._clock()
            busy_seconds, counts, rows = self._busy_seconds, self._counts, self._rows
            if self._running:
                busy_seconds += now - self._since
                self._since = now
            self._busy_seconds, self._counts, self._rows = 0.0, {}, {}
        return busy_seconds, tuple(BatchCounts(kind, tuple(found), rows[kind]) for kind, found in counts.items())


@functools.lru_cache(maxsize=4096)
def kind_of(kind: str) -> str:
    """Return the kind of evaluation, one of `results.KINDS`, of a kernel's kind, which may name a layer as well."""
    return kind.partition("@")[0].replace(" ", "-")
