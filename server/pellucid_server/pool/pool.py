"""The workers together: which jobs are taken, and which worker does them."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from pellucid_server.config import DEFAULT_CLASSES, ClassConfig, PoolConfig
from pellucid_server.errors import OverloadedError, TimedOutError, UnavailableError
from pellucid_server.faults import Faults
from pellucid_server.jobs import Hello, Job, JobTiming, Result, WorkerSettings
from pellucid_server.pool.observer import Observer
from pellucid_server.pool.process import Launcher
from pellucid_server.pool.supervised import OnProgress, SupervisedWorker, WorkerLostError

_log = logging.getLogger(__name__)

_SOON_SECONDS = 0.05
_LATE_SECONDS = 5.0


class Pool:
    """Admits jobs and hands them to workers.

    Parameters
    ----------
    settings
        What each worker is started with.
    observer
        Told of what happens.
    """

    def __init__(
        self,
        settings: tuple[WorkerSettings, ...],
        config: PoolConfig,
        launcher: Launcher,
        *,
        classes: Mapping[str, ClassConfig] = DEFAULT_CLASSES,
        concurrent_jobs: int = 64,
        observer: Observer | None = None,
        faults: Faults | None = None,
    ) -> None:
        observer = observer or Observer()
        self._config = config
        self._classes = classes
        self._draining = False
        self._watchers: list[Callable[[bool], None]] = []
        self._told_healthy = False
        self._started = False
        self.workers = tuple(
            SupervisedWorker(each, config, launcher, on_change=self._tell, on_restart=observer.restarted)
            for each in settings
        )
        """One for each device, in the order of the settings."""

    @property
    def hello(self) -> Hello | None:
        """The models and methods that are served, by what a worker said last; None before the first is ready."""
        return next((worker.hello for worker in self.workers if worker.hello is not None), None)

    @property
    def healthy(self) -> bool:
        """Whether jobs are taken: all workers have started, one of them lives, and the pool is not draining."""
        return self._started and not self._draining and any(worker.ready for worker in self.workers)

    @property
    def pending(self) -> int:
        """Jobs that workers have and have not finished."""
        return sum(worker.load for worker in self.workers)

    @property
    def waiting(self) -> Mapping[str, tuple[int, int, int]]:
        """Jobs that wait for a place on a worker, their rows and their bytes, by class."""
        return dict.fromkeys(self._classes, (0, 0, 0))

    def watch(self, callback: Callable[[bool], None]) -> None:
        """Call `callback` with `healthy` whenever that changes."""
        self._watchers.append(callback)

    async def start(self) -> None:
        """Start all workers and wait until each is ready.

        Raises
        ------
        WorkerStartError
            One refused, or died or took too long before it was ready; the others are ended.
        """
        starts = [asyncio.create_task(worker.start()) for worker in self.workers]
        try:
            await asyncio.gather(*starts)
        except BaseException:
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)
            await self.close()
            raise
        self._started = True
        self._tell()

    def drain(self) -> None:
        """Refuse new jobs from now on; those admitted go on."""
        self._draining = True
        self._tell()

    async def close(self) -> None:
        """End all workers; jobs that are left fail as UNAVAILABLE."""
        self.drain()
        await asyncio.gather(*(worker.close() for worker in self.workers))

    async def run(
        self,
        job: Job,
        deadline_seconds: float | None = None,
        *,
        caller: str = "",
        priority: str = "",
        on_progress: OnProgress | None = None,
    ) -> tuple[Result, JobTiming]:
        """Do one job; cancelling the call cancels the job.

        Parameters
        ----------
        deadline_seconds
            From now; None waits without end.
        on_progress
            Called with the share of the job that is done, in [0, 1].

        Raises
        ------
        OverloadedError
            Every worker's queue is full.
        UnavailableError
            The pool is draining, no worker is ready, or the worker died.
        TimedOutError
            The deadline passed.
        PellucidError
            What the worker answered.
        """
        if deadline_seconds is not None and deadline_seconds <= 0:
            raise TimedOutError("The deadline had passed when the request arrived.", stage="queued")
        worker = self._admit(job.model.name)
        try:
            return await worker.run(job, deadline_seconds, on_progress)
        except WorkerLostError:
            text = f"The worker on {worker.device} was lost while it had this request; send it again."
            raise UnavailableError(text, retry_after_seconds=self._recovery()) from None

    def _admit(self, model: str) -> SupervisedWorker:
        """Pick the worker for a job of `model`, or refuse the job."""
        if self._draining:
            text = "The server is shutting down; send the request again, to another one."
            raise UnavailableError(text, retry_after_seconds=_shown(_SOON_SECONDS))
        ready = [worker for worker in self.workers if worker.ready]
        if not self._started or not ready:
            raise UnavailableError("No worker is ready; try again soon.", retry_after_seconds=self._recovery())
        worker = min(ready, key=lambda each: (each.load, each.device))
        if worker.load >= worker.concurrent_jobs + 64:
            seconds = min(max(worker.job_seconds / 2, _SOON_SECONDS), _LATE_SECONDS)
            text = f"All {worker.load} places of every worker are taken; try again in {seconds:.2f} s."
            raise OverloadedError(text, retry_after_seconds=_shown(seconds))
        if len(ready) == 1:
            return worker
        # Rows of one model pack: stay with a worker that has some, unless the job would wait there.
        beside = [each for each in ready if each.load < each.concurrent_jobs and each.runs(model)]
        return min(beside, key=lambda each: (each.load, each.device), default=worker)

    def _recovery(self) -> str:
        """Say when a worker should be ready."""
        if any(worker.ready for worker in self.workers):
            return _shown(_SOON_SECONDS)
        return _shown(min(max(min(w.recovery_seconds for w in self.workers), _SOON_SECONDS), _LATE_SECONDS))

    def _tell(self) -> None:
        healthy = self.healthy
        if healthy != self._told_healthy:
            self._told_healthy = healthy
            for callback in self._watchers:
                callback(healthy)


def _shown(seconds: float) -> str:
    return f"{seconds:.3f}"
