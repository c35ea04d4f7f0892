import pytest
from pellucid_server.pool.queue.queue_rate import QueueRate


def test_before_a_request_has_left_there_is_no_telling():
    pace = QueueRate()
    pace.enter(10, 0.0)

    assert pace.seconds(5) is None


def test_without_a_request_in_a_place_there_is_no_telling():
    pace = QueueRate()
    pace.enter(10, 0.0)
    pace.leave(10, 2.0, 2.0, counted=True)

    assert pace.seconds(5) is None


def test_rows_take_as_long_as_littles_law_says():
    pace = QueueRate()
    pace.enter(10, 0.0)
    pace.leave(10, 2.0, 2.0, counted=True)
    pace.enter(10, 2.0)
    pace.enter(30, 2.0)

    # 40 rows in places, each for 2 s: 20 leave in a second.
    assert pace.seconds(60) == pytest.approx(3.0)


def test_a_request_that_does_not_count_changes_the_places_alone():
    pace = QueueRate()
    pace.enter(10, 0.0)
    pace.leave(10, 2.0, 2.0, counted=True)
    pace.enter(10, 2.0)
    pace.enter(30, 2.0)

    pace.leave(30, 1000.0, 1002.0, counted=False)

    assert pace.seconds(10) == pytest.approx(2.0)


def test_the_mean_is_of_rows_and_forgets():
    pace = QueueRate()
    # So long before one another that no more leave than by Little's law.
    pace.enter(1, 0.0)
    pace.leave(1, 4.0, 4.0, counted=True)
    pace.enter(3, 100.0)
    pace.leave(3, 200.0, 300.0, counted=True)
    [pace.enter(1, 300.0) for _ in range(100)]

    # The first weighs 0.9 x 1 row, the second 3 rows.
    assert pace.seconds(100) == pytest.approx((0.9 * 4 + 3 * 200) / (0.9 + 3))


def test_a_change_of_pace_is_noticed():
    pace = QueueRate()
    now = 0.0
    for seconds in [1.0] * 100 + [5.0] * 60:
        pace.enter(1, now)
        now += seconds
        pace.leave(1, seconds, now, counted=True)
    pace.enter(1, now)

    assert pace.seconds(1) == pytest.approx(5.0, rel=0.01)


def test_one_small_request_in_a_place_does_not_make_the_rows_behind_it_wait_longer():
    # A device that does 100 rows a second, a request of 100 rows after the other.
    pace = QueueRate()
    for number in range(50):
        pace.enter(100, float(number))
        pace.leave(100, 1.0, number + 1.0, counted=True)
    pace.enter(1, 50.0)

    assert pace.seconds(500) == pytest.approx(5.0)


def test_time_without_a_request_in_a_place_does_not_count():
    pace = QueueRate()
    for number in range(50):
        pace.enter(100, 10.0 * number)
        pace.leave(100, 1.0, 10.0 * number + 1, counted=True)
    pace.enter(1, 1000.0)

    assert pace.seconds(500) == pytest.approx(5.0)


@pytest.mark.parametrize(("rows", "stay", "apart"), [(50, 10.0, 0.0), (1, 0.05, 1e-4)])
def test_requests_that_leave_in_bursts_are_no_faster_for_it(rows, stay, apart):
    # 64 requests share every batch and end with it, one shortly after the other.
    pace, now = QueueRate(), 0.0
    for _ in range(20):
        began = now
        [pace.enter(rows, now) for _ in range(64)]
        now += stay
        for number in range(64):
            pace.leave(rows, now + number * apart - began, now + number * apart, counted=True)
        now += 64 * apart
    [pace.enter(rows, now) for _ in range(64)]

    assert pace.seconds(6400 * rows) == pytest.approx(100 * (stay + 64 * apart), rel=0.2)


def test_one_request_that_stays_very_much_longer_than_others_leaves_their_pace():
    pace = QueueRate()
    pace.enter(10, 0.0)
    pace.leave(10, 0.001, 0.001, counted=True)
    pace.enter(10, 1.0)
    pace.enter(10, 3601.0)

    # Of what left an hour of millisecond stays ago nothing is remembered, not even that it is a little.
    assert pace.seconds(20) == pytest.approx(0.001)


def test_what_took_no_time_tells_nothing():
    pace = QueueRate()
    pace.enter(1, 0.0)
    pace.leave(1, 0.0, 0.0, counted=True)
    pace.enter(1, 0.0)
    assert pace.seconds(1) is None

    pace.leave(1, 2.0, 2.0, counted=True)
    pace.enter(1, 2.0)
    assert pace.seconds(1) == pytest.approx(2.0)
