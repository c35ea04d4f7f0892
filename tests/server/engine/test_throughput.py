import math

import pytest
from pellucid_server.engine.device.throughput import ThroughputStats


def test_the_fastest_of_the_last_32_chunks_counts():
    times = ThroughputStats()
    times.add("iris", 0.001, kind="forward")
    for number in range(31):
        times.add("iris", 1.0 + number, kind="forward")
    before = times.least("iris", kind="forward")

    times.add("iris", 5.0, kind="forward")

    assert (before, times.least("iris", kind="forward")) == (0.001, 1.0)


@pytest.mark.parametrize(("model", "kind"), [("iris", "forward"), ("wine", "gradient")])
def test_models_and_kinds_are_told_apart_and_what_was_not_measured_is_zero(model, kind):
    times = ThroughputStats()

    for _ in range(3):
        times.add("iris", 2.0, kind="gradient")

    assert times.least("iris", kind="gradient") == 2.0
    assert times.least(model, kind=kind) == 0.0


def test_two_chunks_are_too_few_to_know_as_the_first_takes_several_times_as_long():
    times = ThroughputStats()
    times.add("iris", 9.0, kind="gradient")
    times.add("iris", 2.0, kind="gradient")
    before = times.least("iris", kind="gradient")

    times.add("iris", 3.0, kind="gradient")

    assert (before, times.least("iris", kind="gradient")) == (0.0, 2.0)


def test_what_was_measured_more_than_a_minute_ago_is_forgotten():
    seconds = 0.0
    times = ThroughputStats(clock=lambda: seconds)
    for _ in range(3):
        times.add("iris", 2.0, kind="forward")
    seconds = 60.0
    before = times.least("iris", kind="forward")

    seconds = 60.1

    assert (before, times.least("iris", kind="forward")) == (2.0, 0.0)


def test_small_chunks_tell_what_rows_are_likely_to_take_and_not_the_least():
    times = ThroughputStats()
    unknown = times.likely("iris", kind="forward")

    times.add_small("iris", 3.0, kind="forward")
    small = times.likely("iris", kind="forward")
    for _ in range(3):
        times.add("iris", 2.0, kind="forward")

    assert (unknown, small, times.likely("iris", kind="forward")) == (math.inf, 3.0, 2.0)
    assert times.least("iris", kind="forward") == 2.0
    assert times.likely("iris", kind="gradient") == math.inf
