"""At every point of a request's life: its caller leaves, its deadline passes, its worker dies, the server stops.

Whatever happens, the caller hears exactly one outcome, it is counted and logged once, nothing is left over, and
the next request is answered as ever.
"""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from e2e import small_models
from e2e.fault_points import (
    IN_WORKER,
    LONG_SECONDS,
    Counters,
    Points,
    counters,
    kill,
    serve_with_points,
    wait_until_idle,
)
from e2e.messages import attribute, details, failure, predict, spec, table_rows
from e2e.serving import CHANNEL_OPTIONS, Server, wait_until
from pellucid.tensors import from_tensor
from pellucid.v1 import explanation_pb2, explanation_service_pb2, explanation_service_pb2_grpc
from pellucid_server.faults import POINTS

ROW = {"width": 12.0, "height": 3.0, "colour": "green"}
INPUTS = {"features": table_rows([ROW])}
STEPS = 5
INTEGRATED = spec("integrated-gradients", steps=STEPS)
INTEGRATED.baseline.kind = explanation_pb2.BASELINE_KIND_ZEROS
REQUESTS = {
    "Predict": predict(small_models.SCORES, INPUTS),
    "Attribute": attribute(small_models.SCORES, INPUTS, INTEGRATED),
}
SHORT_SECONDS = 0.5
"""A deadline that leaves time to get to a point, and is then waited for."""

LONGER_SECONDS = 4.0
"""A deadline that leaves a tenth of a second, on a crowded machine too, to tell the caller of it."""

Held = tuple[Server, Points]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("repository")
    small_models.write_scores(repository)
    return repository


@pytest.fixture(scope="module")
def shared(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    """A server whose requests can be held at any point."""
    with serve_with_points(models, tmp_path_factory.mktemp("server")) as held:
        yield held


@pytest.fixture
def held(shared: Held) -> Iterator[Held]:
    """The same, at rest, with no point armed before or after."""
    server, points = shared
    wait_until(lambda: known_answer(server), seconds=LONG_SECONDS, what="the server is ready")
    wait_until_idle(server)
    yield shared
    points.release()


def known_answer(server: Server) -> bool:
    """Whether the server answers, and as anyone can work out."""
    try:
        reply = server.explanations.Predict(REQUESTS["Predict"], timeout=LONG_SECONDS)
    except grpc.RpcError:
        return False
    return is_right(reply)


def is_right(reply: Any) -> bool:
    """Whether a prediction, or the scores of integrated gradients from a row of zeros, are what they must be."""
    expected = small_models.linear_scores(**ROW)
    if isinstance(reply, explanation_service_pb2.PredictResponse):
        return bool((from_tensor(reply.outputs["output"].values) == expected).all())
    (attribution,) = reply.explanation.attributions
    total = from_tensor(attribution.inputs["features"].scores).sum()
    return bool(np.isclose(total, expected.max() - small_models.BIAS[1], rtol=1e-5))


class Request:
    """One request on its way, with an id of its own."""

    def __init__(self, channel: grpc.Channel, rpc: str, seconds: float = LONG_SECONDS) -> None:
        self.id = secrets.token_hex(8)
        stub = explanation_service_pb2_grpc.ExplanationServiceStub(channel)
        metadata = [("x-request-id", self.id)]
        self.call = getattr(stub, rpc).future(REQUESTS[rpc], timeout=seconds, metadata=metadata)

    def code(self) -> grpc.StatusCode:
        """Wait for the end, and return how it ended."""
        code: grpc.StatusCode = self.call.code()
        return code


def assert_one_outcome(server: Server, before: Counters, request: Request, *codes: str) -> Counters:
    """Hold the server to one outcome of one request, one of `codes`, and to nothing that is left of it."""
    after = wait_until_idle(server)
    ((code, count),) = (after.requests() - before.requests()).items()
    assert (code in codes, count) == (True, 1), f"{count} ended with {code}"
    (line,) = server.lines(f"id={request.id}")
    assert f"code={code} " in line + " "
    assert known_answer(server)
    return after


def wasted(after: Counters, before: Counters) -> float:
    return after.total("pellucid_rows_wasted_total") - before.total("pellucid_rows_wasted_total")


RPCS = pytest.mark.parametrize("rpc", REQUESTS)
EVERY_POINT = pytest.mark.parametrize("point", POINTS)


@RPCS
@EVERY_POINT
def test_a_caller_who_leaves_has_one_outcome(held: Held, rpc: str, point: str) -> None:
    server, points = held
    before = counters(server)
    points.arm(point)
    request = Request(server.channel, rpc)
    points.wait(point)

    request.call.cancel()

    wait_until(lambda: bool(server.lines(f"id={request.id}")), seconds=LONG_SECONDS, what="the server has noticed")
    points.release()
    assert request.code() is grpc.StatusCode.CANCELLED
    assert_one_outcome(server, before, request, "CANCELLED")


@RPCS
@EVERY_POINT
def test_a_lost_connection_has_one_outcome(held: Held, rpc: str, point: str) -> None:
    server, points = held
    before = counters(server)
    points.arm(point)
    with grpc.insecure_channel(server.address, options=CHANNEL_OPTIONS) as channel:
        request = Request(channel, rpc)
        points.wait(point)

    wait_until(lambda: bool(server.lines(f"id={request.id}")), seconds=LONG_SECONDS, what="the server has noticed")
    points.release()
    assert_one_outcome(server, before, request, "CANCELLED")


@RPCS
@EVERY_POINT
def test_a_deadline_that_passes_has_one_outcome(held: Held, rpc: str, point: str) -> None:
    server, points = held
    before = counters(server)
    points.arm(point)
    request = Request(server.channel, rpc, SHORT_SECONDS)
    points.wait(point)

    assert request.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    wait_until(lambda: bool(server.lines(f"id={request.id}")), seconds=LONG_SECONDS, what="the server has noticed")
    points.release()
    # On a crowded machine the caller's clock may be far ahead: then the server sees no more than that it leaves.
    assert_one_outcome(server, before, request, "DEADLINE_EXCEEDED", "CANCELLED")


@pytest.mark.parametrize("point", ["queued", "running", "chunk"])
def test_a_deadline_that_passes_is_told_by_the_server_with_the_stage(held: Held, point: str) -> None:
    server, points = held
    points.arm(point)
    request = Request(server.channel, "Attribute", LONGER_SECONDS)

    error = failure(request.call.result)

    points.release()
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert details(error)["ErrorInfo"].metadata["stage"] == ("queued" if point == "queued" else "running")


@pytest.mark.parametrize(("rpc", "rows"), [("Predict", 1), ("Attribute", STEPS)])
def test_rows_of_an_answer_that_nobody_takes_are_counted_as_wasted(held: Held, rpc: str, rows: int) -> None:
    server, points = held
    before = counters(server)
    points.arm("answered")
    request = Request(server.channel, rpc)
    points.wait("answered")

    request.call.cancel()

    wait_until(lambda: bool(server.lines(f"id={request.id}")), seconds=LONG_SECONDS, what="the server has noticed")
    points.release()
    after = wait_until_idle(server)
    evaluated = after.total("pellucid_rows_evaluated_total") - before.total("pellucid_rows_evaluated_total")
    assert wasted(after, before) == evaluated >= rows


@pytest.mark.parametrize(
    ("rpc", "point"), [*(("Predict", point) for point in ("queued", *IN_WORKER)), ("Attribute", "chunk")]
)
def test_a_request_whose_worker_dies_is_answered_by_the_next(held: Held, rpc: str, point: str) -> None:
    server, points = held
    before = counters(server)
    points.arm(point)
    request = Request(server.channel, rpc)
    points.wait(point)

    kill(server.worker_pid())
    wait_until(lambda: bool(lost_since(server, before)), seconds=LONG_SECONDS, what="the loss is noticed")
    points.release()

    assert is_right(request.call.result())
    after = assert_one_outcome(server, before, request, "OK")
    retried = after.total("pellucid_requests_retried_total") - before.total("pellucid_requests_retried_total")
    assert retried == (point in IN_WORKER)
    lost = {"device": "cpu", "cause": "exit"}
    assert after.total("pellucid_worker_losses_total", **lost) == 1 + before.total(
        "pellucid_worker_losses_total", **lost
    )


@pytest.mark.parametrize("rpc", ["Predict"])
def test_a_request_that_comes_when_the_worker_is_dead_is_told_when_to_come_back(held: Held, rpc: str) -> None:
    server, points = held
    before = counters(server)
    points.arm("decode")
    request = Request(server.channel, rpc)
    points.wait("decode")

    kill(server.worker_pid())
    wait_until(lambda: bool(lost_since(server, before)), seconds=LONG_SECONDS, what="the loss is noticed")
    points.release()

    error = failure(request.call.result)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert details(error)["RetryInfo"].retry_delay.ToNanoseconds() > 0
    wait_until(lambda: known_answer(server), seconds=LONG_SECONDS, what="the worker is there again")


def lost_since(server: Server, before: Counters) -> float:
    name = "pellucid_worker_losses_total"
    return counters(server).total(name) - before.total(name)


@pytest.mark.parametrize("rpc", ["Attribute"])
def test_a_reply_that_is_being_written_does_not_need_its_worker(held: Held, rpc: str) -> None:
    server, points = held
    before = counters(server)
    points.arm("replying")
    request = Request(server.channel, rpc)
    points.wait("replying")

    kill(server.worker_pid())
    wait_until(lambda: bool(lost_since(server, before)), seconds=LONG_SECONDS, what="the loss is noticed")
    points.release()

    assert is_right(request.call.result())
    (line,) = server.lines(f"id={request.id}")
    assert "code=OK" in line


STOPPED_AT = [("chunk", "queued"), ("replying", "sent"), ("running", "decode"), ("answered",)]
"""Every point, in pairs that two requests can be held at together: starting a server takes long."""


@pytest.mark.parametrize("places", STOPPED_AT)
def test_a_server_that_is_told_to_stop_answers_what_it_has_and_refuses_what_it_has_not_read(
    models: Path, tmp_path: Path, places: tuple[str, ...]
) -> None:
    with serve_with_points(models, tmp_path) as (server, points):
        requests = {}
        # A request is held at each of the places: later ones come first, as what is held earlier holds up others.
        for point in places:
            points.arm(point)
            requests[point] = Request(server.channel, "Attribute")
            points.wait(point)
        server.process.terminate()
        wait_until(lambda: bool(server.lines("stopping")), seconds=LONG_SECONDS, what="the server is stopping")
        points.release()

        refused = requests.pop("decode", None)
        assert all(is_right(request.call.result()) for request in requests.values())
        if refused is not None:
            error = failure(refused.call.result)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
            assert details(error)["RetryInfo"].retry_delay.ToNanoseconds() > 0
        assert server.process.wait(LONG_SECONDS) == 0
        codes = {"OK": list(requests.values()), "UNAVAILABLE": [refused] if refused is not None else []}
        for code, ended in codes.items():
            for request in ended:
                (line,) = server.lines(f"id={request.id}")
                assert f"code={code}" in line


def test_every_place_is_one_at_which_a_server_is_told_to_stop() -> None:
    assert {point for places in STOPPED_AT for point in places} == set(POINTS)


@pytest.mark.parametrize("rpc", ["Ablate", "Dissect"])
@pytest.mark.parametrize("leaves", [False, True], ids=["stays", "leaves"])
def test_a_stream_has_one_outcome_too(held: Held, rpc: str, leaves: bool) -> None:
    server, points = held
    code = "CANCELLED" if leaves else "INVALID_ARGUMENT"
    before = counters(server)
    points.arm("decode")
    request = getattr(explanation_service_pb2, f"{rpc}Request")()
    request_id = secrets.token_hex(8)
    call = getattr(server.explanations, rpc)(request, metadata=[("x-request-id", request_id)], timeout=LONG_SECONDS)
    points.wait("decode")

    if leaves:
        call.cancel()
        noticed = lambda: bool(server.lines(f"id={request_id}"))  # noqa: E731
        wait_until(noticed, seconds=LONG_SECONDS, what="the server has noticed")
    points.release()

    assert call.code() is grpc.StatusCode[code]
    after = wait_until_idle(server)
    assert after.requests() - before.requests() == {code: 1}
    assert len(server.lines(f"id={request_id}")) == 1
