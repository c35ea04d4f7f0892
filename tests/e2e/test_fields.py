"""The field that an error names is the path of what is wrong in the request, whatever finds it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from e2e.messages import attribute, details, failure, predict, rows, spec, unpacked, violated_fields
from e2e.serving import Server, serve
from pellucid.v1 import explanation_pb2
from pellucid_server import export
from torch import nn

NUMBERS, WIDE, WORDS, SHIFTED = "numbers", "wide", "words", "shifted"

SECONDS = 60.0
"""With a deadline the cost is asked for beforehand, which may find what is wrong before the method does."""

PATHLESS = re.compile(r'(?<![\w."\]])(parameters\[|target\.|baseline\.)')
"""A field of an explanation in a message, without the path that leads to it."""


class Words(nn.Module):
    """Looks whole numbers up in a table of eleven rows: the numbers that it takes begin at `first`."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first = first
        self.table = nn.Embedding(11, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        # Without the sum, the table's range is found on the graph, and numbers are refused before they are used.
        return self.table(ids - self.first if self.first else ids).sum(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of models for numbers and for words, for these tests alone."""
    repository = tmp_path_factory.mktemp("repository")
    examples: dict[str, tuple[nn.Module, torch.Tensor]] = {
        NUMBERS: (nn.Linear(14, 3), torch.zeros(2, 14)),
        WIDE: (nn.Linear(600, 3), torch.zeros(2, 600)),
        WORDS: (Words(0), torch.zeros(2, 4, dtype=torch.int64)),
        SHIFTED: (Words(3), torch.full((2, 4), 3)),
    }
    for name, (module, example) in examples.items():
        export.export(module, (example,), repository / name / "1", onnx=False)
        write_manifest(repository / name)
    with serve(repository, tmp_path_factory.mktemp("fields")) as running:
        yield running


def write_manifest(folder: Path) -> None:
    background = "" if folder.name == WIDE else 'background = "background.npz"\n'
    kinds = '[[outputs]]\nname = "output"\nkind = "logits"\nlabels = ["no", "yes", "perhaps"]\n'
    (folder / "model.toml").write_text(background + kinds)
    data = {"input": np.eye(2, 14, dtype=np.float32)} if folder.name == NUMBERS else {"ids": np.full((2, 4), 5)}
    np.savez(folder / "background.npz", **data)


def compared(method: str, kind: int, given: Any = None, **fields: Any) -> Any:
    inputs = {} if given is None else given
    found = spec(method)
    found.baseline.MergeFrom(explanation_pb2.Baseline(kind=kind, **fields))
    for name, value in inputs.items():
        found.baseline.inputs[name].CopyFrom(value)
    return found


def aimed(**fields: Any) -> Any:
    found = spec("saliency")
    found.target.MergeFrom(explanation_pb2.Target(**fields))
    return found


def given(values: Any) -> Any:
    return {"ids": rows(np.array([values]))}


def alone(server: Server, model: str, inputs: Any, explanation: Any, timeout: float | None = None) -> tuple[Any, str]:
    """Ask for an explanation that must be refused; return the error's fields and its message."""
    request = attribute(model, inputs, explanation)
    error = failure(lambda: server.explanations.Attribute(request, timeout=timeout))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details()
    return violated_fields(error), str(error.details())


def beside(server: Server, model: str, inputs: Any, explanation: Any, timeout: float | None = None) -> tuple[Any, str]:
    """Ask for it as the second of two beside a prediction."""
    request = predict(model, inputs, explanations=[spec("feature-ablation"), explanation])
    status = server.explanations.Predict(request, timeout=timeout).explanations[1].status
    assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0], status
    return [violation.field for violation in unpacked(status.details)["BadRequest"].field_violations], status.message


ROADS = pytest.mark.parametrize(("ask", "prefix"), [(alone, "explanation"), (beside, "explanations[1]")])
DEADLINES = pytest.mark.parametrize("timeout", [None, SECONDS], ids=["no deadline", "deadline"])

GIVEN, ZEROS, BACKGROUND = (
    explanation_pb2.BASELINE_KIND_GIVEN,
    explanation_pb2.BASELINE_KIND_ZEROS,
    explanation_pb2.BASELINE_KIND_BACKGROUND,
)
NUMBER = {"input": rows(np.ones((1, 14), np.float32))}

FOUND_BY_THE_ENGINE = {
    "an unknown parameter": (spec("saliency", colour="red"), 'parameters["colour"]'),
    "a parameter of another type": (spec("saliency", absolute=1), 'parameters["absolute"]'),
    "a parameter out of range": (spec("smoothgrad", samples=0), 'parameters["samples"]'),
    "a parameter that is no choice": (spec("kernel-shap", regions="hexagons"), 'parameters["regions"]'),
    "a stride that exceeds the window": (spec("occlusion", window=2, stride=3), 'parameters["stride"]'),
    "too few samples": (spec("kernel-shap", samples=55), 'parameters["samples"]'),
    "a part that is no design": (spec("kernel-shap", samples=60, evaluated=8), 'parameters["evaluated"]'),
    "steps beside a tolerance": (spec("integrated-gradients", tolerance=0.1, steps=8), 'parameters["steps"]'),
    "a tolerance for a method without": (spec("saliency", tolerance=0.1), "tolerance"),
    "a baseline for no comparison": (compared("saliency", ZEROS), "baseline"),
    "a background for a single baseline": (compared("occlusion", BACKGROUND), "baseline.kind"),
    "a given baseline of another input": (
        compared("occlusion", GIVEN, {"x": rows(np.ones((1, 14)))}),
        'baseline.inputs["x"]',
    ),
    "a given baseline of another shape": (
        compared("occlusion", GIVEN, {"input": rows(np.ones((1, 9)))}),
        'baseline.inputs["input"].tensor.shape',
    ),
    "an unknown output": (aimed(output="logit"), "target.output"),
    "an index out of range": (aimed(output="output", outcome={"index": [7]}), "target.outcome.index"),
    "an unknown label": (aimed(outcome={"label": "maybe"}), "target.outcome.label"),
    "a contrast with the outcome itself": (
        aimed(outcome={"index": [1]}, contrast={"label": "yes"}),
        "target.contrast",
    ),
}


@ROADS
@DEADLINES
@pytest.mark.parametrize(("explanation", "field"), FOUND_BY_THE_ENGINE.values(), ids=FOUND_BY_THE_ENGINE.keys())
def test_what_the_engine_refuses_of_an_explanation_is_named_by_its_path(
    server: Server, explanation: Any, field: str, timeout: float | None, ask: Any, prefix: str
) -> None:
    fields, message = ask(server, NUMBERS, NUMBER, explanation, timeout)

    assert fields == [f"{prefix}.{field}"]
    assert PATHLESS.search(message) is None, message


@DEADLINES
def test_a_row_of_too_many_groups_is_the_methods_affair(server: Server, timeout: float | None) -> None:
    inputs = {"input": rows(np.ones((1, 600), np.float32))}

    fields, _ = alone(server, WIDE, inputs, spec("kernel-shap"), timeout)

    assert fields == ["explanation.method"]


@pytest.mark.parametrize(
    ("model", "ids", "field"),
    [
        (WORDS, [0, 1, 11, 3], 'inputs["ids"].tensor.data'),
        (WORDS, [0, 1, -1, 3], 'inputs["ids"].tensor.data'),
        (SHIFTED, [3, 4, 14, 5], "inputs"),
        (SHIFTED, [3, 4, 2, 5], "inputs"),
    ],
)
def test_a_word_that_the_model_does_not_know_is_refused_by_every_road(
    server: Server, model: str, ids: list[int], field: str
) -> None:
    inputs, explanation = given(ids), spec("feature-ablation")

    errors = [
        failure(lambda: server.explanations.Predict(predict(model, inputs))),
        failure(lambda: server.explanations.Predict(predict(model, inputs, explanations=[explanation]))),
        failure(lambda: server.explanations.Attribute(attribute(model, inputs, explanation))),
    ]

    assert [(error.code(), violated_fields(error)) for error in errors] == [
        (grpc.StatusCode.INVALID_ARGUMENT, [field])
    ] * 3
    assert {details(error)["ErrorInfo"].reason for error in errors} == {"INVALID_REQUEST"}


UNKNOWN_BASELINES = {
    "given, known beforehand": (WORDS, GIVEN, given([0, 1, 2, 11]), 'baseline.inputs["ids"].tensor.data'),
    "given, found by running": (SHIFTED, GIVEN, given([3, 4, 5, 14]), "baseline"),
    "zeros, found by running": (SHIFTED, ZEROS, None, "baseline"),
}


@ROADS
@pytest.mark.parametrize("method", ["feature-ablation", "occlusion", "kernel-shap"])
@pytest.mark.parametrize(
    ("model", "kind", "baseline", "field"), UNKNOWN_BASELINES.values(), ids=UNKNOWN_BASELINES.keys()
)
def test_a_baseline_with_a_word_that_the_model_does_not_know_is_what_is_refused(
    server: Server, model: str, kind: int, baseline: Any, field: str, method: str, ask: Any, prefix: str
) -> None:
    explanation = compared(method, kind, baseline)

    fields, message = ask(server, model, given([5, 6, 7, 8]), explanation)

    assert fields == [f"{prefix}.{field}"]
    assert PATHLESS.search(message) is None, message
