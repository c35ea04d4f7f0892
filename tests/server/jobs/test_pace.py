"""How fast work goes, by reports at known times."""

import pytest
from pellucid_server.jobs.pace import Pace
from pellucid_server.vocabulary.messages import Progress


def paced(*reports):
    """The pace after reports of a time, a share and rows of 100."""
    times = [time for time, _, _ in reports]
    pace = Pace(lambda: times.pop(0))
    for _, share, rows in reports:
        pace.note(Progress(0, share, rows, 100))
    return pace


def test_one_report_says_nothing_of_a_pace():
    pace = paced((5.0, 0.2, 20))

    assert (pace.rows_per_second, pace.seconds_left) == (0.0, None)


def test_the_pace_is_that_since_the_first_report():
    pace = paced((5.0, 0.2, 20), (7.0, 0.3, 30), (9.0, 0.4, 40))

    assert pace.rows_per_second == 5.0
    assert pace.seconds_left == pytest.approx(12.0)


def test_what_is_long_ago_does_not_count():
    pace = paced((0.0, 0.0, 0), (100.0, 0.5, 50), (110.0, 0.6, 60), (120.0, 0.8, 80))

    assert pace.rows_per_second == 1.5
    assert pace.seconds_left == pytest.approx(0.2 * 20 / 0.3)


def test_work_that_stands_still_has_no_time_left_to_name():
    pace = paced((0.0, 0.5, 50), (10.0, 0.5, 50))

    assert (pace.rows_per_second, pace.seconds_left) == (0.0, None)


def test_reports_at_one_moment_divide_by_nothing():
    pace = paced((1.0, 0.1, 10), (1.0, 0.2, 20))

    assert (pace.rows_per_second, pace.seconds_left) == (0.0, None)


def test_work_that_is_done_takes_no_more_time():
    assert paced((0.0, 0.0, 0), (10.0, 1.0, 100)).seconds_left == 0
