"""The workers together: which jobs are taken, who does them, and what becomes of those that a worker is lost with."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pellucid_server.config import DEFAULT_CLASSES, INTERACTIVE, PREDICTIONS, ClassConfig, PoolConfig
from pellucid_server.errors import (
    InvalidRequestError,
    PellucidError,
    TimedOutError,
    UnavailableError,
    error_from_wire,
)
from pellucid_server.faults import Faults
from pellucid_server.jobs import Done, Hello, Job, JobTiming, PredictJob, Result, WorkerSettings
from pellucid_server.pool.fatal import FatalJobs, digest, fatal_error
from pellucid_server.pool.observer import Observer
from pellucid_server.pool.process import Launcher
from pellucid_server.pool.routing import Routing
from pellucid_server.pool.supervised import SupervisedWorker
from pellucid_server.pool.ticket import OnProgress, Ticket
from pellucid_server.pool.waiting import ClassQueue
from pellucid_server.pool.weights import Weights

_log = logging.getLogger(__name__)

_SOON_SECONDS = 0.05
_LATE_SECONDS = 5.0
_NAME_LENGTH = 40


class Pool:
    """Admits jobs, lets them wait, hands them to workers, and does those of a lost worker once more.

    Parameters
    ----------
    settings
        What each worker is started with.
    classes
        The classes of jobs; "predictions" and "interactive" are among them.
    concurrent_jobs
        Jobs of each class that a worker has at once; callers without any get places beyond, up to twice as many.
    observer
        Hears of what happens.
    spread
        Gives random numbers in [0, 1), by which callers are sent away for unequal times.
    """

    def __init__(
        self,
        settings: tuple[WorkerSettings, ...],
        config: PoolConfig,
        launcher: Launcher,
        *,
        classes: Mapping[str, ClassConfig] = DEFAULT_CLASSES,
        concurrent_jobs: int = 64,
        observer: Observer = Observer(),  # noqa: B008 - it has no state
        faults: Faults = Faults(),  # noqa: B008 - it has no state
        spread: Callable[[], float] = random.random,
    ) -> None:
        self._classes = classes
        self._observer = observer
        self._faults = faults
        self._fatal = FatalJobs()
        self._draining = False
        self._closed = False
        self._watchers: list[Callable[[bool], None]] = []
        self._told_healthy = False
        self._started = False
        self._ready = False
        self._again = False
        self._weights: Weights | None = None
        self._queues = {
            name: ClassQueue(name, entry, workers=len(settings), observer=observer, spread=spread)
            for name, entry in classes.items()
        }
        self.workers = tuple(
            SupervisedWorker(each, config, launcher, owner=self, observer=observer) for each in settings
        )
        """One for each device, in the order of the settings."""
        self._routing = Routing(self.workers, concurrent_jobs)

    @property
    def hello(self) -> Hello | None:
        """The models and methods that are served, by what a worker said last; None before the first is ready."""
        return next((worker.hello for worker in self.workers if worker.hello is not None), None)

    @property
    def healthy(self) -> bool:
        """Whether jobs are taken: all workers have started, one of them lives, and the pool is not draining."""
        return self._started and not self._draining and self._ready

    @property
    def pending(self) -> int:
        """Jobs that workers have and have not finished."""
        return sum(worker.load for worker in self.workers)

    @property
    def waiting(self) -> Mapping[str, tuple[int, int, int]]:
        """Jobs of each class that wait for a place, their evaluation rows and their bytes."""
        return {name: (queue.jobs, queue.rows, queue.size_bytes) for name, queue in self._queues.items()}

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
        """Refuse new jobs from now on; those admitted go on, and those that wait are done too."""
        self._draining = True
        self._tell()

    async def close(self) -> None:
        """End all workers; jobs that are left fail as UNAVAILABLE."""
        self._closed = True
        self.drain()
        for queue, ticket in self._all_waiting():
            queue.remove(ticket)
            ticket.fail(_shutting_down())
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
        caller
            On whose behalf: the callers of a class take turns.
        priority
            Name of its class; empty for "predictions" where nothing is to be explained, else for "interactive".
        on_progress
            Called with the share of the job that is done, in [0, 1]; it starts again if the worker is lost.

        Raises
        ------
        InvalidRequestError
            There is no such class, or it takes no explanations; the field is "priority".
        OverloadedError
            The class has no room for the job.
        UnavailableError
            The pool is draining, no worker is ready, or two workers were lost with the job.
        FatalRequestError
            Two workers died over the job, now or lately.
        TimedOutError
            The deadline passed.
        PellucidError
            What the worker answered.
        """
        queue = self._queue(job, priority)
        if deadline_seconds is not None and deadline_seconds <= 0:
            raise TimedOutError("The deadline had passed when the request arrived.", stage="queued")
        self._check_open()
        if self._fatal.knows(job):
            raise fatal_error()
        ticket = self._ticket(job, queue.name, caller, deadline_seconds, on_progress)
        timer = None
        if deadline_seconds is not None:
            timer = asyncio.get_running_loop().call_later(deadline_seconds, self._expire, ticket, queue)
        try:
            worker = self._routing.worker(ticket, running=queue.running(caller))
            if worker is None:
                queue.check(ticket, ticket.arrived)
            if self._faults.possible:
                worker = await self._held(ticket, queue)
            if worker is not None:
                self._send(ticket, queue, worker)
            else:
                self._wait(ticket, queue)
            done = await ticket.answer
        except asyncio.CancelledError:
            self._abandon(ticket, queue)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        return self._outcome(ticket, done)

    def ended(self, ticket: Ticket, done: Done) -> None:
        """Take the answer to a job (called by a worker)."""
        queue = self._queues[ticket.priority]
        told = done.result is not None or done.timing.rows_forward > 0 or done.timing.rows_backward > 0
        queue.release(ticket, now=time.monotonic(), worked=told)
        if ticket.answer.done():
            self._observer.worked(ticket.model, _timing(ticket, done), True)
        else:
            ticket.answer.set_result(done)
        self._fill(queue)

    def lost(self, tickets: list[Ticket], suspects: frozenset[Ticket]) -> None:
        """Take the jobs of a worker that died over one of the suspects, if there are any (called by a worker)."""
        now = time.monotonic()
        self._look()
        suspected = suspects | _equal(tickets, suspects)
        for ticket in tickets:
            self._queues[ticket.priority].release(ticket, now=now, worked=False)
            self._take_back(ticket, suspected=ticket in suspected)
        self._go_on()
        self._tell()

    def changed(self) -> None:
        """Hear that a worker is ready or could not be started again (called by a worker)."""
        self._look()
        self._tell()
        self._go_on()

    def _look(self) -> None:
        """See which workers are ready."""
        self._ready = self._routing.look()
        hello = self.hello
        if hello is not None:
            self._weights = Weights(hello)

    def _queue(self, job: Job, priority: str) -> ClassQueue:
        """Return the queue of a job's class, or refuse the class."""
        explained = not isinstance(job, PredictJob) or bool(job.explanations)
        name = priority or (INTERACTIVE if explained else PREDICTIONS)
        queue = self._queues.get(name)
        if queue is None:
            known = ", ".join(self._queues)
            raise InvalidRequestError(
                f"There is no class {name[:_NAME_LENGTH]!r} of requests; there are: {known}.", field="priority"
            )
        if explained and not self._classes[name].explanations:
            known = ", ".join(other for other, entry in self._classes.items() if entry.explanations) or "none"
            raise InvalidRequestError(f"The class {name!r} takes no explanations; these do: {known}.", field="priority")
        return queue

    def _check_open(self) -> None:
        """Refuse a new job if none is taken now."""
        if self._draining:
            raise _shutting_down()
        if not self._started or not self._ready:
            raise UnavailableError("No worker is ready; try again soon.", retry_after_seconds=self._recovery())

    def _ticket(
        self, job: Job, priority: str, caller: str, deadline_seconds: float | None, on_progress: OnProgress | None
    ) -> Ticket:
        now = time.monotonic()
        return Ticket(
            job,
            job.model.name,
            priority,
            caller,
            self._weights.rows(job) if self._weights is not None else 1,
            now,
            None if deadline_seconds is None else now + deadline_seconds,
            on_progress,
            asyncio.get_running_loop().create_future(),
        )

    async def _held(self, ticket: Ticket, queue: ClassQueue) -> SupervisedWorker | None:
        """Hold an admitted job where tests want it, but not beyond its deadline; return who has a place for it then."""
        passing = asyncio.create_task(self._faults.pass_by("queued", model=ticket.model))
        try:
            either: set[asyncio.Future[Any]] = {passing, ticket.answer}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            passing.cancel()
        return self._routing.worker(ticket, running=queue.running(ticket.caller))

    def _wait(self, ticket: Ticket, queue: ClassQueue) -> None:
        """Let an admitted job wait for a place, if anybody still waits for it."""
        if not ticket.answer.done():
            queue.add(ticket)
        if not self._ready:
            self._give_up()

    def _send(self, ticket: Ticket, queue: ClassQueue, worker: SupervisedWorker) -> None:
        """Give a job a place on a worker, whether it waited or not; not if nobody waits for it any more."""
        if ticket.answer.done():
            queue.remove(ticket)
            return
        if self._fatal.knows(ticket.job):
            queue.remove(ticket)
            ticket.fail(fatal_error())
            return
        queue.place(ticket)
        ticket.sent = time.monotonic()
        try:
            worker.send(ticket)
        except TypeError as error:
            queue.release(ticket, now=ticket.sent, worked=False)
            if not ticket.answer.done():
                ticket.answer.set_exception(error)
            return
        if ticket.losses:
            self._observer.retried()

    def _fill(self, queue: ClassQueue) -> None:
        """Give the places that are free to jobs that wait: of this class, and of any if workers were lost."""
        if self._again:
            self._send_again()
        while queue.jobs:
            ticket = queue.first()
            worker = None if ticket is None else self._routing.worker(ticket, running=queue.running(ticket.caller))
            if worker is None:
                ticket = queue.first_without_place()
                worker = None if ticket is None else self._routing.worker(ticket, running=0)
            if ticket is None or worker is None:
                return
            self._send(ticket, queue, worker)

    def _send_again(self) -> None:
        """Send jobs of lost workers: the innocent as soon as there is a place, then each suspect apart from them.

        A job that is lost twice fails, so neither the innocent nor two suspects may be with a suspect.
        """
        for queue in self._queues.values():
            for ticket in list(queue.returned):
                worker = self._routing.worker(ticket, running=0)
                if worker is not None:
                    self._send(ticket, queue, worker)
        if any(queue.returned for queue in self._queues.values()):
            return
        self._again = any(queue.suspects for queue in self._queues.values())
        for queue in self._queues.values():
            for ticket in list(queue.suspects):
                worker = self._routing.worker_for_suspect()
                if worker is None:
                    return
                self._send(ticket, queue, worker)

    def _take_back(self, ticket: Ticket, *, suspected: bool) -> None:
        """Let a job of a lost worker wait to be done once more, or fail it."""
        ticket.losses += 1
        if ticket.answer.done():
            return
        if self._closed:
            ticket.fail(_shutting_down())
        elif ticket.suspect and suspected:
            key = self._fatal.add(ticket.job)
            _log.error("two workers died over a request to model %r (job digest %s)", ticket.model, key)
            ticket.fail(fatal_error())
        elif ticket.losses > 1:
            text = "Two workers, one after the other, were lost while they had this request; send it again."
            ticket.fail(UnavailableError(text, retry_after_seconds=self._recovery()))
        else:
            ticket.suspect = suspected
            self._again = True
            self._queues[ticket.priority].put_back(ticket)

    def _go_on(self) -> None:
        """Have waiting jobs done by the workers that are ready, or see whom the next will be too late for."""
        if self._ready:
            for queue in self._queues.values():
                self._fill(queue)
        else:
            self._give_up()

    def _give_up(self) -> None:
        """Fail the waiting jobs for which no worker will be ready in time."""
        hopeful = [worker.recovery_seconds for worker in self.workers if worker.hopeful]
        latest = time.monotonic() + min(hopeful, default=0.0)
        for queue, ticket in self._all_waiting():
            if not hopeful or (ticket.deadline is not None and ticket.deadline < latest):
                queue.remove(ticket)
                text = "The workers were lost, and none will be ready before this request's deadline; try again soon."
                if not hopeful:
                    text = "The workers were lost and could not be started again; try again later."
                ticket.fail(UnavailableError(text, retry_after_seconds=self._recovery()))

    def _all_waiting(self) -> Iterable[tuple[ClassQueue, Ticket]]:
        return [(queue, ticket) for queue in self._queues.values() for ticket in queue.tickets()]

    def _expire(self, ticket: Ticket, queue: ClassQueue) -> None:
        """End the wait for a job at its deadline, should its worker not have done so."""
        if not ticket.answer.done():
            ticket.fail(TimedOutError("The deadline passed before the answer was ready.", stage=ticket.stage))
            self._abandon(ticket, queue)

    def _abandon(self, ticket: Ticket, queue: ClassQueue) -> None:
        """Take back a job for which nobody waits any more, wherever it is."""
        answered = ticket.answered
        if ticket.line is not None:
            queue.remove(ticket)
            # Suspects wait for the innocent.
            self._fill(queue)
        elif ticket.worker_job_id:
            self._routing.cancel(ticket)
        elif answered:
            # It was answered, but whoever asked left before that could be told.
            self._observer.worked(ticket.model, _timing(ticket, ticket.answer.result()), True)

    def _outcome(self, ticket: Ticket, done: Done) -> tuple[Result, JobTiming]:
        timing = _timing(ticket, done)
        self._observer.worked(ticket.model, timing, done.result is None)
        if done.failure is not None:
            error = error_from_wire(done.failure.reason, done.failure.message, dict(done.failure.metadata))
            error.timing = timing
            raise error
        if done.result is None:
            raise PellucidError("the worker sent neither a result nor a failure")
        return done.result, timing

    def _recovery(self) -> str:
        """Say when a worker should be ready."""
        if self._ready:
            return f"{_SOON_SECONDS:.3f}"
        seconds = min(worker.recovery_seconds for worker in self.workers)
        return f"{min(max(seconds, _SOON_SECONDS), _LATE_SECONDS):.3f}"

    def _tell(self) -> None:
        healthy = self.healthy
        if healthy != self._told_healthy:
            self._told_healthy = healthy
            for callback in self._watchers:
                callback(healthy)


def _equal(tickets: Iterable[Ticket], suspects: Iterable[Ticket]) -> frozenset[Ticket]:
    """Return the jobs that are equal to a suspect: each would end a worker of its own."""
    models = {ticket.model for ticket in suspects}
    if not models:
        return frozenset()
    keys = {digest(ticket.job) for ticket in suspects}
    return frozenset(ticket for ticket in tickets if ticket.model in models and digest(ticket.job) in keys)


def _timing(ticket: Ticket, done: Done) -> JobTiming:
    """Return a job's timing with its time in the front."""
    timing, waited = done.timing, ticket.sent - ticket.arrived
    return JobTiming(timing.queue_seconds + waited, timing.compute_seconds, timing.rows_forward, timing.rows_backward)


def _shutting_down() -> UnavailableError:
    text = "The server is shutting down; send the request again, to another one."
    return UnavailableError(text, retry_after_seconds=f"{_SOON_SECONDS:.3f}")
