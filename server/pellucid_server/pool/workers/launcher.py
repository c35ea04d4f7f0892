"""Starts worker processes."""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pellucid_server.pool.workers.templates import Templates
from pellucid_server.processes import CAN_ADOPT, GroupLeader, Process
from pellucid_server.recorder import Recorder, new_record
from pellucid_server.template import TemplateError

_log = logging.getLogger(__name__)

WORKER_COMMAND: tuple[str, ...] = (sys.executable, "-m", "pellucid_server.worker")
"""Starts a worker; `--fd N --record M` is appended, or `--template N` for a template of workers."""

_TRIES = 2


@dataclass(frozen=True, slots=True)
class Spawned:
    """A process that was just started, this end of the socket to it, and its flight recorder."""

    process: Process
    socket: socket.socket
    recorder: Recorder

    def discard(self) -> None:
        """End the process, which nobody needs. Blocks until it has ended."""
        self.socket.close()
        self.recorder.close()
        self.process.kill()
        self.process.wait()


class Launcher:
    """How worker processes are started: forked from a template, or by their command where that is not possible.

    Parameters
    ----------
    environment
        Environment variables of the processes.
    command
        The command line, without `--fd N --record M`.
    template
        Whether the command knows `--template N`.
    """

    def __init__(
        self, environment: Mapping[str, str], command: Sequence[str] = WORKER_COMMAND, *, template: bool = False
    ) -> None:
        self._environment = environment
        self._command = command
        # Without a process that adopts them, forked workers would be nobody's children.
        self._templates = Templates([*command, "--template"], environment) if template and CAN_ADOPT else None

    async def spawn(self) -> Spawned:
        """Start a process.

        Raises
        ------
        OSError
            The operating system cannot start it.
        """
        record = new_record()
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            # Only if this process closes its copy of the worker's end does it ever see the worker's death.
            with theirs:
                try:
                    process = await self._start(theirs.fileno(), record)
                except BaseException:
                    ours.close()
                    raise
        except BaseException:
            os.close(record)
            raise
        return Spawned(process, ours, Recorder(record))

    async def close(self) -> None:
        """End the template; workers go on."""
        if self._templates is not None:
            await self._templates.close()

    async def _start(self, connection: int, record: int) -> Process:
        if self._templates is not None:
            for _ in range(_TRIES):
                try:
                    return await self._fork(self._templates, connection, record)
                except TemplateError as error:
                    _log.warning("the template of the workers %s", error)
            _log.warning("the worker is started without a template")
        return await _whole(lambda: self._popen(connection, record))

    async def _fork(self, templates: Templates, connection: int, record: int) -> Process:
        template = await templates.ready()
        try:
            return await _whole(lambda: template.fork("worker", (connection, record), leads=True))
        except TemplateError:
            await templates.discard(template)
            raise

    def _popen(self, connection: int, record: int) -> Process:
        command = [*self._command, "--fd", str(connection), "--record", str(record)]
        return GroupLeader(command, self._environment, [connection, record])


async def _whole(start: Callable[[], Process]) -> Process:
    """Start a process on a thread; if this is cancelled meanwhile, end what was started."""
    starting = asyncio.get_running_loop().run_in_executor(None, start)
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # The thread goes on and would leave a process that nobody owns.
        with contextlib.suppress(OSError, TemplateError):
            process = await starting
            process.kill()
            process.wait()
        raise
