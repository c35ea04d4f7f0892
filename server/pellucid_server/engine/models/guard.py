"""Tries things out in child processes, one after the other, each within bounds of time and memory.

A model's file can hang, crash or swell the process that loads it, inside libraries that cannot be interrupted. So a
small process is forked from the worker while that has one Python thread and nothing loaded, and forks a child for each
trial: a fork costs milliseconds, as all modules are imported by then. The children do what they are given, report one
reason or none, and are gone; what they took, memory or locks, is gone with them.
"""

import contextlib
import ctypes
import gc
import json
import logging
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.02
_WINDOW_SECONDS = 0.25
_IDLE_SHARE = 0.1
"""Below this share of a processor, a process that sleeps waits for something that does not come."""
_WALL_FACTOR = 6
"""A crowded machine may take so many times longer than a trial's processor time."""
_SLACK_BYTES = 128 << 20
"""Memory that may be asked for beyond the bound: what is asked for is not all used."""
_PARENT_DIES = 1
"""PR_SET_PDEATHSIG of prctl."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

_libc = ctypes.CDLL(None)


class GuardError(Exception):
    """The process that does the trials has ended before them; the message says how."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a trial may take: processor time, and resident memory beyond what the process had."""

    seconds: float
    size_bytes: int

    def __add__(self, more: "Bounds") -> "Bounds":
        return Bounds(self.seconds + more.seconds, self.size_bytes + more.size_bytes)


Grow = Callable[[Bounds], None]
"""Asks for more, once a trial has seen what it has to do."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What is done in a child process: `run` returns why it failed, or an empty text."""

    run: Callable[[Grow], str]
    bounds: Bounds


class Guard:
    """A process that does trials, from `start` until it has done them all or its parent dies."""

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self._lines = os.fdopen(pipe, "rb")
        self._reaped = False

    @classmethod
    def start(cls, trials: Sequence[Trial]) -> "Guard":
        """Fork the process, which begins at once.

        The caller must have one Python thread, must not have used torch's or ONNX Runtime's threads, and must not
        have begun to use a GPU: none of that would work in the children.
        """
        ours, theirs = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _end_after(lambda: _do_trials(trials, theirs, parent))
        os.close(theirs)
        return cls(pid, ours)

    def next(self) -> str:
        """Return why the next trial failed, or an empty text if it did not; blocks until it has ended.

        Raises
        ------
        GuardError
            The process has ended.
        """
        line = self._lines.readline()
        if line.endswith(b"\n"):
            return str(json.loads(line))
        raise GuardError(f"The process that tries models out {_ending(self._reap())}.")

    def close(self) -> None:
        """End the process and what it has begun."""
        self._lines.close()
        if not self._reaped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._reap()

    def _reap(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        self._reaped = True
        return status


def _end_after(work: Callable[[], None]) -> NoReturn:
    """Do the work of a forked process, and end it without anything of its parent's: no handlers, no destructors."""
    try:
        work()
    except BrokenPipeError:
        os._exit(1)
    except BaseException:  # noqa: BLE001 - whatever it is, this process must not return into its parent's code
        _log.exception("a process that tries models out failed")
        os._exit(1)
    os._exit(0)


def _do_trials(trials: Iterable[Trial], pipe: int, parent: int) -> None:
    _detach(pipe, parent)
    # What is there now is never looked at by the children's collections, which would copy it page by page.
    gc.collect()
    gc.freeze()
    for trial in trials:
        reason = _outcome(trial)
        os.write(pipe, json.dumps(reason[:_MOST_CHARACTERS]).encode() + b"\n")


_MOST_CHARACTERS = 4000
"""Of a reason, so that its line fits a pipe whole."""


def _detach(kept: int, parent: int) -> None:
    """Let go of all that was inherited but the standard streams and one descriptor, and die with the parent."""
    if hasattr(_libc, "prctl"):
        _libc.prctl(_PARENT_DIES, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    # The front waits for the end of its connection to the worker, which these copies would keep open.
    for descriptor in _descriptors():
        if descriptor not in (0, 1, 2, kept):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _descriptors() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return list(range(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))


def _outcome(trial: Trial) -> str:
    """Do one trial in a child, and return why it failed, or an empty text."""
    ours, theirs = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _end_after(lambda: _run(trial, theirs, parent))
    os.close(theirs)
    try:
        reason = _watched(pid, ours, trial.bounds)
    finally:
        os.close(ours)
    if reason is not None:
        # It has said all that it had to say, or too much time or memory has gone into it.
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return f"loading it {_ending(status)}: the file is damaged, or made to do that." if reason is None else reason


def _run(trial: Trial, pipe: int, parent: int) -> None:
    _detach(pipe, parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Should memory run out, the system is to end this process and not the worker.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    data_bytes = _data_bytes()
    bounds = trial.bounds

    def limit() -> None:
        if data_bytes is not None:
            most = data_bytes + bounds.size_bytes + _SLACK_BYTES
            resource.setrlimit(resource.RLIMIT_DATA, (most, resource.getrlimit(resource.RLIMIT_DATA)[1]))

    def grow(more: Bounds) -> None:
        nonlocal bounds
        bounds += more
        limit()
        _send(pipe, {"seconds": more.seconds, "bytes": more.size_bytes})

    limit()
    _send(pipe, {"reason": trial.run(grow)[:_MOST_CHARACTERS]})


def _send(pipe: int, message: object) -> None:
    os.write(pipe, json.dumps(message).encode() + b"\n")


def _watched(pid: int, pipe: int, bounds: Bounds) -> str | None:
    """Wait for what a child says, and return it, or what it has too much of; None if it ended without a word."""
    meter = _Meter(pid)
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    lines = _Lines(pipe)
    while not lines.ended:
        if poll.poll(_LOOK_SECONDS * 1000):
            for line in lines.read():
                message = json.loads(line)
                if "reason" in message:
                    return str(message["reason"])
                bounds += Bounds(message["seconds"], message["bytes"])
        excess = meter.excess(bounds)
        if excess:
            return excess
    return None


class _Lines:
    """Whole lines as they come from a descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""
        self.ended = False

    def read(self) -> Iterator[bytes]:
        """Read once, and give the lines that are whole by then."""
        data = os.read(self._descriptor, 1 << 16)
        self.ended = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        yield from lines


class _Meter:
    """What a process has taken since the meter was made."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        self._began = self._window_began = time.monotonic()
        self._resident = self._resident_bytes()
        self._window_used = 0.0
        self._asleep = 0.0

    def excess(self, bounds: Bounds) -> str:
        """Say which of its bounds the process is beyond; empty if none."""
        if self._resident_bytes() - self._resident > bounds.size_bytes:
            return (
                f"loading it takes more memory than {bounds.size_bytes >> 20} MiB; if the model is your own and needs "
                "more, raise models.load_bytes."
            )
        now = time.monotonic()
        used, sleeps = self._processor()
        if now - self._window_began >= _WINDOW_SECONDS:
            # A process that waits for a turn on a crowded machine, or for the disk, is not asleep.
            window = now - self._window_began
            if sleeps and used - self._window_used < _IDLE_SHARE * window:
                self._asleep += window
            self._window_began, self._window_used = now, used
        if used + self._asleep > bounds.seconds or now - self._began > _WALL_FACTOR * bounds.seconds:
            what = "hangs" if self._asleep > used else "takes"
            return (
                f"loading it {what} for more than {bounds.seconds:.3g} s; if the model is your own and needs longer, "
                "raise models.load_seconds."
            )
        return ""

    def _resident_bytes(self) -> int:
        try:
            return int((self._folder / "statm").read_text().split()[1]) * _PAGE_BYTES
        except (OSError, IndexError):
            return 0

    def _processor(self) -> tuple[float, bool]:
        """Return the seconds of processor time, and whether the process sleeps."""
        try:
            fields = (self._folder / "stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / _TICKS, fields[0] == "S"
        except (OSError, IndexError):
            return 0.0, False


def _data_bytes() -> int | None:
    """Return the bytes of this process that count for RLIMIT_DATA; None where that is not known."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmData:")]
    return int(found[0]) * 1024 if found else None


def _ending(status: int) -> str:
    """Say how a process ended, by its status: after "it"."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"ended its process (exit status {code})"
    names = {each.value: each.name for each in signal.Signals}
    return f"ended its process by the signal {names.get(-code, -code)}"
