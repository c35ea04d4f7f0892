import numpy as np
import pytest
import torch
from captum.attr import InputXGradient
from server.engine.methods.closed_forms import Formula, tensor_question
from server.engine.methods.networks import PICTURE, cnn, mlp, score


@pytest.mark.parametrize(("network", "shape"), [(mlp, (6,)), (cnn, PICTURE)])
def test_it_is_captums(explain, network, shape):
    x = np.random.default_rng(6).normal(size=shape).astype(np.float32)
    module = network()

    answer = explain("input-x-gradient", Formula(score(module, 2)), tensor_question(x))

    expected = InputXGradient(module).attribute(torch.from_numpy(x).double()[None].requires_grad_(), target=2)
    np.testing.assert_allclose(answer.scores["x"], expected[0].detach().numpy(), rtol=1e-5, atol=1e-7)


def test_the_sign_says_towards_or_against(explain):
    handle = Formula(lambda inputs: inputs["x"][:, 0] ** 2 - 3 * inputs["x"][:, 1])

    answer = explain("input-x-gradient", handle, tensor_question([-2.0, 5.0]))

    np.testing.assert_allclose(answer.scores["x"], [8, -15])


def test_on_a_network_without_biases_the_scores_sum_to_the_output(explain):
    torch.manual_seed(8)
    first, second = (torch.randn(shape, dtype=torch.float64) for shape in ((5, 9), (9, 1)))
    handle = Formula(lambda inputs: (torch.relu(inputs["x"] @ first) @ second)[:, 0])

    answer = explain("input-x-gradient", handle, tensor_question([0.5, -1.0, 2.0, 0.1, -0.7]))

    assert answer.scores["x"].sum() == pytest.approx(answer.instance_value, rel=1e-6)
