"""Different methods, the same answer: where theory says that two unrelated computations must agree."""

import numpy as np
import pytest
import torch
from server.engine.methods.closed_forms import Formula, tensor_question
from server.engine.methods.networks import mlp, score


def multilinear_and_univariate(inputs):
    """Products of different elements, and any function of single ones."""
    a, b, c, d = inputs["x"].unbind(1)
    return a * b * c - 2 * c * d + torch.sin(3 * a) + torch.exp(d) + b**4


def test_integrated_gradients_are_shapley_values_of_products_and_single_elements(explain):
    question = tensor_question([1.2, -0.7, 0.4, 2.0], [0.3, 0.1, -1.0, 0.5])

    path = explain("integrated-gradients", Formula(multilinear_and_univariate), question, steps=30)
    game = explain("kernel-shap", Formula(multilinear_and_univariate), question)

    # A product of changes is shared out alike only where the path starts at zero; elsewhere both share the same.
    np.testing.assert_allclose(path.scores["x"], game.scores["x"], rtol=1e-5)


def test_windows_of_one_element_are_feature_ablation(explain):
    handle = Formula(score(mlp(), 0))
    question = tensor_question(np.random.default_rng(20).normal(size=6), 0.4)

    window = explain("occlusion", handle, question, window=1)
    single = explain("feature-ablation", handle, question)

    np.testing.assert_allclose(window.scores["x"], single.scores["x"], rtol=1e-6)


def test_noiseless_smoothgrad_is_the_signed_saliency(explain):
    handle = Formula(score(mlp(), 1))
    question = tensor_question(np.random.default_rng(21).normal(size=6))

    smooth = explain("smoothgrad", handle, question, noise=0.0, samples=4)
    single = explain("saliency", handle, question, absolute=False)

    np.testing.assert_allclose(smooth.scores["x"], single.scores["x"], rtol=1e-6)


def test_on_a_ray_from_zero_without_biases_integrating_changes_nothing(explain):
    torch.manual_seed(22)
    first, second = (torch.randn(shape, dtype=torch.float64) for shape in ((5, 9), (9,)))
    handle = Formula(lambda inputs: torch.relu(inputs["x"] @ first) @ second)
    question = tensor_question([0.5, -1.0, 2.0, 0.1, -0.7])

    path = explain("integrated-gradients", handle, question, steps=3)
    point = explain("input-x-gradient", handle, question)

    np.testing.assert_allclose(path.scores["x"], point.scores["x"], rtol=1e-5)


@pytest.mark.parametrize("name", ["integrated-gradients", "kernel-shap", "feature-ablation", "occlusion"])
def test_an_additive_score_leaves_nothing_to_disagree_about(explain, name):
    handle = Formula(lambda inputs: (torch.sin(inputs["x"]) + inputs["x"] ** 2).sum(dim=1))
    x = np.array([0.3, -1.0, 2.0, 0.8])

    answer = explain(name, handle, tensor_question(x, 0.5))

    np.testing.assert_allclose(answer.scores["x"], np.sin(x) + x**2 - np.sin(0.5) - 0.25, atol=1e-5)
