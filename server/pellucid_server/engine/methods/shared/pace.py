"""When a method saves where it stands."""

import time


class Pace:
    """Due once in a while, the first time at once.

    Parameters
    ----------
    seconds
        Between two times at least.
    """

    def __init__(self, seconds: float = 2.0) -> None:
        self._seconds = seconds
        self._last = -float("inf")

    def due(self) -> bool:
        """Whether it is time; if so, the next time is counted from now."""
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True
