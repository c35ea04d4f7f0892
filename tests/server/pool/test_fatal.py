import numpy as np
import pytest
from pellucid_server.errors import FatalRequestError
from pellucid_server.jobs import ModelKey, PredictJob, TensorInput
from pellucid_server.pool.fatal import FatalJobs, fatal_error


def job(number):
    return PredictJob(ModelKey("m"), {"x": TensorInput(np.array([number]))})


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


def test_an_equal_job_is_known_and_another_is_not(clock):
    fatal = FatalJobs(clock)
    assert not fatal.knows(job(1))

    fatal.add(job(1))

    assert fatal.knows(job(1))
    assert not fatal.knows(job(2))


def test_a_job_is_forgotten_after_ten_minutes(clock):
    fatal = FatalJobs(clock)
    fatal.add(job(1))
    clock.seconds = 300.0
    fatal.add(job(2))

    clock.seconds = 600.0

    assert not fatal.knows(job(1))
    assert fatal.knows(job(2))


def test_a_job_that_ends_workers_again_is_remembered_from_then_on(clock):
    fatal = FatalJobs(clock)
    fatal.add(job(1))
    clock.seconds = 500.0
    fatal.add(job(1))

    clock.seconds = 1099.0

    assert fatal.knows(job(1))


def test_the_last_sixty_four_are_remembered(clock):
    fatal = FatalJobs(clock)

    digests = {fatal.add(job(number)) for number in range(65)}

    assert len(digests) == 65
    assert [fatal.knows(job(number)) for number in (0, 1, 64)] == [False, True, True]


def test_the_caller_is_told_not_to_send_it_again():
    assert isinstance(fatal_error(), FatalRequestError)
    assert "do not send it again" in fatal_error().message
