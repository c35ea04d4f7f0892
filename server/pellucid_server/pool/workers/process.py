"""One life of a worker process: from its launch to its end."""

import asyncio
import logging
import subprocess
from collections.abc import Callable

from pellucid_server.pool.workers.connection import Connection
from pellucid_server.pool.workers.launcher import Launcher, Spawned
from pellucid_server.vocabulary.messages import Hello, Loading, Message, Refused, WorkerSettings

_log = logging.getLogger(__name__)

_KILL_SECONDS = 10.0
"""Time for a killed process to be gone; one that is stuck in a driver may stay until the driver lets go of it."""


class WorkerStartError(Exception):
    """A worker could not start; the message tells the operator why."""


class WorkerProcess:
    """A running worker process and the connection to it."""

    def __init__(self, spawned: Spawned, on_message: Callable[[Message], None]) -> None:
        loop = asyncio.get_running_loop()
        self.lost: asyncio.Future[None] = loop.create_future()
        """Done once the connection is lost: the process has died, or `kill` or `end` was called."""
        self.connection = Connection(self._receive, self._lose)
        self._process = spawned.process
        self._recorder = spawned.recorder
        self._on_message = on_message
        self._greeting: asyncio.Future[Hello | Refused | None] = loop.create_future()
        self._loading: Loading | None = None

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
        try:
            spawned = await launcher.spawn()
        except OSError as error:
            raise WorkerStartError(f"A worker for {settings.device} cannot be started: {error.strerror}.") from error
        try:
            worker = cls(spawned, on_message)
            worker.connection.send(settings)
            worker.connection.open(spawned.socket)
        except BaseException:
            spawned.discard()
            raise
        return worker

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def suspects(self) -> frozenset[int]:
        """Return the ids of the requests that the process was last busy with; they stand still once it is dead.

        Once `end` has returned, none are known any more.
        """
        return self._recorder.suspects()

    def still_at(self, request_number: int) -> bool:
        """Tell whether the process is at work for a request beside its Python, though it may have ended the request."""
        return self._recorder.still_at(request_number)

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
            case None if self.connection.problem:
                raise WorkerStartError(
                    f"The worker for {device} cannot be understood: {self.connection.problem}. Start workers from the "
                    "installation that the server runs from."
                )
            case None:
                raise WorkerStartError(
                    f"The worker for {device} ended before it was ready{self.progress}; its own log says why."
                )

    @property
    def progress(self) -> str:
        """How far a worker that is not ready has come, to be put behind that; empty if that is not known."""
        if self._loading is None:
            return ""
        return f", when it had begun to load the model {self._loading.name!r}, version {self._loading.version}"

    def kill(self) -> None:
        """Kill the process and count it as lost, even if the system cannot end it just now."""
        self._process.kill()
        self.connection.close()

    async def end(self, *, patience_seconds: float) -> int | None:
        """Close the connection, so that the process ends, and kill it if it does not.

        Returns
        -------
        int | None
            Its exit status; None if not even killing has ended it.
        """
        self.connection.close()
        status = await asyncio.get_running_loop().run_in_executor(None, self._reap, patience_seconds)
        self._recorder.close()
        return status

    def _reap(self, patience_seconds: float) -> int | None:
        try:
            return self._process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
        try:
            return self._process.wait(_KILL_SECONDS)
        except subprocess.TimeoutExpired:
            _log.error("process %d cannot be killed: it is stuck in the system, maybe in a driver", self.pid)
            return None

    def _receive(self, message: Message) -> None:
        if self._greeting.done():
            self._on_message(message)
        elif isinstance(message, Hello | Refused):
            self._greeting.set_result(message)
        elif isinstance(message, Loading):
            self._loading = message

    def _lose(self) -> None:
        if not self._greeting.done():
            self._greeting.set_result(None)
        if not self.lost.done():
            self.lost.set_result(None)
