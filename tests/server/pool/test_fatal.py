from dataclasses import replace

import numpy as np
import pytest
from pellucid_server.errors import FatalRequestError
from pellucid_server.jobs import (
    AttributeJob,
    ExplanationSpec,
    ModelKey,
    PicturesInput,
    PredictJob,
    TableInput,
    TensorInput,
    TextsInput,
)
from pellucid_server.pool import fatal as module
from pellucid_server.pool.fatal import FatalJobs, equal_jobs, fatal_error


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


def test_a_job_is_to_blame_when_a_second_worker_hangs_over_it_within_ten_minutes(clock):
    fatal = FatalJobs(clock)
    assert [fatal.blame(job(1)), fatal.blame(job(2))] == [False, False]

    clock.seconds = 600.0
    assert fatal.blame(job(1)) is False
    clock.seconds = 1199.0
    assert fatal.blame(job(1)) is True
    assert not fatal.knows(job(1))


def test_a_job_that_was_done_since_is_not_to_blame(clock):
    fatal = FatalJobs(clock)
    fatal.blame(job(1))
    fatal.blame(job(2))

    fatal.acquit(job(1))
    fatal.acquit(job(3))

    assert [fatal.blame(job(1)), fatal.blame(job(2))] == [False, True]


def test_only_the_last_64_jobs_are_blamed(clock):
    fatal = FatalJobs(clock)

    for number in range(65):
        fatal.blame(job(number))

    assert [fatal.blame(job(1)), fatal.blame(job(0))] == [True, False]


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


ROW = np.arange(200.0)
JOBS = {
    "tensor": PredictJob(ModelKey("m"), {"x": TensorInput(ROW)}),
    "another at its end": PredictJob(ModelKey("m"), {"x": TensorInput(np.where(ROW == 199, 0, ROW))}),
    "another shape": PredictJob(ModelKey("m"), {"x": TensorInput(ROW.reshape(2, 100))}),
    "another name": PredictJob(ModelKey("m"), {"y": TensorInput(ROW)}),
    "another model": PredictJob(ModelKey("n"), {"x": TensorInput(ROW)}),
    "another version": PredictJob(ModelKey("m", 2), {"x": TensorInput(ROW)}),
    "more inputs": PredictJob(ModelKey("m"), {"x": TensorInput(ROW), "y": TensorInput(ROW)}),
    "explained": AttributeJob(ModelKey("m"), {"x": TensorInput(ROW)}, ExplanationSpec("saliency")),
    "scalar": PredictJob(ModelKey("m"), {"x": TensorInput(np.array(3.0))}),
    "pictures": PredictJob(ModelKey("m"), {"x": PicturesInput((b"a" * 100, b"b"))}),
    "other pictures": PredictJob(ModelKey("m"), {"x": PicturesInput((b"a" * 99 + b"c", b"b"))}),
    "texts": PredictJob(ModelKey("m"), {"x": TextsInput(("a", "b"))}),
    "no texts": PredictJob(ModelKey("m"), {"x": TextsInput(())}),
    "table": PredictJob(ModelKey("m"), {"x": TableInput(({"a": 1.0, "b": "c"}, {"a": 2.0}))}),
    "other table": PredictJob(ModelKey("m"), {"x": TableInput(({"a": 1.0, "b": "c"}, {"a": 3.0}))}),
}


@pytest.mark.parametrize("name", JOBS)
def test_only_equal_jobs_are_equal_whatever_they_hold(clock, name):
    fatal = FatalJobs(clock)
    fatal.add(JOBS[name])
    copy = replace(JOBS[name], inputs=dict(JOBS[name].inputs))

    assert [other for other, found in JOBS.items() if fatal.knows(found)] == [name]
    assert equal_jobs(JOBS.values(), [copy]) == [other == name for other in JOBS]


HEADER = b"\xff\xd8" + 200 * b"q"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (TensorInput(ROW), TensorInput(np.where(ROW < 100, ROW, 0))),
        (PicturesInput((HEADER + b"a",)), PicturesInput((HEADER + b"bc",))),
        (PicturesInput((b"a", HEADER)), PicturesInput((b"a", HEADER + b"b"))),
        (TextsInput(("a", 100 * "b")), TextsInput(("a", 101 * "b"))),
    ],
)
def test_a_job_that_looks_otherwise_is_not_read_whole(clock, monkeypatch, one, other):
    fatal = FatalJobs(clock)
    fatal.add(PredictJob(ModelKey("m"), {"x": one}))
    monkeypatch.setattr(module, "_digest", None)

    assert not fatal.knows(PredictJob(ModelKey("m"), {"x": other}))


def test_no_job_is_read_whole_for_want_of_others(monkeypatch):
    monkeypatch.setattr(module, "_digest", None)

    assert equal_jobs([JOBS["tensor"], JOBS["texts"]], []) == [False, False]


CELLS = {"a": 1.0, "b": "c"}
SPEC = ExplanationSpec("saliency", {"p": 1, "q": 2})


@pytest.mark.parametrize(
    ("asked", "again"),
    [
        (
            PredictJob(ModelKey("m"), {"x": TensorInput(ROW), "y": TableInput((CELLS,))}),
            PredictJob(ModelKey("m"), {"y": TableInput((dict(reversed(CELLS.items())),)), "x": TensorInput(ROW)}),
        ),
        (
            AttributeJob(ModelKey("m"), {"x": TensorInput(ROW)}, SPEC),
            AttributeJob(ModelKey("m"), {"x": TensorInput(ROW)}, replace(SPEC, parameters={"q": 2, "p": 1})),
        ),
    ],
)
def test_the_order_of_names_makes_no_other_job(clock, asked, again):
    fatal = FatalJobs(clock)
    fatal.add(asked)

    assert fatal.knows(again)
    assert equal_jobs([again], [asked]) == [True]
