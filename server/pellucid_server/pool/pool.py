"""The workers together: starts and ends them, and takes or refuses requests."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from pellucid_server.errors import (
    InvalidRequestError,
    PellucidError,
    TimedOutError,
    UnavailableError,
    error_from_wire,
)
from pellucid_server.faults import Faults
from pellucid_server.pool.dispatch import Dispatcher, shutting_down, timing_with_wait
from pellucid_server.pool.observer import Observer
from pellucid_server.pool.queue.cost_estimator import CostEstimator, kind, size_bytes
from pellucid_server.pool.queue.part_queue import Begun, PartQueue
from pellucid_server.pool.queue.quarantine import fatal_error
from pellucid_server.pool.queue.ticket import OnProgress, Ticket
from pellucid_server.pool.workers.launcher import Launcher
from pellucid_server.pool.workers.worker_supervisor import WorkerSupervisor
from pellucid_server.settings.sections import DEFAULT_CLASSES, PREDICTIONS, ClassConfig, PoolConfig
from pellucid_server.tracing.request_trace import RequestTrace
from pellucid_server.vocabulary.messages import Done, Hello, Part, WorkerSettings
from pellucid_server.vocabulary.requests import PredictRequest, Request
from pellucid_server.vocabulary.results import RequestTiming, Result

_NAME_LENGTH = 40


class Pool:
    """Admits requests, lets them wait, hands them to workers, and does those of a lost worker once more.

    Parameters
    ----------
    settings
        What each worker is started with.
    classes
        The classes of requests; "predictions" and "interactive" are among them.
    concurrent_requests
        Requests of each class that a worker has at once; callers without any get places beyond, up to twice as many.
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
        concurrent_requests: int = 64,
        observer: Observer = Observer(),  # noqa: B008 - it has no state
        faults: Faults = Faults(),  # noqa: B008 - it has no state
        spread: Callable[[], float] = random.random,
    ) -> None:
        self._launcher = launcher
        self._classes = classes
        self._observer = observer
        self._faults = faults
        self._draining = False
        self._watchers: list[Callable[[bool], None]] = []
        self._told: tuple[object, ...] = (False,)
        self._started = False
        self._weights: CostEstimator | None = None
        self._dispatcher = Dispatcher(
            lambda owner: tuple(
                WorkerSupervisor(each, config, launcher, owner=owner, observer=observer, number=number)
                for number, each in enumerate(settings)
            ),
            classes,
            places=concurrent_requests,
            observer=observer,
            on_change=self._change,
            spread=spread,
        )
        self.workers = self._dispatcher.workers
        """One for each device, in the order of the settings."""

    @property
    def hello(self) -> Hello | None:
        """The models and methods that are served, by what a worker said last; None before the first is ready."""
        said = [worker for worker in self.workers if worker.hello is not None]
        return next((worker.hello for worker in said if not worker.behind), said[0].hello if said else None)

    @property
    def healthy(self) -> bool:
        """Whether requests are taken: all workers have started, one of them lives, and the pool is not draining."""
        return self._started and not self._draining and self._dispatcher.ready

    @property
    def pending(self) -> int:
        """Requests that workers have and have not finished."""
        return sum(worker.load for worker in self.workers)

    @property
    def waiting(self) -> Mapping[str, tuple[int, int, int]]:
        """Requests of each class that wait for a place, their evaluation rows and their bytes."""
        return {name: (queue.requests, queue.rows, queue.size_bytes) for name, queue in self._dispatcher.queues.items()}

    def backlog_seconds(self, priority: str) -> float:
        """Return the time until the last of a class's waiting requests should have a place; from any thread."""
        return self._dispatcher.queues[priority].backlog_seconds(time.monotonic())

    def watch(self, callback: Callable[[bool], None]) -> None:
        """Call `callback` with `healthy` whenever that, or what is served, changes."""
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
        """Refuse new requests from now on; those admitted go on, and those that wait are done too."""
        self._draining = True
        self._tell()

    async def close(self) -> None:
        """End all workers; requests that are left fail as UNAVAILABLE."""
        self.drain()
        self._dispatcher.close()
        await asyncio.gather(*(worker.close() for worker in self.workers))
        await self._launcher.close()

    async def run(
        self,
        request: Request,
        deadline_seconds: float | None = None,
        *,
        caller: str = "",
        priority: str = PREDICTIONS,
        on_progress: OnProgress | None = None,
        trace: RequestTrace | None = None,
    ) -> tuple[Result, RequestTiming]:
        """Do one request; cancelling the call cancels the request.

        Parameters
        ----------
        deadline_seconds
            From now; None waits without end.
        caller
            On whose behalf: the callers of a class take turns.
        priority
            Name of its class.
        on_progress
            Called with how much of the request is done; the share never becomes less.
        trace
            Notes what happens when, if the request's trace is recorded.

        Raises
        ------
        InvalidRequestError
            There is no such class, or it takes no explanations; the field is "priority".
        OverloadedError
            The class has no room for the request.
        UnavailableError
            The pool is draining, no worker is ready, or two workers were lost with the request.
        FatalRequestError
            Two workers died over the request, now or lately.
        TimedOutError
            The deadline passed.
        PellucidError
            What the worker answered.
        """
        ticket = self._admit(request, priority, caller, deadline_seconds, on_progress, trace)
        timer = self._timer(ticket, deadline_seconds)
        try:
            await self._place(ticket)
            done = await ticket.answer
        except asyncio.CancelledError:
            self._dispatcher.abandon(ticket)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        return self._outcome(ticket, done)

    async def stream(
        self,
        request: Request,
        deadline_seconds: float | None = None,
        *,
        caller: str = "",
        priority: str = PREDICTIONS,
        on_progress: OnProgress | None = None,
        on_end: Callable[[RequestTiming], None] = lambda timing: None,
        trace: RequestTrace | None = None,
        begun: Begun | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> AsyncGenerator[Part, None]:
        """Do one request that is answered in parts, and yield them in order, each once.

        Closing the generator, or cancelling its reader, cancels the request. The worker is at most 16 parts or 8 MiB
        ahead of the reader. A request of a lost worker is done again only from a checkpoint, or if it has sent nothing,
        and as often as it gets on to another checkpoint in between.

        Parameters
        ----------
        on_end
            Called with the timing when the last part was yielded.
        begun
            How far the request had come before, if it goes on from there.
        on_lost
            Called whenever a worker was lost and another one is to go on with the request.

        Raises
        ------
        UnavailableError
            As for `run`; or the worker was lost after it had sent parts.
        PellucidError
            As for `run`.
        """
        parts = PartQueue(resumes=self._resumes(request), begun=begun)
        ticket = self._admit(request, priority, caller, deadline_seconds, on_progress, trace)
        ticket.parts, ticket.on_lost = parts, on_lost
        ticket.answer.add_done_callback(lambda _: parts.wake())
        timer, ended = self._timer(ticket, deadline_seconds), False
        try:
            await self._place(ticket)
            while True:
                while (part := parts.pop()) is not None:
                    self._dispatcher.grant(ticket)
                    yield part
                if ticket.answer.done():
                    break
                await parts.change()
            ended = True
            done = ticket.answer.result()
        finally:
            if timer is not None:
                timer.cancel()
            if not ended:
                ticket.answer.cancel()
                self._dispatcher.abandon(ticket)
        timing = self._checked(ticket, done, wasted=done.failure is not None)
        on_end(timing)

    def _resumes(self, request: Request) -> bool:
        """Tell whether requests of this kind go on from a checkpoint."""
        verb = type(request).__name__.removesuffix("Request")
        hello = self.hello
        return hello is not None and any(each.verb == verb and each.resumes for each in hello.streams)

    def _admit(
        self,
        request: Request,
        priority: str,
        caller: str,
        deadline_seconds: float | None,
        on_progress: OnProgress | None,
        trace: RequestTrace | None,
    ) -> Ticket:
        """Refuse a request that is not taken now, whatever the queue is like; return the ticket of any other."""
        check_class(self._classes, request, priority)
        if deadline_seconds is not None and deadline_seconds <= 0:
            raise TimedOutError("The deadline had passed when the request arrived.", stage="queued")
        # Before all else: a caller that is asked to come back later does.
        if self._dispatcher.fatal.knows(request):
            self._observer.refused(priority, "quarantined")
            raise fatal_error()
        self._check_open(priority)
        return self._ticket(request, priority, caller, deadline_seconds, on_progress, trace)

    def _timer(self, ticket: Ticket, deadline_seconds: float | None) -> asyncio.TimerHandle | None:
        if deadline_seconds is None:
            return None
        return asyncio.get_running_loop().call_later(deadline_seconds, self._expire, ticket)

    async def _place(self, ticket: Ticket) -> None:
        """Give a request to the worker that has a place for it, or let it wait for one.

        Raises
        ------
        OverloadedError
            Its class has no room for it.
        """
        dispatcher = self._dispatcher
        worker = dispatcher.worker_for(ticket)
        if worker is None:
            dispatcher.queues[ticket.priority].check(ticket, ticket.arrived)
        if self._faults.possible:
            await self._hold(ticket)
            worker = dispatcher.worker_for(ticket)
        dispatcher.take(ticket, worker)

    def _check_open(self, priority: str) -> None:
        """Refuse a new request while the pool is draining or has no ready worker."""
        if self._draining:
            self._observer.refused(priority, "draining")
            raise shutting_down()
        if not self._started or not self._dispatcher.ready:
            self._observer.refused(priority, "unready")
            text = "No worker is ready; try again soon."
            raise UnavailableError(text, retry_after_seconds=self._dispatcher.recovery())

    def _ticket(
        self,
        request: Request,
        priority: str,
        caller: str,
        deadline_seconds: float | None,
        on_progress: OnProgress | None,
        trace: RequestTrace | None,
    ) -> Ticket:
        now, weights = time.monotonic(), self._weights
        if trace is not None:
            trace.queued(now)
        return Ticket(
            request,
            request.model.name,
            priority,
            caller,
            weights.rows(request) if weights is not None else 1,
            now,
            None if deadline_seconds is None else now + deadline_seconds,
            on_progress,
            asyncio.get_running_loop().create_future(),
            kind(request),
            can_be_cut=weights is not None and weights.can_be_cut(request),
            size_bytes=size_bytes(request),
            trace=trace,
        )

    async def _hold(self, ticket: Ticket) -> None:
        """Hold an admitted request where tests want it, but not beyond its deadline."""
        passing = asyncio.create_task(self._faults.pass_by("queued", model=ticket.model))
        try:
            either: set[asyncio.Future[Any]] = {passing, ticket.answer}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            passing.cancel()

    def _expire(self, ticket: Ticket) -> None:
        """End the wait for a request at its deadline, should its worker not have done so."""
        if not ticket.answer.done():
            ticket.fail(TimedOutError("The deadline passed before the answer was ready.", stage=ticket.stage))
            self._dispatcher.abandon(ticket)

    def _outcome(self, ticket: Ticket, done: Done) -> tuple[Result, RequestTiming]:
        timing = self._checked(ticket, done, wasted=done.result is None)
        if done.result is None:
            raise PellucidError("the worker sent neither a result nor a failure")
        return done.result, timing

    def _checked(self, ticket: Ticket, done: Done, *, wasted: bool) -> RequestTiming:
        """Return the timing of a request that a worker has ended; raise its failure."""
        timing = timing_with_wait(ticket, done)
        self._observer.worked(ticket.model, timing, wasted)
        if done.failure is not None:
            error = error_from_wire(done.failure.reason, done.failure.message, dict(done.failure.metadata))
            error.timing = timing
            raise error
        return timing

    def _change(self) -> None:
        """Hear that a worker is ready or lost."""
        hello = self.hello
        if hello is not None:
            self._weights = CostEstimator(hello)
        self._tell()

    def _tell(self) -> None:
        healthy, hello = self.healthy, self.hello
        state = (True, hello.models, hello.broken) if healthy and hello is not None else (healthy,)
        if state != self._told:
            self._told = state
            for callback in self._watchers:
                callback(healthy)


def check_class(classes: Mapping[str, ClassConfig], request: Request, name: str) -> None:
    """Refuse a class that there is not, or that is not for such a request.

    Raises
    ------
    InvalidRequestError
        The field is "priority".
    """
    explained = not isinstance(request, PredictRequest) or bool(request.explanations)
    config = classes.get(name)
    if config is None:
        known = ", ".join(classes)
        raise InvalidRequestError(
            f"There is no class {name[:_NAME_LENGTH]!r} of requests; there are: {known}.", field="priority"
        )
    if explained and not config.explanations:
        known = ", ".join(other for other, entry in classes.items() if entry.explanations) or "none"
        raise InvalidRequestError(f"The class {name!r} takes no explanations; these do: {known}.", field="priority")
