import numpy as np
from pellucid_server.pool.queue.fair_queue import Caller, FairQueue

SEED = 20


def made(present=lambda caller: True):
    return FairQueue(present)


def test_the_least_virtual_time_is_first_and_equal_ones_in_their_order():
    turns = made()
    callers = [Caller("a", 2.0), Caller("b", 1.0), Caller("c", 1.0)]
    [turns.add(caller) for caller in callers]

    assert turns.first().name == "b"
    callers[1].start = 3.0
    assert turns.first().name == "c"
    callers[2].start = 3.0
    assert turns.first().name == "a"


def test_who_does_not_belong_there_is_passed_over_until_added_again():
    gone = set()
    turns = made(lambda caller: caller.name not in gone)
    first, second = Caller("a", 1.0), Caller("b", 2.0)
    turns.add(first)
    turns.add(second)

    gone.add("a")
    assert turns.first() is second
    gone.add("b")
    assert turns.first() is None
    gone.clear()
    turns.add(first)

    assert turns.first() is first


def test_adding_twice_is_adding_once():
    turns = made()
    caller = Caller("a")

    turns.add(caller)
    turns.add(caller)

    assert len(turns) == 1


def test_those_who_left_do_not_pile_up_behind_one_who_stays():
    first = Caller("stays")
    turns = made(lambda caller: caller is first)
    turns.add(first)

    [turns.add(Caller(f"leaves-{number}", 1.0)) for number in range(10_000)]

    assert turns.first() is first
    assert len(turns) <= 128


def test_the_order_is_that_of_sorting_whatever_happens_between():
    print(f"seed {SEED}")
    random = np.random.default_rng(SEED)
    gone = set()
    turns = made(lambda caller: caller.name not in gone)
    callers = [Caller(str(number), float(random.integers(20))) for number in range(200)]
    [turns.add(caller) for caller in callers]
    found, expected = [], []

    for _ in range(1000):
        caller = callers[random.integers(200)]
        caller.start += float(random.integers(5))
        gone ^= {caller.name}
        turns.add(caller)
        found.append(turns.first().start)
        expected.append(min(each.start for each in callers if each.name not in gone))

    assert found == expected
