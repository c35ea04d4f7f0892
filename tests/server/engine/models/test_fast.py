"""The second graph computes what the first does; it takes its place where that is seen to hold."""

import logging

import numpy as np
import pytest
import torch
from pellucid_server.engine.models.graph.fast import faster
from pellucid_server.engine.models.graph.functional_graph import read_program
from pellucid_server.engine.models.graph.graph import Graph
from pellucid_server.engine.models.loading.fast_graph import trusted_fast_graph
from server.engine.models.networks import DYNAMIC, ZOO, zoo_graph, zoo_rows
from torch import nn

aten = torch.ops.aten
NORMS = {aten._native_batch_norm_legit_no_training.default, aten.batch_norm.default}


def with_statistics(module):
    """Give batch norms statistics and weights that are not those they begin with."""
    torch.manual_seed(5)
    for each in module.modules():
        if isinstance(each, nn.modules.batchnorm._BatchNorm):
            each.running_mean.normal_()
            each.running_var.uniform_(0.1, 3)
            if each.affine:
                nn.init.normal_(each.weight)
                nn.init.normal_(each.bias)
    return module.eval()


class Twice(nn.Module):
    """A convolution whose value is used beside its norm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)

    def forward(self, x):
        value = self.conv(x)
        return self.norm(value) + value


class Shared(nn.Module):
    """A convolution called twice, each time with a norm of its own."""

    def __init__(self):
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.BatchNorm2d(2)

    def forward(self, x):
        return self.second(self.conv(self.first(self.conv(x)).relu()))


class PaddedTwice(nn.Module):
    """Zeros beside a picture, that a convolution and a sum see."""

    def __init__(self):
        super().__init__()
        self.pad, self.conv = nn.ZeroPad2d(1), nn.Conv2d(2, 2, 1)

    def forward(self, x):
        value = self.pad(x)
        return self.conv(value) + value


def test_a_convolution_pads_with_zeros_itself_where_both_sides_are_alike():
    pads = {aten.pad.default, aten.constant_pad_nd.default}
    left = {}
    for case in (name for name in CASES if "beside" in name or "zeros" in name):
        module, shape, _ = CASES[case]
        program = torch.export.export(module.eval(), (torch.randn(2, *shape),), dynamic_shapes=({0: DYNAMIC},))
        fast = Graph.from_program(program).faster()
        left[case] = any(node.target in pads for node in fast._program.graph.nodes)

    kept = {"zeros on one side", "ones beside", "the edge beside", "zeros used twice"}
    assert {case for case, found in left.items() if found} == kept


CASES = {
    "with a bias": (nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)), (2, 6, 5), 0),
    "without a bias": (nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, bias=False), nn.BatchNorm2d(4)), (2, 6, 5), 0),
    "in groups": (nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8), nn.ReLU()), (4, 6, 5), 0),
    "padded alike": (nn.Sequential(nn.Conv2d(2, 4, 3, padding="same"), nn.BatchNorm2d(4)), (2, 6, 5), 0),
    "without weights": (nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, affine=False)), (2, 6, 5), 0),
    "in one dimension": (nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4)), (2, 6), 0),
    "in three": (nn.Sequential(nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4)), (2, 3, 4, 3), 0),
    "a linear operator": (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), (3,), 0),
    "a linear operator, its channels last": (nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(3)), (3, 5), 1),
    "transposed": (nn.Sequential(nn.ConvTranspose2d(2, 4, 3), nn.BatchNorm2d(4)), (2, 6, 5), 1),
    "the norm first": (nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3)), (2, 6, 5), 1),
    "used beside its norm": (Twice(), (2, 4, 4), 1),
    "called twice": (Shared(), (2, 4, 4), 0),
    "zeros beside": (nn.Sequential(nn.ZeroPad2d(2), nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)), (2, 6, 5), 0),
    "zeros, more beside than above": (
        nn.Sequential(nn.ZeroPad2d((2, 2, 1, 1)), nn.Conv2d(2, 4, 3, 2, 1)),
        (2, 6, 5),
        0,
    ),
    "zeros on one side": (nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(2, 4, 3, stride=2)), (2, 6, 5), 0),
    "ones beside": (nn.Sequential(nn.ConstantPad2d(1, 1.0), nn.Conv2d(2, 4, 3)), (2, 6, 5), 0),
    "the edge beside": (nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(2, 4, 3)), (2, 6, 5), 0),
    "something cut off": (nn.Sequential(nn.ZeroPad2d(-1), nn.Conv2d(2, 4, 3)), (2, 6, 5), 0),
    "zeros used twice": (PaddedTwice(), (2, 6, 5), 0),
    "a dropout between": (nn.Sequential(nn.Conv2d(2, 4, 3), nn.Dropout(), nn.BatchNorm2d(4)), (2, 6, 5), 1),
}


@pytest.mark.parametrize("case", CASES)
def test_the_second_graph_is_the_authors_network_in_float64(case):
    module, shape, norms = CASES[case]
    module = with_statistics(module).float()
    program = torch.export.export(module, (torch.randn(2, *shape),), dynamic_shapes=({0: DYNAMIC},))
    graph = Graph.from_program(program)
    fast = graph.faster() or graph
    rows = torch.randn(3, *shape, dtype=torch.float64, requires_grad=True)

    found = fast.widened()({graph.inputs[0].name: rows})["output"]

    kinds = [node.target for node in fast._program.graph.nodes]
    assert sum(kind in NORMS for kind in kinds) == norms
    expected = module.double()(rows)
    # Weights are folded in float64, and then are float32.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weights = torch.randn_like(expected)
    gradients = [torch.autograd.grad((value * weights).sum(), rows)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ZOO)
def test_of_every_network_outputs_and_the_layers_that_are_left_have_their_values(name):
    graph = zoo_graph(name)
    fast = graph.faster()
    if fast is None:
        assert not any("conv" in str(node.target) for node in graph._program.graph.nodes)
        return
    rows = zoo_rows(name, 3, 5)
    layers = tuple(layer for layer, each in fast.layers.items() if each.cuttable)

    with torch.no_grad():
        found, captured = fast.capturing(layers)(rows)
        expected, values = graph.capturing(layers)(rows)

    assert layers
    for key, value in {**expected, **values}.items():
        torch.testing.assert_close({**found, **captured}[key], value, rtol=1e-4, atol=1e-5)


def test_a_convolution_that_a_norm_was_folded_into_is_no_layer_of_the_second_graph():
    fast = zoo_graph("convolutional").faster()

    assert {"conv1", "conv2"}.isdisjoint(fast.layers)
    assert {"norm1", "norm2", "relu", "pool", "drop", "head"} <= fast.layers.keys()


def test_a_graph_without_convolutions_and_norms_has_no_second_one():
    assert (
        faster(
            read_program(
                torch.export.export(nn.Linear(3, 2).eval(), (torch.randn(2, 3),), dynamic_shapes=({0: DYNAMIC},))
            )
        )
        is None
    )


def convolutional():
    module = with_statistics(
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    )
    return Graph.from_program(torch.export.export(module, (torch.randn(2, 2, 4, 4),), dynamic_shapes=({0: DYNAMIC},)))


ROWS = np.random.default_rng(6).normal(size=(3, 2, 4, 4)).astype(np.float32)


def rows_of(graph):
    return {graph.inputs[0].name: ROWS}


@pytest.mark.parametrize("gradients", [True, False])
def test_a_second_graph_that_agrees_is_used(gradients):
    graph = convolutional()

    fast = trusted_fast_graph("m", graph, rows_of(graph), gradients=gradients)

    assert fast is not None
    assert fast.runtime == "fast-graph"


class Other(Graph):
    """A graph whose second one is another network's, or cannot be made."""

    def __init__(self, graph, second):
        super().__init__(graph._program)
        self._second = second

    def faster(self):
        if isinstance(self._second, Exception):
            raise self._second
        return self._second


def changed(scale):
    """The convolutional network's second graph, with the weights of its first layer scaled."""
    fast = convolutional().faster()
    for name, tensor in fast._program.tensors.items():
        if "channels_last" in name:
            tensor.mul_(scale)
    return Graph(fast._program)


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (lambda: changed(1.001), "its outputs differ"),
        (lambda: changed(float("nan")), "its outputs differ"),
        (lambda: RuntimeError("no such kernel"), "it cannot be compared (RuntimeError)"),
    ],
    ids=["other weights", "no numbers", "not to be made"],
)
def test_a_second_graph_that_does_not_agree_is_left_out_and_the_log_says_why(second, why, caplog):
    caplog.set_level(logging.INFO)
    graph = Other(convolutional(), second())

    assert trusted_fast_graph("m", graph, rows_of(graph), gradients=True) is None
    assert f"model m has no faster graph: {why}" in caplog.text


def test_a_second_graph_whose_explanations_are_further_from_float64_is_left_out(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    graph = convolutional()
    second = Graph(graph.faster()._program)
    run = second._run
    # The outputs are the same, and the gradients a hundredth larger.
    monkeypatch.setattr(second, "_run", lambda *rows: [value * 1.01 - 0.01 * value.detach() for value in run(*rows)])
    graph = Other(graph, second)

    assert trusted_fast_graph("m", graph, rows_of(graph), gradients=False) is second
    assert trusted_fast_graph("m", graph, rows_of(graph), gradients=True) is None
    assert "explanations are off by 0.01" in caplog.text
