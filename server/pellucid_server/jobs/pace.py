"""How fast work goes, and how long it will take yet."""

import time
from collections import deque
from collections.abc import Callable

from pellucid_server.vocabulary.messages import Progress

_WINDOW_SECONDS = 30.0
"""The time over which a pace is taken."""


class Pace:
    """The pace of one piece of work, from its last reports.

    Parameters
    ----------
    clock
        A monotonic time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.rows_per_second = 0.0
        """Recently; 0 while it is not known."""
        self.seconds_left: float | None = None
        """About; None while it is not known."""
        self._clock = clock
        self._reports: deque[tuple[float, Progress]] = deque()

    def note(self, progress: Progress) -> None:
        """Take a report."""
        now = self._clock()
        self._reports.append((now, progress))
        while len(self._reports) > 2 and now - self._reports[0][0] > _WINDOW_SECONDS:
            self._reports.popleft()
        then, before = self._reports[0]
        seconds, share = now - then, progress.share - before.share
        rows_per_second = (progress.rows_done - before.rows_done) / seconds if seconds > 0 else 0.0
        self.rows_per_second = max(rows_per_second, 0.0)
        self.seconds_left = (1 - progress.share) * seconds / share if share > 0 and seconds > 0 else None
