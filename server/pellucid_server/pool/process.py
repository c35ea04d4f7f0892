"""One life of a worker process: from its launch to its end."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pellucid_server.jobs import Hello, Message, Refused, WorkerSettings
from pellucid_server.pool.connection import Connection

WORKER_COMMAND: tuple[str, ...] = (sys.executable, "-m", "pellucid_server.worker")
"""Starts a worker; `--fd N` is appended."""


class WorkerStartError(Exception):
    """A worker could not start; the message tells the operator why."""


@dataclass(frozen=True, slots=True)
class Launcher:
    """How worker processes are started."""

    environment: Mapping[str, str]
    """Environment variables of the process."""
    command: Sequence[str] = WORKER_COMMAND
    """The command line, without `--fd N`."""

    def spawn(self) -> tuple["subprocess.Popen[bytes]", socket.socket]:
        """Start a process, and return it and this end of the socket to it. Blocks for some milliseconds."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        # Only if this process closes its copy of the worker's end does it ever see the worker's death.
        with theirs:
            try:
                descriptor = theirs.fileno()
                process = subprocess.Popen(
                    [*self.command, "--fd", str(descriptor)],
                    pass_fds=(descriptor,),
                    env=dict(self.environment),
                    stdin=subprocess.DEVNULL,
                    # A terminal sends an interrupt to its whole group: workers end when the front says so.
                    process_group=0,
                )
            except BaseException:
                ours.close()
                raise
        return process, ours


class WorkerProcess:
    """A running worker process and the connection to it."""

    def __init__(self, process: "subprocess.Popen[bytes]", on_message: Callable[[Message], None]) -> None:
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = loop.create_future()
        """Done once the connection is lost: the process has died, or `end` was called."""
        self.connection = Connection(self._receive, self._lose)
        self._process = process
        self._on_message = on_message
        self._greeting: asyncio.Future[Hello | Refused | None] = loop.create_future()

    @classmethod
    async def launch(
        cls, launcher: Launcher, settings: WorkerSettings, on_message: Callable[[Message], None]
    ) -> "WorkerProcess":
        """Start a process and send it its settings.

        Raises
        ------
        WorkerStartError
            The operating system cannot start it.
        """
        loop = asyncio.get_running_loop()
        spawning = loop.run_in_executor(None, launcher.spawn)
        try:
            process, ours = await asyncio.shield(spawning)
        except OSError as error:
            raise WorkerStartError(f"A worker for {settings.device} cannot be started: {error.strerror}.") from error
        except asyncio.CancelledError:
            # The thread goes on and would leave a process that nobody owns.
            process, ours = await spawning
            ours.close()
            process.kill()
            process.wait()
            raise
        worker = cls(process, on_message)
        await loop.create_unix_connection(lambda: worker.connection, sock=ours)
        worker.connection.send(settings)
        return worker

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def hello(self, device: str) -> Hello:
        """Wait until the worker is ready.

        Raises
        ------
        WorkerStartError
            It refused, or ended before it was ready.
        """
        greeting = await self._greeting
        match greeting:
            case Hello():
                return greeting
            case Refused(message=message):
                raise WorkerStartError(message)
            case None:
                raise WorkerStartError(f"The worker for {device} ended before it was ready; its own log says why.")

    async def end(self, *, patience_seconds: float) -> int:
        """Close the connection, so that the process ends, kill it if it does not, and return its exit status."""
        self.connection.close()
        return await asyncio.get_running_loop().run_in_executor(None, self._reap, patience_seconds)

    def _reap(self, patience_seconds: float) -> int:
        try:
            return self._process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _receive(self, message: Message) -> None:
        if self._greeting.done():
            self._on_message(message)
        elif isinstance(message, Hello | Refused):
            self._greeting.set_result(message)

    def _lose(self) -> None:
        if not self._greeting.done():
            self._greeting.set_result(None)
        if not self.lost.done():
            self.lost.set_result(None)
