"""How long a worker that was lost waits before it is started again."""

_STABLE = 10.0
"""Who lived so many times as long as it had waited did start well: the next wait is the first."""


class Backoff:
    """Waits that double with each failure in a row.

    Parameters
    ----------
    first_seconds, most_seconds
        The first wait, and the longest.
    """

    def __init__(self, first_seconds: float, most_seconds: float) -> None:
        self._first = first_seconds
        self._most = most_seconds
        self._last = 0.0
        self.seconds = first_seconds
        """The wait before the next start."""

    def started(self) -> None:
        """Note a start, whatever comes of it."""
        self._last = self.seconds
        self.seconds = min(2 * self.seconds, self._most)

    def lived(self, seconds: float) -> None:
        """Note how long what was started lived."""
        if seconds >= _STABLE * self._last:
            self.seconds = self._first
