"""Operators that cut values off at 0, behind which there is no gradient where a value is below."""

import operator
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten

_BOUNDED = {
    aten.hardtanh.default: (-1.0, 1.0),
    aten.clamp.default: (None, None),
    aten.clamp_min.default: (None,),
}
"""Operators that cut off at bounds, of which the first is the lower one, and the bounds that they have if not given."""

_PASSING = frozenset(
    {
        aten.alias,
        aten.clone,
        aten.detach,
        aten.view,
        aten._unsafe_view,
        aten.reshape,
        aten.flatten,
        aten.permute,
        aten.transpose,
        aten.squeeze,
        aten.unsqueeze,
        aten.mean,
        aten.avg_pool1d,
        aten.avg_pool2d,
        aten.adaptive_avg_pool1d,
        aten.adaptive_avg_pool2d,
        aten._adaptive_avg_pool2d,
        aten.max_pool1d,
        aten.max_pool2d,
        aten.max_pool2d_with_indices,
        aten.adaptive_max_pool2d,
        aten.amax,
    }
)
"""Operators that give a higher value, or the same, for higher values: what is before a rectifier may go through."""


def leave_out_rectifier(graph: fx.Graph) -> bool:
    """Leave the last rectifier out of a graph that ends in one value; return whether there was one.

    It is that which makes the value, or what the value is pooled of, or only another form of. The graph is changed.
    """
    (node,) = graph.output_node().all_input_nodes
    while not _rectifies(node):
        if not _passes(node):
            return False
        node = node.all_input_nodes[0]
    node.replace_all_uses_with(node.all_input_nodes[0])
    graph.erase_node(node)
    return True


def _passes(node: fx.Node) -> bool:
    if node.op != "call_function" or not node.all_input_nodes:
        return False
    return node.target is operator.getitem or getattr(node.target, "overloadpacket", None) in _PASSING


def _rectifies(node: fx.Node) -> bool:
    if node.target is aten.relu.default:
        return True
    defaults = _BOUNDED.get(node.target) if node.op == "call_function" else None  # type: ignore[call-overload]
    if defaults is None:
        return False
    given: tuple[Any, ...] = node.args[1:]
    lowest = given[0] if given else node.kwargs.get("min", node.kwargs.get("min_val", defaults[0]))
    return isinstance(lowest, int | float) and lowest == 0
