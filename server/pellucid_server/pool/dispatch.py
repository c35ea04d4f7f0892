"""Which request is done when: requests get places, wait for them, and are done once more when their worker is lost."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping

from pellucid_server.errors import UnavailableError
from pellucid_server.pool.observer import Observer
from pellucid_server.pool.queue.admission_queue import AdmissionQueue
from pellucid_server.pool.queue.quarantine import Quarantine, equal_requests, fatal_error
from pellucid_server.pool.queue.ticket import Ticket
from pellucid_server.pool.routing import Routing
from pellucid_server.pool.workers.worker_supervisor import WorkerSupervisor
from pellucid_server.settings.sections import ClassConfig
from pellucid_server.vocabulary.messages import Done
from pellucid_server.vocabulary.requests import Request
from pellucid_server.vocabulary.results import RequestTiming

_log = logging.getLogger(__name__)

_SOON_SECONDS = 0.05
_LATE_SECONDS = 5.0
# A stopping server takes calls for another quarter of a second, longer while more come, to refuse them, and then ends
# its connections: a retry well after that reaches another server. With 0.05, gRPC's own five tries all ended at this
# one; with much more, callers with short deadlines would have no time left.
_ELSEWHERE_SECONDS = 0.5


class Dispatcher:
    """Gives the workers' places to requests; it is the owner of the workers.

    Parameters
    ----------
    make_workers
        Makes the workers, given their owner.
    places
        Requests of each class that a worker has at once, at most; callers without any get places beyond, up
        to twice as many.
    on_change
        Called when a worker is ready or lost.
    """

    def __init__(
        self,
        make_workers: Callable[["Dispatcher"], tuple[WorkerSupervisor, ...]],
        classes: Mapping[str, ClassConfig],
        *,
        places: int,
        observer: Observer,
        on_change: Callable[[], None],
        spread: Callable[[], float],
    ) -> None:
        self.workers = make_workers(self)
        self.queues = {
            name: AdmissionQueue(
                name, entry, workers=len(self.workers), places=places, observer=observer, spread=spread
            )
            for name, entry in classes.items()
        }
        """The places and the waiting requests of each class."""
        self.ready = False
        """Whether a worker is."""
        self.fatal = Quarantine()
        """Requests that are not done again."""
        self._routing = Routing(self.workers)
        self._observer = observer
        self._on_change = on_change
        self._again = False
        self._closed = False

    def worker_for(self, ticket: Ticket) -> WorkerSupervisor | None:
        """Return the worker that has a place for a new request now, if one has."""
        queue = self.queues[ticket.priority]
        if not queue.holds(ticket):
            return None
        return self._routing.worker(ticket, running=queue.running(ticket.caller), places=queue.places)

    def take(self, ticket: Ticket, worker: WorkerSupervisor | None) -> None:
        """Take an admitted request: send it to the worker that has a place for it, or let it wait if none has."""
        queue = self.queues[ticket.priority]
        if worker is not None:
            self._send(ticket, queue, worker)
            return
        if not ticket.answer.done():
            queue.add(ticket)
        if not self.ready:
            self._give_up()

    def abandon(self, ticket: Ticket) -> None:
        """Take back a request for which nobody waits any more, wherever it is."""
        answered = ticket.answered
        if ticket.line is not None:
            queue = self.queues[ticket.priority]
            queue.remove(ticket)
            # Suspects wait for the innocent.
            self._fill(queue)
        elif ticket.worker_request_number:
            self._routing.cancel(ticket)
        elif answered:
            # It was answered, but the caller had left by then.
            self._observer.worked(ticket.model, timing_with_wait(ticket, ticket.answer.result()), True)

    def grant(self, ticket: Ticket) -> None:
        """Allow more parts of an answer, as its reader has taken some."""
        credit = None if ticket.parts is None else ticket.parts.credit()
        if credit is not None and ticket.worker_request_number:
            self._routing.grant(ticket, *credit)

    def close(self) -> None:
        """Fail the requests that wait, and from now on those that workers give back."""
        self._closed = True
        for queue, ticket in self._all_waiting():
            queue.remove(ticket)
            ticket.fail(shutting_down())

    def recovery(self) -> str:
        """Say in how many seconds a worker should be ready."""
        if self.ready:
            return f"{_SOON_SECONDS:.3f}"
        seconds = min(worker.recovery_seconds for worker in self.workers)
        return f"{min(max(seconds, _SOON_SECONDS), _LATE_SECONDS):.3f}"

    def ended(self, ticket: Ticket, done: Done, *, whole: bool) -> None:
        """Take the answer to a request (called by a worker)."""
        queue, now = self.queues[ticket.priority], time.monotonic()
        if ticket.trace is not None:
            ticket.trace.answered(now, done)
        rows = done.timing.rows_forward + done.timing.rows_backward
        answered = done.result is not None or (ticket.parts is not None and done.failure is None)
        queue.release(ticket, now=now, rows=rows, answered=answered, ended=True)
        if whole and answered:
            self.fatal.acquit(ticket.request)
        if ticket.answer.done():
            self._observer.worked(ticket.model, timing_with_wait(ticket, done), True)
        else:
            ticket.answer.set_result(done)
        self._fill(queue)

    def lost(self, tickets: list[Ticket], suspects: frozenset[Ticket], *, hung: bool) -> None:
        """Take the requests of a worker that died over one of the suspects, if there are any (called by a worker)."""
        now = time.monotonic()
        self._look()
        # A request that is equal to a suspect would end a worker of its own.
        suspected = equal_requests([ticket.request for ticket in tickets], [ticket.request for ticket in suspects])
        # A request that has sent parts may not be done again, so that it is held against it at once. One that got on is
        # not what the worker died over, unless nobody waits for it any more: then it is not gone on with.
        stuck = not all(ticket.advanced and not ticket.answer.done() for ticket in suspects)
        held_against = stuck and (hung or any(ticket.parts_sent for ticket in suspects))
        condemned = held_against and self._hung_before(suspects)
        for ticket, like_a_suspect in zip(tickets, suspected, strict=True):
            self.queues[ticket.priority].release(ticket, now=now)
            if ticket.trace is not None:
                ticket.trace.lost(now)
            self._take_back(ticket, suspected=like_a_suspect, condemned=condemned)
        self._go_on()
        self._on_change()

    def changed(self) -> None:
        """Hear that a worker is ready or could not be started again (called by a worker)."""
        self._look()
        self._on_change()
        self._go_on()

    def _look(self) -> None:
        """See which workers are ready."""
        self.ready = self._routing.look()

    def _send(self, ticket: Ticket, queue: AdmissionQueue, worker: WorkerSupervisor) -> None:
        """Give a request a place on a worker, whether it waited or not; not if nobody waits for it any more."""
        if ticket.answer.done():
            queue.remove(ticket)
            return
        if self.fatal.knows(ticket.request):
            self._observer.refused(ticket.priority, "quarantined")
            queue.remove(ticket)
            ticket.fail(fatal_error())
            return
        late = queue.too_late(ticket, time.monotonic())
        if late is not None:
            self._observer.refused(ticket.priority, "late")
            queue.remove(ticket)
            ticket.fail(late)
            return
        ticket.sent = time.monotonic()
        queue.place(ticket)
        try:
            worker.send(ticket)
        except Exception as error:  # noqa: BLE001 - a request that has no frame, for want of memory too, must keep no place
            queue.release(ticket, now=ticket.sent)
            if not ticket.answer.done():
                ticket.answer.set_exception(error)
            return
        if ticket.trace is not None:
            ticket.trace.sent(ticket.sent, device=worker.device, pid=worker.pid or 0)
        if ticket.losses:
            self._observer.retried()

    def _fill(self, queue: AdmissionQueue) -> None:
        """Give the places that are free to requests that wait: of this class, and of any if workers were lost."""
        if self._again:
            self._send_again()
        while queue.requests:
            ticket = queue.first()
            worker = None if ticket is None else self.worker_for(ticket)
            if worker is None:
                ticket = queue.first_without_place()
                worker = None if ticket is None else self.worker_for(ticket)
            if ticket is None or worker is None:
                return
            self._send(ticket, queue, worker)

    def _send_again(self) -> None:
        """Send requests of lost workers: the innocent as soon as there is a place, then each suspect apart from them.

        A request that is lost twice fails, so neither the innocent nor two suspects may be with a suspect.
        """
        for queue in self.queues.values():
            for ticket in list(queue.returned):
                worker = self._routing.worker(ticket, running=0, places=queue.places)
                if worker is not None:
                    self._send(ticket, queue, worker)
        if any(queue.returned for queue in self.queues.values()):
            return
        self._again = any(queue.suspects for queue in self.queues.values())
        for queue in self.queues.values():
            for ticket in list(queue.suspects):
                worker = self._routing.worker_for_suspect()
                if worker is None:
                    return
                self._send(ticket, queue, worker)

    def _hung_before(self, suspects: frozenset[Ticket]) -> bool:
        """Give up a request over which, and nothing else, two workers have hung by now; tell whether it is one.

        Its caller may have been answered each time, as the deadline was before the watchdog's: then it is never done
        again, and would go on to hang a worker whenever it is sent.
        """
        requests = [ticket.request for ticket in suspects]
        if not requests or not all(equal_requests(requests, requests[:1])) or not self.fatal.blame(requests[0]):
            return False
        self._condemn(requests[0])
        return True

    def _condemn(self, request: Request) -> None:
        key = self.fatal.add(request)
        _log.error("two workers were lost over a request to model %r (request digest %s)", request.model.name, key)

    def _take_back(self, ticket: Ticket, *, suspected: bool, condemned: bool) -> None:
        """Let a request of a lost worker wait to be done once more, or fail it; `condemned` is whether suspects are."""
        if ticket.parts is not None and ticket.parts.advanced:
            ticket.losses, ticket.suspect, ticket.parts.advanced = 0, False, False
        ticket.losses += 1
        if ticket.answer.done():
            return
        if self._closed:
            ticket.fail(shutting_down())
        elif suspected and condemned:
            ticket.fail(fatal_error())
        elif ticket.parts is not None and not ticket.parts.redoable and ticket.parts.checkpoint is None:
            count = ticket.parts_sent
            text = f"The worker was lost after it had sent {count} parts of the answer; send the request again."
            ticket.fail(UnavailableError(text, retry_after_seconds=self.recovery()))
        elif suspected and ticket.suspect:
            self._condemn(ticket.request)
            ticket.fail(fatal_error())
        elif ticket.losses > 1:
            text = "Two workers, one after the other, were lost while they had this request; send it again."
            ticket.fail(UnavailableError(text, retry_after_seconds=self.recovery()))
        else:
            ticket.suspect = suspected
            self._again = True
            if ticket.trace is not None:
                ticket.trace.queued(time.monotonic())
            self.queues[ticket.priority].put_back(ticket)
            if ticket.on_lost is not None:
                ticket.on_lost()

    def _go_on(self) -> None:
        """Have waiting requests done by the workers that are ready, or see whom the next will be too late for."""
        if self.ready:
            for queue in self.queues.values():
                self._fill(queue)
        else:
            self._give_up()

    def _give_up(self) -> None:
        """Fail the waiting requests for which no worker will be ready in time."""
        hopeful = [worker.recovery_seconds for worker in self.workers if worker.hopeful]
        latest = time.monotonic() + min(hopeful, default=0.0)
        for queue, ticket in self._all_waiting():
            if not hopeful or (ticket.deadline is not None and ticket.deadline < latest):
                queue.remove(ticket)
                text = "The workers were lost, and none will be ready before this request's deadline; try again soon."
                if not hopeful:
                    text = "The workers were lost and could not be started again; try again later."
                ticket.fail(UnavailableError(text, retry_after_seconds=self.recovery()))

    def _all_waiting(self) -> Iterable[tuple[AdmissionQueue, Ticket]]:
        return [(queue, ticket) for queue in self.queues.values() for ticket in queue.tickets()]


def timing_with_wait(ticket: Ticket, done: Done) -> RequestTiming:
    """Return a request's timing, with its time in the front added to that in the worker's queue."""
    timing, waited = done.timing, ticket.sent - ticket.arrived
    return RequestTiming(
        timing.queue_seconds + waited, timing.compute_seconds, timing.rows_forward, timing.rows_backward, timing.rows
    )


def shutting_down() -> UnavailableError:
    """Return what callers read whose requests are not done any more."""
    text = "The server is shutting down; send the request again, to another one."
    return UnavailableError(text, retry_after_seconds=f"{_ELSEWHERE_SECONDS:.3f}")
