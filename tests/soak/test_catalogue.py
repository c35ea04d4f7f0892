"""The catalogue is the same for the process that wrote it and those that read it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pellucid.tensors import from_tensor
from pellucid.v1 import explanation_pb2, explanation_service_pb2, model_service_pb2

from soak import catalogue

METHODS = ("saliency", "integrated-gradients", "a-new-method")


@pytest.fixture
def entries() -> list[tuple[catalogue.Entry, bytes]]:
    """All that is asked of the demo's models, of which the trees allow the new method alone."""
    described = {name: model(name, *METHODS) for name in (catalogue.TABLE, catalogue.PICTURE)}
    return catalogue.build(described | {catalogue.TREES: model(catalogue.TREES, "a-new-method")}, METHODS, seed=1)


def model(name: str, *methods: str) -> Any:
    capabilities = [model_service_pb2.Capability(method=method, allowed=method in methods) for method in METHODS]
    return model_service_pb2.GetModelResponse(model=explanation_pb2.ModelSpec(name=name), capabilities=capabilities)


def test_what_was_written_is_read(entries: list[tuple[catalogue.Entry, bytes]], tmp_path: Path) -> None:
    quiet = [f"answer {number}".encode() for number in range(len(entries))]

    catalogue.write(tmp_path, entries, quiet)

    expected = [(entry, request, answer) for (entry, request), answer in zip(entries, quiet, strict=True)]
    assert catalogue.read(tmp_path) == expected


def test_every_rpc_and_every_method_that_a_model_allows_is_asked_for(
    entries: list[tuple[catalogue.Entry, bytes]],
) -> None:
    asked = {entry.name for entry, _ in entries}
    rpcs = {entry.rpc for entry, _ in entries}

    assert rpcs == {
        "Predict", "Attribute", "Ablate", "Dissect", "ListModels", "GetModel", "ListMethods", "Check"
    }  # fmt: skip
    assert {f"table, {method}" for method in METHODS} <= asked
    assert "trees, a-new-method" in asked
    assert "trees, integrated-gradients" not in asked


def test_only_what_is_served_is_asked_about() -> None:
    found = catalogue.build({catalogue.TABLE: model(catalogue.TABLE)}, METHODS, seed=1)

    assert not [entry.name for entry, _ in found if "picture" in entry.name or "trees" in entry.name]


def test_names_are_unique(entries: list[tuple[catalogue.Entry, bytes]]) -> None:
    assert len({entry.name for entry, _ in entries}) == len(entries)


def test_a_replay_asks_for_one_row_with_what_its_receipt_settled(
    entries: list[tuple[catalogue.Entry, bytes]],
) -> None:
    (request,) = [request for entry, request in entries if entry.name == "4 rows, saliency"]
    answer = explanation_pb2.Attribution()
    answer.receipt.parameters["samples"].integer = 3
    answer.receipt.tolerance = 0.1

    again = explanation_service_pb2.AttributeRequest.FromString(catalogue.replay(request, answer, row=2))

    before = explanation_service_pb2.AttributeRequest.FromString(request)
    rows, row = (from_tensor(each.inputs["features"].tensor) for each in (before, again))
    np.testing.assert_array_equal(row, rows[2:3])
    assert again.explanation.parameters["samples"].integer == 3
    assert not again.explanation.HasField("tolerance")
    assert again.explanation.seed == before.explanation.seed
