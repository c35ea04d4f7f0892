"""What operators look at: health, reflection, metrics, request ids and the log."""

import time
from typing import Any

import grpc
import numpy as np
import pytest
from e2e.messages import TABLE_MODEL, attribute, details, failure, long_request, predict, rows, spec
from e2e.serving import LONG_SECONDS, Server, wait_until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pellucid.v1 import model_service_pb2
from prometheus_client.parser import text_string_to_metric_families

GOOD = {"features": rows(np.full((1, 30), 1.0))}
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    "service", ["", "pellucid.v1.ExplanationService", "pellucid.v1.JobService", "pellucid.v1.ModelService"]
)
def test_every_service_is_healthy(server: Server, service: str) -> None:
    stub = health_pb2_grpc.HealthStub(server.channel)

    reply = stub.Check(health_pb2.HealthCheckRequest(service=service))

    assert reply.status == SERVING


def test_a_watcher_is_told_of_the_health_at_once(server: Server) -> None:
    watch = health_pb2_grpc.HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest(), timeout=LONG_SECONDS)

    assert next(watch).status == SERVING
    watch.cancel()


def test_reflection_lists_the_services_and_describes_the_schema(server: Server) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="pellucid.v1.ExplanationService"),
    ]

    listed, described = stub.ServerReflectionInfo(iter(asked), timeout=LONG_SECONDS)

    assert {service.name for service in listed.list_services_response.service} == {
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
        "pellucid.v1.ExplanationService",
        "pellucid.v1.JobService",
        "pellucid.v1.ModelService",
    }
    assert b"AttributeRequest" in b"".join(described.file_descriptor_response.file_descriptor_proto)


def counts(server: Server, histogram: str, **labels: str) -> float:
    """Return how many observations a histogram holds under these labels."""
    families = text_string_to_metric_families(server.metrics())
    samples = [sample for family in families for sample in family.samples if sample.name == f"{histogram}_count"]
    return sum(sample.value for sample in samples if sample.labels == labels)


@pytest.mark.parametrize(
    "histogram", ["pellucid_request_seconds", "pellucid_queue_seconds", "pellucid_compute_seconds"]
)
def test_an_attribution_is_counted_by_rpc_method_model_and_code(server: Server, histogram: str) -> None:
    labels = {"rpc": "Attribute", "method": "saliency", "model": TABLE_MODEL, "version": "1", "code": "OK"}
    before = counts(server, histogram, **labels)

    server.explanations.Attribute(attribute(TABLE_MODEL, GOOD, spec("saliency")))

    assert counts(server, histogram, **labels) == before + 1


def test_names_that_a_caller_makes_up_share_one_label(server: Server) -> None:
    labels = {"rpc": "Attribute", "method": "unknown", "model": "unknown", "version": "unknown", "code": "NOT_FOUND"}
    before = counts(server, "pellucid_request_seconds", **labels)

    failure(lambda: server.explanations.Attribute(attribute("made-up-1", GOOD, spec("made-up-2"))))

    assert counts(server, "pellucid_request_seconds", **labels) == before + 1
    assert "made-up" not in server.metrics()


def test_rows_are_counted_by_kind(server: Server) -> None:
    def backward() -> float:
        families = text_string_to_metric_families(server.metrics())
        wanted = {"model": TABLE_MODEL, "kind": "gradient"}
        samples = [each for family in families for each in family.samples if each.labels == wanted]
        return sum(sample.value for sample in samples if sample.name == "pellucid_rows_evaluated_total")

    before = backward()

    reply = server.explanations.Attribute(attribute(TABLE_MODEL, GOOD, spec("smoothgrad", samples=12)))

    assert reply.explanation.attributions[0].receipt.work.rows_backward == 12
    assert backward() == before + 12


def test_the_callers_request_id_comes_back_and_is_in_the_log_once(server: Server) -> None:
    _, call = server.explanations.Predict.with_call(
        predict(TABLE_MODEL, GOOD), metadata=[("x-request-id", "order-4711"), ("x-pellucid-caller", "shop 7")]
    )

    assert dict(call.trailing_metadata())["x-request-id"] == "order-4711"
    (line,) = server.lines("id=order-4711")
    assert 'rpc=Predict code=OK caller="shop 7" class=predictions model=breast-cancer' in line


def test_a_request_without_an_id_gets_one_and_a_refusal_names_it(server: Server) -> None:
    error: Any = failure(lambda: server.explanations.Predict(predict("nobody", GOOD)))

    request_id = details(error)["RequestInfo"].request_id
    assert dict(error.trailing_metadata())["x-request-id"] == request_id
    (line,) = server.lines(f"id={request_id}")
    assert "code=NOT_FOUND" in line
    assert "reason=NOT_FOUND" in line


def test_a_caller_who_leaves_is_logged_as_such(server: Server) -> None:
    call = server.explanations.Attribute.future(long_request(rows=64), metadata=[("x-request-id", "leaver")])
    wait_until(server.busy, seconds=LONG_SECONDS, what="the worker has the request")

    call.cancel()

    wait_until(lambda: bool(server.lines("id=leaver")), seconds=20, what="the request is logged")
    assert "code=CANCELLED" in server.lines("id=leaver")[0]


def test_a_deadline_ends_the_work_and_the_server_says_so(server: Server) -> None:
    began = time.monotonic()

    error = failure(lambda: server.explanations.Attribute(long_request(rows=64), timeout=0.5))

    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    # Where the pace is known already, the worker sees beforehand that there is too little time.
    assert details(error)["ErrorInfo"].metadata["stage"] in ("running", "refused")
    assert time.monotonic() - began < 2


def test_a_request_that_failed_on_a_worker_has_its_times_too(server: Server) -> None:
    labels = {
        "rpc": "Attribute",
        "method": "saliency",
        "model": TABLE_MODEL,
        "version": "1",
        "code": "INVALID_ARGUMENT",
    }
    before = counts(server, "pellucid_compute_seconds", **labels)

    failure(lambda: server.explanations.Attribute(attribute(TABLE_MODEL, GOOD, spec("saliency", absolute=1))))

    assert counts(server, "pellucid_compute_seconds", **labels) == before + 1


def test_the_time_of_a_call_is_split(server: Server) -> None:
    timing = server.explanations.Attribute(attribute(TABLE_MODEL, GOOD, spec("kernel-shap"))).timing

    assert timing.compute_seconds > 0
    assert timing.queue_seconds >= 0
    assert timing.queue_seconds + timing.compute_seconds <= timing.total_seconds


def test_the_catalogue_tells_what_each_model_allows(server: Server) -> None:
    listed = server.models.ListModels(model_service_pb2.ListModelsRequest()).models

    assert [entry.model.name for entry in listed] == ["breast-cancer", "diabetes", "efficientnet-lite0"]
    trees, picture = (
        server.models.GetModel(model_service_pb2.GetModelRequest(model=listed[index].model)) for index in (1, 2)
    )
    # Of trees in an ONNX file, what leaves them is a layer: it can be changed, and has no gradient.
    assert {each.method for each in trees.capabilities if each.allowed} >= {
        "ablation",
        "feature-ablation",
        "kernel-shap",
        "occlusion",
    }
    assert {each.method for each in trees.capabilities if "gradients need model.pt2" in each.reason} >= {
        "input-x-gradient",
        "integrated-gradients",
        "saliency",
        "smoothgrad",
    }
    assert all(each.allowed for each in picture.capabilities)
    assert picture.runtime == "onnxruntime"
    assert picture.parity.holds
    assert picture.parity.largest_difference < 1e-5
    assert {layer.name: list(layer.shape) for layer in picture.layers}["_bn1"] == [1280, 7, 7]


def test_every_method_is_listed_with_its_parameters(server: Server) -> None:
    methods = {
        method.name: method for method in server.models.ListMethods(model_service_pb2.ListMethodsRequest()).methods
    }

    assert set(methods) >= {
        "feature-ablation",
        "input-x-gradient",
        "integrated-gradients",
        "kernel-shap",
        "occlusion",
        "saliency",
        "smoothgrad",
    }
    steps = methods["integrated-gradients"].parameters[0]
    assert (steps.name, steps.minimum, steps.maximum) == ("steps", 1, 1024)
    assert methods["integrated-gradients"].takes_tolerance
