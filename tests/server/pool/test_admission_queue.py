import asyncio
import contextlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import booleans, data, integers, sampled_from
from pellucid_server.errors import OverloadedError
from pellucid_server.pool.observer import Observer
from pellucid_server.pool.queue.admission_queue import AdmissionQueue
from pellucid_server.pool.queue.ticket import Ticket
from pellucid_server.settings.sections import ClassConfig
from pellucid_server.vocabulary.requests import ModelKey, PredictRequest, TensorInput

BYTES = 8
"""Of a request here."""
JOB = PredictRequest(ModelKey("m"), {"x": TensorInput(np.zeros(1))})


class Refusals(Observer):
    def __init__(self):
        self.causes = []

    def refused(self, priority, cause):
        self.causes.append(cause)


@pytest.fixture(scope="module")
def loop():
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture
def ticket(loop):
    def ticket(rows=1, caller="ada", deadline=None):
        return Ticket(JOB, "m", "bulk", caller, rows, 0.0, deadline, None, loop.create_future(), size_bytes=BYTES)

    return ticket


@pytest.fixture
def refusals():
    return Refusals()


@pytest.fixture
def make_queue(refusals):
    def make(*, workers=1, spread=0.0, **bounds):
        config = ClassConfig(**{"queue_rows": 10**9, "queue_bytes": 10**12, "queue_seconds": 1e9, **bounds})
        return AdmissionQueue("bulk", config, workers=workers, places=64, observer=refusals, spread=lambda: spread)

    return make


def wait(queue, *tickets, now=0.0):
    """Let requests in, one after the other."""
    for ticket in tickets:
        queue.check(ticket, now)
        queue.add(ticket)


def place(queue, ticket, now=0.0):
    ticket.sent = now
    queue.place(ticket)


def serve(queue, count):
    """Give the only place to one request after another, and return them in their order."""
    served = []
    for _ in range(count):
        ticket = queue.first()
        place(queue, ticket)
        queue.release(ticket, now=0.0)
        served.append(ticket)
    return served


def paced(queue, ticket, *, seconds=2.0, rows=10):
    """Tell the queue that rows stay in their places for some seconds, and that there are some now."""
    done, placed = ticket(rows), ticket(rows)
    place(queue, done)
    queue.release(done, now=seconds, rows=1)
    place(queue, placed)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    ("bound", "cause", "message"),
    [
        ({"queue_rows": 20}, "rows", "rows waiting and room for"),
        ({"queue_bytes": 4 * BYTES}, "bytes", "bytes waiting and room for"),
    ],
)
def test_a_bound_is_exact_and_holds_for_each_worker(make_queue, ticket, refusals, workers, bound, cause, message):
    queue = make_queue(workers=workers, **bound)
    wait(queue, *(ticket(5) for _ in range(4 * workers)))

    with pytest.raises(OverloadedError, match=message):
        queue.check(ticket(1), 0.0)

    assert refusals.causes == [cause]
    assert (queue.requests, queue.rows, queue.size_bytes) == (4 * workers, 20 * workers, 4 * workers * BYTES)


@pytest.mark.parametrize("bound", [{"queue_rows": 0}, {"queue_bytes": 0}, {"queue_rows": 0, "queue_bytes": 0}])
def test_a_request_of_any_size_may_wait_if_no_other_does(make_queue, ticket, bound):
    queue = make_queue(**bound)

    wait(queue, ticket(1000))

    assert (queue.requests, queue.rows) == (1, 1000)
    with pytest.raises(OverloadedError):
        queue.check(ticket(1), 0.0)


def test_there_is_room_again_when_a_request_leaves_or_gets_its_place(make_queue, ticket):
    queue = make_queue(queue_rows=10)
    left, placed = ticket(5), ticket(5)
    wait(queue, left, placed)

    queue.remove(left)
    wait(queue, ticket(5))
    place(queue, placed)
    wait(queue, ticket(5))

    assert queue.rows == 10


def test_a_request_that_would_wait_too_long_by_the_pace_is_refused_until_it_would_not(make_queue, ticket, refusals):
    queue = make_queue(queue_seconds=6)
    paced(queue, ticket)  # 10 rows in places for 2 s: 5 leave in a second
    wait(queue, ticket(30), ticket(10))

    with pytest.raises(OverloadedError, match=r"would wait 8\.00 s for a place, longer than the 6 s") as caught:
        queue.check(ticket(1), 0.0)

    assert caught.value.metadata == {"retry_after_seconds": "2.000"}
    assert refusals.causes == ["seconds"]


def test_the_backlog_is_the_time_until_the_last_has_a_place(make_queue, ticket):
    queue = make_queue()
    paced(queue, ticket)  # 10 rows in places for 2 s: 5 leave in a second
    before = queue.backlog_seconds(0.0)

    wait(queue, ticket(30), ticket(10))

    assert (before, queue.backlog_seconds(0.0)) == (0.0, 8.0)


def test_without_a_pace_the_backlog_is_how_long_there_has_been_a_queue(make_queue, ticket):
    queue, first, second = make_queue(), ticket(30), ticket(10)
    wait(queue, first, second)

    # They arrived at 0.
    found = [queue.backlog_seconds(7.0)]
    queue.remove(first)
    queue.remove(second)
    found.append(queue.backlog_seconds(8.0))

    assert found == [7.0, 0.0]


def test_a_request_that_would_not_start_before_its_deadline_is_refused(make_queue, ticket, refusals):
    # 40 rows at 5 rows a second, 2 s until the place is free, and a quarter to spare.
    queue = make_queue()
    paced(queue, ticket)
    wait(queue, ticket(40))
    queue.check(ticket(1, deadline=112.6), 100.0)

    message = r"may take 12\.50 s now, 10\.00 s .* leaves 11\.50 s; .* longer deadline or in 4\.00 s"
    with pytest.raises(OverloadedError, match=message):
        queue.check(ticket(1, deadline=111.5), 100.0)

    assert refusals.causes == ["deadline"]


@pytest.mark.parametrize(
    ("left", "seconds"),
    [
        # As many seconds later as are named, the quarter to spare is less by the seconds that are missing.
        (11.5, "4.000"),
        (11.75, "3.000"),
        # Nothing is free before the next place is.
        (12.4, "2.000"),
        # By then all who wait are done.
        (6.0, "8.000"),
    ],
)
def test_a_request_whose_deadline_is_too_near_is_told_when_it_is_not_if_nobody_else_comes(
    make_queue, ticket, left, seconds
):
    queue = make_queue()
    paced(queue, ticket)
    wait(queue, ticket(40))

    with pytest.raises(OverloadedError) as caught:
        queue.check(ticket(1, deadline=left), 0.0)

    assert caught.value.metadata == {"retry_after_seconds": seconds}


def test_a_caller_waits_for_no_more_than_its_turns(make_queue, ticket):
    # Of ada's 40 rows one goes first, as hers and grace's take turns: far from 8 s.
    queue = make_queue(queue_seconds=0.5)
    paced(queue, ticket)
    wait(queue, ticket(40))

    queue.check(ticket(1, caller="grace"), 0.0)

    with pytest.raises(OverloadedError):
        queue.check(ticket(1), 0.0)


def test_without_a_pace_no_time_is_held_against_a_request(make_queue, ticket):
    queue = make_queue(queue_seconds=0)
    wait(queue, ticket(1000), ticket(1, deadline=0.001))

    assert queue.requests == 2


@pytest.mark.parametrize(
    ("rows", "bounds", "seconds"),
    [
        (5, {"queue_rows": 40}, 1.0),  # 5 rows too many, at 5 a second
        (1000, {"queue_rows": 40}, 8.0),  # room as soon as none of the 40 waits
        (5, {"queue_bytes": BYTES}, 8.0),
    ],
)
def test_who_is_refused_comes_back_when_there_should_be_room(make_queue, ticket, rows, bounds, seconds):
    queue = make_queue(**bounds)
    paced(queue, ticket)
    wait(queue, ticket(40))

    with pytest.raises(OverloadedError, match=rf"in {seconds:.2f} s\.$") as caught:
        queue.check(ticket(rows), 0.0)

    assert float(caught.value.metadata["retry_after_seconds"]) == seconds


@pytest.mark.parametrize(("spread", "seconds"), [(0.0, 8.0), (0.5, 9.0), (0.999, 9.998)])
def test_the_time_to_come_back_is_spread_by_up_to_a_quarter(make_queue, ticket, spread, seconds):
    queue = make_queue(queue_rows=0, spread=spread)
    paced(queue, ticket)
    wait(queue, ticket(40))

    with pytest.raises(OverloadedError) as caught:
        queue.check(ticket(1), 0.0)

    assert float(caught.value.metadata["retry_after_seconds"]) == pytest.approx(seconds)


def test_nobody_is_told_to_come_back_at_once(make_queue, ticket):
    queue = make_queue(queue_rows=0)
    paced(queue, ticket, seconds=1e-6)
    wait(queue, ticket(1))

    with pytest.raises(OverloadedError) as caught:
        queue.check(ticket(1), 0.0)

    assert caught.value.metadata == {"retry_after_seconds": "0.050"}


def test_without_a_pace_one_comes_back_after_a_second(make_queue, ticket):
    queue = make_queue(queue_rows=0)
    wait(queue, ticket(1))

    with pytest.raises(OverloadedError) as caught:
        queue.check(ticket(1), 0.0)

    assert caught.value.metadata == {"retry_after_seconds": "1.000"}


def test_a_callers_requests_are_done_in_their_order(make_queue, ticket):
    queue = make_queue()
    tickets = [ticket(rows) for rows in (5, 1, 3)]
    wait(queue, *tickets)

    assert serve(queue, 3) == tickets


def test_callers_have_equal_rows_whatever_the_sizes_and_numbers_of_their_requests(make_queue, ticket):
    queue = make_queue()
    wait(queue, *(ticket(10, "ada") for _ in range(300)))
    wait(queue, *(ticket(1, "grace") for _ in range(1000)))
    wait(queue, *(ticket(25, "hedy") for _ in range(100)))

    rows = Counter()
    shares = []
    for served in serve(queue, 600):
        rows[served.caller] += served.rows
        shares.append([rows["ada"], rows["grace"], rows["hedy"]])

    # At no time is one ahead of another by more than their largest requests.
    assert max(np.ptp(shares, axis=1)) <= 25 + 10
    assert min(shares[-1]) > 400


def test_who_comes_back_saved_nothing_up_and_owes_nothing(make_queue, ticket):
    queue = make_queue()
    wait(queue, *(ticket(10, "ada") for _ in range(100)))
    serve(queue, 50)

    wait(queue, *(ticket(10, "grace") for _ in range(20)))

    ahead = np.cumsum([1 if served.caller == "ada" else -1 for served in serve(queue, 20)])
    assert ahead[-1] == 0
    assert max(abs(ahead)) == 1


def test_a_stream_of_new_callers_does_not_keep_one_out_who_waits(make_queue, ticket):
    queue = make_queue()
    wait(queue, *(ticket(100, "ada") for _ in range(3)), ticket(1, "other"))
    served = []
    for number in range(1000):
        wait(queue, ticket(1, f"new-{number}"))
        served += serve(queue, 1)

    turns = [number for number, each in enumerate(served) if each.caller == "ada"]
    assert len(turns) == 3
    assert max(np.diff([0, *turns])) < 400


def test_a_caller_without_a_place_is_found_behind_those_who_have_some(make_queue, ticket):
    queue = make_queue()
    place(queue, ticket(1, "ada"))
    mine = [ticket(1, "ada"), ticket(1, "grace")]
    wait(queue, *mine)

    assert queue.first_without_place() is mine[1]
    place(queue, mine[1])
    assert queue.first_without_place() is None
    queue.release(mine[1], now=0.0)
    assert queue.first_without_place() is None
    assert queue.first() is mine[0]


def test_a_caller_whose_last_place_is_free_has_none_again(make_queue, ticket):
    queue = make_queue()
    had, waits = ticket(1), ticket(1)
    place(queue, had)
    wait(queue, waits)
    assert queue.first_without_place() is None

    queue.release(had, now=0.0)

    assert queue.first_without_place() is waits


def test_requests_of_lost_workers_count_as_waiting_and_are_charged_no_second_time(make_queue, ticket):
    queue = make_queue()
    lost, suspect = ticket(1000), ticket(7)
    lost.losses = suspect.losses = 1
    suspect.suspect = True

    queue.put_back(lost)
    queue.put_back(suspect)

    assert (list(queue.returned), list(queue.suspects)) == ([lost], [suspect])
    assert (queue.requests, queue.rows, queue.size_bytes) == (2, 1007, 2 * BYTES)
    assert queue.first() is None
    place(queue, lost)
    wait(queue, ticket(1, "ada"), ticket(1, "grace"))
    assert [each.caller for each in serve(queue, 2)] == ["ada", "grace"]


class Waiting(RuleBasedStateMachine):
    """Requests that come, leave, get places, are lost and come back, against plain lists."""

    @initialize()
    def start(self):
        self.loop = asyncio.new_event_loop()
        config = ClassConfig(queue_rows=50, queue_bytes=20 * BYTES, queue_seconds=100)
        self.queue = AdmissionQueue("bulk", config, workers=1, places=64, observer=Observer(), spread=lambda: 0.0)
        self.waiting = []
        self.placed = []
        self.now = 0.0

    @rule(rows=integers(1, 20), caller=sampled_from("abc"))
    def come(self, rows, caller):
        ticket = Ticket(
            JOB, "m", "bulk", caller, rows, self.now, None, None, self.loop.create_future(), size_bytes=BYTES
        )
        try:
            self.queue.check(ticket, self.now)
        except OverloadedError:
            assert self.waiting
        else:
            self.queue.add(ticket)
            self.waiting.append(ticket)

    @precondition(lambda self: self.waiting)
    @rule(data=data())
    def leave(self, data):
        ticket = data.draw(sampled_from(self.waiting))
        self.queue.remove(ticket)
        self.queue.remove(ticket)
        self.waiting.remove(ticket)

    @rule()
    def take_turns(self):
        ticket = self.queue.first()
        assert (ticket is None) == all(each.losses for each in self.waiting)
        for chosen in [ticket] if ticket is not None else []:
            assert chosen == next(each for each in self.waiting if each.caller == chosen.caller and not each.losses)
            self._place(chosen)

    @precondition(lambda self: any(each.losses for each in self.waiting))
    @rule()
    def send_again(self):
        self._place(next(each for each in self.waiting if each.losses))

    @precondition(lambda self: self.placed)
    @rule(data=data(), seconds=integers(0, 5), worked=booleans())
    def end(self, data, seconds, worked):
        self.now += seconds
        ticket = data.draw(sampled_from(self.placed))
        self.placed.remove(ticket)
        self.queue.release(ticket, now=self.now, rows=int(worked))

    @precondition(lambda self: self.placed)
    @rule(data=data(), suspect=booleans())
    def lose(self, data, suspect):
        ticket = data.draw(sampled_from(self.placed))
        self.placed.remove(ticket)
        self.queue.release(ticket, now=self.now)
        ticket.losses += 1
        ticket.suspect = suspect
        self.queue.put_back(ticket)
        self.waiting.append(ticket)

    def _place(self, ticket):
        ticket.sent = self.now
        self.queue.place(ticket)
        self.waiting.remove(ticket)
        self.placed.append(ticket)

    @invariant()
    def counts_are_those_of_the_lists(self):
        queue = self.queue
        rows = sum(ticket.rows for ticket in self.waiting)
        assert (queue.requests, queue.rows, queue.size_bytes) == (len(self.waiting), rows, BYTES * len(self.waiting))
        assert set(queue.tickets()) == set(self.waiting)
        running = Counter(ticket.caller for ticket in self.placed)
        assert [queue.running(caller) for caller in "abc"] == [running[caller] for caller in "abc"]

    @invariant()
    def whoever_waits_without_a_place_is_found(self):
        running = {ticket.caller for ticket in self.placed}
        starved = {each.caller for each in self.waiting if not each.losses} - running
        found = self.queue.first_without_place()
        assert (found.caller in starved) if found is not None else not starved

    def teardown(self):
        self.loop.close()


TestWaiting = Waiting.TestCase
TestWaiting.settings = settings(max_examples=60, stateful_step_count=60, deadline=None, derandomize=True)


def test_a_request_that_waited_too_long_to_be_done_in_time_is_not_begun(make_queue, ticket):
    # Requests of this kind take 2 s.
    queue, done = make_queue(), ticket(10)
    place(queue, done)
    queue.release(done, now=2.0, rows=10, answered=True)
    late, early = ticket(10, deadline=101.9), ticket(10, deadline=102.1)
    wait(queue, late, early)

    assert "takes about 2 s" in queue.too_late(late, 100.0).message
    assert queue.too_late(early, 100.0) is None


@pytest.mark.parametrize(("ended", "places"), [(True, 7), (False, 8)])
def test_a_deadline_that_passed_in_a_place_costs_places_if_the_worker_lived(make_queue, ticket, ended, places):
    queue, lost = make_queue(), ticket(10, deadline=1.0)
    place(queue, lost)

    queue.release(lost, now=1.5, ended=ended)

    assert queue.places == places


@pytest.mark.parametrize("workers", [1, 3])
def test_requests_in_places_bring_no_more_bytes_than_may_wait(make_queue, ticket, workers):
    queue = make_queue(workers=workers, queue_bytes=4 * BYTES)
    placed = [ticket() for _ in range(4 * workers)]
    room = []
    for each in placed:
        room.append(queue.holds(each))
        place(queue, each)

    assert all(room)
    assert not queue.holds(ticket())
    queue.release(placed[0], now=0.0)
    assert queue.holds(ticket())


def test_a_request_of_any_size_gets_a_place_if_no_other_has_one(make_queue, ticket):
    queue, big = make_queue(queue_bytes=BYTES // 2), ticket()

    assert queue.holds(big)
    place(queue, big)
    assert not queue.holds(ticket())


def test_nobody_overtakes_a_request_whose_turn_it_is_and_that_waits_for_room(make_queue, ticket):
    queue = make_queue(queue_bytes=4 * BYTES)
    placed, large, small = ticket(), ticket(), ticket(caller="grace")
    large.size_bytes = 4 * BYTES
    place(queue, placed)
    wait(queue, large)

    assert queue.holds(small)
    assert not queue.holds(queue.first())
    assert not queue.holds(small)
    queue.release(placed, now=0.0)
    assert queue.holds(large)
    place(queue, large)
    assert not queue.holds(small)
    queue.release(large, now=0.0)
    assert queue.holds(small)


def test_a_request_that_left_before_there_was_room_keeps_nobody_out(make_queue, ticket):
    queue = make_queue(queue_bytes=4 * BYTES)
    large = ticket()
    large.size_bytes = 4 * BYTES
    place(queue, ticket())
    wait(queue, large)
    assert not queue.holds(large)

    queue.remove(large)

    assert queue.holds(ticket(caller="grace"))


@pytest.mark.parametrize(("can_be_cut", "cause"), [(False, "deadline"), (True, None)])
def test_a_request_that_answers_with_what_it_has_is_not_refused_for_what_others_took(
    make_queue, ticket, refusals, can_be_cut, cause
):
    # Others took 20 s; a place is free after 2 s in the mean.
    queue, long = make_queue(), ticket(10)
    place(queue, long)
    queue.release(long, now=20.0, rows=10, answered=True)
    [place(queue, ticket(10)) for _ in range(10)]
    asked = ticket(10, deadline=5.0)
    asked.can_be_cut = can_be_cut

    with contextlib.suppress(OverloadedError):
        wait(queue, asked)
    late = queue.too_late(asked, 1.0)

    assert refusals.causes == ([cause] if cause else [])
    assert late is None
