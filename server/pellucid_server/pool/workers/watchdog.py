"""Notices that a worker hangs: it says nothing, or it says that it has been at one thing for too long."""

import asyncio
from collections.abc import Callable

from pellucid_server.vocabulary.messages import Heartbeat

_TICKS = 8
"""Looks within the time that a worker may be silent."""


class Watchdog:
    """Watches one life of a worker, from `start` to `stop`.

    Silence is counted in looks and not by the clock, so that a front that was itself held up, and has read nothing
    meanwhile, does not take its workers for dead.

    Parameters
    ----------
    hang_seconds
        How long a worker may be silent, or at one batch, one turn of Python or one picture.
    on_hang
        Called once with what was seen, for the log.
    on_look
        Called at each look but the one that sees a hang: what was so then and is still so, it hangs over.
    """

    def __init__(
        self, hang_seconds: float, on_hang: Callable[[str], None], on_look: Callable[[], None] = lambda: None
    ) -> None:
        self._hang_seconds = hang_seconds
        self._on_hang = on_hang
        self._on_look = on_look
        self._silent_ticks = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Watch from now on."""
        self.stop()
        self._silent_ticks = 0
        self._schedule()

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def heard(self) -> None:
        """Note that the worker said something."""
        self._silent_ticks = 0

    def beat(self, beat: Heartbeat) -> None:
        """Look at what the worker says it is at."""
        if self._timer is None:
            return
        spans = (
            ("one device batch", beat.device_seconds),
            ("one turn of Python", beat.python_seconds),
            ("decoding one picture", beat.offload_seconds),
        )
        for what, seconds in spans:
            if seconds > self._hang_seconds:
                self._hang(f"was at {what} for {seconds:.1f} s")
                return

    def tick(self) -> None:
        """Look whether anything was said; called at equal intervals."""
        if self._silent_ticks >= _TICKS:
            self._hang(f"was silent for {self._hang_seconds:g} s")
            return
        self._silent_ticks += 1
        self._on_look()
        self._schedule()

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._hang_seconds / _TICKS, self.tick)

    def _hang(self, seen: str) -> None:
        self.stop()
        self._on_hang(seen)
