"""A task that sends parts waits for credit on the hub, and others run meanwhile."""

import time
from queue import SimpleQueue

import pytest
from pellucid_server.engine.tasks.hub import Hub
from pellucid_server.engine.tasks.part_credit import PartCredit
from pellucid_server.engine.tasks.request_state import RequestState
from pellucid_server.errors import CancelledError, TimedOutError


class Sender:
    """Spends parts of one size until it may not; `spent` gets each part's number, and then what ended it."""

    def __init__(self, *, parts, size_bytes, part_bytes=10, deadline=None):
        self.hub = Hub()
        self.state = RequestState(1, deadline)
        self.credit = PartCredit(self.hub, self.state, parts=parts, size_bytes=size_bytes)
        self.spent = SimpleQueue()
        self.hub.submit(lambda: self._send(part_bytes))

    def _send(self, part_bytes):
        try:
            for number in range(1_000_000):
                self.credit.spend(part_bytes)
                self.spent.put(number)
        except Exception as error:
            self.spent.put(error)

    def next(self):
        return self.spent.get(timeout=20)

    def stands(self):
        """Whether other tasks run while this one waits: a task that came later is done, and no part was spent."""
        passed = SimpleQueue()
        self.hub.submit(lambda: passed.put(True))
        return passed.get(timeout=20) and self.spent.empty()

    def end(self):
        self.state.cancelled = True
        self.credit.wake()


def test_parts_are_spent_up_to_the_credit_and_go_on_when_more_is_granted():
    sender = Sender(parts=2, size_bytes=1000)
    assert [sender.next() for _ in range(2)] == [0, 1]
    assert sender.stands()

    sender.credit.grant(1, 0)

    assert sender.next() == 2
    assert sender.stands()
    sender.end()
    assert isinstance(sender.next(), CancelledError)


def test_bytes_bound_as_parts_do_and_the_last_part_may_go_beyond():
    sender = Sender(parts=100, size_bytes=15, part_bytes=10)
    assert [sender.next() for _ in range(2)] == [0, 1]
    assert sender.stands()

    sender.credit.grant(0, 6)

    assert sender.next() == 2
    sender.end()
    assert isinstance(sender.next(), CancelledError)


def test_a_deadline_ends_the_wait():
    sender = Sender(parts=0, size_bytes=0, deadline=time.monotonic() + 0.05)

    assert isinstance(sender.next(), TimedOutError)


@pytest.mark.parametrize("parts", [0, 1])
def test_a_cancellation_ends_the_wait_whenever_it_comes(parts):
    sender = Sender(parts=parts, size_bytes=1)

    sender.end()

    found = [sender.next() for _ in range(1)]
    while not isinstance(found[-1], CancelledError):
        found.append(sender.next())
    assert len(found) <= parts + 1
