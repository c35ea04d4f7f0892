"""The requests of one class that wait for a place on a worker: who is let in, and who is next.

Callers take turns by start-time fair queueing: each has a virtual time, the rows that it was given; the least is
next. Who comes back after a pause starts at the present virtual time, which goes on at the pace of callers served
alike, so that nobody saves up, and a stream of new callers does not keep those out who have waited.
"""

from collections import OrderedDict
from collections.abc import Callable

from pellucid_server.errors import OverloadedError, TimedOutError
from pellucid_server.pool.observer import Observer
from pellucid_server.pool.queue.concurrency_limiter import ConcurrencyLimiter
from pellucid_server.pool.queue.fair_queue import Caller, FairQueue
from pellucid_server.pool.queue.queue_rate import QueueRate
from pellucid_server.pool.queue.ticket import Ticket
from pellucid_server.settings.sections import ClassConfig

_SOONEST_SECONDS = 0.05
_UNKNOWN_SECONDS = 1.0
_SPREAD = 0.25
_CAUTION = 1.25
"""How many times the time that a request is expected to take is asked for: what is let in should end in time."""


class AdmissionQueue:
    """The places and the waiting requests of one class.

    Parameters
    ----------
    workers
        Workers that there are: the bounds hold for each.
    places
        Requests that each worker has at once, at most.
    spread
        Gives random numbers in [0, 1), by which callers are sent away for unequal times.
    """

    def __init__(
        self,
        name: str,
        config: ClassConfig,
        *,
        workers: int,
        places: int,
        observer: Observer,
        spread: Callable[[], float],
    ) -> None:
        self.name = name
        self.requests = 0
        """Requests that wait, as are the rows and bytes below."""
        self.rows = 0
        self.size_bytes = 0
        self.returned: OrderedDict[Ticket, None] = OrderedDict()
        """Requests of lost workers that wait to be done once more, before all others."""
        self.suspects: OrderedDict[Ticket, None] = OrderedDict()
        """Those among them that a worker may have been lost over; each waits for a worker without others such."""
        self._most_rows = config.queue_rows * workers
        self._most_bytes = config.queue_bytes * workers
        self._most_seconds = config.queue_seconds
        self._observer = observer
        self._spread = spread
        self._pace = QueueRate()
        self._crowding = ConcurrencyLimiter(places, workers)
        self._placed_bytes = 0
        self._first_to_fit: Ticket | None = None
        self._waiting_since = 0.0
        self._virtual = 0.0
        self._callers: dict[str, Caller] = {}
        self._lines = 0
        self._by_turn = FairQueue(lambda caller: bool(caller.line))
        self._without_place = FairQueue(lambda caller: bool(caller.line) and not caller.running)

    @property
    def places(self) -> int:
        """Requests that each worker has at once, as long as more would not get more done."""
        return self._crowding.limit

    def holds(self, ticket: Ticket) -> bool:
        """Tell whether the workers have room for a request's bytes; for one of any size if they have no other.

        Where there is none for a waiting request whose turn it is, there is none for others until it has its place.
        """
        first = self._first_to_fit
        if first is not None and first is not ticket and first.line is not None:
            return False
        fits = not self._placed_bytes or self._placed_bytes + ticket.size_bytes <= self._most_bytes
        self._first_to_fit = None if fits or ticket.line is None else ticket
        return fits

    def backlog_seconds(self, now: float) -> float:
        """Return the time until the last request that waits should have a place, 0 if none waits.

        It goes by the recent pace; where there is none yet, it is for how long requests have waited. Callable from any
        thread.
        """
        rows = self.rows
        if not rows:
            return 0.0
        expected = self._pace.seconds(rows)
        return max(now - self._waiting_since, 0.0) if expected is None else expected

    def running(self, caller: str) -> int:
        """Return how many places a caller has."""
        known = self._callers.get(caller)
        return known.running if known is not None else 0

    def check(self, ticket: Ticket, now: float) -> None:
        """Let a request wait, or refuse it; a request of any size may wait if no other does.

        Raises
        ------
        OverloadedError
            It would be one beyond a bound, or could not be done before its deadline by the pace so far.
        """
        expected = self._pace.seconds(self._rows_ahead(ticket))
        if self.requests:
            self._check_rows(ticket)
            self._check_bytes(ticket)
            if expected is not None:
                self._check_seconds(expected)
        if expected is not None and ticket.deadline is not None:
            self._check_deadline(ticket, expected, ticket.deadline - now)

    def too_late(self, ticket: Ticket, now: float) -> TimedOutError | None:
        """Return why a request that waited is not begun, or None: its deadline leaves less time than it takes."""
        if ticket.deadline is None or ticket.line is None:
            return None
        needed, left = self._stay_seconds(ticket), ticket.deadline - now
        if needed <= left:
            return None
        text = (
            f"When the request's turn came, its deadline left {max(left, 0.0):.3g} s, and it takes about "
            f"{needed:.3g} s; allow more time, or send it again when less is asked of the server."
        )
        return TimedOutError(text, stage="refused", needed_seconds=f"{needed:.3f}")

    def add(self, ticket: Ticket) -> None:
        """Let a request wait behind its caller's others."""
        caller = self._caller(ticket.caller)
        if not caller.line:
            self._lines += 1
            caller.start = max(caller.start, self._virtual)
        caller.waiting_rows += ticket.rows
        self._wait(ticket, caller.line)
        self._by_turn.add(caller)
        if not caller.running:
            self._without_place.add(caller)

    def put_back(self, ticket: Ticket) -> None:
        """Let a request of a lost worker wait before all others."""
        self._wait(ticket, self.suspects if ticket.suspect else self.returned)

    def remove(self, ticket: Ticket) -> None:
        """Let a request wait no more, as if it never had; harmless if it does not."""
        line = ticket.line
        if line is None:
            return
        del line[ticket]
        ticket.line = None
        self.requests -= 1
        self.rows -= ticket.rows
        self.size_bytes -= ticket.size_bytes
        caller = self._callers.get(ticket.caller)
        if caller is not None and caller.line is line:
            caller.waiting_rows -= ticket.rows
            self._lines -= not line
            self._forget_absent(caller)

    def first(self) -> Ticket | None:
        """Return the waiting request whose caller's turn it is; those put back have a place before it."""
        return self._head(self._by_turn.first())

    def first_without_place(self) -> Ticket | None:
        """Return the same among callers who have no place."""
        return self._head(self._without_place.first())

    def place(self, ticket: Ticket) -> None:
        """Give a request a place at the time when it was `sent`, whether it waited or not."""
        # The caller first: the removal would forget one without other requests.
        caller = self._caller(ticket.caller)
        caller.running += 1
        start = caller.start if ticket.line is not None else max(caller.start, self._virtual)
        self.remove(ticket)
        self._placed_bytes += ticket.size_bytes
        self._pace.enter(ticket.rows, ticket.sent)
        ticket.beside = self._crowding.enter()
        if not ticket.losses:
            # Everybody's time goes on by as much as if all were served alike.
            self._virtual = max(self._virtual, start) + ticket.rows / len(self._callers)
            caller.start = start + ticket.rows

    def release(
        self, ticket: Ticket, *, now: float, rows: int = 0, answered: bool = False, ended: bool = False
    ) -> None:
        """Take a request's place back.

        Parameters
        ----------
        rows, answered
            Rows that were evaluated for it, and whether it ended with a result: what its time there tells of the pace.
        ended
            Whether the worker ended it, so that a deadline that has passed was missed there.
        """
        seconds = now - ticket.sent
        if ended and not answered and ticket.deadline is not None and now >= ticket.deadline:
            self._crowding.lose(ticket.sent, now)
        self._pace.leave(ticket.rows, seconds, now, counted=answered or rows > 0)
        self._crowding.leave(
            ticket.kind, max(rows, 1), seconds, weight=ticket.rows, beside=ticket.beside, counted=answered
        )
        self._placed_bytes -= ticket.size_bytes
        caller = self._callers[ticket.caller]
        caller.running -= 1
        if caller.line and not caller.running:
            self._without_place.add(caller)
        self._forget_absent(caller)

    def tickets(self) -> list[Ticket]:
        """Return every request that waits."""
        lines = (self.returned, self.suspects, *(caller.line for caller in self._callers.values()))
        return [ticket for line in lines for ticket in line]

    def _caller(self, name: str) -> Caller:
        caller = self._callers.get(name)
        if caller is None:
            caller = self._callers[name] = Caller(name)
        return caller

    def _forget_absent(self, caller: Caller) -> None:
        if not caller.running and not caller.line:
            del self._callers[caller.name]

    def _wait(self, ticket: Ticket, line: OrderedDict[Ticket, None]) -> None:
        line[ticket] = None
        ticket.line = line
        if not self.requests:
            self._waiting_since = ticket.arrived
        self.requests += 1
        self.rows += ticket.rows
        self.size_bytes += ticket.size_bytes

    def _head(self, caller: Caller | None) -> Ticket | None:
        return None if caller is None else next(iter(caller.line))

    def _rows_ahead(self, ticket: Ticket) -> int:
        """Return the rows that go before a request, as others have no more turns than its caller until then."""
        caller = self._callers.get(ticket.caller)
        own = caller.waiting_rows if caller is not None else 0
        others = self._lines - (own > 0)
        return min(self.rows, own + others * (own + ticket.rows))

    def _stay_seconds(self, ticket: Ticket) -> float:
        """Return how long a request needs in its place: that of one which can be cut short is its worker's to say."""
        return 0.0 if ticket.can_be_cut else self._crowding.stay_seconds(ticket.kind, ticket.rows)

    def _check_rows(self, ticket: Ticket) -> None:
        beyond = self.rows + ticket.rows - self._most_rows
        if beyond > 0:
            self._refuse(
                "rows",
                f"The queue of class {self.name!r} has {self.rows} evaluation rows waiting and room for "
                f"{self._most_rows}, which this request's {ticket.rows} would exceed",
                self._pace.seconds(min(beyond, self.rows)),
            )

    def _check_bytes(self, ticket: Ticket) -> None:
        beyond = self.size_bytes + ticket.size_bytes - self._most_bytes
        if beyond > 0:
            share = min(beyond / self.size_bytes, 1.0) if self.size_bytes else 1.0
            self._refuse(
                "bytes",
                f"The queue of class {self.name!r} has {self.size_bytes} bytes waiting and room for "
                f"{self._most_bytes}, which this request's {ticket.size_bytes} would exceed",
                self._pace.seconds(share * self.rows),
            )

    def _check_seconds(self, expected: float) -> None:
        if expected > self._most_seconds:
            self._refuse(
                "seconds",
                f"A request of class {self.name!r} would wait {expected:.2f} s for a place, longer than the "
                f"{self._most_seconds:g} s that one may wait",
                expected - self._most_seconds,
            )

    def _check_deadline(self, ticket: Ticket, expected: float, left: float) -> None:
        """Refuse a request that would be given up half done: the device would have worked for nobody."""
        next_place = self._pace.next_place_seconds
        needed = _CAUTION * (expected + next_place + self._stay_seconds(ticket))
        if needed > left:
            # As its deadline draws near as fast as the queue goes on, all that it gains is on the caution.
            self._refuse(
                "deadline",
                f"A request of class {self.name!r} may take {needed:.2f} s now, {expected + next_place:.2f} s of them "
                f"in the queue, and its deadline leaves {max(left, 0.0):.2f} s",
                max(min((needed - left) / (_CAUTION - 1), expected), next_place),
            )

    def _refuse(self, cause: str, what: str, seconds: float | None) -> None:
        """Refuse a request until there should be room, in `seconds`; None if there is no telling yet."""
        seconds = max(_UNKNOWN_SECONDS if seconds is None else seconds, _SOONEST_SECONDS)
        # Callers who were refused together must not come back together.
        seconds *= 1 + _SPREAD * self._spread()
        self._observer.refused(self.name, cause)
        advice = "with a longer deadline or " if cause == "deadline" else ""
        raise OverloadedError(
            f"{what}; send it again {advice}in {seconds:.2f} s.", retry_after_seconds=f"{seconds:.3f}"
        )
