"""Which suffixes are affine: by the rule over operators, held to what the suffixes do with numbers."""

import pytest
import torch
from server.engine.models.networks import CUTS, zoo_graph, zoo_rows
from server.engine.models.site_networks import graph_of, resnet_graph
from torch import nn
from torch.nn import functional


def is_affine(suffix, context, output):
    """Whether f(a + b) - f(a) - f(b) + f(0) is 0 for random values, large and small."""
    generator = torch.Generator().manual_seed(5)
    for scale in (0.1, 3.0, 100.0):
        one, other = (scale * torch.randn(context.value.shape, generator=generator).double() for _ in range(2))
        values = [each.to(context.value.dtype) for each in (one + other, one, other, 0 * one)]
        both, first, second, none = (suffix(each, context)[output].double() for each in values)
        size = max(float(each.abs().max()) for each in (both, first, second, none))
        if not float((both - first - second + none).abs().max()) <= 1e-5 * size:
            return False
    return True


@pytest.mark.parametrize("fast", [False, True])
def test_what_the_rule_says_of_the_zoo_is_what_numbers_say(fast):
    found = {}
    for network, layer in CUTS:
        graph = zoo_graph(network)
        graph = (graph.faster() or graph) if fast else graph
        if layer not in graph.layers:
            continue
        suffix = graph.suffix(layer)
        context = suffix.context(zoo_rows(network, 2, 5))
        for output in (value.name for value in graph.outputs if value.dtype.is_floating_point):
            found[network, layer, output] = suffix.affine(output), is_affine(suffix, context, output)

    assert {key: pair for key, pair in found.items() if pair[0] != pair[1]} == {}
    assert {pair[0] for pair in found.values()} == {True, False}


def test_a_residual_network_is_affine_behind_its_last_activation_alone():
    graph = resnet_graph()

    assert [name for name in graph.sites if graph.suffix(name).affine("output")] == [
        "stage2#1",
        "stage2.0#1",
        "stage2.0.relu#3",
        "head",
    ]


def behind(function, *more):
    """Return the suffix behind a layer whose value is (batch, 4, 6, 6), and a context."""

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.weights = nn.Conv2d(3, 4, 1), nn.ModuleList(more)

        def forward(self, x):
            return function(self.first(x), x, *self.weights)

    torch.manual_seed(0)
    graph = graph_of(Whole(), torch.randn(2, 3, 6, 6))
    suffix = graph.suffix("first")
    return suffix, suffix.context({"x": torch.randn(2, 3, 6, 6)})


YES = {
    "linear": (lambda v, x, m: m(v.flatten(1)), nn.Linear(144, 2)),
    "convolutions": (lambda v, x, m, n: n(m(v)), nn.Conv2d(4, 4, 3, padding=1), nn.ConvTranspose2d(4, 2, 3)),
    "batch norm": (lambda v, x, m: m(v), nn.BatchNorm2d(4)),
    "pooling": (
        lambda v, x: functional.avg_pool2d(v, 2).mean((2, 3)) + functional.adaptive_avg_pool2d(v, 1)[:, :, 0, 0],
    ),
    "padding": (lambda v, x: functional.pad(v, (1, 1, 1, 1), value=2.0),),
    "reshapes": (lambda v, x: v.permute(0, 2, 3, 1).reshape(-1, 36, 4).transpose(1, 2)[:, 1:3, ::2].unsqueeze(1),),
    "sums": (lambda v, x: v + 2 * x.sum(1, keepdim=True) - v.sum((1, 2), keepdim=True) / 3 - v.neg(),),
    "a product with what it does not depend on": (lambda v, x: v * x.sum(1, keepdim=True).exp() / (1 + x[:, :1] ** 2),),
    "chunks": (lambda v, x: torch.cat([each * factor for factor, each in enumerate(v.chunk(2, 1))], 1),),
    "a mask of the input": (lambda v, x: torch.where(x[:, :1] > 0, v, 1.0),),
    "its size": (lambda v, x: v.sum((2, 3)) / v.shape[0],),
    "upsampling": (lambda v, x: functional.interpolate(v, scale_factor=2, mode="bilinear"),),
    "einsum": (lambda v, x: torch.einsum("bchw,bdhw->bcd", v, x),),
}
NO = {
    "relu": (lambda v, x: v.relu(),),
    "max pooling": (lambda v, x: functional.max_pool2d(v, 2),),
    "layer norm": (lambda v, x, m: m(v), nn.LayerNorm(6)),
    "a square": (lambda v, x: v * v,),
    "its quotient": (lambda v, x: x[:, :1] / (1 + v.abs()),),
    "a divisor": (lambda v, x: x[:, :1] / (v + 10),),
    "a product with itself": (lambda v, x: v @ v.transpose(-1, -2),),
    "a mask of itself": (lambda v, x: torch.where(v > 0, v, 1.0),),
    "softmax": (lambda v, x: v.softmax(1),),
    "whole numbers": (lambda v, x: v.long().float(),),
    "rounded quotients": (lambda v, x: torch.div(v, 2, rounding_mode="floor"),),
    "sorting": (lambda v, x: v.sort(1).values,),
    "behind another": (lambda v, x, m: m(v.sigmoid()), nn.Conv2d(4, 2, 1)),
    "twice": (lambda v, x: torch.einsum("bchw,bdhw->bcd", v, v),),
}


@pytest.mark.parametrize("name", YES)
def test_these_are_affine(name):
    suffix, context = behind(*YES[name])

    assert (suffix.affine("output"), is_affine(suffix, context, "output")) == (True, True)


@pytest.mark.parametrize("name", NO)
def test_these_are_not_affine(name):
    suffix, context = behind(*NO[name])

    assert (suffix.affine("output"), is_affine(suffix, context, "output")) == (False, False)


def test_each_output_is_judged_by_itself():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            v = self.first(x)
            return {"straight": self.second(v), "bent": self.second(v).tanh()}

    suffix = graph_of(Two(), torch.randn(2, 3)).suffix("first")

    assert (suffix.affine("straight"), suffix.affine("bent")) == (True, False)
    with pytest.raises(KeyError):
        suffix.affine("other")


def test_in_an_affine_suffix_changes_add_up():
    graph = resnet_graph()
    suffix = graph.suffix("stage2.0#1")
    context = suffix.context({"x": torch.randn(1, 2, 6, 6)})
    value = context.value
    changes = torch.zeros(4, 4, 1, 1)
    changes[range(4), range(4)] = -1

    single = suffix(value + changes * value, context)["output"] - suffix(value, context)["output"]
    joint = suffix(value * 0, context)["output"] - suffix(value, context)["output"]

    torch.testing.assert_close(single.sum(0), joint[0], rtol=1e-4, atol=1e-6)
