"""The branch of a residual block: what a stream that passes by is added to.

The last thing that a block does, but perhaps for elementwise activations, is to add two values that both go back to
what the block is given. The one that goes back through fewer of the block's nodes is the stream: the block's input
itself, or a projection of it. The other is the branch.
"""

from collections.abc import Mapping

import torch
from torch import fx

aten = torch.ops.aten

_ACTIVATIONS = frozenset(
    {
        aten.alias, aten.celu, aten.clone, aten.detach, aten.dropout, aten.elu, aten.gelu, aten.hardsigmoid,
        aten.hardswish, aten.hardtanh, aten.leaky_relu, aten.mish, aten.prelu, aten.relu, aten.relu6, aten.selu,
        aten.sigmoid, aten.silu, aten.softplus, aten.tanh, aten.clamp, aten.clamp_min,
    }
)  # fmt: skip


def last_sum(value: fx.Node, nodes: Mapping[fx.Node, None]) -> fx.Node | None:
    """Return the sum of two tensors that the value of a call with these nodes ends in; None if it ends otherwise."""
    node = value
    while node in nodes and getattr(node.target, "overloadpacket", None) in _ACTIVATIONS:
        source = node.args[0]
        if not isinstance(source, fx.Node):
            return None
        node = source
    if node not in nodes or node.target is not aten.add.Tensor:
        return None
    return node if all(isinstance(operand, fx.Node) for operand in node.args[:2]) else None


def branch_of(added: fx.Node, nodes: Mapping[fx.Node, None]) -> fx.Node | None:
    """Return the operand of a sum that is a branch computed by the call with these nodes.

    None if no operand is, or if both go back equally far.
    """
    one, other = (operand for operand in added.args[:2] if isinstance(operand, fx.Node))
    if one is other:
        return None
    distances = _distances(one, nodes), _distances(other, nodes)
    common = distances[0].keys() & distances[1].keys()
    if not common:
        return None
    first, second = (min(distance[source] for source in common) for distance in distances)
    if first == second:
        return None
    branch = one if first > second else other
    return branch if branch in nodes and _floating(branch) else None


def _distances(node: fx.Node, nodes: Mapping[fx.Node, None]) -> dict[fx.Node, int]:
    """Return the values from outside the call that `node` is made from: each through how many of its nodes."""
    found: dict[fx.Node, int] = {node: 0}
    waiting = [node]
    for each in waiting:
        if each not in nodes:
            continue
        for source in each.all_input_nodes:
            if source not in found and source.op != "get_attr":
                found[source] = found[each] + 1
                waiting.append(source)
    return {each: distance for each, distance in found.items() if each not in nodes and _floating(each)}


def _floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.is_floating_point()
