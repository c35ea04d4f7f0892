"""The helper process: long Python runs there, where it holds no lock that the device thread needs.

`python -m pellucid_server.engine.helper --fd N` answers calls on an inherited socket, one at a time, in
the frames of `pellucid_server.wire`: a call is (function's module, its name, arguments), an answer is
(result, None) or (None, what went wrong). It can be killed at any time and starts again with the next call.
"""

import argparse
import importlib
import logging
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

from pellucid_server import wire

_log = logging.getLogger(__name__)

_PACKAGE = "pellucid_server.engine"
_POLL_SECONDS = 0.05


class HelperError(RuntimeError):
    """A function failed in the helper process, or the process ended."""


class Helper:
    """The parent's end: starts the process when it is needed and calls functions in it."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...], check: Callable[[], None]) -> Any:
        """Run a module-level function of the engine there; the calling thread blocks.

        `check` is called every 50 ms and may raise: the process is then killed.

        Raises
        ------
        HelperError
            The function raised, or the process died.
        """
        while not self._turn.acquire(timeout=_POLL_SECONDS):
            check()
        try:
            check()
            return self._call(function, arguments, check)
        finally:
            self._turn.release()

    def close(self) -> None:
        """End the process."""
        with self._turn:
            self._kill()

    def _call(self, function: Callable[..., Any], arguments: tuple[Any, ...], check: Callable[[], None]) -> Any:
        connection = self._connection()
        try:
            connection.settimeout(None)
            connection.sendall(wire.frame((function.__module__, function.__qualname__, arguments)))
            connection.settimeout(_POLL_SECONDS)
            result, failure = wire.decode(_receive(connection, check))
        except OSError as error:
            self._kill()
            raise HelperError(f"the helper process ended during {function.__qualname__}") from error
        except BaseException:
            self._kill()
            raise
        if failure is not None:
            raise HelperError(f"{function.__qualname__} failed in the helper process:\n{failure}")
        return result

    def _connection(self) -> socket.socket:
        if self._process is not None and self._process.poll() is not None:
            self._kill()
        if self._socket is None:
            ours, theirs = socket.socketpair()
            command = [sys.executable, "-m", __name__, "--fd", str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
            # Were our copy of its end open, its death would never be seen.
            theirs.close()
            self._socket = ours
        return self._socket

    def _kill(self) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._socket = self._process = None


def _receive(connection: socket.socket, check: Callable[[], None]) -> bytes:
    (length,) = wire.LENGTH.unpack(_exactly(connection, wire.LENGTH.size, check))
    return _exactly(connection, length, check)


def _exactly(connection: socket.socket, count: int, check: Callable[[], None]) -> bytes:
    data = bytearray()
    while len(data) < count:
        try:
            piece = connection.recv(min(count - len(data), 1 << 20))
        except TimeoutError:
            check()
            continue
        if not piece:
            raise ConnectionError("end of file")
        data += piece
    return bytes(data)


def _nothing() -> None:
    """Stand in for a check where nobody can cancel."""


def _answer(connection: socket.socket) -> None:
    module, name, arguments = wire.decode(_receive(connection, _nothing))
    if not module.startswith(_PACKAGE):
        raise ValueError(f"{module} is not a module of {_PACKAGE}")
    function = getattr(importlib.import_module(module), name)
    answer: tuple[Any, str | None]
    try:
        answer = (function(*arguments), None)
    except Exception:  # noqa: BLE001 - the caller's process raises it, with this text for the log
        answer = (None, traceback.format_exc())
    connection.sendall(wire.frame(answer))


def main() -> None:
    """Answer calls until the other end closes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fd", type=int, required=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(fileno=parser.parse_args().fd) as connection:
        while True:
            try:
                _answer(connection)
            except ConnectionError:
                return


if __name__ == "__main__":
    main()
