"""Stops other processes."""

import os
import signal
import time
from pathlib import Path

SECONDS = 60.0


def stop(pid: int) -> None:
    """Stop a process, and return once all of its threads stand still: on a busy machine some run on for a while."""
    os.kill(pid, signal.SIGSTOP)
    end = time.monotonic() + SECONDS
    while not all(map(_stopped, Path(f"/proc/{pid}/task").iterdir())):
        if time.monotonic() > end:
            raise TimeoutError(f"process {pid} was told to stop and runs on after {SECONDS:g} s")
        os.sched_yield()


def _stopped(thread: Path) -> bool:
    try:
        # The name before the state is in brackets and may hold any character.
        return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (FileNotFoundError, ProcessLookupError):
        return True
