"""Turns of the hub that took too long: Python that held up every other request belongs elsewhere."""

import logging
import time

_log = logging.getLogger(__name__)

LONG_TURN_SECONDS = 0.02
"""Processor time of a turn above which it is logged."""

_QUIET_SECONDS = 60.0
"""Least time between two lines about the same method."""


class LongTurns:
    """Logs long turns, once a minute for each name; used by the hub's thread only.

    A turn counts by its processor time: on a busy machine any turn takes long by the clock on the wall. The names
    are those of RPCs and methods, and so there are few of them.
    """

    def __init__(self) -> None:
        self._logged: dict[str, float] = {}
        self._unlogged: dict[str, int] = {}

    def note(self, name: str, request_number: int, *, wall_seconds: float, processor_seconds: float) -> None:
        """Log a turn of `name` if it was long and no other was logged in the last minute."""
        if processor_seconds <= LONG_TURN_SECONDS:
            return
        now = time.monotonic()
        if now - self._logged.get(name, -_QUIET_SECONDS) < _QUIET_SECONDS:
            self._unlogged[name] = self._unlogged.get(name, 0) + 1
            return
        self._logged[name] = now
        more = self._unlogged.pop(name, 0)
        _log.warning(
            "request %d: a turn of %s took %.3f s (%.3f s of processor time), in which no other request went on%s",
            request_number,
            name or "an unnamed task",
            wall_seconds,
            processor_seconds,
            f"; {more} more since the last line" if more else "",
        )
