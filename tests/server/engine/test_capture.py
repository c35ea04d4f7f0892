"""Captures of layers: what is behind the last of them does not run."""

import numpy as np
import pytest
import torch
from pellucid_server.engine.evaluations.capture import Capture
from pellucid_server.engine.evaluations.forward import Forward
from pellucid_server.engine.evaluations.model_handle import ModelHandle
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.models.graph.graph import Graph
from pellucid_server.engine.tasks.request_state import RequestState
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.requests import ModelKey
from server.engine.conftest import ZooModel
from server.engine.models.networks import eager_values, zoo_module, zoo_rows
from torch import nn


class Inverting(nn.Module):
    """Inverts matrices behind a linear layer: of zeros there is no inverse."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4, bias=False)

    def forward(self, x):
        return torch.linalg.inv(self.first(x).reshape(-1, 2, 2))


@pytest.fixture(scope="module")
def handle(bench):
    rows = torch.randn(3, 4)
    program = torch.export.export(Inverting().eval(), (rows,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    model = ZooModel(ModelKey("inverting", 1), Graph.from_program(program))
    return ModelHandle(model, bench.services, RequestState(1, None))


def test_a_layer_is_captured_though_what_is_behind_it_fails(bench, handle):
    zeros = Rows({"x": np.zeros((2, 4), np.float32)})

    (found,) = bench.run(lambda: handle.ask(Capture(zeros, ("first",))))

    np.testing.assert_array_equal(found.arrays["first"], 0)
    with pytest.raises(InvalidRequestError, match="inverted"):
        bench.run(lambda: handle.ask(Forward(zeros)))


def test_layers_are_captured_by_one_pass_in_the_order_in_which_they_are_named(bench):
    rows = Rows({"image": zoo_rows("convolutional", 3, 5)["image"].numpy()})
    layers = ("conv2", "conv1", "head")

    (found,) = bench.run(lambda: bench.handle("convolutional").ask(Capture(rows, layers)))

    assert [*found.arrays] == [*layers]
    values = eager_values(zoo_module("convolutional"), zoo_rows("convolutional", 3, 5))
    for layer in layers:
        np.testing.assert_allclose(found.arrays[layer], values[layer].numpy(), rtol=1e-4, atol=1e-6)
