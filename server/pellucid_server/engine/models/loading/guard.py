"""Tries things out in a child process, one after the other, each within bounds of time and memory.

A model's file can hang, crash or swell the process that loads it, inside libraries that cannot be interrupted. So a
small process is forked from the worker while that has one Python thread and nothing loaded. It forks a child that does
trial after trial, as the first in a process takes several times as long as the next; when the child hangs, crashes or
swells, it forks another, which goes on behind that trial. A fork costs milliseconds, as all modules are imported by
then.
"""

import contextlib
import gc
import json
import logging
import os
import resource
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pellucid_server.memory_hygiene import trim
from pellucid_server.processes import close_descriptors, die_with_parent, name_process

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.02
_WINDOW_SECONDS = 0.25
_IDLE_SHARE = 0.1
"""Below this share of a processor, a process that sleeps waits for something that does not come."""
_WALL_FACTOR = 6
"""A crowded machine may take so many times longer than a trial's processor time."""
_SLACK_BYTES = 128 << 20
"""Memory that may be asked for beyond the bound: what is asked for is not all used."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


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
    """What is done in a child process: `run` returns why it failed, or an empty text.

    `name` begins the reason where the process failed, and not `run`.
    """

    name: str
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
        gc.collect()
        ours, theirs = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _end_after(lambda: do_trials(trials, theirs, parent))
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
        raise GuardError(f"The process that tries models out {ending(os.waitstatus_to_exitcode(self._reap()))}.")

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


def do_trials(trials: Sequence[Trial], pipe: int, parent: int, kept: Collection[int] = ()) -> None:
    """Do trials in child processes, and write a line for each to `pipe`; closes all descriptors but those `kept`."""
    _detach({pipe, *kept}, parent)
    # What is there now is never looked at by collections here and in the children: they would copy it page by page,
    # and end what is the parent's, such as its connections.
    gc.freeze()
    done = 0
    while done < len(trials):
        done = _do_some(trials, done, pipe, kept)


_MOST_CHARACTERS = 4000
"""Of a reason, so that its line fits a pipe whole."""


def _detach(kept: Collection[int], parent: int) -> None:
    """Let go of all that was inherited but the standard streams and some descriptors, and die with the parent."""
    die_with_parent(parent)
    name_process("pellucid-guard")
    close_descriptors(kept)


def _do_some(trials: Sequence[Trial], first: int, out: int, kept: Collection[int]) -> int:
    """Do trials in one child, from the first on and as far as that comes; return how many are done then.

    A trial that ends the child is done once more in one of its own, unless it was the first there: what went before
    may be to blame.
    """
    ours, theirs = os.pipe()
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _end_after(lambda: _run_all(trials, first, theirs, parent, kept))
    os.close(theirs)
    child = _Child(pid, ours)
    done = first
    try:
        while done < len(trials):
            trial = trials[done]
            reason = child.watch(trial)
            if reason is None:
                if done > first:
                    break
                ended = ending(os.waitstatus_to_exitcode(child.end()))
                reason = f"{trial.name}: loading it {ended}: the file is damaged, or made to do that."
            os.write(out, json.dumps(reason).encode() + b"\n")
            done += 1
            if child.over:
                break
    finally:
        child.end()
    return done


def _run_all(trials: Sequence[Trial], first: int, pipe: int, parent: int, kept: Collection[int]) -> None:
    _detach({pipe, *kept}, parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Should memory run out, the system is to end this process and not the worker.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    for trial in trials[first:]:
        _run(trial, pipe)
        # The next one is measured by what it takes itself.
        gc.collect()
        trim()


def _run(trial: Trial, pipe: int) -> None:
    bounds = trial.bounds
    data_bytes, (_, highest) = _data_bytes(), resource.getrlimit(resource.RLIMIT_DATA)

    def limit() -> None:
        if data_bytes is not None:
            most = data_bytes + bounds.size_bytes + _SLACK_BYTES
            resource.setrlimit(
                resource.RLIMIT_DATA, (most if highest == resource.RLIM_INFINITY else min(most, highest), highest)
            )

    def grow(more: Bounds) -> None:
        nonlocal bounds
        bounds += more
        limit()
        _send(pipe, {"seconds": more.seconds, "bytes": more.size_bytes})

    limit()
    # Measured here, as the other process would come late.
    _send(pipe, {"resident": _resident_bytes("self"), "used": time.process_time()})
    reason = trial.run(grow)[:_MOST_CHARACTERS]
    _send(pipe, {"reason": reason})


def _send(pipe: int, message: object) -> None:
    os.write(pipe, json.dumps(message).encode() + b"\n")


class _Child:
    """A child that does trials, as seen by the process that watches it."""

    def __init__(self, pid: int, pipe: int) -> None:
        self.over = False
        """Whether it is, or has to be, at its end."""
        self._pid = pid
        self._pipe = pipe
        self._lines = _Lines(pipe)
        self._poll = select.poll()
        self._poll.register(pipe, select.POLLIN)
        self._status: int | None = None

    def watch(self, trial: Trial) -> str | None:
        """Wait for the outcome of its next trial, or what that has too much of; None if it ended without a word."""
        bounds, meter = trial.bounds, _Meter(self._pid)
        while True:
            for message in self._messages():
                if "reason" in message:
                    return str(message["reason"])
                if "used" in message:
                    meter.begin(message["resident"], message["used"])
                else:
                    bounds += Bounds(message["seconds"], message["bytes"])
            if self._lines.ended:
                self.over = True
                return None
            excess = meter.excess(bounds)
            if excess:
                self.over = True
                return f"{trial.name}: {excess}"

    def end(self) -> int:
        """Kill it if it has not ended, and return its status."""
        if self._status is None:
            if not self._lines.ended:
                os.kill(self._pid, signal.SIGKILL)
            _, self._status = os.waitpid(self._pid, 0)
            os.close(self._pipe)
        return self._status

    def _messages(self) -> Iterator[dict[str, Any]]:
        """Give what it has said, after a moment's wait if that is nothing; what is not taken is given again."""
        if not self._lines.whole and self._poll.poll(_LOOK_SECONDS * 1000):
            self._lines.read()
        while self._lines.whole:
            yield json.loads(self._lines.whole.popleft())


class _Lines:
    """Whole lines as they come from a descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.whole: deque[bytes] = deque()
        self.ended = False
        self._descriptor = descriptor
        self._rest = b""

    def read(self) -> None:
        """Read once."""
        data = os.read(self._descriptor, 1 << 16)
        self.ended = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        self.whole.extend(lines)


class _Meter:
    """What a process has taken since a trial began."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._began = self._window_began = time.monotonic()
        self.begin(_resident_bytes(pid), self._processor()[0])

    def begin(self, resident_bytes: int, used_seconds: float) -> None:
        """Count from what the process itself says that it had, and had used, when the trial began."""
        self._resident_bytes = resident_bytes
        self._used_before = self._window_used = used_seconds
        self._asleep_seconds = 0.0

    def excess(self, bounds: Bounds) -> str:
        """Say which of its bounds the process is beyond; empty if none."""
        if _resident_bytes(self._pid) - self._resident_bytes > bounds.size_bytes:
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


def _resident_bytes(pid: int | str) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


def _data_bytes() -> int | None:
    """Return the bytes of this process that count for RLIMIT_DATA; None where that is not known."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmData:")]
    return int(found[0]) * 1024 if found else None


def ending(code: int) -> str:
    """Say how a process ended, by its exit status, negative if by a signal: after "it"."""
    if code >= 0:
        return f"ended its process (exit status {code})"
    names = {each.value: each.name for each in signal.Signals}
    return f"ended its process by the signal {names.get(-code, -code)}"
