import pytest
from pellucid_server.pool.workers.backoff import Backoff


def waits(backoff, lives):
    """Return the wait before each start, given how long the worker lived that was started before it."""
    found = []
    for seconds in lives:
        backoff.lived(seconds)
        found.append(backoff.seconds)
        backoff.started()
    return found


def test_waits_double_up_to_the_longest_while_workers_die_young():
    assert waits(Backoff(0.5, 3.0), [0.0, 4.9, 9.9, 19.9, 29.9]) == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_who_lived_ten_times_its_wait_is_as_new():
    assert waits(Backoff(0.5, 30.0), [0.0, 0.0, 0.0, 20.0, 0.0]) == [0.5, 1.0, 2.0, 0.5, 1.0]


def test_starts_that_fail_count_as_deaths():
    backoff = Backoff(0.5, 30.0)
    [backoff.started() for _ in range(3)]

    assert backoff.seconds == 4.0


@pytest.mark.parametrize("seconds", [0.0, 1000.0])
def test_the_first_wait_is_the_first_however_long_the_first_worker_lived(seconds):
    assert waits(Backoff(0.5, 30.0), [seconds]) == [0.5]
