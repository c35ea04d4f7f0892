"""A helper process: Python beyond some ten milliseconds runs there, and holds no lock that the device thread needs.

It is forked from a template, or started as `python -m pellucid_server.engine.tasks.helper --fd N` where there is none.
It answers calls on an inherited socket, one at a time, in the frames of `pellucid_server.wire`: a call is (function's
module, its name, arguments), an answer is (result, "", "") or (None, kind of failure, what went wrong). It can be
killed at any time and is started again.
"""

import argparse
import importlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, NoReturn, Protocol

from pellucid_server import wire
from pellucid_server.processes import Process, name_process
from pellucid_server.traces import trace

_log = logging.getLogger(__name__)

_PACKAGE = "pellucid_server.engine"
_POLL_SECONDS = 0.05
_PIECE_BYTES = 1 << 20
_FAILED, _NO_MEMORY = "failed", "no memory"


class HelperError(RuntimeError):
    """A function failed in the helper process, or the process ended."""

    @property
    def log_text(self) -> str:
        """The message, which quotes no arguments: see `pellucid_server.traces`."""
        return str(self)


class Waitable(Protocol):
    """What a call's end is told by: a `Signal` for a task of the hub, a `threading.Event` for a thread."""

    def set(self) -> None:
        """Let the waiting one go on."""
        ...

    def wait(self) -> object:
        """Wait until it is set."""
        ...


class _Call:
    """A call on its way: its answer is there once `finished` is set."""

    def __init__(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], check: Callable[[], None], finished: Waitable
    ) -> None:
        self.name = function.__qualname__
        self.module = function.__module__
        self.arguments = arguments
        self.check = check
        self.finished = finished
        self.result: Any = None
        self.error: BaseException | None = None

    def stopped(self) -> bool:
        """Whether nobody waits for it any more: it is finished then."""
        try:
            self.check()
        except Exception as error:  # noqa: BLE001 - raised again where the answer is waited for
            self.finish(error=error)
            return True
        return False

    def finish(self, *, result: Any = None, error: BaseException | None = None) -> None:
        """Let the waiting one go on."""
        self.result, self.error = result, error
        self.finished.set()


class Helper:
    """The parent's end: a thread that starts the process and calls functions in it, one after the other.

    Callers take turns, so that one with many calls does not hold up the others'. The process is started by
    `start`, or with the first call; it then imports the modules of `load`, and with some of them it is started
    again as soon as it was killed, so that it stands ready. It ends after `idle_seconds` without a call, if that is
    given, and starts again with the next one.

    Parameters
    ----------
    fork
        Makes a process that does `answer` on the descriptor that it is given; None if it cannot.
    """

    def __init__(
        self,
        *,
        load: Sequence[str] = (),
        name: str = "helper",
        idle_seconds: float | None = None,
        fork: Callable[[int], Process | None] = lambda _: None,
    ) -> None:
        self._load = tuple(load)
        self._fork = fork
        self._name = name
        self._idle_seconds = idle_seconds
        self._change = threading.Condition()
        self._waiting: OrderedDict[str, deque[_Call]] = OrderedDict()
        self._wanted = False
        self._closed = False
        self._thread: threading.Thread | None = None
        self._process: Process | None = None
        self._socket: socket.socket | None = None

    def start(self) -> None:
        """Start the process, without waiting for it."""
        with self._change:
            self._wanted = True
            self._wake()

    def call(
        self,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
        check: Callable[[], None],
        finished: Waitable | None = None,
        *,
        caller: str = "",
    ) -> Any:
        """Run a module-level function of the engine there, and wait for it by `finished`.

        `check` is called every 50 ms, by another thread, and may raise: the wait then ends with its error, and the
        process is killed if it was at this call.

        Raises
        ------
        HelperError
            The function raised, or the process died.
        MemoryError
            There was too little memory for it.
        """
        check()
        call = _Call(function, arguments, check, finished or threading.Event())
        with self._change:
            if self._closed:
                raise _closed_error(call.name)
            self._waiting.setdefault(caller, deque()).append(call)
            self._wake()
        call.finished.wait()
        if call.error is not None:
            raise call.error
        return call.result

    def close(self) -> None:
        """End the process; calls that are not answered yet fail."""
        with self._change:
            self._closed = True
            self._change.notify()
        if self._thread is not None:
            self._thread.join()

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._change.notify()

    def _run(self) -> None:
        while (call := self._next()) is not None:
            if self._closed:
                # Were it begun, a process would be started for it, only to be killed.
                call.finish(error=_closed_error(call.name))
            elif not call.stopped():
                self._do(call)
        self._kill()

    def _next(self) -> _Call | None:
        """Wait for the next call; None once the helper is closed and no call is left."""
        while True:
            with self._change:
                while not (self._waiting or self._wanted or self._closed):
                    seconds = None if self._process is None else self._idle_seconds
                    if not self._change.wait(seconds):
                        self._kill()
                wanted, self._wanted = self._wanted, False
                if self._waiting:
                    return self._pop()
                if self._closed:
                    return None
            if wanted:
                self._stand_ready()

    def _pop(self) -> _Call:
        caller, calls = self._waiting.popitem(last=False)
        call = calls.popleft()
        if calls:
            self._waiting[caller] = calls
        return call

    def _do(self, call: _Call) -> None:
        try:
            connection = self._connection()
            _send(connection, wire.frame((call.module, call.name, call.arguments)), lambda: self._look(call))
            result, failure, text = wire.decode(_receive(connection, lambda: self._look(call)))
        except OSError:
            self._kill()
            call.finish(error=HelperError(f"the helper process ended during {call.name}"))
        except Exception as error:  # noqa: BLE001 - the check's, or a bug's: it is raised where it is waited for
            self._kill()
            call.finish(error=error)
        else:
            call.finish(result=result, error=_error(call.name, failure, text))
        if self._process is None and self._load and not self._closed:
            self._stand_ready()

    def _look(self, call: _Call) -> None:
        """Finish the waiting calls that nobody waits for any more; raise if the one in progress is to stop."""
        with self._change:
            for caller, calls in list(self._waiting.items()):
                left = deque(waiting for waiting in calls if not waiting.stopped())
                if left:
                    self._waiting[caller] = left
                else:
                    del self._waiting[caller]
            if self._closed:
                raise _closed_error(call.name)
        call.check()

    def _stand_ready(self) -> None:
        try:
            self._connection()
        except OSError:
            _log.exception("the helper process cannot be started")

    def _connection(self) -> socket.socket:
        if self._process is not None and self._process.poll() is not None:
            self._kill()
        if self._socket is None:
            ours, theirs = socket.socketpair()
            # Were our copy of its end open, its death would never be seen.
            with theirs:
                try:
                    self._process = self._fork(theirs.fileno()) or self._popen(theirs.fileno())
                except BaseException:
                    ours.close()
                    raise
            ours.settimeout(_POLL_SECONDS)
            self._socket = ours
        return self._socket

    def _popen(self, connection: int) -> Process:
        command = [sys.executable, "-m", __name__, "--fd", str(connection), "--load", *self._load]
        return subprocess.Popen(command, pass_fds=[connection], stdin=subprocess.DEVNULL)

    def _kill(self) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._socket = self._process = None


def _closed_error(name: str) -> HelperError:
    return HelperError(f"the helper was closed during {name}")


def _error(name: str, failure: str, text: str) -> Exception | None:
    if not failure:
        return None
    if failure == _NO_MEMORY:
        return MemoryError(f"{name} had too little memory in the helper process")
    return HelperError(f"{name} failed in the helper process:\n{text}")


def _send(connection: socket.socket, data: bytes, look: Callable[[], None]) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[connection.send(left[:_PIECE_BYTES]) :]
        except TimeoutError:
            look()


def _receive(connection: socket.socket, look: Callable[[], None]) -> bytes:
    (length,) = wire.LENGTH.unpack(_exactly(connection, wire.LENGTH.size, look))
    return _exactly(connection, length, look)


def _exactly(connection: socket.socket, count: int, look: Callable[[], None]) -> bytes:
    data = bytearray()
    while len(data) < count:
        try:
            piece = connection.recv(min(count - len(data), _PIECE_BYTES))
        except TimeoutError:
            look()
            continue
        if not piece:
            raise ConnectionError("end of file")
        data += piece
    return bytes(data)


def _nothing() -> None:
    """Stand in for a check where nobody can cancel."""


def _answered(frame: bytes) -> bytes:
    """Do one call; return the frame that answers it."""
    module, name, arguments = wire.decode(frame)
    if not module.startswith(_PACKAGE):
        raise ValueError(f"{module} is not a module of {_PACKAGE}")
    try:
        function = getattr(importlib.import_module(module), name)
        return wire.frame((function(*arguments), "", ""))
    except MemoryError:
        return wire.frame((None, _NO_MEMORY, ""))
    except Exception as error:  # noqa: BLE001 - the caller's process raises it, with this text for the log
        return wire.frame((None, _FAILED, trace(error)))


def _read(connection: socket.socket, calls: "SimpleQueue[bytes]") -> None:
    """Take calls in until the other end closes; then end the process, whatever it is computing."""
    try:
        while True:
            calls.put(_receive(connection, _nothing))
    except ConnectionError:
        os._exit(0)


def main() -> None:
    """Answer calls until the other end closes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--load", nargs="*", default=[], metavar="MODULE", help="imported before the first call")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settings = parser.parse_args()
    answer(settings.fd, settings.load)


def answer(descriptor: int, load: Sequence[str] = ()) -> NoReturn:
    """Answer calls on a socket until its other end closes; import the modules of `load` before the first."""
    name_process("pellucid-helper")
    connection = socket.socket(fileno=descriptor)
    calls: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read, args=(connection, calls), name="reader", daemon=True).start()
    for module in load:
        importlib.import_module(module)
    while True:
        connection.sendall(_answered(calls.get()))


if __name__ == "__main__":
    main()
