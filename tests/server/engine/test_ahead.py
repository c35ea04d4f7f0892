"""Items that are made while the last one is worked on."""

import threading

import pytest
from pellucid_server.engine.tasks.ahead import ahead
from pellucid_server.engine.tasks.hub import Hub
from server.engine.test_hub import run


@pytest.fixture(scope="module")
def hub():
    return Hub()


class Made:
    """A generator of numbers, which are made on a thread beside; notes what happens."""

    def __init__(self, hub, count, fails_at=None):
        self.begun = []
        self.closed = threading.Event()
        self._hub, self._count, self._fails_at = hub, count, fails_at

    def numbers(self):
        try:
            for number in range(self._count):
                self.begun.append(number)
                yield self._hub.offload(lambda number=number: self._one(number))
        finally:
            self.closed.set()

    def _one(self, number):
        if number == self._fails_at:
            raise ValueError(f"number {number}")
        return number


def test_all_items_come_in_order_and_each_is_begun_before_the_last_is_done_with(hub):
    made = Made(hub, 5)
    seen = []

    def use():
        for item in ahead(hub, made.numbers()):
            hub.offload(lambda: None)
            while len(made.begun) < min(item + 2, 5):
                hub.offload(lambda: None)
            seen.append((item, len(made.begun)))

    run(hub, use)

    assert seen == [(0, 2), (1, 3), (2, 4), (3, 5), (4, 5)]
    assert made.closed.is_set()


def test_at_most_one_item_waits_to_be_taken(hub):
    made = Made(hub, 10)

    def use():
        items = ahead(hub, made.numbers())
        next(items)
        for _ in range(20):
            hub.offload(lambda: None)
        begun = list(made.begun)
        items.close()
        return begun

    assert run(hub, use) == [0, 1]


def test_an_error_comes_in_the_items_place(hub):
    made, seen = Made(hub, 5, fails_at=2), []

    def use():
        for item in ahead(hub, made.numbers()):
            seen.append(item)

    error = run(hub, use)

    assert isinstance(error, ValueError)
    assert str(error) == "number 2"
    assert seen == [0, 1]
    assert made.closed.is_set()


def test_a_user_that_stops_early_ends_the_making(hub):
    made = Made(hub, 1000)

    def use():
        for item in ahead(hub, made.numbers()):
            if item == 2:
                break

    run(hub, use)

    assert made.closed.wait(10)
    assert len(made.begun) < 6


def test_no_items_are_none(hub):
    assert run(hub, lambda: list(ahead(hub, Made(hub, 0).numbers()))) == []
