from dataclasses import replace

import numpy as np
import pytest
from pellucid_server.errors import FatalRequestError
from pellucid_server.pool.queue import quarantine as module
from pellucid_server.pool.queue.quarantine import Quarantine, equal_requests, fatal_error
from pellucid_server.vocabulary.requests import (
    AttributeRequest,
    ExplanationSpec,
    ModelKey,
    PicturesInput,
    PredictRequest,
    TableInput,
    TensorInput,
    TextsInput,
)


def request(number):
    return PredictRequest(ModelKey("m"), {"x": TensorInput(np.array([number]))})


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


def test_an_equal_request_is_known_and_another_is_not(clock):
    fatal = Quarantine(clock)
    assert not fatal.knows(request(1))

    fatal.add(request(1))

    assert fatal.knows(request(1))
    assert not fatal.knows(request(2))


def test_a_request_is_forgotten_after_ten_minutes(clock):
    fatal = Quarantine(clock)
    fatal.add(request(1))
    clock.seconds = 300.0
    fatal.add(request(2))

    clock.seconds = 600.0

    assert not fatal.knows(request(1))
    assert fatal.knows(request(2))


def test_a_request_is_to_blame_when_a_second_worker_hangs_over_it_within_ten_minutes(clock):
    fatal = Quarantine(clock)
    assert [fatal.blame(request(1)), fatal.blame(request(2))] == [False, False]

    clock.seconds = 600.0
    assert fatal.blame(request(1)) is False
    clock.seconds = 1199.0
    assert fatal.blame(request(1)) is True
    assert not fatal.knows(request(1))


def test_a_request_that_was_done_since_is_not_to_blame(clock):
    fatal = Quarantine(clock)
    fatal.blame(request(1))
    fatal.blame(request(2))

    fatal.acquit(request(1))
    fatal.acquit(request(3))

    assert [fatal.blame(request(1)), fatal.blame(request(2))] == [False, True]


def test_only_the_last_64_requests_are_blamed(clock):
    fatal = Quarantine(clock)

    for number in range(65):
        fatal.blame(request(number))

    assert [fatal.blame(request(1)), fatal.blame(request(0))] == [True, False]


def test_a_request_that_ends_workers_again_is_remembered_from_then_on(clock):
    fatal = Quarantine(clock)
    fatal.add(request(1))
    clock.seconds = 500.0
    fatal.add(request(1))

    clock.seconds = 1099.0

    assert fatal.knows(request(1))


def test_the_last_sixty_four_are_remembered(clock):
    fatal = Quarantine(clock)

    digests = {fatal.add(request(number)) for number in range(65)}

    assert len(digests) == 65
    assert [fatal.knows(request(number)) for number in (0, 1, 64)] == [False, True, True]


def test_the_caller_is_told_not_to_send_it_again():
    assert isinstance(fatal_error(), FatalRequestError)
    assert "do not send it again" in fatal_error().message


ROW = np.arange(200.0)
JOBS = {
    "tensor": PredictRequest(ModelKey("m"), {"x": TensorInput(ROW)}),
    "another at its end": PredictRequest(ModelKey("m"), {"x": TensorInput(np.where(ROW == 199, 0, ROW))}),
    "another shape": PredictRequest(ModelKey("m"), {"x": TensorInput(ROW.reshape(2, 100))}),
    "another name": PredictRequest(ModelKey("m"), {"y": TensorInput(ROW)}),
    "another model": PredictRequest(ModelKey("n"), {"x": TensorInput(ROW)}),
    "another version": PredictRequest(ModelKey("m", 2), {"x": TensorInput(ROW)}),
    "more inputs": PredictRequest(ModelKey("m"), {"x": TensorInput(ROW), "y": TensorInput(ROW)}),
    "explained": AttributeRequest(ModelKey("m"), {"x": TensorInput(ROW)}, ExplanationSpec("saliency")),
    "scalar": PredictRequest(ModelKey("m"), {"x": TensorInput(np.array(3.0))}),
    "pictures": PredictRequest(ModelKey("m"), {"x": PicturesInput((b"a" * 100, b"b"))}),
    "other pictures": PredictRequest(ModelKey("m"), {"x": PicturesInput((b"a" * 99 + b"c", b"b"))}),
    "texts": PredictRequest(ModelKey("m"), {"x": TextsInput(("a", "b"))}),
    "no texts": PredictRequest(ModelKey("m"), {"x": TextsInput(())}),
    "table": PredictRequest(ModelKey("m"), {"x": TableInput(({"a": 1.0, "b": "c"}, {"a": 2.0}))}),
    "other table": PredictRequest(ModelKey("m"), {"x": TableInput(({"a": 1.0, "b": "c"}, {"a": 3.0}))}),
}


@pytest.mark.parametrize("name", JOBS)
def test_only_equal_requests_are_equal_whatever_they_hold(clock, name):
    fatal = Quarantine(clock)
    fatal.add(JOBS[name])
    copy = replace(JOBS[name], inputs=dict(JOBS[name].inputs))

    assert [other for other, found in JOBS.items() if fatal.knows(found)] == [name]
    assert equal_requests(JOBS.values(), [copy]) == [other == name for other in JOBS]


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
def test_a_request_that_looks_otherwise_is_not_read_whole(clock, monkeypatch, one, other):
    fatal = Quarantine(clock)
    fatal.add(PredictRequest(ModelKey("m"), {"x": one}))
    monkeypatch.setattr(module, "_digest", None)

    assert not fatal.knows(PredictRequest(ModelKey("m"), {"x": other}))


def test_no_request_is_read_whole_for_want_of_others(monkeypatch):
    monkeypatch.setattr(module, "_digest", None)

    assert equal_requests([JOBS["tensor"], JOBS["texts"]], []) == [False, False]


CELLS = {"a": 1.0, "b": "c"}
SPEC = ExplanationSpec("saliency", {"p": 1, "q": 2})


@pytest.mark.parametrize(
    ("asked", "again"),
    [
        (
            PredictRequest(ModelKey("m"), {"x": TensorInput(ROW), "y": TableInput((CELLS,))}),
            PredictRequest(ModelKey("m"), {"y": TableInput((dict(reversed(CELLS.items())),)), "x": TensorInput(ROW)}),
        ),
        (
            AttributeRequest(ModelKey("m"), {"x": TensorInput(ROW)}, SPEC),
            AttributeRequest(ModelKey("m"), {"x": TensorInput(ROW)}, replace(SPEC, parameters={"q": 2, "p": 1})),
        ),
    ],
)
def test_the_order_of_names_makes_no_other_request(clock, asked, again):
    fatal = Quarantine(clock)
    fatal.add(asked)

    assert fatal.knows(again)
    assert equal_requests([again], [asked]) == [True]
