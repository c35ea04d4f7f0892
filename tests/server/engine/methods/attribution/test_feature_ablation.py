import numpy as np
import pytest
import torch
from captum.attr import FeatureAblation
from pellucid_server.engine.asking.question import Feature, Question
from pellucid_server.errors import InvalidRequestError
from server.engine.methods.closed_forms import TARGET, Formula, tensor_question
from server.engine.methods.networks import PICTURE, cnn, mlp, score


def test_it_is_captums_on_a_tensor(explain):
    module, x = mlp(), np.random.default_rng(7).normal(size=6).astype(np.float32)

    answer = explain("feature-ablation", Formula(score(module, 0)), tensor_question(x, 0.3))

    expected = FeatureAblation(module).attribute(torch.from_numpy(x).double()[None], baselines=0.3, target=0)
    np.testing.assert_allclose(answer.scores["x"], expected[0].detach().numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(answer.group_scores, expected[0].detach().numpy(), rtol=1e-4, atol=1e-6)


def test_a_pictures_groups_are_captums_with_the_same_regions(explain):
    module, x = cnn(), np.random.default_rng(8).normal(size=PICTURE).astype(np.float32)

    answer = explain(
        "feature-ablation",
        Formula(score(module, 1)),
        tensor_question(x, 0.5, modality="image"),
        regions="grid",
        segments=12,
    )

    mask = torch.from_numpy(np.tile(answer.groups["x"], (3, 1, 1))).long()[None]
    oracle = FeatureAblation(module)
    expected = oracle.attribute(torch.from_numpy(x).double()[None], baselines=0.5, target=1, feature_mask=mask)
    whole = answer.group_scores[answer.groups["x"]]
    assert len(answer.group_scores) == 12
    np.testing.assert_allclose(np.broadcast_to(whole, PICTURE), expected[0].detach().numpy(), rtol=1e-4, atol=1e-6)
    assert answer.scores["x"].sum() == pytest.approx(answer.group_scores.sum(), abs=1e-5)


def test_a_tables_column_is_ablated_as_a_whole_and_its_elements_share(explain):
    columns = np.array([0, 1, 1, 1, 2], np.int32)
    question = tensor_question([0.5, 0, 1, 0, 2.0], [0, 1, 0, 0, 2.0], modality="tabular", groups=columns)
    handle = Formula(lambda inputs: 4 * inputs["x"][:, 0] + 6 * inputs["x"][:, 2] + inputs["x"][:, 4])

    answer = explain("feature-ablation", handle, question)

    np.testing.assert_allclose(answer.group_scores, [2, 6, 0])
    np.testing.assert_allclose(answer.scores["x"], [2, 2, 2, 2, 0])
    assert answer.instance_value == 10
    assert answer.baseline_value == 2


def test_what_equals_the_baseline_costs_nothing(explain):
    handle = Formula(lambda inputs: inputs["x"].sum(dim=1))

    explain("feature-ablation", handle, tensor_question([1.0, 0.0, 2.0, 0.0]))

    assert handle.sizes["scores"] == [2 + 2]


def test_groups_are_numbered_across_inputs(explain):
    question = Question(
        inputs={"x": np.array([1, 2], np.float32), "z": np.array([[3.0], [4.0]], np.float32)},
        baselines={"x": np.zeros((1, 2), np.float32), "z": np.zeros((1, 2, 1), np.float32)},
        target=TARGET,
        features={"x": Feature("tensor", True), "z": Feature("tensor", True)},
    )

    answer = explain("feature-ablation", Formula(lambda i: i["x"].sum(1) * i["z"].sum((1, 2))), question)

    np.testing.assert_array_equal(answer.groups["z"], [[2], [3]])
    np.testing.assert_allclose(answer.group_scores, [7, 14, 9, 12])


def test_too_many_elements_are_refused_with_what_to_use_instead(explain):
    with pytest.raises(InvalidRequestError, match=r"513 groups, more than the 512.*occlusion") as caught:
        explain("feature-ablation", Formula(lambda inputs: inputs["x"].sum(1)), tensor_question(np.ones(513)))

    assert caught.value.metadata == {"field": "method"}
