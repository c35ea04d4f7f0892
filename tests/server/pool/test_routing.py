from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from pellucid_server.pool.routing import Routing

PLACES = 2


@dataclass
class Worker:
    """A worker with so many requests of the class "bulk", by model."""

    requests: dict = field(default_factory=dict)
    retried: int = 0
    suspects: int = 0
    ready: bool = True
    behind: frozenset = frozenset()

    @property
    def load(self):
        return sum(self.requests.values())

    def places(self, priority):
        return self.load if priority == "bulk" else 0

    def runs(self, model):
        return model in self.requests


def routing(*workers):
    made = Routing(workers)
    made.look()
    return made


def ticket(model="m", *, priority="bulk", losses=0):
    return SimpleNamespace(model=model, priority=priority, losses=losses)


def test_no_worker_has_a_place_before_one_is_ready():
    made = Routing([Worker()])

    assert made.worker(ticket(), running=0, places=PLACES) is None
    assert made.look()
    assert made.worker(ticket(), running=0, places=PLACES) is not None


def test_a_worker_that_is_not_ready_gets_nothing():
    ready = Worker({"m": 1})

    assert routing(Worker(ready=False), ready).worker(ticket(), running=0, places=PLACES) is ready


@pytest.mark.parametrize(
    ("taken", "running", "free"), [(1, 1, True), (2, 1, False), (2, 0, True), (3, 0, True), (4, 0, False)]
)
@pytest.mark.parametrize("count", [1, 2])
def test_a_caller_without_a_place_may_have_one_beyond(taken, running, free, count):
    workers = [Worker({"m": taken}) for _ in range(count)]

    assert (routing(*workers).worker(ticket(), running=running, places=PLACES) is not None) == free


def test_the_places_of_another_class_do_not_count():
    assert routing(Worker({"m": 4})).worker(ticket(priority="predictions"), running=1, places=PLACES) is not None


def test_requests_of_a_model_stay_together_while_there_are_places():
    beside, idle = Worker({"m": 1, "n": 0}), Worker()

    assert routing(idle, beside).worker(ticket("m"), running=1, places=PLACES) is beside
    assert routing(idle, beside).worker(ticket("other"), running=1, places=PLACES) is idle


def test_nobody_goes_beyond_the_places_while_another_worker_has_one():
    full, idle = Worker({"m": 2}), Worker({"n": 1})

    assert routing(full, idle).worker(ticket("m"), running=0, places=PLACES) is idle


@pytest.mark.parametrize("count", [1, 2])
def test_a_request_that_was_lost_keeps_away_from_suspects_and_a_new_one_need_not(count):
    workers = [Worker({"m": 1}, retried=1, suspects=1) for _ in range(count)]

    assert routing(*workers).worker(ticket(losses=1), running=0, places=PLACES) is None
    assert routing(*workers).worker(ticket(), running=0, places=PLACES) is not None


def test_a_suspect_goes_where_nothing_is_that_was_lost_before():
    free, lighter = Worker({"m": 4}), Worker({"n": 1}, retried=1)

    assert routing(lighter, free).worker_for_suspect() is free
    assert routing(lighter).worker_for_suspect() is None


def test_a_worker_that_is_behind_with_a_model_gets_no_request_for_it_though_the_others_have_no_place():
    full, behind = Worker({"m": 2 * PLACES}), Worker(behind=frozenset({"m"}))

    assert routing(full, behind).worker(ticket("m"), running=0, places=PLACES) is None
    assert routing(full, behind).worker(ticket("other"), running=0, places=PLACES) is behind
    # Better an older answer, or an error that says why, than none.
    assert routing(behind).worker(ticket("m"), running=0, places=PLACES) is behind
