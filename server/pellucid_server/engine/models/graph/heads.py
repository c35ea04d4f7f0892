"""The value of an attention's heads before their output projection: where it is, and which axis counts the heads.

An attention is the operator `scaled_dot_product_attention`, or a softmax whose result is multiplied with values. Its
heads are those axes that both factors of that product have in common and that end up in one axis with the width, as
they do before a projection. Where the value holds heads or windows and batch on one axis, (batch * heads, length,
width), a view by rows, (batch, heads, length, width), and one back are put behind it, so that the network can be cut
there.
"""

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from pellucid_server.engine.models.graph.sizes import BatchLayout, batch_layout, contains, expression
from pellucid_server.engine.models.graph.views import SAME_FORM, Axes, Factor, axes_behind, axes_of

aten = torch.ops.aten

HEADS = "pellucid_heads"
"""In `meta` of the node that has the value of an attention's heads: the axis of (batch, *shape) that counts them."""

_ATTENTION = frozenset({aten.scaled_dot_product_attention.default, aten._scaled_dot_product_attention_math.default})
_ATTENTIONS_AND_MORE = frozenset(
    {
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_attention_math.default,
    }
)
"""Attentions that return a tuple, whose first entry is the value."""
_SOFTMAX = frozenset({aten.softmax, aten._softmax, aten.special_softmax, aten._safe_softmax})
_PRODUCTS = frozenset({aten.matmul.default, aten.bmm.default})
_LOOKED_THROUGH = SAME_FORM | {aten.expand, aten.reshape, aten.view, aten.transpose, aten.permute, aten.unsqueeze}
_STEPS = 40
"""Most nodes looked at behind an attention, for the axis where heads and width come together."""


@dataclass(frozen=True, slots=True)
class _Heads:
    """How an attention's value holds its heads.

    Attributes
    ----------
    axis, axes
        The first axis that counts heads, and how many follow one another: two where groups of query heads share keys.
    folded
        How many heads or windows of a row follow one another on axis 0; 1 where it is the batch.
    """

    axis: int
    axes: int
    folded: int


def mark_heads(graph: fx.Graph, batch: Any) -> None:
    """Note in `meta` which values are those of heads, made values by rows where they are not.

    Changes `graph`, though nothing that it computes. What cannot be told for sure is left out.
    """
    for node in list(graph.nodes):
        shared = _shared_axes(node)
        found = None if shared is None else _heads(node, shared, batch)
        if found is not None:
            node_of, axis = _by_rows(graph, node, found, batch)
            node_of.meta[HEADS] = axis


def _shared_axes(node: fx.Node) -> frozenset[int] | None:
    """Return the axes of an attention's value on which its products are taken one by one; None of other values."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or value.ndim < 3:
        return None
    if _is_attention(node):
        return frozenset(range(value.ndim - 2))
    if node.target in _PRODUCTS:
        weights = any(_of_softmax(source) for source in node.all_input_nodes)
        return frozenset(range(value.ndim - 2)) if weights else None
    if node.target is aten.einsum.default:
        return _einsum_axes(node)
    return None


def _is_attention(node: fx.Node) -> bool:
    if node.target in _ATTENTION:
        return True
    source = node.args[0] if node.args else None
    item = node.target is operator.getitem and node.args[1] == 0
    return bool(item) and isinstance(source, fx.Node) and source.target in _ATTENTIONS_AND_MORE


def _of_softmax(node: fx.Node) -> bool:
    """Whether a value is a softmax's, perhaps in another form."""
    while node.op == "call_function":
        packet = getattr(node.target, "overloadpacket", None)
        if packet in _SOFTMAX:
            return True
        if packet not in _LOOKED_THROUGH or not isinstance(node.args[0], fx.Node):
            return False
        node = node.args[0]
    return False


def _einsum_axes(node: fx.Node) -> frozenset[int] | None:
    equation, operands = str(node.args[0]).replace(" ", ""), node.all_input_nodes
    taken, _, given = equation.partition("->")
    terms = taken.split(",")
    if len(terms) != 2 or not given or "." in equation or not any(_of_softmax(each) for each in operands):
        return None
    return frozenset(axis for axis, letter in enumerate(given) if all(letter in term for term in terms))


def _heads(node: fx.Node, shared: frozenset[int], batch: Any) -> _Heads | None:
    """Follow a value to where heads and width come together, and to where axis 0 shows what it is made of."""
    value = node.meta["val"]
    rows = batch_layout(node, batch) is BatchLayout.ROWS
    first = expression(value.shape[0])
    if not rows and any(contains(size, batch) for size in value.shape[1:]):
        return None
    merged: tuple[Factor, ...] | None = None
    folded = 1 if rows else None
    waiting: list[tuple[fx.Node, Axes]] = [(node, axes_of(node))]
    for _ in range(_STEPS):
        if not waiting or (merged is not None and folded is not None):
            break
        source, axes = waiting.pop(0)
        for user in source.users:
            behind = axes_behind(axes, source, user)
            if behind is None:
                continue
            waiting.append((user, behind))
            merged = merged or next((found for axis in behind if (found := _merged(axis, shared, batch))), None)
            folded = folded or _folded(behind, batch, first)
    if merged is None and node.target in _ATTENTION and rows and value.ndim == 4:
        # What torch says of the operator: (batch, heads, length, width).
        return _Heads(1, 1, 1)
    if merged is None or folded is None:
        return None
    if merged[0].axis == 0:
        # All of what axis 0 has beside the batch must be heads.
        return _Heads(0, 1, folded) if len(merged) == 1 and merged[0].size == folded else None
    places = [factor.axis for factor in merged]
    whole = all(factor.size == expression(value.shape[factor.axis]) for factor in merged)
    in_a_row = places == list(range(places[0], places[0] + len(places)))
    return _Heads(places[0], len(places), folded) if whole and in_a_row else None


def _merged(factors: tuple[Factor, ...], shared: frozenset[int], batch: Any) -> tuple[Factor, ...] | None:
    """Return the factors of an axis that count heads: those before the width, on shared axes and not of the batch."""
    if len(factors) < 2 or factors[-1].axis in shared or factors[-1].axis < 0:
        return None
    heads = factors[:-1]
    numbers = all(factor.axis in shared and getattr(factor.size, "is_Integer", True) for factor in heads)
    return heads if numbers and not any(contains(factor.size, batch) for factor in heads) else None


def _folded(axes: Axes, batch: Any, size: Any) -> int | None:
    """Return what axis 0 of the value has inside the batch, once it shows: rows lie one behind the other."""
    inside = size / batch
    if not getattr(inside, "is_Integer", False):
        return None
    return int(inside) if any(Factor(0, batch, inside) in axis for axis in axes) else None


def _by_rows(graph: fx.Graph, node: fx.Node, heads: _Heads, batch: Any) -> tuple[fx.Node, int]:
    """Return the node whose value holds a row at each place of axis 0 and all heads on one axis, and that axis."""
    if heads.folded == 1 and heads.axes == 1:
        return node, heads.axis
    users = list(node.users)
    undo: list[tuple[Any, tuple[Any, ...]]] = []
    last, axis = node, heads.axis
    if heads.folded > 1:
        last = _view(graph, last, aten.unflatten.int, 0, [-1, heads.folded])
        # -1 leaves a quotient of symbols; it is the batch.
        last.meta["val"] = node.meta["val"].reshape(_batch_size(graph), heads.folded, *node.meta["val"].shape[1:])
        undo.append((aten.flatten.using_ints, (0, 1)))
        axis += 1
    if heads.axes > 1:
        sizes = list(last.meta["val"].shape[axis : axis + heads.axes])
        last = _view(graph, last, aten.flatten.using_ints, axis, axis + heads.axes - 1)
        undo.append((aten.unflatten.int, (axis, sizes)))
    by_rows = last
    for view, arguments in reversed(undo):
        last = _view(graph, last, view, *arguments)
    last.meta["val"] = node.meta["val"]
    for user in users:
        user.replace_input_with(node, last)
    return by_rows, axis


def _view(graph: fx.Graph, node: fx.Node, view: Any, *arguments: Any) -> fx.Node:
    with graph.inserting_after(node):
        seen = graph.call_function(view, (node, *arguments))
    seen.meta = {key: value for key, value in node.meta.items() if key != HEADS}
    seen.meta["val"] = view(node.meta["val"], *arguments)
    return seen


def _batch_size(graph: fx.Graph) -> Any:
    first = next(node for node in graph.nodes if node.op == "placeholder")
    return first.meta["val"].shape[0]
