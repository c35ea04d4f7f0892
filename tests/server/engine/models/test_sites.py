"""Heads and branches as sites: held to the author's module with weights or hooks that make the same change."""

import copy

import pytest
import torch
from server.engine.models.networks import zoo_graph
from server.engine.models.site_networks import (
    ATTENTIONS,
    HEADS,
    WIDTH,
    Attending,
    HeadsFirst,
    Projected,
    attending,
    attending_graph,
    graph_of,
    resnet,
    resnet_graph,
)
from torch import nn

every_attention = pytest.mark.parametrize("name", ATTENTIONS)


def without_head(module, projection, head):
    """Return a module whose output projection takes nothing from a head."""
    changed = copy.deepcopy(module)
    with torch.no_grad():
        changed.get_submodule(projection).weight[:, head * WIDTH : (head + 1) * WIDTH] = 0
    return changed


def projection_of(name):
    return "attention.inner.out_proj" if "inner" in ATTENTIONS[name][1] else "attention.out"


def pairs(value, unit, axis):
    """Return what zeroes a unit of a value of one row, and leaves the others."""
    keep = torch.ones([1] + [value.shape[each] if each == axis else 1 for each in range(1, value.ndim)])
    keep.select(axis, unit).zero_()
    return keep, torch.zeros(())


def heads_apart(graph, rows, site):
    """Return each head's value, (heads, batch, length, width)."""
    with torch.no_grad():
        value = graph.capturing((site,))(rows)[1][site]
    return value.movedim(graph.sites[site].unit_axis + 1, 0)


@every_attention
def test_a_head_zeroed_is_a_projection_that_takes_nothing_from_it(name):
    module, graph = attending(name), attending_graph(name)
    layer = ATTENTIONS[name][1]
    site, rows = f"{layer}:heads", torch.randn(3, 5, 8)
    found, suffix = graph.sites[site], graph.suffix(f"{layer}:heads")
    assert (found.units, found.cuttable, graph.layers[layer].heads, site in graph.layers) == (HEADS, True, HEADS, False)

    context = suffix.context({"x": rows})
    for head in range(HEADS):
        keep, add = pairs(context.value, head, found.unit_axis + 1)
        edited, captured = graph.editing((site,), (site,))({"x": rows}, {site: (keep, add)})
        with torch.no_grad():
            expected = without_head(module, projection_of(name), head)(rows)

        torch.testing.assert_close(suffix(context.value * keep, context)["output"], expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(edited["output"], expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(captured[site], context.value * keep)
        assert not torch.allclose(expected, graph({"x": rows})["output"], atol=1e-4)


@every_attention
def test_the_network_is_the_authors_and_heads_of_a_row_are_its_own(name):
    rows = torch.randn(3, 5, 8)
    graph, site = attending_graph(name), f"{ATTENTIONS[name][1]}:heads"

    with torch.no_grad():
        torch.testing.assert_close(graph({"x": rows})["output"], attending(name)(rows), rtol=1e-5, atol=1e-6)
    together = heads_apart(graph, {"x": rows}, site)
    alone = torch.cat([heads_apart(graph, {"x": rows[[row]]}, site) for row in range(3)], 1)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)


@every_attention
def test_the_gradient_at_the_heads_is_that_of_one_after_the_other(name):
    graph, rows = attending_graph(name), {"x": torch.randn(2, 5, 8)}
    site = f"{ATTENTIONS[name][1]}:heads"

    outputs, leaves = graph.with_leaf_at(site)(rows)
    (gradient,) = torch.autograd.grad(outputs["output"].sum(), leaves[site])

    suffix = graph.suffix(site)
    context = suffix.context(rows)
    # Behind the heads the network is affine: a step of any size is the gradient's.
    step = torch.randn(context.value.shape)
    moved = suffix(context.value + step, context)["output"] - suffix(context.value, context)["output"]
    torch.testing.assert_close(moved.sum(), (gradient * step).sum(), rtol=1e-4, atol=1e-5)
    assert suffix.affine("output")


def test_without_head_1_of_two_heads_with_values_1_and_10_the_output_is_1():
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(2, 2, batch_first=True)
            with torch.no_grad():
                self.attention.in_proj_weight.zero_()
                self.attention.in_proj_bias.copy_(torch.tensor([0.0, 0, 0, 0, 1, 10]))
                self.attention.out_proj.weight.fill_(1.0)
                self.attention.out_proj.bias.zero_()

        def forward(self, x):
            return self.attention(x, x, x)[0]

    graph = graph_of(TwoHeads(), torch.randn(2, 3, 2))
    suffix = graph.suffix("attention:heads")
    context = suffix.context({"x": torch.randn(1, 3, 2)})

    assert graph.sites["attention:heads"].shape == (2, 3, 1)
    assert suffix(context.value, context)["output"].unique().tolist() == [11]
    assert suffix(context.value * torch.tensor([1.0, 0]).reshape(1, 2, 1, 1), context)["output"].unique().tolist() == [
        1
    ]


def test_heads_that_do_not_lie_in_one_row_are_no_site():
    graph = graph_of(Attending(HeadsFirst()), torch.randn(2, 5, 8))

    assert graph.layers["attention"].heads == 0
    assert "attention:heads" not in graph.sites


def test_an_attention_over_a_pictures_axis_is_not_taken_for_heads():
    class Axial(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = Mix()

        def forward(self, x):
            return self.mix(x).mean((1, 2))

    class Mix(nn.Module):
        def forward(self, x):
            return (x @ x.transpose(-1, -2)).softmax(-1) @ x

    assert "mix:heads" not in graph_of(Axial(), torch.randn(2, 4, 5, 3)).sites


def test_two_attentions_of_one_call_have_no_heads_of_one_name():
    class Twice(Projected):
        def attend(self, query, key, value):
            return super().attend(query, key, super().attend(query, key, value))

    assert "attention:heads" not in graph_of(Attending(Twice()), torch.randn(2, 5, 8)).sites


def test_the_zoos_attentions_are_found_under_the_innermost_module():
    found = {name: layer.heads for name, layer in zoo_graph("encoder").layers.items() if layer.heads}
    of_torch = {
        name: layer.heads for name, layer in zoo_graph("torch-encoder-length-first").layers.items() if layer.heads
    }

    assert found == {"layers.0.attention": 2, "layers.1.attention": 2}
    assert of_torch == {"encoder.layers.0.self_attn": 2, "encoder.layers.1.self_attn": 2}


# Branches


def test_two_plus_a_branch_that_is_zeroed_is_two():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.f = nn.Linear(1, 1)

        def forward(self, x):
            return x + self.f(x)

    graph = graph_of(nn.Sequential(Block()), torch.randn(2, 1))
    suffix = graph.suffix("0:branch")
    context = suffix.context({"input": torch.tensor([[2.0]])})

    assert suffix(torch.zeros(1, 1), context)["output"].item() == 2.0
    assert graph.layers["0"].branch


BLOCKS = {
    "stage1.0": ("stage1.0.bn2", 0),
    "stage1.1": ("stage1.1.bn2", 0),
    "stage2.0": ("stage2.0.bn2", 0),
    "stage2.0#1": ("stage2.0.bn2", 1),
}
"""Blocks, and the call of the module whose value is their branch."""


def with_call_scaled(module, path, call, by, rows):
    """Run a module with the value of one call of a part of it multiplied."""
    calls = []

    def change(_, __, value):
        calls.append(path)
        return value * by if len(calls) == call + 1 else value

    hook = module.get_submodule(path).register_forward_hook(change)
    with torch.no_grad():
        found = module(rows)
    hook.remove()
    return found


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("block", BLOCKS)
def test_a_branch_of_a_resnet_is_what_its_last_norm_makes(block, fast):
    graph = resnet_graph().faster() if fast else resnet_graph()
    rows = torch.randn(3, 2, 6, 6)
    suffix = graph.suffix(f"{block}:branch")
    context = suffix.context({"x": rows})

    for by in (0.0, -2.0):
        expected = with_call_scaled(resnet(), *BLOCKS[block], by, rows)
        edit = {f"{block}:branch": (torch.tensor(by), torch.zeros(()))}
        edited, _ = graph.editing((f"{block}:branch",))({"x": rows}, edit)
        torch.testing.assert_close(suffix(by * context.value, context)["output"], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(edited["output"], expected, rtol=1e-4, atol=1e-5)


def test_only_the_block_that_adds_has_a_branch():
    assert [name for name, layer in resnet_graph().layers.items() if layer.branch] == list(BLOCKS)
    assert [name for name in resnet_graph().sites if name.endswith(":branch")] == [f"{name}:branch" for name in BLOCKS]


def sum_of(function):
    class Adding(nn.Module):
        def __init__(self):
            super().__init__()
            self.f, self.g = (nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2))
            self.short = nn.Linear(4, 4)

        def forward(self, *given):
            return function(self, *given)

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.adding = Adding()

        def forward(self, x):
            return self.adding(x.sin(), x.cos())

    return graph_of(Around(), torch.randn(2, 4))


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x, y: self.f(x) + self.g(x),
        lambda self, x, y: self.f(x) + y,
        lambda self, x, y: x + y,
        lambda self, x, y: x + x,
        lambda self, x, y: self.f(x) + self.short.bias,
        lambda self, x, y: (x + self.f(x)) * self.g(x),
    ],
    ids=["equally far", "another stream", "nothing computed", "itself", "a constant", "not the last"],
)
def test_other_sums_have_no_branch(function):
    assert not sum_of(function).layers["adding"].branch


@pytest.mark.parametrize(
    ("function", "branch"),
    [
        (lambda self, x, y: x + self.f(x), lambda self, x, y: self.f(x)),
        (lambda self, x, y: self.f(x) + x, lambda self, x, y: self.f(x)),
        (lambda self, x, y: torch.relu(self.short(x) + self.f(x)), lambda self, x, y: self.f(x)),
        (lambda self, x, y: x + self.f(x) + self.g(x), lambda self, x, y: self.g(x)),
        (lambda self, x, y: x + (self.f(x) + self.g(x)), lambda self, x, y: self.f(x) + self.g(x)),
        (lambda self, x, y: x + self.f(x) * self.g(y), lambda self, x, y: self.f(x) * self.g(y)),
        (lambda self, x, y: x + 0.5 * self.f(x), lambda self, x, y: 0.5 * self.f(x)),
    ],
    ids=["x + f", "f + x", "a projected stream", "the last of two", "parallel", "with a gate", "scaled"],
)
def test_the_branch_is_the_operand_that_goes_back_further(function, branch):
    graph, rows = sum_of(function), torch.randn(3, 4)
    adding = graph.capturing(("adding:branch", "adding.f.0"))

    found = adding({"x": rows})[1]["adding:branch"]

    module = sum_module(graph)
    torch.testing.assert_close(found, branch(module, rows.sin(), rows.cos()), rtol=1e-5, atol=1e-6)


def sum_module(graph):
    """Return what has the weights of a graph of `sum_of`."""

    class Weights(nn.Module):
        def __init__(self):
            super().__init__()
            self.f, self.g = (nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2))
            self.short = nn.Linear(4, 4)

    tensors, module = graph._program.tensors, Weights()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            key = f"p_adding_{name.replace('.', '_')}"
            if key in tensors:
                parameter.copy_(tensors[key])
    return module


def test_the_branch_of_a_pre_norm_transformer_layer_is_its_feed_forward_part():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, norm_first=True, batch_first=True, dropout=0.1).eval()
    graph, rows = graph_of(nn.Sequential(layer, nn.Linear(8, 2)), torch.randn(2, 5, 8)), torch.randn(3, 5, 8)
    suffix = graph.suffix("0:branch")
    context = suffix.context({"input": rows})

    hook = layer.dropout2.register_forward_hook(lambda _, __, value: value * 0)
    with torch.enable_grad():
        hidden = layer(rows)
    hook.remove()

    with torch.no_grad():
        expected = graph.suffix("0")(hidden.detach(), graph.suffix("0").context({"input": rows}))
    torch.testing.assert_close(suffix(0 * context.value, context), expected, rtol=1e-5, atol=1e-6)
    assert [name for name, each in graph.layers.items() if each.branch] == ["0"]


# Values that several layers have


def test_of_layers_with_one_value_the_inner_is_changed_before_the_outer():
    graph, rows = resnet_graph(), {"x": torch.randn(2, 2, 6, 6)}
    shared = ("stage1.1", "stage1.1.relu#1", "stage1")
    edits = {
        "stage1": (torch.tensor(1.0), torch.tensor(3.0)),
        "stage1.1": (torch.tensor(2.0), torch.tensor(0.0)),
        "stage1.1.relu#1": (torch.tensor(0.0), torch.tensor(5.0)),
    }

    captured = graph.editing(tuple(edits), shared)(rows, edits)[1]

    assert graph.ended(shared) == ("stage1.1.relu#1", "stage1.1", "stage1")
    assert [float(captured[name].unique()) for name in graph.ended(shared)] == [5.0, 10.0, 13.0]


def test_in_the_second_call_of_a_block_too_the_inner_is_changed_before_the_outer():
    graph, rows = resnet_graph(), {"x": torch.randn(2, 2, 6, 6)}
    edits = {
        "stage2.0#1": (torch.tensor(2.0), torch.tensor(0.0)),
        "stage2.0.relu#3": (torch.tensor(0.0), torch.tensor(5.0)),
    }

    outputs, captured = graph.editing(tuple(edits), ("stage2.0#1",))(rows, edits)

    assert captured["stage2.0#1"].unique().tolist() == [10.0]
    expected = resnet().head(torch.full((2, 4), 10.0))
    torch.testing.assert_close(outputs["output"], expected.detach())
