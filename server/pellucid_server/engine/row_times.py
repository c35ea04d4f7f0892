"""How fast rows have been evaluated of late."""

import threading
from collections import deque
from collections.abc import Hashable

_KEPT = 32


class RowTimes:
    """The least seconds a row of late, by model and direction. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: dict[tuple[Hashable, bool], deque[float]] = {}

    def add(self, model: Hashable, row_seconds: float, *, backward: bool) -> None:
        """Note the seconds a row of a chunk that was as large as its lane allows."""
        with self._lock:
            self._latest.setdefault((model, backward), deque(maxlen=_KEPT)).append(row_seconds)

    def least(self, model: Hashable, *, backward: bool) -> float:
        """Return the seconds a row of the fastest of the last 32 chunks; 0 if there was none."""
        with self._lock:
            return min(self._latest.get((model, backward), ()), default=0.0)
