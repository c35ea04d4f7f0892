"""Templates: processes that have imported what others need, and are forked to make them.

The imports of a worker take seconds, a fork takes milliseconds. A template has one Python thread and does nothing but
read requests from a socket, each with the descriptors that the new process is to have. It forks twice, and the process
between ends at once: the system then gives the new process to the nearest ancestor that adopts orphans, which is the
one that asked. So that one sees the end and the exit status of its process as of any child, and does not depend on the
template for it.
"""

import contextlib
import gc
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from pellucid_server.processes import (
    ForkedProcess,
    GroupLeader,
    adopt_orphans,
    close_descriptors,
    die_with_parent,
    end_after,
    name_process,
)

FORK_SECONDS = 10.0
"""Time for a template to fork; one that takes longer is stopped, or stuck."""

_KILL_SECONDS = 5.0
"""Time for a killed template to be gone."""

_READY = b"ready"
_FAILED = b"!"

Role = Callable[..., object]
"""What a forked process does, with its descriptors as arguments; the process ends when that returns."""


class TemplateError(Exception):
    """A template cannot fork; the message says why, to be put behind "the template"."""


class Template:
    """A template, from the end of the process that asks it."""

    def __init__(self, process: ForkedProcess | GroupLeader, connection: socket.socket) -> None:
        self.process = process
        self.connection = connection
        """Becomes readable when the template is ready, and when it is lost."""
        self._lock = threading.Lock()

    @classmethod
    def start(cls, command: Sequence[str], environment: Mapping[str, str]) -> "Template":
        """Run a command, with a descriptor appended, that calls `serve` on it."""
        adopt_orphans()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                descriptor = theirs.fileno()
                process = GroupLeader([*command, str(descriptor)], environment, [descriptor])
            except BaseException:
                ours.close()
                raise
        return cls(process, ours)

    @classmethod
    def fork_here(cls, name: str, roles: Mapping[str, Role]) -> "Template":
        """Make a template of what this process has imported; it ends with the thread that calls this.

        This process must have one Python thread, must not have used torch's or ONNX Runtime's threads, and must not
        have begun to use a GPU: none of that would work in what the template makes.
        """
        adopt_orphans()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            parent = os.getpid()
            pid = os.fork()
            if pid == 0:
                end_after(lambda: _serve_below(parent, theirs.fileno(), name, roles))
        return cls(ForkedProcess(pid), ours)

    def greet(self) -> None:
        """Take in that it is ready, or wait until it is.

        Raises
        ------
        TemplateError
            It ended before.
        """
        with self._lock:
            self._answer(None)

    def fork(
        self, role: str, descriptors: Sequence[int], *, leads: bool = False, seconds: float = FORK_SECONDS
    ) -> ForkedProcess:
        """Return a new process that does what the template knows by the name of `role`.

        With `leads` it leads a process group from when this returns: it should wait for a word of this process's
        before it starts others.

        Raises
        ------
        TemplateError
            It cannot fork, is lost, or has not answered in time. It is to be closed then.
        """
        with self._lock:
            try:
                self.connection.settimeout(seconds)
                socket.send_fds(self.connection, [role.encode()], list(descriptors))
            except OSError as error:
                raise TemplateError(f"cannot be asked: {error.strerror or error}") from error
            answer = self._answer(seconds)
        if answer.startswith(_FAILED):
            raise TemplateError(f"cannot fork: {answer[1:].decode()}")
        try:
            return ForkedProcess(int(answer), leads=leads)
        except OSError as error:
            raise TemplateError(f"has made a process that cannot be taken over: {error.strerror}") from error

    def close(self) -> int | None:
        """End it, and nothing that it has made; return its exit status, or None if not even killing has ended it."""
        # Who waits for an answer is to wait no longer.
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self.connection.close()
        if isinstance(self.process, GroupLeader) and self.process.returncode is None:
            # What it has made and nobody has taken over is in its group.
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        try:
            return self.process.wait(_KILL_SECONDS)
        except subprocess.TimeoutExpired:
            return None

    def _answer(self, seconds: float | None) -> bytes:
        try:
            self.connection.settimeout(seconds)
            answer = self.connection.recv(256)
        except TimeoutError:
            raise TemplateError(f"has not answered within {seconds:g} s") from None
        except OSError as error:
            raise TemplateError(f"is lost: {error.strerror}") from error
        if not answer:
            raise TemplateError("has ended")
        return answer


def serve(descriptor: int, name: str, roles: Mapping[str, Role]) -> NoReturn:
    """Be a template, until the other end closes the socket; see `Template.fork_here` for what must hold."""
    name_process(name)
    connection = socket.socket(fileno=descriptor)
    gc.collect()
    # Collections in the forked processes would copy, page by page, what all of them share.
    gc.freeze()
    with contextlib.suppress(OSError):
        connection.send(_READY)
        while True:
            request, descriptors, _, _ = socket.recv_fds(connection, 256, 8)
            if not request:
                break
            try:
                answer = _fork_twice(roles[request.decode()], descriptors)
            except OSError as error:
                answer = _failure(error)
            finally:
                for each in descriptors:
                    os.close(each)
            connection.send(answer)
    os._exit(0)


def _serve_below(parent: int, descriptor: int, name: str, roles: Mapping[str, Role]) -> None:
    die_with_parent(parent)
    close_descriptors({descriptor})
    serve(descriptor, name, roles)


def _fork_twice(role: Role, descriptors: Sequence[int]) -> bytes:
    """Fork a process that does what the role says; return its id, or why there is none."""
    ours, theirs = os.pipe()
    try:
        try:
            between = os.fork()
            if between == 0:
                end_after(lambda: _fork_on(role, descriptors, theirs))
        finally:
            os.close(theirs)
        # Ends at once if the process between has died: the one that it forked closes its copy first of all.
        answer = os.read(ours, 256)
        os.waitpid(between, 0)
        return answer or _FAILED + b"the process between the two has died"
    finally:
        os.close(ours)


def _fork_on(role: Role, descriptors: Sequence[int], pipe: int) -> None:
    try:
        pid = os.fork()
    except OSError as error:
        os.write(pipe, _failure(error))
        return
    if pid:
        os.write(pipe, str(pid).encode())
        return
    close_descriptors(descriptors)
    role(*descriptors)


def _failure(error: OSError) -> bytes:
    return _FAILED + (error.strerror or type(error).__name__).encode()
