"""Operators that cut values off at 0, behind which there is no gradient where a value is below."""

from collections.abc import Iterator
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

_HANDING_ON = frozenset({aten.alias.default, aten.clone.default, aten.detach.default})


def before_rectifier(node: fx.Node) -> fx.Node:
    """Return the value that a rectifier makes the value of `node` of; the node itself if none does."""
    for each in _made_of(node):
        if _rectifies(each):
            return each.all_input_nodes[0]
    return node


def _made_of(node: fx.Node) -> Iterator[fx.Node]:
    """Yield the node, and those that it only hands on."""
    yield node
    while node.target in _HANDING_ON:
        node = node.all_input_nodes[0]
        yield node


def _rectifies(node: fx.Node) -> bool:
    if node.target is aten.relu.default:
        return True
    defaults = _BOUNDED.get(node.target) if node.op == "call_function" else None  # type: ignore[call-overload]
    if defaults is None:
        return False
    given: tuple[Any, ...] = node.args[1:]
    lowest = given[0] if given else node.kwargs.get("min", node.kwargs.get("min_val", defaults[0]))
    return isinstance(lowest, int | float) and lowest == 0
