"""Network dissection through the real server: planted detectors on the generated set, and workers that are killed."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from e2e.fault_points import kill
from e2e.serving import LONG_SECONDS, Server, serve
from pellucid import tensors
from pellucid.v1 import dissection_pb2, explanation_pb2, explanation_service_pb2, findings_pb2
from pellucid_server import export
from pellucid_server.scenes.command import write_scenes
from torch import nn

MODEL, ROWS, SIZE = "planted", 240, 48

_TOML = f"""
[[inputs]]
name = "image"
modality = "image"
resize = {SIZE}
crop = [{SIZE}, {SIZE}]
mean = [0, 0, 0]
standard_deviation = [255, 255, 255]
[[outputs]]
name = "output"
kind = "logits"
"""


class Colours(nn.Module):
    """Units for red, green and blue, and one that is off."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU()
        weight = torch.cat([2 * torch.eye(3) - 1, torch.zeros(1, 3)])
        self.conv.weight.data = weight.reshape(4, 3, 1, 1)
        self.conv.bias.data = torch.tensor([-0.2, -0.2, -0.2, -1.0])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.relu(self.conv(image)).mean((2, 3))
        return found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the planted model, with a generated set."""
    folder = tmp_path_factory.mktemp("dissected")
    (folder / "models" / MODEL).mkdir(parents=True)
    (folder / "models" / MODEL / "model.toml").write_text(_TOML)
    export.export(Colours(), (torch.zeros(2, 3, SIZE, SIZE),), folder / "models" / MODEL / "1", onnx=False)
    write_scenes(folder / "datasets" / "scenes", ROWS, seed=3, size=SIZE)
    settings = {"PELLUCID_POOL__RESTART_INITIAL_SECONDS": "0.01"}
    where = tmp_path_factory.mktemp("served")
    with serve(folder / "models", where, settings, worker="e2e.saving_worker") as running:
        yield running


def request(**fields: Any) -> explanation_service_pb2.DissectRequest:
    found = explanation_service_pb2.DissectRequest(
        model=explanation_pb2.ModelSpec(name=MODEL),
        method="network-dissection",
        layers=[dissection_pb2.LayerUnits(layer="relu")],
        probe=dissection_pb2.Probe(dataset="scenes"),
        **fields,
    )
    found.parameters["quantile"].real = 0.05
    found.parameters["grid"].integer = 0
    return found


def parts(responses: list[explanation_service_pb2.DissectResponse]) -> list[findings_pb2.Findings]:
    """The parts of an answer, without the last, which has the receipt."""
    return [each.findings for each in responses if each.HasField("findings") and not each.preview][:-1]


def texts(findings: findings_pb2.Findings, table: str, column: str) -> list[str]:
    (found,) = (each for each in findings.tables[table].columns if each.name == column)
    return list(found.texts.texts)


@pytest.fixture(scope="module")
def whole(served: Server) -> list[explanation_service_pb2.DissectResponse]:
    return list(served.explanations.Dissect(request(exact=True), timeout=LONG_SECONDS))


def test_planted_units_get_the_names_of_their_colours(whole: list[explanation_service_pb2.DissectResponse]) -> None:
    first, *rest = parts(whole)

    assert texts(first, "dictionary", "concept") == ["red", "green", "blue", ""]
    assert texts(first, "dictionary", "category")[:3] == ["color"] * 3
    assert tensors.from_tensor(first.arrays["relu/iou"].values)[:3].max(1).min() > 0.4
    pictures = [name for part in rest for name in part.pictures]
    assert sorted(pictures) == [f"relu/unit {unit}" for unit in range(4)]
    assert whole[-1].findings.receipt.parameters["quantile"].real == 0.05
    assert whole[-1].progress.rows_done == ROWS


def test_previews_have_a_dictionary_before_the_answer(whole: list[explanation_service_pb2.DissectResponse]) -> None:
    previews = [each.findings for each in whole if each.preview]

    assert previews
    assert all(len(texts(each, "dictionary", "concept")) == 4 for each in previews)


def test_after_a_worker_was_killed_the_answer_is_the_same_bit_for_bit(
    served: Server, whole: list[explanation_service_pb2.DissectResponse]
) -> None:
    killed, seen = False, []
    for each in served.explanations.Dissect(request(exact=True), timeout=LONG_SECONDS):
        seen.append(each)
        if not killed and 0.4 < each.progress.share < 1:
            killed = True
            kill(served.worker_pid())

    assert killed
    assert [each.SerializeToString(deterministic=True) for each in parts(seen)] == [
        each.SerializeToString(deterministic=True) for each in parts(whole)
    ]
