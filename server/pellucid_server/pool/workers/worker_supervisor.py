"""One worker, kept alive: it does the requests that it is sent, and when its process dies another takes its place."""

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from pellucid_server.pool.observer import Observer
from pellucid_server.pool.queue.ticket import Ticket
from pellucid_server.pool.workers.backoff import Backoff
from pellucid_server.pool.workers.changes import Awaited
from pellucid_server.pool.workers.launcher import Launcher
from pellucid_server.pool.workers.process import WorkerProcess, WorkerStartError
from pellucid_server.pool.workers.watchdog import Watchdog
from pellucid_server.settings.sections import PoolConfig
from pellucid_server.vocabulary.changes import Adopt, Prepare, Prepared
from pellucid_server.vocabulary.descriptions import Verdict
from pellucid_server.vocabulary.messages import (
    Cancel,
    Credit,
    Done,
    Heartbeat,
    Hello,
    Message,
    ModelsChanged,
    Part,
    Progress,
    Start,
    WorkerSettings,
)

_log = logging.getLogger(__name__)


class Owner(Protocol):
    """What gives a worker its requests and takes them back."""

    def ended(self, ticket: Ticket, done: Done, *, whole: bool) -> None:
        """Take the answer to a request, which the worker has no longer; if it is `whole`, nor is it at work for it."""

    def lost(self, tickets: list[Ticket], suspects: frozenset[Ticket], *, hung: bool) -> None:
        """Take the requests of a worker that died, or was killed as it hung; it was busy with the suspects.

        Suspects may have been answered before: who asks does not wait for as long as a watchdog does.
        """

    def changed(self) -> None:
        """Hear that the worker is ready, or could not be started again."""


class WorkerSupervisor:
    """A worker for one device."""

    def __init__(
        self,
        settings: WorkerSettings,
        config: PoolConfig,
        launcher: Launcher,
        *,
        owner: Owner,
        observer: Observer,
        number: int = 0,
    ) -> None:
        self.device = settings.device
        self.number = number
        """Its place among the workers."""
        self.memory_bytes = 0
        """Resident memory of its process, as its last heartbeat said; 0 if none has."""
        self.hello: Hello | None = None
        """What the worker said when it was last ready."""
        self.ready = False
        """Whether it takes requests."""
        self.hopeful = False
        """Whether it is being started, for the first time since it was lost."""
        self.retried = 0
        """Requests that it has and another worker, or its own last process, was lost with."""
        self.suspects = 0
        """Those among them that the other may have died over."""
        self.behind: frozenset[str] = frozenset()
        """Names of models that it does not serve as the other workers do."""
        self.settings_now: Callable[[WorkerSettings], WorkerSettings] = lambda settings: settings
        """Gives what the process is started with, of what it is by the configuration."""
        self.on_ready: Callable[[], None] = lambda: None
        """Called when it is ready, before it has any requests."""
        self._settings = settings
        self._config = config
        self._launcher = launcher
        self._owner = owner
        self._observer = observer
        self._verdicts: tuple[Verdict, ...] = ()
        self._process: WorkerProcess | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._ready_since = 0.0
        self._next_start = 0.0
        self._start_seconds = 0.0
        self._backoff = Backoff(config.restart_initial_seconds, config.restart_max_seconds)
        self._watchdog = Watchdog(config.hang_seconds, self._hang, self._look)
        self._busy_before: frozenset[int] = frozenset()
        self._hung = False
        self._closing = False
        self._request_numbers = itertools.count(1)
        self._awaited = Awaited()
        self._tickets: dict[int, Ticket] = {}
        self._left_behind: dict[int, Ticket] = {}
        self._by_class: Counter[str] = Counter()
        self._by_model: Counter[str] = Counter()

    @property
    def load(self) -> int:
        """Requests that the worker has; one whose caller has left counts until the worker lets go of it."""
        return len(self._tickets)

    @property
    def pid(self) -> int | None:
        """Id of the worker's process, if it has one."""
        return None if self._process is None else self._process.pid

    @property
    def recovery_seconds(self) -> float:
        """How long it should take until a lost worker is ready again, by its last start."""
        return max(self._next_start + self._start_seconds - time.monotonic(), 0.0)

    def places(self, priority: str) -> int:
        """Return how many requests of a class the worker has."""
        return self._by_class[priority]

    def runs(self, model: str) -> bool:
        """Tell whether the worker has a request of that model."""
        return self._by_model[model] > 0

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
        """End the worker for good; its owner gets its requests back."""
        self._closing = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._process is not None:
            self._lose(self._process)
            await self._process.end(patience_seconds=self._config.exit_seconds)

    def send(self, ticket: Ticket) -> None:
        """Have a request done; the worker must be ready.

        Raises
        ------
        TypeError
            The request holds something that cannot be sent; the worker does not have it.
        """
        assert self._process is not None  # noqa: S101 - a worker that is ready has one
        request_number = next(self._request_numbers)
        self._process.connection.send(_start(request_number, ticket))
        ticket.worker_request_number = request_number
        self._tickets[request_number] = ticket
        self._by_class[ticket.priority] += 1
        self._by_model[ticket.model] += 1
        self.retried += ticket.losses > 0
        self.suspects += ticket.suspect

    def cancel(self, ticket: Ticket) -> None:
        """Tell the worker, if it has a request, that nobody waits for it; it has the request until it says so."""
        if self._tickets.get(ticket.worker_request_number) is ticket and self._process is not None:
            self._process.connection.send(Cancel(ticket.worker_request_number))

    def grant(self, ticket: Ticket, parts: int, size_bytes: int) -> None:
        """Allow the worker, if it has a request, so many more parts of its answer."""
        if self._tickets.get(ticket.worker_request_number) is ticket and self._process is not None:
            self._process.connection.send(Credit(ticket.worker_request_number, parts, size_bytes))

    async def prepare(self, message: Prepare) -> Prepared:
        """Have a version loaded beside those that are served; the worker must be ready.

        Raises
        ------
        WorkerLostError
            The worker was lost meanwhile.
        """
        assert self._process is not None  # noqa: S101 - a worker that is ready has one
        self._process.connection.send(message)
        return await self._awaited.prepared(message.change)

    async def adopt(self, message: Adopt) -> Hello:
        """Have it serve other models; requests that are sent from now on are done on those. Raises as `prepare`."""
        assert self._process is not None  # noqa: S101 - a worker that is ready has one
        self._process.connection.send(message)
        return await self._awaited.adopted(message.change)

    def give_up(self, seen: str) -> None:
        """Kill the worker, which has not done what it was asked of its models: the next one may."""
        self._hang(seen)

    def _receive(self, message: Message) -> None:
        self._watchdog.heard()
        match message:
            case Part(request_number=request_number):
                ticket = self._tickets.get(request_number)
                # One whose reader has left may have sent some more meanwhile.
                if ticket is not None and ticket.parts is not None and not ticket.answer.done():
                    ticket.parts.add(message)
            case Done(request_number=request_number) if request_number in self._tickets:
                ticket, left_behind = self._forget(request_number), self._still_at(request_number)
                if left_behind:
                    self._left_behind[request_number] = ticket
                self._owner.ended(ticket, message, whole=not left_behind)
            case Heartbeat():
                self._left_behind = {
                    number: request for number, request in self._left_behind.items() if self._still_at(number)
                }
                self._watchdog.beat(message)
                self.memory_bytes = message.memory_bytes
                self._observer.beat(self.device, self.number, message)
            case Progress(request_number=request_number) if request_number in self._tickets:
                _report(self._tickets[request_number], message)
            case Prepared():
                self._awaited.take(message)
            case ModelsChanged(hello=hello, change=change):
                self.hello, self._verdicts = hello, hello.verdicts
                self._owner.changed()
                self._awaited.take_hello(change, hello)
            case _:
                _log.warning("the worker for %s sent an unexpected %s", self.device, type(message).__name__)

    def _still_at(self, request_number: int) -> bool:
        """Whether the worker is at work for a request that it has ended: its caller left, or its time was up."""
        return self._process is not None and self._process.still_at(request_number)

    def _forget(self, request_number: int) -> Ticket:
        ticket = self._tickets.pop(request_number)
        ticket.worker_request_number = 0
        self._by_class[ticket.priority] -= 1
        self._by_model[ticket.model] -= 1
        if not self._by_model[ticket.model]:
            del self._by_model[ticket.model]
        self.retried -= ticket.losses > 0
        self.suspects -= ticket.suspect
        return ticket

    def _look(self) -> None:
        """Note what the worker is busy with: those who only pass by when it hangs are not what it hangs over."""
        self._busy_before = frozenset() if self._process is None else self._process.suspects()

    def _hang(self, seen: str) -> None:
        """Kill a worker that hangs."""
        _log.error("the worker for %s %s (pool.hang_seconds is %g)", self.device, seen, self._config.hang_seconds)
        self._hung = True
        if self._process is not None:
            self._process.kill()
            self._lose(self._process)

    def _lose(self, process: WorkerProcess) -> None:
        """Give the requests of a process that is lost back to the owner, once."""
        if not self.ready:
            return
        self.ready = False
        self.memory_bytes = 0
        self._awaited.lose()
        self._watchdog.stop()
        now = time.monotonic()
        self._backoff.lived(now - self._ready_since)
        self._next_start = now + self._backoff.seconds
        self.hopeful = not self._closing
        busy = process.suspects()
        if self._hung:
            busy = busy & self._busy_before or busy
        held = {request_number: self._forget(request_number) for request_number in list(self._tickets)}
        known = held | self._left_behind
        self._left_behind = {}
        if not self._closing:
            self._observer.lost(self.device, "hang" if self._hung else "exit")
        suspects = frozenset(ticket for request_number, ticket in known.items() if request_number in busy)
        self._owner.lost(list(held.values()), suspects, hung=self._hung)

    async def _bring_up(self) -> None:
        began = time.monotonic()
        # What was found of the models before holds as long as their files do; unless it was of no use.
        settings, self._verdicts = replace(self.settings_now(self._settings), verdicts=self._verdicts), ()
        process = await WorkerProcess.launch(self._launcher, settings, self._receive)
        try:
            self.hello = await self._greeting(process)
            self._verdicts = self.hello.verdicts
            if process.lost.done():
                raise WorkerStartError(f"The worker for {self.device} ended as soon as it was ready.")
            self._process = process
            self._hung = False
            self._ready_since = time.monotonic()
            self._start_seconds = self._ready_since - began
            # The callback runs in the loop's next pass after the loss, ahead of any new request.
            process.lost.add_done_callback(lambda _: self._lose(process))
            self.ready, self.hopeful = True, False
            _log.info(
                "the worker for %s is ready after %.1f s (process %d)", self.device, self._start_seconds, process.pid
            )
            self._busy_before = frozenset()
            self._watchdog.start()
            self.on_ready()
            self._owner.changed()
        except WorkerStartError:
            await process.end(patience_seconds=self._config.exit_seconds)
            raise
        except BaseException:
            # The next start must not leave this process behind.
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
                f"The worker for {self.device} was not ready within {limit_seconds:g} s (pool.start_seconds)"
                f"{process.progress}."
            ) from None

    async def _keep(self) -> None:
        """Start the worker again whenever it is lost, whatever goes wrong on the way."""
        while True:
            assert self._process is not None  # noqa: S101 - set by the start that went before
            await asyncio.shield(self._process.lost)
            cause = f"the worker for {self.device} was lost"
            try:
                cause += f" (exit status {await self._process.end(patience_seconds=self._config.exit_seconds)})"
            except Exception:  # noqa: BLE001 - see `_restart`
                _log.exception("the process of the worker for %s could not be ended", self.device)
            await self._restart(cause)

    async def _restart(self, cause: str) -> None:
        """Start the worker again and again until it is ready, each time after a longer wait."""
        while True:
            wait_seconds = self._backoff.seconds
            _log.error("%s; it is started again in %.1f s", cause, wait_seconds)
            self._next_start = time.monotonic() + wait_seconds
            await asyncio.sleep(wait_seconds)
            self._backoff.started()
            try:
                await self._start_again()
            except WorkerStartError as error:
                cause = f"the worker for {self.device} could not start: {error}"
            except Exception:  # noqa: BLE001 - nobody awaits the keeper: what escaped would end it unseen, for good
                cause = f"the worker for {self.device} could not start"
                _log.exception("%s, by a bug", cause)
            else:
                return

    async def _start_again(self) -> None:
        try:
            self._observer.restarted(self.device)
            await self._bring_up()
        except Exception:
            self.hopeful = False
            self._next_start = time.monotonic() + self._backoff.seconds
            self._observer.lost(self.device, "start")
            self._owner.changed()
            raise


def _start(request_number: int, ticket: Ticket) -> Start:
    """Return what a worker is sent of a request, with what is left of its time."""
    deadline, parts = ticket.deadline, ticket.parts
    credit_parts, credit_bytes = (0, 0) if parts is None else parts.first_credit()
    return Start(
        request_number,
        ticket.request,
        None if deadline is None else deadline - time.monotonic(),
        ticket.priority,
        ticket.caller,
        ticket.suspect,
        trace="" if ticket.trace is None else ticket.trace.context.header(),
        credit_parts=credit_parts,
        credit_bytes=credit_bytes,
        parts_done=ticket.parts_sent,
        checkpoint=None if parts is None else parts.checkpoint,
        digest="" if parts is None else parts.digest,
    )


def _report(ticket: Ticket, progress: Progress) -> None:
    """Report a request's progress, which becomes no less when another worker begins again."""
    if ticket.on_progress is not None and not ticket.answer.done() and progress.share > ticket.share:
        ticket.share = progress.share
        ticket.on_progress(progress)
