"""Every refusal that a caller can bring about, through the real wire."""

import math
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from e2e.messages import (
    DIABETES_ROW,
    PICTURE_MODEL,
    TABLE_MODEL,
    TREES_MODEL,
    attribute,
    details,
    failure,
    pictures,
    predict,
    rows,
    spec,
    table_rows,
    unpacked,
    violated_fields,
)
from e2e.serving import Server
from pellucid.v1 import (
    explanation_pb2,
    explanation_service_pb2,
    input_pb2,
    model_service_pb2,
    tensor_pb2,
)

ROW = np.full((1, 30), 1.0)
GOOD = {"features": rows(ROW)}
SALIENCY = spec("saliency")


def tensor(data_type: int, shape: tuple[int, ...], data: bytes) -> input_pb2.Input:
    return input_pb2.Input(tensor=tensor_pb2.Tensor(data_type=data_type, shape=shape, data=data))


def with_target(**fields: Any) -> Any:
    return explanation_pb2.ExplanationSpec(method="saliency", target=explanation_pb2.Target(**fields))


def with_baseline(kind: int, **fields: Any) -> Any:
    baseline = explanation_pb2.Baseline(kind=kind, **fields)
    return explanation_pb2.ExplanationSpec(method="input-x-gradient", baseline=baseline)


def holding(value: float) -> npt.NDArray[np.float64]:
    row = ROW.copy()
    row[0, 3] = value
    return row


MALFORMED_PREDICTIONS = {
    "no model": (predict("", GOOD), "model.name"),
    "no inputs": (predict(TABLE_MODEL, {}), "inputs"),
    "an unknown input": (predict(TABLE_MODEL, {"image": rows(ROW)}), 'inputs["image"]'),
    "an input without a value": (predict(TABLE_MODEL, {"features": input_pb2.Input()}), 'inputs["features"]'),
    "too few columns": (predict(TABLE_MODEL, {"features": rows(np.ones((1, 29)))}), 'inputs["features"].tensor.shape'),
    "too many axes": (
        predict(TABLE_MODEL, {"features": rows(np.ones((1, 1, 30)))}),
        'inputs["features"].tensor.shape',
    ),
    "no rows": (predict(TABLE_MODEL, {"features": rows(np.ones((0, 30)))}), "inputs"),
    "a scalar": (predict(TABLE_MODEL, {"features": rows(1.0)}), 'inputs["features"].tensor.shape'),
    "a tensor without a type": (
        predict(TABLE_MODEL, {"features": tensor(0, (1, 30), bytes(120))}),
        'inputs["features"].tensor.data_type',
    ),
    "too few bytes": (
        predict(TABLE_MODEL, {"features": tensor(tensor_pb2.DATA_TYPE_FLOAT32, (1, 30), bytes(119))}),
        'inputs["features"].tensor.data',
    ),
    "a negative axis": (
        predict(TABLE_MODEL, {"features": tensor(tensor_pb2.DATA_TYPE_FLOAT32, (-1, 30), b"")}),
        'inputs["features"].tensor.shape',
    ),
    "truth values": (
        predict(TABLE_MODEL, {"features": rows(np.ones((1, 30), np.bool_))}),
        'inputs["features"].tensor.data_type',
    ),
    "not a number": (predict(TABLE_MODEL, {"features": rows(holding(math.nan))}), 'inputs["features"].tensor.data'),
    "infinity": (predict(TABLE_MODEL, {"features": rows(holding(-math.inf))}), 'inputs["features"].tensor.data'),
    "a missing column": (
        predict(TABLE_MODEL, {"features": table_rows([{"mean radius": 1.0}])}),
        'inputs["features"].table.rows[0].cells["mean texture"]',
    ),
    "an infinite cell": (
        predict(TABLE_MODEL, {"features": table_rows([{"mean radius": math.inf}])}),
        'inputs["features"].table.rows[0].cells["mean radius"].number',
    ),
    "a picture for a table": (predict(TABLE_MODEL, {"features": pictures(b"x")}), 'inputs["features"]'),
    "a damaged picture": (predict(PICTURE_MODEL, {"image": pictures(b"x")}), 'inputs["image"].pictures.encoded[0]'),
    "a negative top_k": (predict(TABLE_MODEL, GOOD, top_k=-1), "top_k"),
    "an unknown output": (predict(TABLE_MODEL, GOOD, outputs=["logits"]), "outputs[0]"),
    "too many explanations": (predict(TABLE_MODEL, GOOD, explanations=[SALIENCY] * 9), "explanations"),
    "too many rows": (predict(TABLE_MODEL, {"features": rows(np.ones((1025, 30)))}), "inputs"),
}

MALFORMED_EXPLANATIONS = {
    "no explanation": (None, "explanation"),
    "no method": (spec(""), "explanation.method"),
    "an unknown parameter": (spec("saliency", colour="red"), 'explanation.parameters["colour"]'),
    "a parameter of another type": (spec("saliency", absolute=1), 'explanation.parameters["absolute"]'),
    "a parameter below its range": (
        spec("integrated-gradients", steps=0),
        'explanation.parameters["steps"]',
    ),
    "a parameter above its range": (
        spec("integrated-gradients", steps=1025),
        'explanation.parameters["steps"]',
    ),
    "a parameter that is no choice": (
        spec("kernel-shap", regions="hexagons"),
        'explanation.parameters["regions"]',
    ),
    "a tolerance of zero": (spec("integrated-gradients", tolerance=0.0), "explanation.tolerance"),
    "a tolerance for a method without": (spec("saliency", tolerance=0.1), "explanation.tolerance"),
    "steps beside a tolerance": (
        spec("integrated-gradients", tolerance=0.1, steps=8),
        'explanation.parameters["steps"]',
    ),
    "an index out of range": (
        with_target(outcome=explanation_pb2.Outcome(index=[2])),
        "explanation.target.outcome.index",
    ),
    "a negative index": (
        with_target(outcome=explanation_pb2.Outcome(index=[-1])),
        "explanation.target.outcome.index",
    ),
    "an unknown label": (
        with_target(outcome=explanation_pb2.Outcome(label="cat")),
        "explanation.target.outcome.label",
    ),
    "an index and a label": (
        with_target(outcome=explanation_pb2.Outcome(index=[0], label="benign")),
        "explanation.target.outcome",
    ),
    "a contrast with nothing": (
        with_target(contrast=explanation_pb2.Outcome()),
        "explanation.target.contrast",
    ),
    "an unknown target output": (with_target(output="logits"), "explanation.target.output"),
    "an unknown space": (with_target(space=77), "explanation.target.space"),
    "an unknown baseline": (with_baseline(77), "explanation.baseline.kind"),
    "a given baseline that is not": (
        with_baseline(explanation_pb2.BASELINE_KIND_GIVEN),
        "explanation.baseline.inputs",
    ),
    "a given baseline of more rows than are taken": (
        with_baseline(
            explanation_pb2.BASELINE_KIND_GIVEN,
            inputs={"features": rows(np.ones((4097, 30)))},
        ),
        "explanation.baseline.inputs",
    ),
}

UNKNOWN_NAMES: dict[str, tuple[Callable[[Server], Any], str, str, str]] = {
    "model": (
        lambda server: server.explanations.Predict(predict("resnet", GOOD)),
        "model",
        "resnet",
        "served: breast-cancer, diabetes, efficientnet-lite0",
    ),
    "version": (
        lambda server: server.explanations.Predict(
            explanation_service_pb2.PredictRequest(
                model=explanation_pb2.ModelSpec(name=TABLE_MODEL, version=7), inputs=GOOD
            )
        ),
        "model version",
        "breast-cancer/7",
        "served: 1",
    ),
    "method": (
        lambda server: server.explanations.Attribute(attribute(TABLE_MODEL, GOOD, spec("integrated-gradient"))),
        "method",
        "integrated-gradient",
        "Did you mean 'integrated-gradients'?",
    ),
    "model in the catalogue": (
        lambda server: server.models.GetModel(
            model_service_pb2.GetModelRequest(model=explanation_pb2.ModelSpec(name="resnet"))
        ),
        "model",
        "resnet",
        "served: breast-cancer, diabetes, efficientnet-lite0",
    ),
}


@pytest.mark.parametrize(("request_", "field"), MALFORMED_PREDICTIONS.values(), ids=MALFORMED_PREDICTIONS.keys())
def test_a_malformed_prediction_is_refused_with_the_field_at_fault(server: Server, request_: Any, field: str) -> None:
    error = failure(lambda: server.explanations.Predict(request_))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details()
    assert violated_fields(error) == [field]
    assert details(error)["ErrorInfo"].reason == "INVALID_REQUEST"


@pytest.mark.parametrize(("explanation", "field"), MALFORMED_EXPLANATIONS.values(), ids=MALFORMED_EXPLANATIONS.keys())
def test_a_malformed_explanation_is_refused_with_the_field_at_fault(
    server: Server, explanation: Any, field: str
) -> None:
    error = failure(lambda: server.explanations.Attribute(attribute(TABLE_MODEL, GOOD, explanation)))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details()
    assert violated_fields(error) == [field]


@pytest.mark.parametrize(
    ("call", "resource_type", "resource_name", "advice"), UNKNOWN_NAMES.values(), ids=UNKNOWN_NAMES.keys()
)
def test_an_unknown_name_is_not_found_and_the_known_ones_are_named(
    server: Server, call: Callable[[Server], Any], resource_type: str, resource_name: str, advice: str
) -> None:
    error = failure(lambda: call(server))

    assert error.code() is grpc.StatusCode.NOT_FOUND
    resource = details(error)["ResourceInfo"]
    assert (resource.resource_type, resource.resource_name) == (resource_type, resource_name)
    assert advice in str(error.details())


@pytest.mark.parametrize("method", ["saliency", "input-x-gradient", "integrated-gradients", "smoothgrad"])
def test_a_model_without_gradients_refuses_methods_that_need_them(server: Server, method: str) -> None:
    error = failure(
        lambda: server.explanations.Attribute(
            attribute(TREES_MODEL, {"features": table_rows([DIABETES_ROW])}, spec(method))
        )
    )

    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert details(error)["PreconditionFailure"].violations[0].description == error.details()


def test_a_digest_that_is_not_served_is_a_failed_precondition(server: Server) -> None:
    request = predict(TABLE_MODEL, GOOD)
    request.model.digest = "0" * 64

    error = failure(lambda: server.explanations.Predict(request))

    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert details(error)["PreconditionFailure"].violations[0].subject == "models/breast-cancer/1"


def test_a_prediction_stands_when_an_explanation_beside_it_cannot_be_made(server: Server) -> None:
    explanations = [spec("saliency"), spec("no-such-method"), spec("kernel-shap", samples=-1)]

    reply = server.explanations.Predict(predict(TABLE_MODEL, GOOD, explanations=explanations))

    assert len(reply.outputs["output"].top[0].classes) == 2
    statuses = [explanation.status for explanation in reply.explanations]
    assert [status.code for status in statuses] == [
        0,
        grpc.StatusCode.NOT_FOUND.value[0],
        grpc.StatusCode.INVALID_ARGUMENT.value[0],
    ]
    assert len(reply.explanations[0].explanation.attributions) == 1
    assert unpacked(statuses[1].details)["ResourceInfo"].resource_name == "no-such-method"
    assert [violation.field for violation in unpacked(statuses[2].details)["BadRequest"].field_violations] == [
        'explanations[2].parameters["samples"]'
    ]


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("urgent", "there are: predictions, interactive, bulk"),
        ("predictions", "takes no explanations; these do: interactive, bulk"),
    ],
)
def test_a_class_that_cannot_be_is_refused_by_the_metadatas_key(server: Server, name: str, advice: str) -> None:
    request = attribute(TABLE_MODEL, GOOD, SALIENCY)

    error = failure(lambda: server.explanations.Attribute(request, metadata=[("x-pellucid-priority", name)]))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violated_fields(error) == ['metadata["x-pellucid-priority"]']
    assert advice in str(error.details())


def test_bytes_that_are_no_request_are_refused_with_a_request_id(server: Server) -> None:
    call = server.channel.unary_unary("/pellucid.v1.ExplanationService/Predict")

    error = failure(lambda: call(b"\xff\xff\xff"))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(error)["RequestInfo"].request_id


def test_a_request_beyond_the_size_limit_is_refused_before_it_is_read(server: Server) -> None:
    call = server.channel.unary_unary("/pellucid.v1.ExplanationService/Predict")

    error = failure(lambda: call(bytes((64 << 20) + 1)))

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_no_error_shows_the_inside_of_the_server(server: Server) -> None:
    requests = [request for request, _ in MALFORMED_PREDICTIONS.values()]

    errors = [failure(lambda request=request: server.explanations.Predict(request)) for request in requests]

    said = " ".join(str(error.details()) for error in errors)
    assert not [word for word in ("Traceback", "Error", "torch", ".py", "numpy", "onnx") if word in said]


def test_a_category_that_the_model_does_not_know_is_refused_and_the_known_ones_are_named(server: Server) -> None:
    row = {**DIABETES_ROW, "sex": "f"}

    error = failure(lambda: server.explanations.Predict(predict(TREES_MODEL, {"features": table_rows([row])})))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert violated_fields(error) == ['inputs["features"].table.rows[0].cells["sex"]']
    assert "one of: 1, 2" in str(error.details())
