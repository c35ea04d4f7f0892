"""One worker, kept alive: jobs are done on it, and when its process dies another takes its place."""

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pellucid_server.config import PoolConfig
from pellucid_server.errors import PellucidError, TimedOutError, error_from_wire
from pellucid_server.jobs import Cancel, Done, Hello, Job, JobTiming, Message, Progress, Result, Start, WorkerSettings
from pellucid_server.pool.process import Launcher, WorkerProcess, WorkerStartError

_log = logging.getLogger(__name__)

_MEMORY = 0.9
"""Weight of the past in the running mean of how long jobs take."""

OnProgress = Callable[[float], None]


class WorkerLostError(Exception):
    """The worker process died while it had the job."""


@dataclass(slots=True)
class _Flight:
    """A job that the worker has and has not finished."""

    answer: "asyncio.Future[Done]"
    model: str
    on_progress: OnProgress | None
    sent: float


class SupervisedWorker:
    """A worker for one device.

    Parameters
    ----------
    on_change
        Called when the worker becomes ready or is lost.
    on_restart
        Called with the device before each start after the first.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        config: PoolConfig,
        launcher: Launcher,
        *,
        on_change: Callable[[], None],
        on_restart: Callable[[str], None],
    ) -> None:
        self.device = settings.device
        self.concurrent_jobs = 64
        self.hello: Hello | None = None
        """What the worker said when it was last ready."""
        self.ready = False
        """Whether it takes jobs."""
        self.job_seconds = 0.0
        """Running mean of the time from a job's being sent to its end; 0 before the first."""
        self.start_seconds = 0.0
        """How long the last start took."""
        self._settings = settings
        self._config = config
        self._launcher = launcher
        self._on_change = on_change
        self._on_restart = on_restart
        self._process: WorkerProcess | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._ready_since = 0.0
        self._backoff_seconds = config.restart_initial_seconds
        self._job_ids = itertools.count(1)
        self._flights: dict[int, _Flight] = {}
        self._running: Counter[str] = Counter()

    @property
    def load(self) -> int:
        """Jobs that the worker has; one whose caller has left counts until the worker lets go of it."""
        return len(self._flights)

    @property
    def pid(self) -> int | None:
        """Id of the worker's process, if it has one."""
        return None if self._process is None else self._process.pid

    @property
    def recovery_seconds(self) -> float:
        """How long a lost worker takes to be ready again, by the last start."""
        return self._backoff_seconds + self.start_seconds

    def runs(self, model: str) -> bool:
        """Tell whether the worker has a job of that model."""
        return self._running[model] > 0

    async def start(self) -> None:
        """Start the worker, wait until it is ready, and keep it so from then on.

        Raises
        ------
        WorkerStartError
            It refused, died before it was ready, or took longer than `start_seconds` of the configuration.
        """
        await self._bring_up()
        self._keeper = asyncio.create_task(self._keep(), name=f"keep the worker for {self.device}")

    async def close(self) -> None:
        """End the worker for good; its jobs fail."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        self._lose_jobs()
        if self._process is not None:
            await self._process.end(patience_seconds=self._config.exit_seconds)

    async def run(
        self, job: Job, deadline_seconds: float | None, on_progress: OnProgress | None
    ) -> tuple[Result, JobTiming]:
        """Do one job.

        Raises
        ------
        PellucidError
            The worker's answer is an error, or the deadline passed.
        WorkerLostError
            The worker died.
        """
        if self._process is None or not self.ready:
            raise WorkerLostError
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        job_id = next(self._job_ids)
        deadline = None if deadline_seconds is None else now + deadline_seconds
        self._process.connection.send(Start(job_id, job, deadline))
        flight = _Flight(loop.create_future(), job.model.name, on_progress, now)
        self._flights[job_id] = flight
        self._running[flight.model] += 1
        timer = None if deadline_seconds is None else loop.call_later(deadline_seconds, self._expire, job_id)
        try:
            done = await flight.answer
        except asyncio.CancelledError:
            self._abandon(job_id)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if done.failure is not None:
            raise error_from_wire(done.failure.reason, done.failure.message, dict(done.failure.metadata))
        if done.result is None:
            raise PellucidError("the worker sent neither a result nor a failure")
        return done.result, done.timing

    def _receive(self, message: Message) -> None:
        match message:
            case Done(job_id=job_id) if job_id in self._flights:
                flight = self._forget(job_id)
                self._note(time.monotonic() - flight.sent)
                if not flight.answer.done():
                    flight.answer.set_result(message)
            case Progress(job_id=job_id, share=share) if job_id in self._flights:
                flight = self._flights[job_id]
                if flight.on_progress is not None and not flight.answer.done():
                    flight.on_progress(share)
            case _:
                _log.warning("the worker for %s sent an unexpected %s", self.device, type(message).__name__)

    def _forget(self, job_id: int) -> _Flight:
        flight = self._flights.pop(job_id)
        self._running[flight.model] -= 1
        if not self._running[flight.model]:
            del self._running[flight.model]
        return flight

    def _note(self, seconds: float) -> None:
        self.job_seconds = _MEMORY * self.job_seconds + (1 - _MEMORY) * seconds if self.job_seconds else seconds

    def _expire(self, job_id: int) -> None:
        """End the wait for a job at its deadline, should the worker not have done so."""
        flight = self._flights.get(job_id)
        if flight is None or flight.answer.done():
            return
        # Jobs start in the order in which they were sent, but for predictions, which start sooner.
        ahead = next(place for place, known in enumerate(self._flights) if known == job_id)
        stage = "running" if ahead < self.concurrent_jobs else "queued"
        flight.answer.set_exception(TimedOutError("The deadline passed before the answer was ready.", stage=stage))
        self._abandon(job_id)

    def _abandon(self, job_id: int) -> None:
        if job_id in self._flights and self._process is not None:
            self._process.connection.send(Cancel(job_id))

    def _lose_jobs(self) -> None:
        self.ready = False
        for job_id in list(self._flights):
            flight = self._forget(job_id)
            if not flight.answer.done():
                flight.answer.set_exception(WorkerLostError())
        self._on_change()

    async def _bring_up(self) -> None:
        began = time.monotonic()
        process = await WorkerProcess.launch(self._launcher, self._settings, self._receive)
        try:
            self.hello = await self._greeting(process)
            self._process = process
            self._ready_since = time.monotonic()
            self.start_seconds = self._ready_since - began
            # The callback runs in the loop's next pass after the loss, ahead of any new job.
            process.lost.add_done_callback(lambda _: self._lose_jobs())
            self.ready = not process.lost.done()
            _log.info(
                "the worker for %s is ready after %.1f s (process %d)", self.device, self.start_seconds, process.pid
            )
            self._on_change()
        except WorkerStartError:
            await process.end(patience_seconds=self._config.exit_seconds)
            raise
        except BaseException:
            # Whoever starts the next one must not leave this one behind.
            await process.end(patience_seconds=0)
            raise

    async def _greeting(self, process: WorkerProcess) -> Hello:
        """Wait until the worker is ready, but not for ever: one that hangs while it loads says nothing."""
        limit_seconds = self._config.start_seconds
        try:
            async with asyncio.timeout(limit_seconds):
                return await process.hello(self.device)
        except TimeoutError:
            raise WorkerStartError(
                f"The worker for {self.device} was not ready within {limit_seconds:g} s (pool.start_seconds)."
            ) from None

    async def _keep(self) -> None:
        """Start the worker again whenever it is lost, whatever goes wrong on the way."""
        while True:
            assert self._process is not None  # noqa: S101 - set by the start that went before
            await asyncio.shield(self._process.lost)
            if time.monotonic() - self._ready_since >= self._config.restart_max_seconds:
                self._backoff_seconds = self._config.restart_initial_seconds
            cause = f"the worker for {self.device} was lost"
            try:
                cause += f" (exit status {await self._process.end(patience_seconds=self._config.exit_seconds)})"
            except Exception:  # noqa: BLE001 - see `_restart`
                _log.exception("the process of the worker for %s could not be ended", self.device)
            await self._restart(cause)

    async def _restart(self, cause: str) -> None:
        """Start the worker again and again until it is ready, each time after a longer wait."""
        while True:
            _log.error("%s; it is started again in %.1f s", cause, self._backoff_seconds)
            await asyncio.sleep(self._backoff_seconds)
            self._backoff_seconds = min(2 * self._backoff_seconds, self._config.restart_max_seconds)
            try:
                self._on_restart(self.device)
                await self._bring_up()
            except WorkerStartError as error:
                cause = f"the worker for {self.device} could not start: {error}"
            except Exception:  # noqa: BLE001 - nobody awaits the keeper: what escaped would end it unseen, for good
                cause = f"the worker for {self.device} could not start"
                _log.exception("%s, by a bug", cause)
            else:
                return
