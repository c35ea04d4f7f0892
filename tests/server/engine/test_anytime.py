"""How much more to take on before the deadline, by a clock that the test sets."""

import math

import pytest
from pellucid_server.engine.methods.shared.anytime import AnytimeBudget


class Clock:
    """As much of a handle as a pace looks at: how long is left."""

    def __init__(self, seconds):
        self.seconds = seconds

    def seconds_left(self):
        return self.seconds


def after(seconds, *, ran, taking, **settings):
    """A pace begun with `seconds` left, of which `ran` units have since taken some."""
    clock = Clock(seconds)
    budget = AnytimeBudget(clock, **settings)
    clock.seconds -= taking
    budget.ran(ran)
    return budget


def test_without_a_deadline_everything_is_taken_on_at_once():
    budget = AnytimeBudget(Clock(math.inf))

    assert budget.first(least=2, most=50) == 50
    budget.ran(50)
    assert budget.more(70) == 70


def test_with_a_deadline_it_begins_with_as_little_as_makes_an_answer():
    assert AnytimeBudget(Clock(60.0)).first(least=2, most=50) == 2
    assert AnytimeBudget(Clock(60.0)).first(least=8, most=5) == 5


def test_it_begins_with_everything_if_there_is_far_more_time_than_that_takes():
    # Of 10 s, 1 s is kept.
    assert AnytimeBudget(Clock(10.0)).first(least=2, most=50, seconds=0.08) == 50
    assert AnytimeBudget(Clock(10.0)).first(least=2, most=50, seconds=0.1) == 2


@pytest.mark.parametrize(("taking", "units"), [(0.03, 1), (0.06, 0)])
def test_of_a_short_time_no_more_than_half_is_kept(taking, units):
    # Of 0.1 s; units take so little that only what is left decides.
    assert after(0.1, ran=1_000_000, taking=taking).more(1) == units


def test_a_round_takes_half_of_what_is_left_but_for_the_reserve():
    # 10 s less 1 s for the first unit and 1 s kept leave 8 s, for 8 units.
    assert after(10.0, ran=1, taking=1.0).more(100) == 4


def test_all_of_the_rest_is_taken_on_if_it_fits_into_half_of_the_time():
    assert after(10.0, ran=1, taking=1.0).more(4) == 4
    assert after(10.0, ran=1, taking=1.0).more(3) == 3


def test_a_single_unit_may_take_all_that_is_left():
    assert after(10.0, ran=1, taking=4.0).more(100) == 1


@pytest.mark.parametrize(
    ("seconds", "reserve"), [(0.5, 0.1), (1.0, 0.1), (5.0, 0.5), (20.0, 2.0), (3600.0, 2.0)], ids=str
)
def test_a_tenth_of_the_time_is_kept_within_bounds(seconds, reserve):
    enough = after(seconds, ran=1_000_000, taking=seconds - reserve - 0.01)
    short = after(seconds, ran=1_000_000, taking=seconds - reserve + 0.01)

    assert enough.more(1) == 1
    assert short.more(1) == 0


@pytest.mark.parametrize(("taking", "units"), [(5.9, 1), (6.1, 0)])
def test_time_for_what_comes_after_the_units_so_far_is_kept_too(taking, units):
    # Of 10 s, 1 s is the reserve, and 3 s are for the units that have come.
    assert after(10.0, ran=1_000_000, taking=taking, after_unit_seconds=3e-6).more(1) == units


def test_units_take_what_comes_after_them_too():
    # 10 s less 1 s for the first unit, 1 s kept and 1 s for what comes after it leave 7 s, for 3 units of 2 s each.
    assert after(10.0, ran=1, taking=1.0, after_unit_seconds=1.0).more(100) == 2


def test_it_begins_with_everything_only_if_there_is_time_for_what_comes_after():
    # Of 10 s, 1 s is kept, and 5 s for what comes after 50 units.
    assert AnytimeBudget(Clock(10.0), after_unit_seconds=0.1).first(least=2, most=50, seconds=0.04) == 50
    assert AnytimeBudget(Clock(10.0), after_unit_seconds=0.1).first(least=2, most=50, seconds=0.05) == 2


def test_a_share_of_the_time_leaves_the_rest_to_others():
    assert after(9.0, ran=1_000_000, taking=2.0, time_share=1 / 3).more(1) == 1
    assert after(9.0, ran=1_000_000, taking=2.2, time_share=1 / 3).more(1) == 0


def test_units_that_took_no_time_at_all_are_not_divided_by():
    assert after(10.0, ran=5, taking=0.0).more(100) == 100


def test_only_the_latest_round_counts():
    clock = Clock(20.0)
    budget = AnytimeBudget(clock)
    clock.seconds -= 10.0
    budget.ran(1)

    clock.seconds -= 1.0
    budget.ran(10)

    # 9 s less 2 s kept leave 7 s, for 70 units of 0.1 s.
    assert budget.more(1000) == 35
