"""Measures what a trial takes of processor time and memory, and says when that is too much."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_WINDOW_SECONDS = 0.25
_IDLE_SHARE = 0.1
"""Below this share of a processor, a process that sleeps waits for something that does not come."""
_WALL_FACTOR = 6
"""A crowded machine may take so many times longer than a trial's processor time."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a trial may take: processor time, and resident memory beyond what the process had."""

    seconds: float
    size_bytes: int

    def __add__(self, more: "Bounds") -> "Bounds":
        return Bounds(self.seconds + more.seconds, self.size_bytes + more.size_bytes)


@dataclass(frozen=True, slots=True)
class Spent:
    """What a trial has taken: seconds of processor time, and the most resident memory seen beyond what was there."""

    seconds: float = 0.0
    size_bytes: int = 0


class Meter:
    """What a process has taken since a trial began."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._began = self._window_began = time.monotonic()
        self.begin(resident_bytes(pid), self._processor()[0])

    def begin(self, held_bytes: int, used_seconds: float) -> None:
        """Count from what the process itself says that it had, and had used, when the trial began."""
        self._resident_bytes = held_bytes
        self._used_before = self._window_used = used_seconds
        self._asleep_seconds = 0.0
        self._last_used, self._most_bytes = used_seconds, held_bytes

    def spent(self, used_seconds: float = 0.0, held_bytes: int = 0) -> Spent:
        """Return what the trial has taken, as far as was seen or as the process itself says at the end of it."""
        used, most = max(self._last_used, used_seconds), max(self._most_bytes, held_bytes)
        return Spent(used - self._used_before, most - self._resident_bytes)

    def excess(self, bounds: Bounds) -> str:
        """Say which of its bounds the process is beyond; empty if none."""
        held_bytes = resident_bytes(self._pid)
        self._most_bytes = max(self._most_bytes, held_bytes)
        if held_bytes - self._resident_bytes > bounds.size_bytes:
            return (
                f"loading it takes more memory than {bounds.size_bytes >> 20} MiB; if the model is your own and needs "
                "more, raise models.load_bytes."
            )
        now = time.monotonic()
        used, sleeps = self._processor()
        window = now - self._window_began
        if window >= _WINDOW_SECONDS:
            # A process that waits for a turn on a crowded machine, or for the disk, is not asleep.
            if sleeps and used - self._window_used < _IDLE_SHARE * window:
                self._asleep_seconds += window
            self._window_began, self._window_used = now, used
        self._last_used = max(self._last_used, used)
        # The system counts in hundredths of a second, and the process itself more finely.
        used = max(used - self._used_before, 0.0)
        if used + self._asleep_seconds > bounds.seconds or now - self._began > _WALL_FACTOR * bounds.seconds:
            what = "hangs for" if self._asleep_seconds > used else "takes"
            return (
                f"loading it {what} more than {bounds.seconds:.3g} s; if the model is your own and needs longer, "
                "raise models.load_seconds."
            )
        return ""

    def _processor(self) -> tuple[float, bool]:
        """Return the seconds of processor time, and whether the process sleeps."""
        try:
            fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / _TICKS, fields[0] == "S"
        except (OSError, IndexError):
            return 0.0, False


def resident_bytes(pid: int | str) -> int:
    """Return the resident memory of a process, by its id or "self"; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


def begin_highest() -> Callable[[], int]:
    """Return what gives the most resident memory of this process from now on.

    Where the system cannot begin anew to note that, it gives what is resident when it is called.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return lambda: resident_bytes("self")
    return _highest_bytes


def _highest_bytes() -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else 0
