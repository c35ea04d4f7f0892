"""Suffix graphs and gradients at layers, at every legal cut of the zoo, held to the eager networks."""

import pytest
import torch
from pellucid_server.engine.models.graph.graph import Graph, UnfitModelError
from pellucid_server.engine.models.graph.suffix import Context
from server.engine.models.networks import CUTS, eager_with, zoo_graph, zoo_module, zoo_rows
from torch import nn
from torch.export import Dim

SIZES = [(3, 5), (4, 4), (1, 1)]
"""Batch and length: unequal, equal, and both where a size of 1 would specialise."""

OF_EVERY_SIZE = ("residual", "encoder", "several-inputs")
"""Networks whose cuts are tried at every size: the others' sizes would say the same."""

every_cut = pytest.mark.parametrize(("network", "layer"), CUTS)
every_cut_and_size = pytest.mark.parametrize(
    ("network", "layer", "batch", "length"),
    [(*cut, *size) for cut in CUTS for size in (SIZES if cut[0] in OF_EVERY_SIZE else SIZES[:1])],
)


def changed(values: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return values + 2 * torch.randn(values.shape, generator=generator)


def score(outputs: list[torch.Tensor]) -> torch.Tensor:
    """Add all outputs up with fixed weights, so that each element counts."""
    floats = [output for output in outputs if output.is_floating_point()]
    return sum(torch.sin(torch.arange(output.numel()) + 1.0) @ output.reshape(-1) for output in floats)


def close(outputs: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=2e-6)


@every_cut_and_size
def test_a_suffix_fed_the_captured_value_equals_the_full_run(network, layer, batch, length):
    graph, rows = zoo_graph(network), zoo_rows(network, batch, length)
    suffix = graph.suffix(layer)
    with torch.no_grad():
        outputs, captured = graph.capturing((layer,))(rows)

        context = suffix.context(rows)
        again = suffix(captured[layer], context)

    assert torch.equal(context.value, captured[layer])
    torch.testing.assert_close(again, outputs, rtol=0, atol=1e-6)


@every_cut_and_size
def test_a_suffix_fed_other_values_equals_the_eager_network_with_that_layer_replaced(network, layer, batch, length):
    graph, rows = zoo_graph(network), zoo_rows(network, batch, length)
    suffix = graph.suffix(layer)
    context = suffix.context(rows)
    values = changed(context.value)

    outputs = suffix(values, context)

    close(list(outputs.values()), [value.detach() for value in eager_with(zoo_module(network), rows, layer, values)])


@every_cut
def test_changing_one_row_of_a_value_moves_that_row_only(network, layer):
    batch, length = 3, 5
    suffix = zoo_graph(network).suffix(layer)
    context = suffix.context(zoo_rows(network, batch, length))
    values = context.value.clone()
    values[1] = changed(values)[1]

    before, after = suffix(context.value, context), suffix(values, context)

    others = [row for row in range(batch) if row != 1]
    close([output[others] for output in after.values()], [output[others] for output in before.values()])
    assert max(float((after[name][1] - before[name][1]).abs().max()) for name in after) > 1e-4


@every_cut
def test_values_go_with_the_context_rows_that_the_index_names(network, layer):
    suffix = zoo_graph(network).suffix(layer)
    context = suffix.context(zoo_rows(network, 3, 5))
    index = torch.tensor([2, 0, 1, 1, 2])
    values = changed(context.value[index])

    packed = suffix(values, context, index)

    rows = [{name: tensor[[row]] for name, tensor in zoo_rows(network, 3, 5).items()} for row in index.tolist()]
    solo = [suffix(values[[place]], suffix.context(row)) for place, row in enumerate(rows)]
    close(list(packed.values()), [torch.cat([outputs[name] for outputs in solo]) for name in packed])


@every_cut
def test_one_context_row_serves_all_values(network, layer):
    suffix = zoo_graph(network).suffix(layer)
    row = zoo_rows(network, 1, 4)
    context = suffix.context(row)
    values = changed(context.value.expand(4, *context.value.shape[1:]))

    outputs = suffix(values, context)

    four_rows = {name: tensor.expand(4, *tensor.shape[1:]).contiguous() for name, tensor in row.items()}
    close(list(outputs.values()), list(suffix(values, suffix.context(four_rows)).values()))


@every_cut_and_size
def test_the_gradient_at_a_layer_equals_that_of_the_eager_network_and_that_of_the_suffix(network, layer, batch, length):
    graph, rows = zoo_graph(network), zoo_rows(network, batch, length)
    suffix = graph.suffix(layer)
    context = suffix.context(rows)

    outputs, leaves = graph.with_leaf_at(layer)(rows)
    (gradient,) = torch.autograd.grad(score(list(outputs.values())), leaves[layer])

    value = context.value.clone().requires_grad_()
    (by_suffix,) = torch.autograd.grad(score(list(suffix(value, context).values())), value)
    (by_eager,) = torch.autograd.grad(score(eager_with(zoo_module(network), rows, layer, value)), value)
    torch.testing.assert_close(gradient, by_suffix, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, by_eager, rtol=1e-4, atol=1e-5)


def test_the_context_needs_no_gradient_and_the_values_may():
    graph = zoo_graph("several-inputs")
    rows = {name: tensor.requires_grad_() for name, tensor in zoo_rows("several-inputs", 2, 1).items()}

    context = graph.suffix("table_branch.0").context(rows)

    assert not any(tensor.requires_grad for tensor in (context.value, *context.rows))
    assert not any(tensor.is_inference() for tensor in (context.value, *context.rows))


def test_contexts_of_different_requests_can_be_joined():
    suffix = zoo_graph("encoder").suffix("layers.0.attention")
    rows = [zoo_rows("encoder", 1, 5), zoo_rows("encoder", 2, 5)]
    contexts = [suffix.context(each) for each in rows]

    joined = Context.join(contexts)
    outputs = suffix(joined.value, joined)["output"]

    apart = torch.cat([suffix(context.value, context)["output"] for context in contexts])
    torch.testing.assert_close(outputs, apart, rtol=1e-5, atol=1e-6)


def test_a_cut_behind_everything_passes_the_other_outputs_through():
    graph, rows = zoo_graph("several-outputs"), zoo_rows("several-outputs", 2, 1)
    suffix = graph.suffix("first")
    context = suffix.context(rows)

    outputs = suffix(torch.zeros(2, 3), context)

    expected = graph(rows)
    assert torch.equal(outputs["output_0"], torch.zeros(2, 3))
    assert torch.equal(outputs["output_1_0"], expected["output_1_0"])
    assert torch.equal(outputs["output_1_1"], expected["output_1_1"])


def test_values_that_match_no_context_rows_are_refused():
    suffix = zoo_graph("encoder").suffix("layers.0.norm1")
    context = suffix.context(zoo_rows("encoder", 3, 5))

    with pytest.raises(ValueError, match="2 values do not go with 3 context rows"):
        suffix(context.value[:2], context)


@pytest.mark.parametrize("derive", [Graph.suffix, Graph.with_leaf_at, lambda graph, layer: graph.capturing((layer,))])
def test_a_layer_whose_batch_is_not_on_axis_0_is_refused_with_its_shape(derive):
    graph = zoo_graph("torch-encoder-length-first")

    with pytest.raises(UnfitModelError, match=r"'encoder.layers.0.norm1' has the shape \(s\d+, s\d+, 8\)"):
        derive(graph, "encoder.layers.0.norm1")


def test_a_batch_that_equals_another_size_is_told_apart_by_its_symbol():
    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(4, 4)

        def forward(self, x):
            return self.mix(x.transpose(0, 1)).transpose(0, 1)

    example = torch.randn(4, 4, 4)
    graph = Graph.from_program(torch.export.export(Square().eval(), (example,), dynamic_shapes=({0: Dim.DYNAMIC},)))

    assert not graph.layers["mix"].cuttable


def test_a_residual_crosses_by_row_and_the_length_is_shared():
    by_row = zoo_graph("encoder").suffix("layers.0.norm1").context(zoo_rows("encoder", 3, 5))
    shared = zoo_graph("encoder").suffix("layers.0.attention.mixed").context(zoo_rows("encoder", 3, 5))

    assert [tuple(tensor.shape) for tensor in by_row.rows] == [(3, 5, 8)]
    assert shared.shared == (5,)
