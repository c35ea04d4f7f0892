"""Forks servers and workers for tests from a process that has imported all that these need.

The imports of a server and its worker take seconds of both cores, and the tests start dozens. Each test process has one
nursery, which starts with the first request. A forked server is `python -m pellucid_server` from `main` on; what it
forks its workers from is forked from it, and a template that a test kills is replaced by the real one.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from pellucid_server.processes import close_descriptors, die_with_parent, end_after
from pellucid_server.template import Template

IMPORTS = (
    "pellucid_server.__main__",
    "pellucid_server.worker",
    "pellucid_server.engine.methods.shared.groups",
    "server.pool.fake_worker",
)


_starting = threading.Lock()


class Child:
    """A forked process, with the face of a `subprocess.Popen`."""

    def __init__(self, status: socket.socket) -> None:
        self._status = status
        self._lock = threading.Lock()
        self.pid = int(status.recv(64))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        with self._lock:
            if self.returncode is not None:
                return self.returncode
            # Others may wait at the same time, and close theirs.
            status = self._status.dup()
        with status:
            if not select.select([status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        with self._lock:
            if self.returncode is None:
                self.returncode = int(self._status.recv(64))
                self._status.close()
            return self.returncode

    def send_signal(self, number: int) -> None:
        # The nursery reaps it once this end has seen its status, so that the id is of no other process.
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def fork(
    role: str, arguments: Sequence[str], environment: Mapping[str, str], descriptors: Sequence[int], output: int
) -> Child:
    """Return a new process.

    Parameters
    ----------
    role
        "server", whose first argument names a module that its workers import, "worker", or "fake": a fake worker.
    arguments
        Of its command line; {0} and so on stand for the numbers that `descriptors` have there.
    output
        Descriptor of the file for standard output and standard error.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        request = json.dumps({"role": role, "arguments": list(arguments), "environment": dict(environment)})
        with _starting:
            control = _nursery()
        socket.send_fds(control, [request.encode()], [theirs.fileno(), output, *descriptors])
    return Child(ours)


@functools.cache
def _nursery() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], env=environment
        )
    atexit.register(lambda: (ours.close(), process.wait()))
    return ours


class _Nursery:
    """The process itself."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ, self._take)

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                key.data()

    def _take(self) -> None:
        request, descriptors, _, _ = socket.recv_fds(self._control, 1 << 20, 8)
        if not request:
            os._exit(0)
        status, *others = descriptors
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            end_after(lambda: _be(json.loads(request), others, parent))
        for descriptor in others:
            os.close(descriptor)
        watcher = socket.socket(fileno=status)
        watcher.send(str(pid).encode())
        ended = os.pidfd_open(pid)
        self._selector.register(ended, selectors.EVENT_READ, lambda: self._report(pid, ended, watcher))
        self._selector.register(watcher, selectors.EVENT_READ, lambda: self._let_go(pid, watcher))

    def _report(self, pid: int, ended: int, watcher: socket.socket) -> None:
        self._selector.unregister(ended)
        os.close(ended)
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert found is not None
        status = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        with contextlib.suppress(OSError):
            watcher.send(str(status).encode())

    def _let_go(self, pid: int, watcher: socket.socket) -> None:
        """Reap an abandoned process."""
        self._selector.unregister(watcher)
        watcher.close()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _be(request: dict[str, Any], descriptors: Sequence[int], parent: int) -> None:
    die_with_parent(parent)
    output, *others = descriptors
    os.dup2(output, 1)
    os.dup2(output, 2)
    close_descriptors(others)
    os.environ.clear()
    os.environ.update(request["environment"])
    arguments = [argument.format(*others) for argument in request["arguments"]]
    sys.argv[0] = request["role"]
    {"server": _serve, "worker": _work, "fake": _fake}[request["role"]](arguments)


def _serve(arguments: Sequence[str]) -> None:
    """Be a server; its first argument names a module that its workers import."""
    from pellucid_server.__main__ import main

    module, *others = arguments
    first = [Template.fork_here("pellucid-templ", {"worker": functools.partial(_work_for, module)})]
    start = Template.start

    def take(command: Sequence[str], environment: Mapping[str, str]) -> Template:
        return first.pop() if first else start(command, environment)

    Template.start = take  # type: ignore[method-assign]
    sys.exit(main(others))


def _work_for(module: str, connection: int, record: int) -> None:
    sys.argv[1:] = ["--fd", str(connection), "--record", str(record)]
    importlib.import_module(module)
    importlib.import_module("pellucid_server.worker").main()


def _work(arguments: Sequence[str]) -> None:
    os.setpgid(0, 0)
    sys.argv[1:] = arguments
    importlib.import_module("pellucid_server.worker").main()


def _fake(arguments: Sequence[str]) -> None:
    os.setpgid(0, 0)
    sys.argv[1:] = arguments
    importlib.import_module("server.pool.fake_worker").main()


def main() -> None:
    """Be the nursery, until the tests' process closes the socket."""
    for module in IMPORTS:
        importlib.import_module(module)
    methods = importlib.import_module("pellucid_server.engine.methods")
    importlib.import_module("pellucid_server.engine.asking.registry").discover(methods)
    gc.collect()
    gc.freeze()
    _Nursery(socket.socket(fileno=int(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
