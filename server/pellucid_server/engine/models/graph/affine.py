"""Which values of a graph are affine functions of one of its values: told by a rule over operators, never by trying.

A value is affine in v if it is A v + b, where neither A nor b depends on v. An operator without a rule makes a value
of which that is not known, and which counts as not affine.
"""

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten

_LINEAR_IN_FIRST = frozenset(
    {
        operator.getitem, aten._native_batch_norm_legit_no_training, aten._to_copy, aten._unsafe_view,
        aten._upsample_nearest_exact1d, aten._upsample_nearest_exact2d,
        aten.adaptive_avg_pool1d, aten.adaptive_avg_pool2d, aten.adaptive_avg_pool3d, aten._adaptive_avg_pool2d,
        aten._adaptive_avg_pool3d, aten.alias, aten.avg_pool1d, aten.avg_pool2d, aten.avg_pool3d, aten.channel_shuffle,
        aten.chunk, aten.clone, aten.constant_pad_nd, aten.contiguous, aten.cumsum, aten.detach, aten.diagonal,
        aten.expand, aten.expand_as, aten.flatten, aten.flip, aten.gather, aten.im2col, aten.index, aten.index_select,
        aten.masked_fill,
        aten.mean, aten.movedim, aten.narrow, aten.neg, aten.pad, aten.permute, aten.pixel_shuffle,
        aten.pixel_unshuffle, aten.reflection_pad1d, aten.reflection_pad2d, aten.repeat, aten.repeat_interleave,
        aten.replication_pad1d, aten.replication_pad2d, aten.reshape, aten.reshape_as, aten.roll, aten.rsub,
        aten.select, aten.slice, aten.split, aten.split_with_sizes, aten.squeeze, aten.sum, aten.swapaxes, aten.t,
        aten.tile, aten.to, aten.transpose, aten.unbind, aten.unflatten, aten.unfold, aten.unsqueeze,
        aten.upsample_bilinear2d, aten.upsample_linear1d, aten.upsample_nearest1d, aten.upsample_nearest2d, aten.view,
    }
)  # fmt: skip
"""Affine in the first argument as long as no other depends on the value."""

_OF_WEIGHTS = frozenset(
    {
        aten.conv1d, aten.conv2d, aten.conv3d, aten.convolution, aten.conv_transpose1d, aten.conv_transpose2d,
        aten.conv_transpose3d, aten.linear,
    }
)  # fmt: skip
"""Affine in the first argument, or in the weight, or in the bias, and in the bias together with one of the others."""

_PRODUCTS = frozenset({aten.mul, aten.matmul, aten.mm, aten.bmm, aten.mv, aten.dot, aten.einsum, operator.mul})
_SUMS = frozenset({aten.add, aten.sub, aten.cat, aten.concat, aten.stack, operator.add, operator.sub})
"""Affine whichever of their operands depend on the value, but for the factor `alpha`."""


def affine_values(graph: fx.Graph, node: fx.Node) -> tuple[set[fx.Node], set[fx.Node]]:
    """Return the nodes whose values depend on that of `node`, and those among them that are affine in it."""
    depending, affine = {node}, {node}
    for each in graph.nodes:
        sources = [source for source in each.all_input_nodes if source in depending]
        if each is node or not sources or each.op != "call_function" or _reads_size(each):
            continue
        depending.add(each)
        if all(source in affine for source in sources) and not _whole(each) and _keeps(each, set(sources)):
            affine.add(each)
    return depending, affine


def _reads_size(node: fx.Node) -> bool:
    """Whether a node is a length, which does not depend on the values."""
    return getattr(node.target, "overloadpacket", None) in (aten.sym_size, aten.sym_numel)


def _keeps(node: fx.Node, sources: set[fx.Node]) -> bool:
    """Whether the value of a node is affine in those of `sources` together, on which it depends."""
    rule = _RULES.get(getattr(node.target, "overloadpacket", node.target))
    return rule is not None and rule(node, sources)


def _in_first(node: fx.Node, sources: set[fx.Node]) -> bool:
    return sources.isdisjoint(_inputs((node.args[1:], node.kwargs)))


def _in_all(node: fx.Node, sources: set[fx.Node]) -> bool:
    """Affine in the first two arguments together, but not in a factor behind them."""
    return sources.isdisjoint(_inputs((node.args[2:], node.kwargs)))


def _in_one(node: fx.Node, sources: set[fx.Node]) -> bool:
    """Affine in one factor: v * v is not."""
    return sum(each in sources for each in _inputs((node.args, node.kwargs))) == 1


def _in_operand_or_weight(node: fx.Node, sources: set[fx.Node]) -> bool:
    return not (node.args[0] in sources and node.args[1] in sources)


def _in_sum_or_factor(node: fx.Node, sources: set[fx.Node]) -> bool:
    """Affine in what is added, (first), and in one factor."""
    return not (node.args[1] in sources and node.args[2] in sources) and not node.kwargs


def _in_dividend(node: fx.Node, sources: set[fx.Node]) -> bool:
    return _in_first(node, sources) and node.kwargs.get("rounding_mode") is None


def _in_first_not_training(place: int) -> "_Rule":
    return lambda node, sources: _in_first(node, sources) and node.args[place] is False


def _in_choices(node: fx.Node, sources: set[fx.Node]) -> bool:
    return len(node.args) == 3 and node.args[0] not in sources


def _inputs(arguments: Any) -> list[fx.Node]:
    """Return the nodes among arguments, each as often as it is given."""
    found: list[fx.Node] = []
    fx.node.map_arg(arguments, found.append)
    return found


def _whole(node: fx.Node) -> bool:
    """Whether a node's value is of whole numbers, to which others are cut."""
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and not value.is_floating_point()


_Rule = Callable[[fx.Node, set[fx.Node]], bool]
_RULES: dict[Any, _Rule] = {
    **dict.fromkeys(_LINEAR_IN_FIRST, _in_first),
    **dict.fromkeys(_SUMS, _in_all),
    **dict.fromkeys(_PRODUCTS, _in_one),
    **dict.fromkeys(_OF_WEIGHTS, _in_operand_or_weight),
    aten.addmm: _in_sum_or_factor,
    aten.baddbmm: _in_sum_or_factor,
    aten.div: _in_dividend,
    aten.batch_norm: _in_first_not_training(5),
    aten.dropout: _in_first_not_training(2),
    aten.where: _in_choices,
}
"""Whether an operator's value is affine in those of its arguments that depend on the value, by operator."""
