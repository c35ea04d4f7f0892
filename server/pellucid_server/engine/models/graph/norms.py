"""Normalisations whose scale can be held while the value that is normalised changes.

With its scale held a normalisation is linear: what is added to its input adds to its output. A batch norm's scale is
held anyway, as it comes from training.
"""

from typing import Any

import torch
from torch import fx

from pellucid_server.engine.models.graph.sizes import BatchLayout, batch_layout

aten = torch.ops.aten

_KINDS = frozenset({aten.layer_norm, aten.rms_norm, aten.rsqrt})
_EPSILON = 1e-5
"""torch's own for layer norms, where the export leaves it out."""


def is_norm(node: fx.Node, batch: Any) -> bool:
    """Whether a node is a layer norm, an RMS norm, or the reciprocal root that one written out multiplies by."""
    packet = getattr(node.target, "overloadpacket", None)
    return packet in _KINDS and batch_layout(node, batch) is BatchLayout.ROWS


def scale_of(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """Return a node with what a norm multiplies by, (batch, ..., 1)."""
    packet = node.target.overloadpacket  # type: ignore[union-attr]
    if packet is aten.rsqrt:
        return node
    value, shape = node.args[:2]
    function, place = (_layer_scale, 4) if packet is aten.layer_norm else (_rms_scale, 3)
    epsilon = _argument(node, place, "eps")
    with graph.inserting_after(node):
        return graph.call_function(function, (value, shape, epsilon))


def hold_scale(graph: fx.Graph, node: fx.Node, scale: fx.Node) -> fx.Node:
    """Return what stands for a norm that multiplies by `scale`; the norm's users are to be given it."""
    packet = node.target.overloadpacket  # type: ignore[union-attr]
    if packet is aten.rsqrt:
        return scale
    value, shape = node.args[:2]
    weight = _argument(node, 2, "weight")
    with graph.inserting_after(node):
        if packet is aten.rms_norm:
            return graph.call_function(_rms_normed, (value, scale, weight))
        return graph.call_function(_layer_normed, (value, scale, shape, weight, _argument(node, 3, "bias")))


def _argument(node: fx.Node, place: int, name: str) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name)


def _axes(shape: Any) -> tuple[int, ...]:
    return tuple(range(-len(shape), 0))


def _layer_scale(value: torch.Tensor, shape: Any, epsilon: float | None) -> torch.Tensor:
    variance = value.var(_axes(shape), unbiased=False, keepdim=True)
    return torch.rsqrt(variance + (_EPSILON if epsilon is None else epsilon))


def _rms_scale(value: torch.Tensor, shape: Any, epsilon: float | None) -> torch.Tensor:
    mean = value.square().mean(_axes(shape), keepdim=True)
    return torch.rsqrt(mean + (torch.finfo(value.dtype).eps if epsilon is None else epsilon))


def _layer_normed(
    value: torch.Tensor, scale: torch.Tensor, shape: Any, weight: torch.Tensor | None, bias: torch.Tensor | None
) -> torch.Tensor:
    found = (value - value.mean(_axes(shape), keepdim=True)) * scale
    found = found if weight is None else found * weight
    return found if bias is None else found + bias


def _rms_normed(value: torch.Tensor, scale: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    return value * scale if weight is None else value * scale * weight
