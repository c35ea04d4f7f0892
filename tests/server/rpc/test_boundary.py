import asyncio
import time
import types

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from pellucid.tensors import to_tensor
from pellucid.v1 import explanation_pb2 as pb
from pellucid.v1 import explanation_service_pb2 as service_pb
from pellucid.v1 import explanation_service_pb2_grpc, input_pb2
from pellucid.v1 import model_service_pb2 as model_pb
from pellucid_server.errors import InvalidRequestError, NotFoundError, TimedOutError, UnavailableError
from pellucid_server.metrics import Metrics, RequestRecorder
from pellucid_server.rpc.arrival import CallerKeys
from pellucid_server.rpc.boundary import Boundary
from prometheus_client import CollectorRegistry
from server.rpc.conftest import TIMING, predict_result, reached, served


def request(name="iris", explanations=()):
    rows = input_pb2.Input(tensor=to_tensor(np.zeros((1, 2), np.float32)))
    return service_pb.PredictRequest(model=pb.ModelSpec(name=name), inputs={"row": rows}, explanations=explanations)


def attribute_request(method):
    rows = input_pb2.Input(tensor=to_tensor(np.zeros((1, 2), np.float32)))
    return service_pb.AttributeRequest(
        model=pb.ModelSpec(name="iris"), inputs={"row": rows}, explanation=pb.ExplanationSpec(method=method)
    )


async def ended(call):
    return await asyncio.wait_for(asyncio.gather(call, return_exceptions=True), 20)


def requests_counted(registry):
    """How many requests have ended, by code."""
    samples = [sample for family in registry.collect() for sample in family.samples]
    ends = [sample for sample in samples if sample.name == "pellucid_request_seconds_count"]
    return {sample.labels["code"]: sample.value for sample in ends}


def violated_fields(error):
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    found = [detail for detail in status.details if detail.Is(error_details_pb2.BadRequest.DESCRIPTOR)]
    return [violation.field for detail in found for violation in bad_request(detail).field_violations]


def bad_request(detail):
    message = error_details_pb2.BadRequest()
    detail.Unpack(message)
    return message


async def test_the_callers_request_id_comes_back(models):
    call = models.ListModels(model_pb.ListModelsRequest(), metadata=[("x-request-id", "mine-7")])

    await call

    assert dict(await call.trailing_metadata())["x-request-id"] == "mine-7"


@pytest.mark.parametrize("unusable", ["", "x" * 65])
async def test_a_request_without_a_usable_id_gets_a_new_one(models, unusable):
    call = models.ListModels(model_pb.ListModelsRequest(), metadata=[("x-request-id", unusable)])

    await call

    assert len(dict(await call.trailing_metadata())["x-request-id"]) == 16


async def test_two_requests_get_two_ids(models):
    calls = [models.ListModels(model_pb.ListModelsRequest()) for _ in range(2)]

    await asyncio.gather(*calls)

    assert len({dict(await call.trailing_metadata())["x-request-id"] for call in calls}) == 2


async def test_the_deadline_leaves_room_for_the_reply(explanations, pool):
    pool.answer = predict_result()

    await explanations.Predict(request(), timeout=30)

    (seconds,) = pool.deadlines
    assert 25 < seconds < 30


async def test_the_servers_own_words_reach_a_caller_whose_deadline_passes(explanations, pool):
    pool.answer = None
    pool.limited = True

    outcome = await ended(explanations.Predict(request(), timeout=1))

    assert outcome[0].details() == "Late."


async def test_a_short_deadline_keeps_most_of_its_time(explanations, pool):
    pool.answer = predict_result()

    await explanations.Predict(request(), timeout=0.5)

    (seconds,) = pool.deadlines
    assert 0 < seconds < 0.475


async def test_no_deadline_is_none(explanations, pool):
    pool.answer = predict_result()

    await explanations.Predict(request())

    assert pool.deadlines == [None]


async def test_a_caller_who_leaves_cancels_the_work(explanations, pool, boundary, registry, lines):
    call = explanations.Predict(request())
    await asyncio.wait_for(pool.started.wait(), 20)

    call.cancel()

    await asyncio.wait_for(pool.cancelled.wait(), 20)
    await asyncio.wait_for(boundary.idle(), 20)
    await ended(call)
    assert [line["code"] for line in lines()] == ["CANCELLED"]
    labels = {"rpc": "Predict", "method": "", "model": "iris", "version": "2", "code": "CANCELLED"}
    assert registry.get_sample_value("pellucid_request_seconds_count", labels) == 1


async def test_a_deadline_that_grpc_sees_first_counts_as_one(explanations, pool, boundary, lines):
    outcome = await ended(explanations.Predict(request(), timeout=0.5))

    await asyncio.wait_for(pool.cancelled.wait(), 20)
    await asyncio.wait_for(boundary.idle(), 20)
    assert outcome[0].code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert [line["code"] for line in lines()] == ["DEADLINE_EXCEEDED"]


async def test_requests_in_flight_are_counted_until_they_end(explanations, pool, boundary):
    call = explanations.Predict(request())
    await asyncio.wait_for(pool.started.wait(), 20)
    counted = boundary.in_flight

    call.cancel()

    await asyncio.wait_for(boundary.idle(), 20)
    await ended(call)
    assert (counted, boundary.in_flight) == (1, 0)


async def test_a_request_is_one_line_with_what_an_operator_asks_for(explanations, pool, lines):
    pool.answer = predict_result()

    await explanations.Predict(request(), metadata=[("x-request-id", "mine-7")])

    (line,) = lines()
    assert line.pop("seconds") > 0
    assert line == {
        "id": "mine-7",
        "rpc": "Predict",
        "code": "OK",
        "caller": "127.0.0.1",
        "class": "predictions",
        "model": "iris",
        "queue_seconds": 0.125,
        "compute_seconds": 0.25,
        "rows_forward": 3,
        "rows_backward": 4,
    }


async def test_a_callers_mistake_is_logged_by_its_reason_alone(explanations, pool, caplog, lines):
    pool.answer = NotFoundError("No method 'x'.", resource_type="method", resource_name="x")

    await ended(explanations.Attribute(attribute_request("x")))

    (line,) = lines()
    assert (line["method"], line["reason"], line["resource"]) == ("unknown", "NOT_FOUND", "method")
    assert "error" not in line
    assert (caplog.records[-1].levelname, caplog.records[-1].exc_info) == ("INFO", None)


async def test_times_are_recorded_by_closed_labels(explanations, pool, registry):
    pool.answer = predict_result()

    await explanations.Predict(request())

    labels = {"rpc": "Predict", "method": "", "model": "iris", "version": "2", "code": "OK"}
    sample = registry.get_sample_value
    assert sample("pellucid_request_seconds_count", labels) == 1
    assert sample("pellucid_queue_seconds_sum", labels) == 0.125
    assert sample("pellucid_compute_seconds_sum", labels) == 0.25


async def test_a_served_method_is_a_label(explanations, pool, registry):
    pool.answer = NotFoundError("")

    await ended(explanations.Attribute(attribute_request("occlusion")))

    labels = {"rpc": "Attribute", "method": "occlusion", "model": "iris", "version": "2", "code": "NOT_FOUND"}
    assert registry.get_sample_value("pellucid_request_seconds_count", labels) == 1


async def test_names_that_nobody_serves_share_a_label(explanations, pool, registry):
    pool.answer = NotFoundError("")

    await ended(explanations.Attribute(attribute_request("one")))
    await ended(explanations.Attribute(attribute_request("two")))
    await ended(explanations.Predict(request("three")))

    labels = {"rpc": "Attribute", "method": "unknown", "model": "iris", "version": "2", "code": "NOT_FOUND"}
    assert registry.get_sample_value("pellucid_request_seconds_count", labels) == 2
    labels = {"rpc": "Predict", "method": "", "model": "unknown", "version": "unknown", "code": "NOT_FOUND"}
    assert registry.get_sample_value("pellucid_request_seconds_count", labels) == 1


async def test_a_worker_that_serves_other_models_changes_the_labels(explanations, pool, registry):
    pool.hello = None
    pool.answer = NotFoundError("")
    await ended(explanations.Predict(request()))

    labels = {"rpc": "Predict", "method": "", "model": "unknown", "version": "unknown", "code": "NOT_FOUND"}
    assert registry.get_sample_value("pellucid_request_seconds_count", labels) == 1


async def test_an_error_of_a_request_that_ran_has_its_times(explanations, pool, registry, lines):
    pool.answer = TimedOutError("Late.", stage="running")
    pool.answer.timing = TIMING

    await ended(explanations.Predict(request()))

    labels = {"rpc": "Predict", "method": "", "model": "iris", "version": "2", "code": "DEADLINE_EXCEEDED"}
    assert registry.get_sample_value("pellucid_queue_seconds_sum", labels) == 0.125
    assert registry.get_sample_value("pellucid_compute_seconds_sum", labels) == 0.25
    assert lines()[0]["rows_backward"] == 4
    # Whoever knew that nobody got a result has counted the rows as wasted.
    assert registry.get_sample_value("pellucid_rows_wasted_total", {"model": "iris", "kind": "forward"}) is None


async def test_a_request_has_the_time_that_is_left_when_its_request_has_been_read(
    explanations, pool, fault_folder, monkeypatch
):
    pool.answer = predict_result()
    (fault_folder / "decode").write_text("hold")
    call = explanations.Predict(request(), timeout=30)
    await reached(fault_folder, "decode")
    later = types.SimpleNamespace(monotonic=lambda: time.monotonic() + 20)
    monkeypatch.setattr("pellucid_server.rpc.arrival.time", later)

    (fault_folder / "decode").unlink()

    await call
    (seconds,) = pool.deadlines
    assert 5 < seconds < 10


@pytest.mark.parametrize("point", ["decode", "replying"])
async def test_a_caller_who_leaves_at_an_edge_has_one_outcome(
    explanations, pool, boundary, registry, lines, fault_folder, point
):
    pool.answer = predict_result()
    (fault_folder / point).write_text("hold")
    call = explanations.Predict(request())
    await reached(fault_folder, point)

    call.cancel()

    await asyncio.wait_for(boundary.idle(), 20)
    await ended(call)
    assert [line["code"] for line in lines()] == ["CANCELLED"]
    assert requests_counted(registry) == {"CANCELLED": 1}


async def test_rows_of_a_result_that_nobody_waited_for_are_wasted(explanations, pool, boundary, registry, fault_folder):
    pool.answer = predict_result()
    (fault_folder / "replying").write_text("hold iris")
    call = explanations.Predict(request())
    await reached(fault_folder, "replying")

    call.cancel()

    await asyncio.wait_for(boundary.idle(), 20)
    await ended(call)
    wasted = [
        registry.get_sample_value("pellucid_rows_wasted_total", {"model": "iris", "kind": kind})
        for kind in ("forward", "gradient")
    ]
    assert wasted == [3, 4]


async def test_a_request_that_is_given_up_hears_why_and_when_to_come_back(
    explanations, pool, boundary, registry, lines
):
    call = explanations.Predict(request())
    await asyncio.wait_for(pool.started.wait(), 20)

    boundary.give_up(UnavailableError("Closing.", retry_after_seconds="0.050"))

    (outcome,) = await ended(call)
    await asyncio.wait_for(boundary.idle(), 20)
    assert (outcome.code(), outcome.details()) == (grpc.StatusCode.UNAVAILABLE, "Closing.")
    assert dict(outcome.trailing_metadata())["grpc-retry-pushback-ms"] == "50"
    assert pool.cancelled.is_set()
    assert [line["code"] for line in lines()] == ["UNAVAILABLE"]
    assert requests_counted(registry) == {"UNAVAILABLE": 1}


async def test_an_answer_that_is_on_its_way_is_not_given_up(explanations, pool, boundary):
    pool.answer = predict_result()
    tasks = []

    def give_up_next():
        tasks.append(asyncio.current_task())
        closing = UnavailableError("Closing.", retry_after_seconds="0.050")
        asyncio.get_running_loop().call_soon(boundary.give_up, closing)

    pool.on_answer = give_up_next

    reply = await explanations.Predict(request())

    assert reply.receipt.work.rows_forward == 3
    assert [task.cancelling() for task in tasks] == [0]


async def test_a_recorder_that_fails_harms_no_answer(pool, caplog):
    class Broken(RequestRecorder):
        def record(self, *args, **kwargs):
            raise ZeroDivisionError

    pool.answer = predict_result()
    boundary = Boundary(Broken(Metrics.on(CollectorRegistry())), lambda: pool.hello)

    async with served(pool, boundary) as channel:
        reply = await explanation_service_pb2_grpc.ExplanationServiceStub(channel).Predict(
            request(), metadata=[("x-request-id", "mine-7")]
        )

    assert reply.receipt.work.rows_forward == 3
    assert "request mine-7 could not be recorded" in caplog.text
    assert boundary.in_flight == 0


async def test_a_request_too_large_to_be_read_is_counted(channel, boundary, registry, lines):
    call = channel.unary_unary("/pellucid.v1.ExplanationService/Predict")

    (outcome,) = await ended(call(bytes(2 << 20)))

    await asyncio.wait_for(boundary.idle(), 20)
    assert outcome.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert registry.get_sample_value("pellucid_requests_unread_total", {"rpc": "Predict"}) == 1
    assert requests_counted(registry) == {}
    assert lines() == []


async def test_callers_and_classes_reach_the_pool(explanations, pool):
    pool.answer = predict_result()

    await explanations.Predict(request(), metadata=[("x-pellucid-caller", "shop 7"), ("x-pellucid-priority", "bulk")])

    assert pool.askers == [("shop 7", "bulk")]


@pytest.mark.parametrize(
    ("asked", "priority"),
    [
        (lambda stub: stub.Predict(request()), "predictions"),
        (lambda stub: stub.Predict(request(explanations=[pb.ExplanationSpec(method="x")])), "interactive"),
        (lambda stub: stub.Attribute(attribute_request("x")), "interactive"),
    ],
)
async def test_a_request_that_names_no_class_is_in_the_one_of_its_kind(explanations, pool, lines, asked, priority):
    pool.answer = NotFoundError("")

    await ended(asked(explanations))

    assert pool.askers == [("127.0.0.1", priority)]
    assert lines()[0]["class"] == priority


async def test_an_error_about_the_class_names_the_metadata(explanations, pool):
    pool.answer = InvalidRequestError("There is no class 'x'; classes: bulk.", field="priority")

    (outcome,) = await ended(explanations.Predict(request(), metadata=[("x-pellucid-priority", "x")]))

    assert violated_fields(outcome) == ['metadata["x-pellucid-priority"]']
    assert outcome.details() == "There is no class 'x'; classes: bulk."


async def test_the_keys_of_caller_and_class_can_be_chosen(pool):
    pool.answer = predict_result()
    boundary = Boundary(
        RequestRecorder(Metrics.on(CollectorRegistry())), lambda: pool.hello, keys=CallerKeys("x-tenant", "x-class")
    )

    async with served(pool, boundary) as channel:
        await explanation_service_pb2_grpc.ExplanationServiceStub(channel).Predict(
            request(), metadata=[("x-tenant", "acme"), ("x-class", "bulk"), ("x-pellucid-caller", "other")]
        )

    assert pool.askers == [("acme", "bulk")]


class GoneCaller:
    """The context of a call whose caller leaves while the status is being sent."""

    def time_remaining(self):
        return 5.0

    def invocation_metadata(self):
        return ()

    def peer(self):
        return "ipv4:127.0.0.1:1"

    def set_trailing_metadata(self, metadata):
        pass

    async def read(self):
        return request().SerializeToString()

    async def abort(self, code, details, metadata):
        raise grpc.aio.InternalError("Failed to send the status.")


async def test_a_caller_who_leaves_while_a_status_is_sent_is_no_bug(boundary, registry):
    async def fail(request, call):
        raise NotFoundError("No.", resource_type="model", resource_name="iris")

    async def serve():
        boundary.enter("Predict")
        await boundary.guard("Predict", service_pb.PredictRequest, fail)(None, GoneCaller())

    # gRPC takes a cancelled handler for one whose caller has left, and logs what else it raises.
    serving = asyncio.create_task(serve())
    await asyncio.wait([serving], timeout=20)

    assert serving.cancelled()
    assert requests_counted(registry) == {"NOT_FOUND": 1}
