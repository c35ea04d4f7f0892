"""The limit is tried on devices of which it is known how many jobs they can do at once."""

import itertools

import pytest
from pellucid_server.pool.crowding import Crowding


def steady(crowding, stay, *, rounds=200):
    """Keep all places taken: the oldest leaves after `stay(jobs in places)`, and others take what is free."""
    line = []
    for _ in range(rounds):
        while len(line) < crowding.limit:
            line.append(crowding.enter())
        crowding.leave("m/ig", 50, stay(len(line)), weight=50, beside=line.pop(0), counted=True)
    return crowding.limit


def test_a_device_that_one_job_fills_has_two_at_once():
    quiet = Crowding(64, 1)
    quiet.leave("m/ig", 50, 3.0, weight=50, beside=quiet.enter(), counted=True)

    assert steady(quiet, lambda jobs: 3.0 * jobs) == 2


def test_a_device_that_sixteen_jobs_fill_has_no_fewer_at_once_and_at_most_half_as_many_more():
    crowding = Crowding(64, 1)
    crowding.leave("m/ig", 50, 3.0, weight=50, beside=crowding.enter(), counted=True)

    assert 16 <= steady(crowding, lambda jobs: 3.0 * max(1.0, jobs / 16)) <= 25


def test_a_device_without_bound_has_all_places():
    assert steady(Crowding(64, 1), lambda jobs: 3.0) == 64


def test_short_jobs_have_all_places_though_they_share_the_device():
    assert steady(Crowding(64, 1), lambda jobs: 0.001 * jobs) == 64


def test_jobs_of_middling_length_have_places_that_keep_their_stay_short():
    limit = steady(Crowding(64, 1), lambda jobs: 0.02 * jobs)

    # 25 jobs of 20 ms each are half a second.
    assert limit == pytest.approx(25, abs=2)


def test_long_jobs_are_not_hidden_by_many_short_ones():
    crowding = Crowding(64, 1)
    crowding.leave("m/ig", 50, 3.0, weight=50, beside=crowding.enter(), counted=True)
    crowding.leave("m/saliency", 1, 0.01, weight=1, beside=crowding.enter(), counted=True)
    for number in itertools.islice(itertools.count(), 300):
        kind, rows, alone = ("m/ig", 50, 3.0) if number % 10 == 0 else ("m/saliency", 1, 0.01)
        places = [crowding.enter() for _ in range(crowding.limit)]
        for beside in places:
            crowding.leave(kind, rows, alone * len(places), weight=rows, beside=beside, counted=True)

    assert crowding.limit <= 8


def test_several_workers_share_the_jobs():
    # Two workers, each filled by one job: four side by side stretch each other twofold.
    crowding = Crowding(64, 2)
    crowding.leave("m/ig", 50, 3.0, weight=50, beside=crowding.enter(), counted=True)
    line = []
    for _ in range(200):
        while len(line) < 2 * crowding.limit:
            line.append(crowding.enter())
        crowding.leave("m/ig", 50, 3.0 * max(1.0, len(line) / 2), weight=50, beside=line.pop(0), counted=True)

    assert crowding.limit == 2


def test_a_job_that_was_not_done_tells_nothing():
    crowding = Crowding(64, 1)
    before = crowding.limit

    crowding.leave("m/ig", 50, 100.0, weight=50, beside=crowding.enter(), counted=False)

    assert (crowding.limit, crowding.placed) == (before, 0)
    assert crowding.stay_seconds("m/ig", 50) == 0.0


def test_there_are_never_more_places_than_the_settings_give():
    assert steady(Crowding(1, 1), lambda jobs: 0.001) == 1


def test_a_stay_is_foretold_by_the_weight_beforehand_though_other_rows_were_evaluated():
    crowding = Crowding(64, 1)
    crowding.leave("m/ig", 13, 1.3, weight=10, beside=crowding.enter(), counted=True)

    assert crowding.stay_seconds("m/ig", 20) == pytest.approx(2.6)


def test_a_stay_is_foretold_by_rows_and_crowd():
    crowding = Crowding(64, 1)
    crowding.leave("m/ig", 50, 3.0, weight=50, beside=crowding.enter(), counted=True)
    steady(crowding, lambda jobs: 3.0 * jobs)

    # Alone 60 ms a row; two side by side take twice as long.
    assert crowding.stay_seconds("m/ig", 100) == pytest.approx(12.0, rel=0.05)
    assert crowding.stay_seconds("m/unknown", 100) == 0.0


def test_a_device_that_was_never_quiet_has_at_most_half_as_many_more_jobs_as_were_tried_at_first():
    assert steady(Crowding(64, 1), lambda jobs: 3.0 * jobs) <= 12


def test_jobs_that_outlive_their_deadlines_leave_places_for_two():
    crowding = Crowding(64, 1)
    for _ in range(20):
        crowding.lose()

    assert crowding.limit == 2


def test_places_come_back_as_jobs_are_done():
    crowding = Crowding(64, 1)
    for _ in range(100):
        crowding.lose()

    assert steady(crowding, lambda jobs: 0.001 * jobs, rounds=600) == 64


def test_a_stay_is_never_foretold_longer_than_one_after_the_other_with_those_in_places():
    crowding = Crowding(64, 1)
    crowding.leave("m/ig", 50, 3.0, weight=50, beside=crowding.enter(), counted=True)
    # The same rows, but of texts thirty times as long.
    for _ in range(50):
        crowding.leave("m/ig", 50, 90.0, weight=50, beside=crowding.enter(), counted=True)
    crowding.enter()

    assert crowding.stay_seconds("m/ig", 50) == pytest.approx(6.0)
