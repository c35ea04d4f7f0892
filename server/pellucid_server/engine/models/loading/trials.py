"""Tries out one version while others are served: in a process that is forked from a template, at the lowest priority.

The process that serves cannot be forked any more: it has threads, and has begun to use its device. A template that was
forked from it before can. What it makes reads what is to be tried out from a socket, does that as at a start (`guard`),
and writes why the version is broken, or an empty text.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pellucid_server import wire
from pellucid_server.engine.asking import registry
from pellucid_server.engine.models.loading.guard import GuardError, do_trials, ending
from pellucid_server.engine.models.loading.loader import trial
from pellucid_server.model_files.listing import Version
from pellucid_server.processes import Process
from pellucid_server.vocabulary.messages import WorkerSettings

_NICENESS = 19
"""What is served goes first, on every core."""

Fork = Callable[[int], Process | None]
"""Makes a process that does `answer` on a descriptor; None if it cannot."""


def try_out(version: Version, settings: WorkerSettings, fork: Fork, handover: int) -> str:
    """Try a version out in another process; return why it is broken, or an empty text. Blocks for as long as it takes.

    `handover` is an empty file; what is not to be read and checked once more is written to it (`Handover`).

    Raises
    ------
    GuardError
        The process has ended before.
    OSError
        None can be started.
    """
    ours, theirs = socket.socketpair()
    line = b""
    with ours:
        # Were our copy of its end open, its death would never be seen.
        with theirs:
            process = fork(theirs.fileno()) or _popen(theirs.fileno())
        try:
            request = wire.frame((settings, str(version.folder), version.name, version.number, os.getpid()))
            # One that has ended by now says nothing either.
            with contextlib.suppress(ConnectionError):
                socket.send_fds(ours, [request[:1]], [handover])
                ours.sendall(request[1:])
            with contextlib.suppress(ConnectionError), ours.makefile("rb") as lines:
                line = lines.readline()
            if line.endswith(b"\n"):
                return str(json.loads(line))
        finally:
            process.kill()
            status = process.wait()
    raise GuardError(f"The process that tries models out {ending(status)}.")


def answer(descriptor: int) -> None:
    """Try out the version that is named on a socket."""
    connection = socket.socket(fileno=descriptor)
    first, (handover, *_), _, _ = socket.recv_fds(connection, 1, 1)
    data = first + _exactly(connection, wire.LENGTH.size - 1)
    (length,) = wire.LENGTH.unpack(data)
    settings, folder, name, number, parent = wire.decode(_exactly(connection, length))
    os.nice(_NICENESS)
    version = Version(Path(folder), name, number)
    trials = [trial(version, settings, registry.methods(), handover)]
    do_trials(trials, connection.detach(), parent, {handover})


def _popen(connection: int) -> Process:
    command = [sys.executable, "-m", "pellucid_server.worker", "--trial", str(connection)]
    return subprocess.Popen(command, pass_fds=[connection], stdin=subprocess.DEVNULL)


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            # The process that asked is gone.
            os._exit(0)
        data += piece
    return data
