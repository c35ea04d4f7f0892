"""Stopping, losing a worker, and having too much to do."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from e2e.fault_points import Counters, counters
from e2e.messages import TABLE_MODEL, details, failure, long_request, predict, rows
from e2e.serving import LONG_SECONDS, Server, serve, wait_until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pellucid.tensors import from_tensor

GOOD = {"features": rows(np.full((1, 30), 1.0))}
ROWS = 3
LONG = long_request(rows=ROWS)
STATES = health_pb2.HealthCheckResponse


SETTINGS = {
    "PELLUCID_WORKER__CONCURRENT_REQUESTS": "1",
    "PELLUCID_CLASSES__INTERACTIVE__QUEUE_ROWS": "0",
    "PELLUCID_SERVER__GRACE_SECONDS": str(LONG_SECONDS),
}
"""One request of a class runs at a time, and at most one may wait."""


@pytest.fixture(scope="module")
def server_that_stays(table_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose worker may be hurt."""
    with serve(table_models, tmp_path_factory.mktemp("server"), SETTINGS) as running:
        yield running


@pytest.fixture
def own_server(table_models: Path, tmp_path: Path) -> Iterator[Server]:
    """A server to be stopped."""
    with serve(table_models, tmp_path, SETTINGS) as running:
        yield running


def test_a_killed_worker_is_replaced_and_answers_as_before(server_that_stays: Server) -> None:
    own_server, counted = server_that_stays, counters(server_that_stays)
    before = own_server.explanations.Predict(predict(TABLE_MODEL, GOOD))
    watch = health_pb2_grpc.HealthStub(own_server.channel).Watch(health_pb2.HealthCheckRequest(), timeout=LONG_SECONDS)
    states = [next(watch).status]
    killed = own_server.worker_pid()

    os.kill(killed, signal.SIGKILL)
    states += [next(watch).status, next(watch).status]
    after = own_server.explanations.Predict(predict(TABLE_MODEL, GOOD))

    assert states == [STATES.SERVING, STATES.NOT_SERVING, STATES.SERVING]
    assert from_tensor(after.outputs["output"].values).tolist() == from_tensor(before.outputs["output"].values).tolist()
    assert own_server.worker_pid() != killed
    assert since(counted, own_server, "pellucid_worker_restarts_total", device="cpu") == 1
    assert since(counted, own_server, "pellucid_worker_losses_total", device="cpu", cause="exit") == 1


def since(before: Counters, server: Server, name: str, **labels: str) -> float:
    """Return by how much a counter has grown."""
    return counters(server).total(name, **labels) - before.total(name, **labels)


def test_a_request_that_a_killed_worker_had_is_answered_by_the_next(server_that_stays: Server) -> None:
    own_server, counted = server_that_stays, counters(server_that_stays)
    running = own_server.explanations.Attribute.future(LONG)
    wait_until(own_server.busy, seconds=LONG_SECONDS, what="the worker has the request")

    os.kill(own_server.worker_pid(), signal.SIGKILL)

    assert len(running.result(LONG_SECONDS).explanation.attributions) == ROWS
    assert since(counted, own_server, "pellucid_requests_retried_total") == 1


def test_one_request_too_many_is_refused_with_a_time_to_come_back(server_that_stays: Server) -> None:
    own_server, counted = server_that_stays, counters(server_that_stays)
    taken = [own_server.explanations.Attribute.future(LONG) for _ in range(2)]
    waiting = 'pellucid_queue_requests{class="interactive"} 1.0'
    wait_until(lambda: waiting in own_server.metrics(), seconds=LONG_SECONDS, what="one runs and one waits")

    error: Any = failure(lambda: own_server.explanations.Attribute(LONG))
    prediction = own_server.explanations.Predict(predict(TABLE_MODEL, GOOD))

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details(error)["RetryInfo"].retry_delay.ToNanoseconds() > 0
    assert int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
    assert len(prediction.outputs) == 1
    assert [len(each.result(LONG_SECONDS).explanation.attributions) for each in taken] == [ROWS, ROWS]
    assert since(counted, own_server, "pellucid_requests_refused_total", cause="rows") == 1


def test_a_server_that_is_told_to_stop_answers_what_it_has_and_exits_cleanly(own_server: Server) -> None:
    watch = health_pb2_grpc.HealthStub(own_server.channel).Watch(health_pb2.HealthCheckRequest())
    healthy = next(watch).status
    running = own_server.explanations.Attribute.future(LONG)
    wait_until(own_server.busy, seconds=LONG_SECONDS, what="the worker has the request")
    worker = own_server.worker_pid()

    exit_code = own_server.terminate()

    assert (healthy, next(watch).status) == (STATES.SERVING, STATES.NOT_SERVING)
    assert len(running.result().explanation.attributions) == ROWS
    assert exit_code == 0
    wait_until(lambda: not Path(f"/proc/{worker}").exists(), seconds=LONG_SECONDS, what="the worker is gone")


def test_what_waits_when_the_server_is_told_to_stop_is_answered_too(own_server: Server) -> None:
    taken = [own_server.explanations.Attribute.future(LONG) for _ in range(2)]
    waiting = 'pellucid_queue_requests{class="interactive"} 1.0'
    wait_until(lambda: waiting in own_server.metrics(), seconds=LONG_SECONDS, what="one runs and one waits")

    exit_code = own_server.terminate()

    assert [len(each.result().explanation.attributions) for each in taken] == [ROWS, ROWS]
    assert exit_code == 0


def test_a_request_that_outlasts_the_grace_is_told_to_come_back(table_models: Path, tmp_path: Path) -> None:
    with serve(table_models, tmp_path, {"PELLUCID_SERVER__GRACE_SECONDS": "0.1"}) as server:
        running = server.explanations.Attribute.future(long_request(rows=64))
        wait_until(server.busy, seconds=LONG_SECONDS, what="the worker has the request")

        exit_code = server.terminate()

        error = failure(running.result)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert details(error)["RetryInfo"].retry_delay.ToNanoseconds() > 0
        assert exit_code == 0
        assert len(server.lines("rpc=Attribute", "code=UNAVAILABLE")) == 1


def test_a_model_that_cannot_be_served_stops_the_server_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "repository" / "broken" / "1").mkdir(parents=True)
    (tmp_path / "repository" / "broken" / "model.toml").write_text("colour = 'red'\n")

    with (
        pytest.raises(RuntimeError, match="ended with exit code 1") as caught,
        serve(tmp_path / "repository", tmp_path),
    ):
        pass

    assert "colour" in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_device_that_is_not_there_stops_the_server_with_the_remedy(table_models: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="ended with exit code 1") as caught,
        serve(table_models, tmp_path, {"PELLUCID_POOL__DEVICES": "cuda:99"}),
    ):
        pass

    assert "There is no cuda:99" in str(caught.value)
    assert "Traceback" not in str(caught.value)
