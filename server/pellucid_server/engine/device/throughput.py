"""How fast rows have been evaluated recently."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Hashable

_KEPT = 32
_ENOUGH = 3
"""Measurements below which there is no knowing: the first batch of a size takes several times as long as the next."""
_KEPT_SECONDS = 60.0
"""Age at which a measurement is forgotten: what is refused is not measured, and a slow time would refuse for ever."""

_Measured = dict[tuple[Hashable, str], deque[tuple[float, float]]]
"""When each chunk was noted, and its seconds a row, by model and kind of evaluation."""


class ThroughputStats:
    """The least recent seconds for each row, by model and kind of evaluation. Safe to share between threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._full: _Measured = {}
        self._small: _Measured = {}

    def add(self, model: Hashable, row_seconds: float, *, kind: str) -> None:
        """Note the seconds a row of a chunk that was as large as its lane allows."""
        self._note(self._full, (model, kind), row_seconds)

    def add_small(self, model: Hashable, row_seconds: float, *, kind: str) -> None:
        """Note the seconds a row of a smaller chunk: in a larger one a row takes less."""
        self._note(self._small, (model, kind), row_seconds)

    def least(self, model: Hashable, *, kind: str) -> float:
        """Return the seconds a row of the fastest of the last 32 full chunks, a minute old at most.

        It is 0 if there were fewer than three: by what is returned work is refused, and is not measured then.
        """
        found = self._late(self._full, (model, kind))
        return min(found) if len(found) >= _ENOUGH else 0.0

    def likely(self, model: Hashable, *, kind: str) -> float:
        """Return the seconds a row of the fastest recent chunks, full or small; infinity if there was none."""
        key = (model, kind)
        return min([*self._late(self._full, key), *self._late(self._small, key)], default=math.inf)

    def keep(self, models: Collection[Hashable]) -> None:
        """Forget the times of all other models."""
        with self._lock:
            for measured in (self._full, self._small):
                for key in [key for key in measured if key[0] not in models]:
                    del measured[key]

    def _note(self, measured: _Measured, key: tuple[Hashable, str], row_seconds: float) -> None:
        with self._lock:
            latest = measured.get(key)
            if latest is None:
                latest = measured[key] = deque(maxlen=_KEPT)
            latest.append((self._clock(), row_seconds))

    def _late(self, measured: _Measured, key: tuple[Hashable, str]) -> list[float]:
        with self._lock:
            oldest = self._clock() - _KEPT_SECONDS
            return [seconds for noted, seconds in measured.get(key, ()) if noted >= oldest]
