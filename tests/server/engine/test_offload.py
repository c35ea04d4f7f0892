"""What blocks runs beside the hub, predictions' work first."""

import threading
import time

import pytest
from pellucid_server.engine.tasks.offload import Offload
from pellucid_server.recorder import Recorder, new_record


def test_predictions_go_first_and_then_what_came_first():
    offload, go, order = Offload(1), threading.Event(), []
    offload.submit(lambda: go.wait(10))

    futures = [
        offload.submit(lambda name=name: order.append(name), prediction=name.isupper()) for name in ("a", "b", "C", "D")
    ]
    go.set()
    for future in futures:
        future.result(10)

    assert order == ["C", "D", "a", "b"]


def test_every_thread_works():
    offload, met = Offload(4), threading.Barrier(4)

    # Alone, none would end.
    futures = [offload.submit(lambda: met.wait(10)) for _ in range(4)]

    assert sorted(future.result(10) for future in futures) == [0, 1, 2, 3]


def test_what_a_function_raises_is_raised_where_its_result_is_taken_and_the_thread_goes_on():
    offload = Offload(1)

    with pytest.raises(ZeroDivisionError):
        offload.submit(lambda: 1 // 0).result(10)
    assert offload.submit(lambda: "alive").result(10) == "alive"


def test_the_request_is_noted_while_its_work_is_done_and_not_when_its_result_is_there():
    recorder = Recorder(new_record())
    offload = Offload(2, recorder)

    assert offload.submit(recorder.suspects, request_number=5).result(10) == {5}
    assert recorder.suspects() == frozenset()


def test_the_call_that_has_run_longest_is_told_of_until_it_ends():
    offload, go, met = Offload(2), threading.Event(), threading.Barrier(3)
    assert offload.busy_seconds() == 0.0
    before = time.monotonic()
    futures = [offload.submit(lambda: (met.wait(10), go.wait(10))) for _ in range(2)]
    met.wait(10)

    first, second = offload.busy_seconds(), offload.busy_seconds()

    assert 0 < first < second < time.monotonic() - before
    go.set()
    [future.result(10) for future in futures]
    assert offload.busy_seconds() == 0.0
