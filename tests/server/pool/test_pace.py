import pytest
from pellucid_server.pool.pace import Pace


def test_before_a_job_has_left_there_is_no_telling():
    pace = Pace()
    pace.enter(10)

    assert pace.seconds(5) is None


def test_without_a_job_in_a_place_there_is_no_telling():
    pace = Pace()
    pace.enter(10)
    pace.leave(10, 2.0, counted=True)

    assert pace.seconds(5) is None


def test_rows_take_as_long_as_littles_law_says():
    pace = Pace()
    pace.enter(10)
    pace.leave(10, 2.0, counted=True)
    pace.enter(10)
    pace.enter(30)

    # 40 rows in places, each for 2 s: 20 leave in a second.
    assert pace.seconds(60) == pytest.approx(3.0)


def test_a_job_that_does_not_count_changes_the_places_alone():
    pace = Pace()
    pace.enter(10)
    pace.leave(10, 2.0, counted=True)
    pace.enter(10)
    pace.enter(30)

    pace.leave(30, 1000.0, counted=False)

    assert pace.seconds(10) == pytest.approx(2.0)


def test_the_mean_is_of_rows_and_forgets():
    pace = Pace()
    pace.enter(1)
    pace.enter(3)
    pace.leave(1, 4.0, counted=True)
    pace.leave(3, 2.0, counted=True)
    pace.enter(1)

    # The first weighs 0.9 x 1 row, the second 3 rows.
    assert pace.seconds(1) == pytest.approx((0.9 * 4 + 3 * 2) / (0.9 + 3))


def test_a_change_of_pace_is_noticed():
    pace = Pace()
    pace.enter(1)
    [(pace.enter(1), pace.leave(1, 1.0, counted=True)) for _ in range(100)]
    [(pace.enter(1), pace.leave(1, 5.0, counted=True)) for _ in range(60)]

    assert pace.seconds(1) == pytest.approx(5.0, rel=0.01)
