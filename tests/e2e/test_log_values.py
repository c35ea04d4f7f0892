"""Nothing that a caller sends is in the server's log but the names of callers, classes, models and requests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from e2e import small_models
from e2e.messages import attribute, failure, param, pictures, predict, rows, spec, table_rows
from e2e.serving import Server, serve
from pellucid.v1 import explanation_pb2, explanation_service_pb2, input_pb2, model_service_pb2, tensor_pb2

WORD, NUMBER = "Zebedee-Quarrington", 86420135
"""Values that are a patient's, and that nothing else in a log looks like."""

Finder = Callable[[], list[str]]
REFUSALS = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION)

ROW: dict[str, float | str] = {"width": 12.0, "height": 3.0, "colour": "green"}
SCORES, TOKENS, PICTURES = small_models.SCORES, small_models.TOKENS, small_models.PICTURES


def row(**cells: float | str) -> dict[str, input_pb2.Input]:
    return {"features": table_rows([{**ROW, **cells}])}


def explained(**fields: Any) -> Any:
    return attribute(SCORES, row(), explanation_pb2.ExplanationSpec(**{"method": "saliency", **fields}))


def targeted(**fields: Any) -> Any:
    return explained(target=explanation_pb2.Target(**fields))


def given(inputs: dict[str, input_pb2.Input]) -> Any:
    kind = explanation_pb2.BASELINE_KIND_GIVEN
    baseline = explanation_pb2.Baseline(kind=kind, inputs=inputs)
    return explained(method="kernel-shap", baseline=baseline)


def with_parameter(method: str, name: str, value: Any) -> Any:
    return explained(method=method, parameters={name: value})


def of_model(name: str = SCORES, **fields: Any) -> Any:
    model = explanation_pb2.ModelSpec(name=name, **fields)
    return explanation_service_pb2.PredictRequest(model=model, inputs=row())


def raw(**fields: Any) -> dict[str, input_pb2.Input]:
    return {"features": input_pb2.Input(tensor=tensor_pb2.Tensor(**fields))}


FLOAT = tensor_pb2.DATA_TYPE_FLOAT64
REQUESTS = {
    "a category of a categorical column": predict(SCORES, row(colour=WORD)),
    "a number of a categorical column": predict(SCORES, row(colour=float(NUMBER))),
    "a text of a numeric column": predict(SCORES, row(width=WORD)),
    "a number beyond the model": predict(SCORES, row(width=NUMBER * 1e300)),
    "a number that is none": predict(SCORES, row(width=float("nan"), **{WORD: 1.0})),
    "a column's name": predict(SCORES, row(**{WORD: 1.0})),
    "a column's name in place of another": predict(SCORES, {"features": table_rows([{WORD: 1.0, str(NUMBER): WORD}])}),
    "a column's name that ends a path": predict(SCORES, row(**{f'width"].{WORD.lower()}["': 1.0})),
    "an empty cell": predict(
        SCORES, {"features": input_pb2.Input(table={"rows": [{"cells": {WORD: input_pb2.Cell()}}]})}
    ),
    "an input's name": predict(SCORES, {WORD: rows([[1.0]])}),
    "an output's name": predict(SCORES, row(), outputs=[WORD]),
    "texts": predict(SCORES, {"features": input_pb2.Input(texts={"texts": [WORD]})}),
    "a tensor's shape": predict(SCORES, raw(data_type=FLOAT, shape=[1, NUMBER], data=b"")),
    "a tensor's negative axis": predict(SCORES, raw(data_type=FLOAT, shape=[-NUMBER], data=b"")),
    "a tensor's bytes": predict(SCORES, raw(data_type=FLOAT, shape=[1, 3], data=WORD.encode())),
    "a tensor's type": predict(SCORES, raw(data_type=NUMBER, shape=[1, 3], data=b"")),
    "an index of a table of words": predict(TOKENS, {"tokens": rows(np.full((1, 4), NUMBER))}),
    "a picture": predict(PICTURES, {"image": pictures(WORD.encode())}),
    "a parameter's text": with_parameter("kernel-shap", "regions", param(WORD)),
    "a parameter's number": with_parameter("integrated-gradients", "steps", param(NUMBER)),
    "a parameter's real number": with_parameter("smoothgrad", "noise", param(float(NUMBER))),
    "a parameter's name": with_parameter("saliency", WORD, param(1)),
    "a parameter's tensor": with_parameter(
        "integrated-gradients",
        "edges",
        explanation_pb2.ParamValue(tensor=rows(np.array([0.0, float(NUMBER), 1.0])).tensor),
    ),
    "a target's label": targeted(outcome=explanation_pb2.Outcome(label=WORD)),
    "a target's index": targeted(outcome=explanation_pb2.Outcome(index=[NUMBER])),
    "a target's negative index": targeted(outcome=explanation_pb2.Outcome(index=[-NUMBER])),
    "a contrast's label": targeted(contrast=explanation_pb2.Outcome(label=WORD)),
    "a target's output": targeted(output=WORD),
    "an output space": targeted(space=NUMBER),
    "a tolerance": explained(method="integrated-gradients", tolerance=float(NUMBER)),
    "a method's name": explained(method=WORD),
    "a baseline's category": given(row(colour=WORD)),
    "a baseline's number": given(row(width=NUMBER * 1e300)),
    "a baseline's column": given(row(**{WORD: 1.0})),
    "a baseline's kind": explained(baseline=explanation_pb2.Baseline(kind=NUMBER)),
    "a baseline's blur": explained(
        baseline=explanation_pb2.Baseline(kind=explanation_pb2.BASELINE_KIND_BLUR, blur_sigma=NUMBER)
    ),
    "a number of classes": predict(SCORES, row(), top_k=NUMBER),
    "a digest": of_model(digest=WORD),
    "a reply's type": explained(format=explanation_pb2.ReplyFormat(data_type=NUMBER)),
}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of small models, for these tests alone."""
    repository: Path = small_models.write_repository(tmp_path_factory.mktemp("repository"))
    with serve(repository, tmp_path_factory.mktemp("watched")) as running:
        yield running


@pytest.fixture
def leaked(watched: Server) -> Finder:
    """Return what finds the lines of the log since the test began that hold one of the values, however written."""
    marks = (*WORD.lower().split("-"), str(NUMBER), f"{float(NUMBER):g}", f"{NUMBER:,}")
    start = watched.log.stat().st_size

    def find() -> list[str]:
        lines = watched.log.read_bytes()[start:].decode().splitlines()
        return [line for line in lines if any(mark in line.lower() for mark in marks)]

    return find


@pytest.mark.parametrize("name", REQUESTS)
def test_a_value_is_in_the_answer_to_its_caller_alone(watched: Server, leaked: Finder, name: str) -> None:
    request, stub = REQUESTS[name], watched.explanations
    call = stub.Predict if isinstance(request, explanation_service_pb2.PredictRequest) else stub.Attribute
    identity = f"values-{list(REQUESTS).index(name)}"

    error = failure(lambda: call(request, metadata=[("x-request-id", identity)]))

    assert error.code() in REFUSALS, error.details()
    (line,) = watched.lines(f"id={identity}")
    assert " reason=" in line
    assert leaked() == []


@pytest.mark.parametrize("value", [WORD, str(NUMBER), "green"])
def test_a_refused_cell_is_logged_by_its_column(watched: Server, leaked: Finder, value: str) -> None:
    request = predict(SCORES, row(width=value))

    error = failure(lambda: watched.explanations.Predict(request, metadata=[("x-request-id", f"cell-{value[:2]}")]))

    assert repr(value) in str(error.details())
    (line,) = watched.lines(f"id=cell-{value[:2]}")
    assert r'field="inputs[\"features\"].table.rows[0].cells[\"width\"]"' in line
    assert leaked() == []


def test_an_explanation_that_fails_beside_a_prediction_leaves_no_value(watched: Server, leaked: Finder) -> None:
    explanations = [spec("kernel-shap", regions=WORD), spec(WORD), spec("integrated-gradients", steps=NUMBER)]

    reply = watched.explanations.Predict(predict(SCORES, row(), explanations=explanations))

    assert [each.status.code for each in reply.explanations] == [3, 5, 3]
    assert WORD in reply.explanations[1].status.message
    assert leaked() == []


def test_bytes_metadata_and_a_class_leave_no_value(watched: Server, leaked: Finder) -> None:
    call = watched.channel.unary_unary("/pellucid.v1.ExplanationService/Predict")
    good = predict(SCORES, row()).SerializeToString()

    failure(lambda: call(WORD.encode()))
    failure(lambda: call(good, metadata=[("x-pellucid-priority", WORD)]))
    failure(lambda: call(predict("", row()).SerializeToString(), metadata=[("x-pellucid-priority", WORD)]))
    failure(lambda: call(good, metadata=[("x-pellucid-priority", "interactive"), ("x-pellucid-caller", "ä" + WORD)]))
    failure(lambda: watched.models.GetModel(model_service_pb2.GetModelRequest(model={"name": SCORES, "digest": WORD})))
    failure(lambda: watched.channel.unary_unary(f"/pellucid.v1.ExplanationService/{WORD}")(good))

    assert leaked() == []
