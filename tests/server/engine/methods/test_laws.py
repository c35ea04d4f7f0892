"""What every method promises, checked for every method in the registry."""

import dataclasses

import numpy as np
import pellucid_server.engine.methods
import pytest
import torch
from pellucid_server.engine.asking import registry
from pellucid_server.engine.asking.question import Feature, Question
from pellucid_server.engine.asking.registry import Axiom, Background, Need
from pellucid_server.engine.asking.verbs import ATTRIBUTE
from server.engine.methods.closed_forms import TARGET, Formula, tensor_question

registry.discover(pellucid_server.engine.methods)

METHODS = [method for method in registry.methods() if method.verb is ATTRIBUTE]
WEIGHT = torch.tensor([[1.0, -2.0, 0.0], [0.5, 3.0, -1.0]], dtype=torch.float64)
X = np.array([[3.0, 1.0, 5.0], [-2.0, 0.25, 4.0]], np.float32)

every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


def promising(axiom):
    methods = [method for method in METHODS if axiom in method.axioms]
    return pytest.mark.parametrize("method", methods, ids=lambda method: method.name)


def linear(inputs):
    return (inputs["x"] * WEIGHT).sum(dim=(1, 2)) + 7


def curved(inputs):
    first, second, third, ignored = inputs["x"].unbind(1)
    return torch.sin(first) * second + torch.relu(third - 0.3) ** 2 + torch.exp(0.3 * first * third) + 0 * ignored


def alike(inputs):
    return torch.tanh(inputs["x"][:, 0] * inputs["x"][:, 1]) + torch.sin(inputs["x"][:, 2])


def ask(method, function, question, **options):
    asked = question if method.baselines is not Background.NONE else dataclasses.replace(question, baselines={})
    return method.function(Formula(function, **options), asked, method.resolve({}))


def test_the_first_methods_are_installed():
    names = {method.name for method in METHODS}

    assert names >= {
        "saliency",
        "input-x-gradient",
        "integrated-gradients",
        "smoothgrad",
        "occlusion",
        "feature-ablation",
        "kernel-shap",
    }


@every_method
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (2, 1, 2, 2)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_have_the_inputs_shape_and_type(method, shape, dtype):
    x = np.random.default_rng(1).normal(size=shape).astype(dtype)
    question = dataclasses.replace(tensor_question(x), inputs={"x": x}, baselines={"x": np.zeros((1, *shape), dtype)})

    answer = ask(method, lambda inputs: inputs["x"].reshape(len(inputs["x"]), -1).sum(1).tanh(), question)

    assert answer.scores["x"].shape == shape
    assert answer.scores["x"].dtype == dtype


@every_method
def test_inputs_and_baselines_are_left_untouched(method):
    question = tensor_question(X, 0.5 * X)
    question.inputs["x"].flags.writeable = False
    question.baselines["x"].flags.writeable = False

    ask(method, linear, question)

    np.testing.assert_array_equal(question.inputs["x"], X)


@every_method
def test_the_same_seed_gives_the_same_bytes(method):
    question = tensor_question([0.4, 1.2, 0.9, 2.0], 0.1, seed=9)

    first, second = (ask(method, curved, question).scores["x"] for _ in range(2))

    assert first.tobytes() == second.tobytes()


@every_method
def test_blocks_of_another_size_give_the_same_answer(method):
    x = np.random.default_rng(2).normal(size=(3, 40, 40)).astype(np.float32)
    question = tensor_question(x, 0.2, modality="image")

    def function(inputs):
        return (inputs["x"].mean(dim=1) ** 2).sum(dim=(1, 2)).sqrt()

    whole = ask(method, function, question).scores["x"]
    pieces = ask(method, function, question, block=7).scores["x"]

    np.testing.assert_allclose(pieces, whole, rtol=1e-6, atol=1e-6 * np.abs(whole).max())


@every_method
def test_the_score_of_the_row_is_reported_as_it_is(method):
    answer = ask(method, linear, tensor_question(X))

    expected = float((X * WEIGHT.numpy()).sum() + 7)
    assert answer.instance_value in (None, pytest.approx(expected, rel=1e-6))


@promising(Axiom.EXACT_ON_LINEAR)
def test_each_element_of_a_linear_score_gets_its_weight_times_its_change(method):
    # The absence that a method without a baseline implies is zero.
    baseline = 0.0 if method.baselines is Background.NONE else np.full_like(X, 0.75)

    answer = ask(method, linear, tensor_question(X, baseline))

    np.testing.assert_allclose(answer.scores["x"], WEIGHT.numpy() * (X - baseline), rtol=1e-5, atol=1e-5)


@promising(Axiom.COMPLETE)
def test_scores_sum_to_the_scores_change_but_for_the_reported_gap(method):
    x, baseline = np.array([0.4, 1.2, 0.9, 2.0], np.float32), np.full(4, 0.1, np.float32)

    answer = ask(method, curved, tensor_question(x, baseline))

    at = curved({"x": torch.from_numpy(np.stack([x, baseline])).double()})
    assert answer.instance_value == pytest.approx(float(at[0]))
    assert answer.baseline_value == pytest.approx(float(at[1]))
    assert answer.scores["x"].sum() == pytest.approx(float(at[0] - at[1]) + answer.signed_gap, abs=1e-6)
    assert answer.absolute_gap >= abs(answer.signed_gap)


@promising(Axiom.DUMMY)
def test_what_the_score_ignores_scores_nothing(method):
    answer = ask(method, curved, tensor_question([0.4, 1.2, 0.9, 2.0], 0.1))

    assert answer.scores["x"][3] == 0
    assert (answer.scores["x"][:3] != 0).all()


@promising(Axiom.SYMMETRIC)
def test_elements_that_the_score_treats_alike_score_alike(method):
    answer = ask(method, alike, tensor_question([0.7, 0.7, 0.7]))

    first, second, third = answer.scores["x"]
    assert first == pytest.approx(second, rel=1e-6)
    assert first != pytest.approx(third, rel=1e-3)


@every_method
def test_inputs_of_whole_numbers_are_explained_or_said_to_be_held(method):
    question = Question(
        inputs={"x": np.array([1.0, 2.0], np.float32), "code": np.array([3, 1, 4], np.int64)},
        baselines={"x": np.zeros((1, 2), np.float32), "code": np.zeros((1, 3), np.int64)},
        target=TARGET,
        features={"x": Feature("tensor", True), "code": Feature("tensor", False)},
    )

    answer = ask(method, lambda inputs: inputs["x"].sum(1) + 10 * inputs["code"].sum(1), question)

    held = Need.GRADIENTS in method.needs
    assert answer.scores["code"].dtype == np.float32
    np.testing.assert_allclose(answer.scores["code"], [0, 0, 0] if held else [30, 10, 40], rtol=1e-5)
    assert any("'code'" in warning for warning in answer.warnings) == held


@every_method
def test_a_table_is_answered_element_by_element(method):
    columns = np.array([0, 1, 1, 1, 2], np.int32)
    question = tensor_question([0.5, 0, 1, 0, 2.0], [0, 1, 0, 0, 1.0], modality="tabular", groups=columns)

    answer = ask(method, lambda inputs: inputs["x"].sum(dim=1) + inputs["x"][:, 2], question)

    assert answer.scores["x"].shape == (5,)
    assert np.isfinite(answer.scores["x"]).all()


@promising(Axiom.COMPLETE)
def test_nothing_changed_means_nothing_scored(method):
    answer = ask(method, curved, tensor_question([0.4, 1.2, 0.9, 2.0], [0.4, 1.2, 0.9, 2.0]))

    np.testing.assert_array_equal(answer.scores["x"], np.zeros(4))
    assert answer.signed_gap == pytest.approx(0, abs=1e-12)
