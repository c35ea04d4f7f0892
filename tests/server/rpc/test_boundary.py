import asyncio
import json
import logging

import grpc
import numpy as np
import pytest
from pellucid.tensors import to_tensor
from pellucid.v1 import explanation_pb2 as pb
from pellucid.v1 import explanation_service_pb2 as service_pb
from pellucid.v1 import input_pb2
from pellucid.v1 import model_service_pb2 as model_pb
from pellucid_server.errors import NotFoundError
from pellucid_server.logs import JsonFormatter, TextFormatter
from server.rpc.conftest import predict_result


def request(name="iris"):
    rows = input_pb2.Input(tensor=to_tensor(np.zeros((1, 2), np.float32)))
    return service_pb.PredictRequest(model=pb.ModelSpec(name=name), inputs={"row": rows})


def attribute_request(method):
    rows = input_pb2.Input(tensor=to_tensor(np.zeros((1, 2), np.float32)))
    return service_pb.AttributeRequest(
        model=pb.ModelSpec(name="iris"), inputs={"row": rows}, explanation=pb.ExplanationSpec(method=method)
    )


async def ended(call):
    return await asyncio.gather(call, return_exceptions=True)


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "pellucid_server.rpc.boundary")
    return lambda: [record.fields for record in caplog.records if record.message == "request"]


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

    await explanations.Predict(request(), timeout=0.1)

    (seconds,) = pool.deadlines
    assert 0 < seconds < 0.095


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
    labels = {"rpc": "Predict", "method": "", "model": "iris", "code": "CANCELLED"}
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
        "model": "iris",
        "queue_seconds": 0.125,
        "compute_seconds": 0.25,
        "rows_forward": 3,
        "rows_backward": 4,
    }


async def test_a_callers_mistake_is_logged_without_a_traceback(explanations, pool, caplog, lines):
    pool.answer = NotFoundError("No method 'x'.", resource_type="method", resource_name="x")

    await ended(explanations.Attribute(attribute_request("x")))

    (line,) = lines()
    assert (line["method"], line["reason"], line["error"]) == ("x", "NOT_FOUND", "No method 'x'.")
    assert (caplog.records[-1].levelname, caplog.records[-1].exc_info) == ("INFO", None)


async def test_times_and_rows_are_recorded_by_closed_labels(explanations, pool, registry):
    pool.answer = predict_result()

    await explanations.Predict(request())

    labels = {"rpc": "Predict", "method": "", "model": "iris", "code": "OK"}
    sample = registry.get_sample_value
    assert sample("pellucid_request_seconds_count", labels) == 1
    assert sample("pellucid_queue_seconds_sum", labels) == 0.125
    assert sample("pellucid_compute_seconds_sum", labels) == 0.25
    assert sample("pellucid_rows_evaluated_total", {"model": "iris", "kind": "forward"}) == 3
    assert sample("pellucid_rows_evaluated_total", {"model": "iris", "kind": "backward"}) == 4


async def test_a_served_method_is_a_label(explanations, pool, registry):
    pool.answer = NotFoundError("")

    await ended(explanations.Attribute(attribute_request("occlusion")))

    labels = {"rpc": "Attribute", "method": "occlusion", "model": "iris", "code": "NOT_FOUND"}
    assert registry.get_sample_value("pellucid_request_seconds_count", labels) == 1


async def test_names_that_nobody_serves_share_a_label(explanations, pool, registry):
    pool.answer = NotFoundError("")

    await ended(explanations.Attribute(attribute_request("one")))
    await ended(explanations.Attribute(attribute_request("two")))
    await ended(explanations.Predict(request("three")))

    labels = {"rpc": "Attribute", "method": "unknown", "model": "iris", "code": "NOT_FOUND"}
    assert registry.get_sample_value("pellucid_request_seconds_count", labels) == 2
    labels = {"rpc": "Predict", "method": "", "model": "unknown", "code": "NOT_FOUND"}
    assert registry.get_sample_value("pellucid_request_seconds_count", labels) == 1


async def test_a_worker_that_serves_other_models_changes_the_labels(explanations, pool, registry):
    pool.hello = None
    pool.answer = NotFoundError("")
    await ended(explanations.Predict(request()))

    labels = {"rpc": "Predict", "method": "", "model": "unknown", "code": "NOT_FOUND"}
    assert registry.get_sample_value("pellucid_request_seconds_count", labels) == 1


def record(**fields):
    made = logging.LogRecord("a.b", logging.INFO, "f.py", 1, "request", (), None)
    made.fields = fields
    return made


def test_text_lines_quote_what_could_be_taken_for_more_fields():
    line = TextFormatter().format(record(id="x", error="a\nb code=OK", rows=3))

    assert line.endswith('INFO a.b request id=x error="a\\nb code=OK" rows=3')


def test_json_lines_are_objects_with_the_fields():
    entry = json.loads(JsonFormatter().format(record(id="x", seconds=0.5)))

    assert (entry["message"], entry["level"], entry["id"], entry["seconds"]) == ("request", "info", "x", 0.5)
