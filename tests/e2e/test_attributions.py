"""Explanations of the demo models, held to predictions through the same wire."""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from e2e.messages import (
    DIABETES_ROW,
    PICTURE_MODEL,
    TABLE_MODEL,
    TREES_MODEL,
    attribute,
    pictures,
    predict,
    rows,
    spec,
    table_rows,
)
from e2e.serving import Server
from pellucid.tensors import from_tensor
from pellucid.v1 import explanation_pb2, tensor_pb2

Floats = npt.NDArray[np.float64]

MALIGNANT, BENIGN = 0, 1


@pytest.fixture(scope="module")
def deviation(models: Path) -> Floats:
    """What the model divides each column by, (30,)."""
    manifest = tomllib.loads((models / TABLE_MODEL / "model.toml").read_text(encoding="utf-8"))
    return np.array([column["standard_deviation"] for column in manifest["inputs"][0]["columns"]])


@pytest.fixture(scope="module")
def mean(models: Path) -> Floats:
    """What the model subtracts from each column, (30,)."""
    manifest = tomllib.loads((models / TABLE_MODEL / "model.toml").read_text(encoding="utf-8"))
    return np.array([column["mean"] for column in manifest["inputs"][0]["columns"]])


def logits(server: Server, values: Floats) -> Floats:
    """Predict table rows, (rows, 30), and return their logits, (rows, 2)."""
    reply = server.explanations.Predict(predict(TABLE_MODEL, {"features": rows(values)}))
    return from_tensor(reply.outputs["output"].values).astype(np.float64)


def explained(server: Server, values: Floats, explanation: Any) -> Any:
    """Explain one table row, (30,)."""
    reply = server.explanations.Attribute(attribute(TABLE_MODEL, {"features": rows(values[np.newaxis])}, explanation))
    return reply.explanation.attributions[0]


def scores(attribution: Any) -> Floats:
    return from_tensor(attribution.inputs["features"].scores).astype(np.float64)


def of_class(explanation: Any, index: int, *, baseline: int = explanation_pb2.BASELINE_KIND_UNSPECIFIED) -> Any:
    """Return a copy of an explanation request, for the class at `index`."""
    copy = explanation_pb2.ExplanationSpec.FromString(explanation.SerializeToString())
    copy.target.outcome.index.append(index)
    copy.baseline.kind = baseline
    return copy


def test_a_gradient_is_the_slope_of_predictions(server: Server, table: Floats, deviation: Floats) -> None:
    step = 1e-2
    around = np.concatenate([table[0] + step * np.diag(deviation), table[0] - step * np.diag(deviation)])
    values = logits(server, around)[:, MALIGNANT]
    slopes = (values[:30] - values[30:]) / (2 * step)

    found = scores(explained(server, table[0], of_class(spec("saliency", absolute=False), MALIGNANT)))

    np.testing.assert_allclose(found, slopes, atol=0.02 * np.abs(slopes).max())


@pytest.mark.parametrize("explanation", [spec("feature-ablation"), spec("occlusion", window=1)], ids=lambda e: e.method)
def test_taking_a_column_away_is_predicting_with_its_mean(
    server: Server, table: Floats, mean: Floats, explanation: Any
) -> None:
    without = np.where(np.eye(30, dtype=np.bool_), mean, table[3])
    expected = logits(server, table[3:4])[0, BENIGN] - logits(server, without)[:, BENIGN]
    asked = of_class(explanation, BENIGN, baseline=explanation_pb2.BASELINE_KIND_ZEROS)

    found = scores(explained(server, table[3], asked))

    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    "explanation",
    [spec("integrated-gradients", steps=256), spec("integrated-gradients", tolerance=0.001), spec("kernel-shap")],
    ids=["integrated-gradients-steps", "integrated-gradients-tolerance", "kernel-shap"],
)
def test_scores_sum_to_the_change_of_the_prediction_from_the_baseline(
    server: Server, table: Floats, mean: Floats, explanation: Any
) -> None:
    change = (logits(server, table[5:6]) - logits(server, mean[np.newaxis]))[0, MALIGNANT]

    found = explained(server, table[5], of_class(explanation, MALIGNANT, baseline=explanation_pb2.BASELINE_KIND_ZEROS))

    assert scores(found).sum() == pytest.approx(change, rel=0.002)
    assert found.instance_output_value - found.baseline_output_value == pytest.approx(change, rel=1e-5)
    assert found.accuracy.signed_gap == pytest.approx(
        scores(found).sum() - change, abs=1e-5 * np.abs(scores(found)).sum()
    )
    assert list(found.inputs["features"].columns[:2]) == ["mean radius", "mean texture"]


def test_explanations_to_different_tolerances_have_different_receipts(server: Server, table: Floats) -> None:
    found = [explained(server, table[5], spec("integrated-gradients", tolerance=value)) for value in (0.5, 0.001)]

    assert [each.receipt.tolerance for each in found] == [0.5, 0.001]
    assert found[0].accuracy.tolerance_met
    assert found[1].accuracy.tolerance_met


def test_shapley_values_against_the_background_average_over_its_rows(
    server: Server, table: Floats, models: Path, mean: Floats, deviation: Floats
) -> None:
    background = np.load(models / TABLE_MODEL / "background.npz")["features"] * deviation + mean
    explanation = of_class(spec("kernel-shap"), BENIGN, baseline=explanation_pb2.BASELINE_KIND_BACKGROUND)
    average = logits(server, background)[:, BENIGN].mean()

    found = explained(server, table[9], explanation)

    assert found.baseline_output_value == pytest.approx(average, abs=1e-4)
    assert found.accuracy.standard_error > 0
    assert scores(found).sum() == pytest.approx(logits(server, table[9:10])[0, BENIGN] - average, abs=1e-3)


def test_a_contrast_explains_the_difference_of_two_classes(server: Server, table: Floats) -> None:
    one, other = (scores(explained(server, table[1], of_class(spec("input-x-gradient"), each))) for each in (0, 1))
    contrast = of_class(spec("input-x-gradient"), MALIGNANT)
    contrast.target.contrast.label = "benign"

    found = scores(explained(server, table[1], contrast))

    np.testing.assert_allclose(found, one - other, atol=1e-5 * np.abs(one - other).max())


def test_probabilities_can_be_explained_in_place_of_logits(server: Server, table: Floats, mean: Floats) -> None:
    explanation = of_class(spec("kernel-shap"), BENIGN, baseline=explanation_pb2.BASELINE_KIND_ZEROS)
    explanation.target.space = explanation_pb2.OUTPUT_SPACE_PROBABILITIES
    ends = logits(server, np.stack([table[2], mean]))
    probabilities = np.exp(ends) / np.exp(ends).sum(axis=1, keepdims=True)

    found = explained(server, table[2], explanation)

    assert scores(found).sum() == pytest.approx(probabilities[0, BENIGN] - probabilities[1, BENIGN], abs=1e-5)


def test_the_same_receipt_means_the_same_answer_and_another_seed_another(server: Server, table: Floats) -> None:
    first, again, other = (explained(server, table[4], spec("smoothgrad", seed=seed)) for seed in (1, 1, 2))

    assert first.receipt.parameters == again.receipt.parameters
    assert first.receipt.parameters["samples"].integer == 50
    np.testing.assert_array_equal(scores(first), scores(again))
    assert not np.allclose(scores(first), scores(other), rtol=1e-3)


def test_the_receipt_has_the_parameters_that_were_left_out(server: Server, table: Floats) -> None:
    shap = explained(server, table[4], spec("kernel-shap")).receipt.parameters
    occlusion = explained(server, table[4], spec("occlusion")).receipt.parameters

    assert shap["samples"].integer == 2 * table.shape[1] + 2048
    assert (occlusion["window"].integer, occlusion["stride"].integer) == (1, 1)


def test_trees_have_black_box_explanations(server: Server) -> None:
    inputs = {"features": table_rows([DIABETES_ROW])}
    value = server.explanations.Predict(predict(TREES_MODEL, inputs)).outputs["progression"].values

    reply = server.explanations.Attribute(attribute(TREES_MODEL, inputs, spec("kernel-shap")))

    found = reply.explanation.attributions[0]
    assert found.instance_output_value == pytest.approx(float(from_tensor(value)[0, 0]), rel=1e-6)
    # Ten columns make 1024 coalitions, which the default evaluates all: no sampling, no error.
    assert scores(found).sum() == pytest.approx(found.instance_output_value - found.baseline_output_value, rel=1e-5)
    assert found.receipt.runtime.gradient == ""


def test_a_photographs_integrated_gradients_meet_their_tolerance(server: Server, cat: bytes) -> None:
    explanation = spec("integrated-gradients", tolerance=0.05)

    reply = server.explanations.Attribute(attribute(PICTURE_MODEL, {"image": pictures(cat)}, explanation))

    found = reply.explanation.attributions[0]
    change = found.instance_output_value - found.baseline_output_value
    total = from_tensor(found.inputs["image"].scores).astype(np.float64).sum()
    assert found.label == "tiger cat"
    assert found.accuracy.tolerance_met
    assert abs(total - change) <= 0.0505 * abs(change)
    assert found.accuracy.absolute_gap <= 0.25 * abs(change)
    assert 32 <= found.receipt.work.rows_backward <= 1024


def test_a_photographs_scores_tell_which_part_of_it_they_cover(server: Server, cat: bytes) -> None:
    explanation = spec("saliency")
    explanation.format.sum_channels = True
    explanation.format.data_type = tensor_pb2.DATA_TYPE_FLOAT16

    reply = server.explanations.Attribute(attribute(PICTURE_MODEL, {"image": pictures(cat)}, explanation))

    found = reply.explanation.attributions[0].inputs["image"]
    assert (found.scores.data_type, list(found.scores.shape)) == (tensor_pb2.DATA_TYPE_FLOAT16, [224, 224])
    # The short side, 300, is resized to 256, of which 224 are kept: 262.5 of its pixels.
    box = found.box
    assert (box.picture_width, box.picture_height) == (451, 300)
    assert (box.left, box.top, box.right, box.bottom) == pytest.approx((94.25, 18.75, 356.75, 281.25), abs=1)
    assert len(reply.SerializeToString()) < 4 << 20


def test_the_receipt_says_which_graph_ran_and_how_the_processor_did(server: Server, cat: bytes) -> None:
    photo, table = {"image": pictures(cat)}, {"features": rows(np.full((1, 30), 10.0))}
    layer = spec("integrated-gradients", steps=2, at="_conv_stem")

    runtimes = [
        server.explanations.Attribute(request).explanation.attributions[0].receipt.runtime
        for request in (
            attribute(PICTURE_MODEL, photo, spec("saliency")),
            attribute(PICTURE_MODEL, photo, layer),
            attribute(TABLE_MODEL, table, spec("saliency")),
        )
    ]

    # The convolution has its norm folded into it in the second graph, and a table network has none.
    assert [(each.forward, each.gradient) for each in runtimes] == [
        ("", "fast-graph"),
        ("graph", "graph"),
        ("", "graph"),
    ]
    assert {(each.threads, each.cpu_capability) for each in runtimes} == {(1, torch.backends.cpu.get_cpu_capability())}
