import math

import pytest
from pellucid_server.engine.device.throughput import ThroughputStats


def test_the_fastest_of_the_last_32_chunks_counts():
    times = ThroughputStats()
    times.add("iris", 0.001, backward=False)
    for number in range(31):
        times.add("iris", 1.0 + number, backward=False)
    before = times.least("iris", backward=False)

    times.add("iris", 5.0, backward=False)

    assert (before, times.least("iris", backward=False)) == (0.001, 1.0)


@pytest.mark.parametrize(("model", "backward"), [("iris", False), ("wine", True)])
def test_models_and_directions_are_told_apart_and_what_was_not_measured_is_zero(model, backward):
    times = ThroughputStats()

    for _ in range(3):
        times.add("iris", 2.0, backward=True)

    assert times.least("iris", backward=True) == 2.0
    assert times.least(model, backward=backward) == 0.0


def test_two_chunks_are_too_few_to_know_as_the_first_takes_several_times_as_long():
    times = ThroughputStats()
    times.add("iris", 9.0, backward=True)
    times.add("iris", 2.0, backward=True)
    before = times.least("iris", backward=True)

    times.add("iris", 3.0, backward=True)

    assert (before, times.least("iris", backward=True)) == (0.0, 2.0)


def test_what_was_measured_more_than_a_minute_ago_is_forgotten():
    seconds = 0.0
    times = ThroughputStats(clock=lambda: seconds)
    for _ in range(3):
        times.add("iris", 2.0, backward=False)
    seconds = 60.0
    before = times.least("iris", backward=False)

    seconds = 60.1

    assert (before, times.least("iris", backward=False)) == (2.0, 0.0)


def test_small_chunks_tell_what_rows_are_likely_to_take_and_not_the_least():
    times = ThroughputStats()
    unknown = times.likely("iris", backward=False)

    times.add_small("iris", 3.0, backward=False)
    small = times.likely("iris", backward=False)
    for _ in range(3):
        times.add("iris", 2.0, backward=False)

    assert (unknown, small, times.likely("iris", backward=False)) == (math.inf, 3.0, 2.0)
    assert times.least("iris", backward=False) == 2.0
    assert times.likely("iris", backward=True) == math.inf
