"""What processes that are forked, and those that fork them, need of the system."""

import contextlib
import ctypes
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NoReturn, Protocol

_libc = ctypes.CDLL(None)

# Options of prctl.
_PARENT_DEATH_SIGNAL, _NAME, _CHILD_SUBREAPER = 1, 15, 36

CAN_ADOPT = hasattr(_libc, "prctl") and hasattr(os, "pidfd_open")
"""Whether a process of this system can adopt others; Linux has that."""

_ORPHAN_SECONDS = 5.0
"""Time for what a process that has ended had started to be gone."""


class Process(Protocol):
    """A child process, forked or a `subprocess.Popen`."""

    @property
    def pid(self) -> int:
        """The process id."""
        ...

    def kill(self) -> None:
        """Kill it; harmless if it has ended."""
        ...

    def poll(self) -> int | None:
        """Return the exit status, or None if it has not ended."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status once it has ended; raise `subprocess.TimeoutExpired` if that takes too long."""
        ...


def name_process(name: str) -> None:
    """Give this process the name that `ps` and `top` show, of at most 15 characters."""
    if hasattr(_libc, "prctl"):
        _libc.prctl(_NAME, name.encode(), 0, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of all processes below this one that lose theirs."""
    _libc.prctl(_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """Die when the thread that forked this process ends; at once if the process `parent` is no more."""
    if hasattr(_libc, "prctl"):
        _libc.prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def close_descriptors(kept: Collection[int]) -> None:
    """Close all that was inherited but the standard streams and what is `kept`.

    A copy of a connection that stays open hides from the other end that this one has died.
    """
    for descriptor in _descriptors():
        if descriptor > 2 and descriptor not in kept:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def _descriptors() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        return list(range(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))


def end_after(work: Callable[[], object]) -> NoReturn:
    """Do the work of a forked process and end it, as Python does, but with none of its parent's destructors."""
    status = 1
    try:
        work()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:  # noqa: BLE001 - whatever it is, this process must not return into its parent's code
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


class GroupLeader(subprocess.Popen[bytes]):
    """A command that leads a process group of its own, so that no interrupt from a terminal reaches it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], descriptors: Collection[int]) -> None:
        super().__init__(
            command, pass_fds=descriptors, env=dict(environment), stdin=subprocess.DEVNULL, process_group=0
        )

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status once it has ended, and what it had started too."""
        status = super().wait(timeout)
        reap_group(self.pid)
        return status


class ForkedProcess:
    """A child of this process that another one forked, with the face of a `subprocess.Popen`.

    Parameters
    ----------
    leads
        Whether it is to lead a process group, which ends with it.

    Raises
    ------
    OSError
        It is no child of this process.
    """

    def __init__(self, pid: int, *, leads: bool = False) -> None:
        self.pid = pid
        self._leads = leads
        self._lock = threading.Lock()
        self._status: int | None = None
        # Looks only: a process that is not ours has no status for us.
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if leads:
            # Until now it was in the template's group, and would have ended with that.
            os.setpgid(pid, pid)
        self._descriptor = os.pidfd_open(pid)

    def kill(self) -> None:
        """Kill it; harmless if it has ended."""
        with self._lock:
            # A process that was not waited for keeps its number.
            if self._status is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)

    def poll(self) -> int | None:
        """Return the exit status, or None if it has not ended."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status once it has ended: negative if by a signal.

        Raises
        ------
        subprocess.TimeoutExpired
            It has not ended in time.
        """
        with self._lock:
            if self._status is None:
                descriptor = os.dup(self._descriptor)
            else:
                return self._status
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            if not poll.poll(None if timeout is None else 1000 * timeout):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        finally:
            os.close(descriptor)
        return self._reap()

    def _reap(self) -> int:
        with self._lock:
            if self._status is not None:
                return self._status
            if self._leads:
                # While its leader is there, though it has ended, the number of the group is nobody else's.
                with contextlib.suppress(OSError):
                    os.killpg(self.pid, signal.SIGKILL)
            try:
                self._status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            except ChildProcessError:
                # As a `Popen` has it where this process was started with the ends of children ignored.
                self._status = 0
            os.close(self._descriptor)
        if self._leads:
            reap_group(self.pid)
        return self._status


def reap_group(leader: int) -> None:
    """Wait for what a process that has ended had started, if this process has adopted it."""
    end = time.monotonic() + _ORPHAN_SECONDS
    pause = 0.001
    with contextlib.suppress(ChildProcessError):
        # As long as one of them is there, the number of the group is not used again.
        while time.monotonic() < end:
            if os.waitpid(-leader, os.WNOHANG) == (0, 0):
                time.sleep(pause)
                pause = min(2 * pause, 0.05)
