import numpy as np
import pytest
import torch
from captum.attr import Saliency
from server.engine.methods.closed_forms import Formula, tensor_question
from server.engine.methods.networks import PICTURE, cnn, mlp, score


@pytest.mark.parametrize(("network", "shape"), [(mlp, (6,)), (cnn, PICTURE)])
def test_it_is_captums(explain, network, shape):
    x = np.random.default_rng(5).normal(size=shape).astype(np.float32)
    module = network()

    answer = explain("saliency", Formula(score(module, 1)), tensor_question(x))

    expected = Saliency(module).attribute(torch.from_numpy(x).double()[None].requires_grad_(), target=1)
    np.testing.assert_allclose(answer.scores["x"], expected[0].numpy(), rtol=1e-5, atol=1e-7)


def test_the_magnitude_is_given_unless_the_sign_is_asked_for(explain):
    handle = Formula(lambda inputs: inputs["x"][:, 0] ** 2 - 3 * inputs["x"][:, 1])
    question = tensor_question([-2.0, 5.0])

    magnitude = explain("saliency", handle, question)
    signed = explain("saliency", handle, question, absolute=False)

    np.testing.assert_allclose(magnitude.scores["x"], [4, 3])
    np.testing.assert_allclose(signed.scores["x"], [-4, -3])


def test_it_costs_one_gradient_row(explain):
    handle = Formula(lambda inputs: inputs["x"].sum(dim=1))

    answer = explain("saliency", handle, tensor_question([1.0, 2.0]))

    assert handle.sizes == {"scores": [], "gradient": [1]}
    assert answer.instance_value == 3
