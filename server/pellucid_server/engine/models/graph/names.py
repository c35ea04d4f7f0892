"""The layers of a graph: which value is whose, by the author's module paths.

The export writes into every node the modules whose call made it. A layer is one call of a module;
functional activations and residual sums belong to the module whose `forward` makes them. Modules whose
linear operators are called as functions hide their parts: `out_proj` of `torch.nn.MultiheadAttention`
is no layer, the attention around it is.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import fx

from pellucid_server.engine.models.graph.branches import branch_of, last_sum
from pellucid_server.engine.models.graph.heads import HEADS
from pellucid_server.engine.models.graph.sizes import BatchLayout, batch_layout, row_shape

aten = torch.ops.aten

_CHANNELS_FIRST = ("conv", "batch_norm", "group_norm", "instance_norm", "pool", "upsample", "pixel_shuffle")
_SAME_FORM = frozenset({aten.alias, aten.contiguous, aten.detach, aten.to})
"""Operators that may give a view of their operand, but of its own form."""

_CHANNELS_LAST = ("linear", "layer_norm", "rms_norm", "embedding", "lstm", "gru", "rnn", "matmul", "attention")


@dataclass(frozen=True)
class Layer:
    """One call of a module.

    Attributes
    ----------
    name
        The module's path as its author wrote it ("features.3"), and for the second, third... call of the
        same module "#1", "#2"...
    type
        The module's class, for example "Conv2d".
    shape
        Shape of its value for one row, None where dynamic; if not cuttable, of the whole value.
    units
        How many units (channels, features) it has; 0 if their number is dynamic.
    cuttable
        Whether its value holds one row of the batch at each place of axis 0, so that rows can be
        captured, differentiated and replaced there.
    unit_axis
        The axis of `shape` that counts the units; 0 where a row is one number.
    heads
        How many heads the site "NAME:heads" has: the value of an attention's heads before their output projection,
        whose units they are; 0 if there is no such site.
    branch
        Whether there is the site "NAME:branch": the value that a residual block adds to the stream that passes by.
    """

    name: str
    type: str
    shape: tuple[int | None, ...]
    units: int
    cuttable: bool
    unit_axis: int = 0
    heads: int = 0
    branch: bool = False


@dataclass(frozen=True, slots=True)
class Sites:
    """Where the values of a graph can be looked at and changed.

    Attributes
    ----------
    layers
        The layers by name, in the order in which the first pass enters them.
    all
        The layers and their parts, "NAME:heads" and "NAME:branch", which follow the layer that they are parts of.
    values
        The nodes of all their values, in the order in which the first pass ends them: where some have one value, the
        innermost comes first.
    """

    layers: dict[str, Layer]
    all: dict[str, Layer]
    values: dict[str, fx.Node]

    def within(self, nodes: Mapping[fx.Node, fx.Node]) -> "Sites":
        """Return the sites of another graph, given which of its nodes has the value of which node of this one."""
        values = {name: nodes[node] for name, node in self.values.items() if node in nodes}
        layers, found = (
            {name: layer for name, layer in each.items() if name in values} for each in (self.layers, self.all)
        )
        return Sites(layers, found, values)


@dataclass
class _Call:
    """The nodes made during one call of a module, which `depth` others are around."""

    name: str
    type: str
    depth: int
    nodes: dict[fx.Node, None] = field(default_factory=dict)


def find_sites(graph: fx.Graph, batch: Any) -> Sites:
    """Return the layers of a graph and their parts.

    The root module is no layer, nor is a module that makes no floating-point tensor.
    """
    calls = [(call, value) for call in _calls(graph) if (value := _leaving(call.nodes)) is not None]
    heads, branches = _heads(calls), _branches(calls, batch)
    layers: dict[str, Layer] = {}
    sites: dict[str, Layer] = {}
    ends: dict[str, tuple[fx.Node, float]] = {}
    for call, value in calls:
        parts = {"heads": heads.get(call.name), "branch": branches.get(call.name)}
        found = {
            name: replace(_layer(call, node, batch, node.meta.get(HEADS) if part == "heads" else None), name=name)
            for part, node in parts.items()
            if node is not None
            for name in [f"{call.name}:{part}"]
        }
        counted = found.get(f"{call.name}:heads")
        layer = replace(
            _layer(call, value, batch),
            heads=0 if counted is None else counted.units,
            branch=f"{call.name}:branch" in found,
        )
        layers[call.name] = layer
        sites.update({call.name: layer, **found})
        ends[call.name] = value, call.depth
        # A part may be the value of a layer inside, and, as far as heads go, of the layer itself.
        ends.update({f"{call.name}:{part}": (node, call.depth + 0.5) for part, node in parts.items() if node})
    places = {node: place for place, node in enumerate(graph.nodes)}
    order = sorted(ends, key=lambda name: (places[ends[name][0]], -ends[name][1]))
    return Sites(layers, sites, {name: ends[name][0] for name in order})


def _heads(calls: Sequence[tuple[_Call, fx.Node]]) -> dict[str, fx.Node]:
    """Return the values of heads, by the innermost call that makes them: of calls that make one alone."""
    found: dict[str, list[fx.Node]] = {}
    for node in dict.fromkeys(node for call, _ in calls for node in call.nodes if HEADS in node.meta):
        innermost = max((call for call, _ in calls if node in call.nodes), key=lambda call: call.depth)
        found.setdefault(innermost.name, []).append(node)
    return {name: nodes[0] for name, nodes in found.items() if len(nodes) == 1}


def _branches(calls: Sequence[tuple[_Call, fx.Node]], batch: Any) -> dict[str, fx.Node]:
    """Return the values of branches, by the innermost call that ends in the sum of one and a stream."""
    found: dict[fx.Node, tuple[_Call, fx.Node]] = {}
    for call, value in sorted(calls, key=lambda each: each[0].depth):
        added = last_sum(value, call.nodes)
        branch = None if added is None else branch_of(added, call.nodes)
        if added is not None and branch is not None:
            found[added] = call, branch
    return {call.name: branch for call, branch in found.values() if batch_layout(branch, batch) is BatchLayout.ROWS}


def _calls(graph: fx.Graph) -> list[_Call]:
    """Return the calls of modules, in the order in which the first pass enters them."""
    calls: dict[str, _Call] = {}
    for node in graph.nodes:
        for depth, (key, (path, kind)) in enumerate((node.meta.get("nn_module_stack") or {}).items()):
            # Sizes that the export reads off by itself carry a made-up module.
            if not path or key.startswith("_empty_nn_module_stack"):
                continue
            if key not in calls:
                again = re.search(r"@(\d+)$", key)
                name = f"{path}#{again[1]}" if again else path
                calls[key] = _Call(name, str(kind).rsplit(".", maxsplit=1)[-1], depth)
            calls[key].nodes[node] = None
    return list(calls.values())


def _leaving(nodes: Mapping[fx.Node, None]) -> fx.Node | None:
    """Return the value that leaves a call: its output, as far as the graph tells.

    Of the floating-point tensors that are used outside, the one with most of the call behind it, and the first
    of equals. For (output, state) of a recurrent module, (output, weights) of an attention and (output, skip)
    of an encoder that is the output; for (logits, features) the logits.
    """
    leaving = [node for node in nodes if _floating(node) and any(user not in nodes for user in node.users)]
    return max(leaving, key=lambda node: len(_sources(node, nodes)), default=None)


def _floating(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return node.op == "call_function" and isinstance(value, torch.Tensor) and value.is_floating_point()


def _sources(node: fx.Node, nodes: Mapping[fx.Node, None]) -> set[fx.Node]:
    """Return the nodes among `nodes` that the value of `node` is made from, itself left out."""
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        new = [source for source in waiting.pop().all_input_nodes if source in nodes and source not in found]
        found.update(new)
        waiting.extend(new)
    return found


def _layer(call: _Call, value: fx.Node, batch: Any, counting: int | None = None) -> Layer:
    """Describe a value of a call; its axis `counting` counts the units, if that is known."""
    tensor = value.meta["val"]
    if batch_layout(value, batch) is not BatchLayout.ROWS:
        shape = tuple(size if isinstance(size, int) else None for size in tensor.shape)
        return Layer(call.name, call.type, shape, 0, cuttable=False)
    shape = row_shape(tensor)
    if not shape:
        return Layer(call.name, call.type, shape, 1, cuttable=True)
    axis = (_unit_axis(value) if counting is None else counting) - 1
    return Layer(call.name, call.type, shape, shape[axis] or 0, cuttable=True, unit_axis=axis)


def _unit_axis(node: fx.Node) -> int:
    """Return the axis of a (batch, *shape) value that counts units: told by the operator that made it.

    Elementwise operators are looked through. Where nothing tells: axis 1 of pictures, (batch, channels,
    height, width), else the last, (batch, length, features).
    """
    rank: int = node.meta["val"].ndim
    source: fx.Node | None = node
    while source is not None:
        name = getattr(source.target, "__name__", "")
        if any(word in name for word in _CHANNELS_LAST):
            return rank - 1
        if any(word in name for word in _CHANNELS_FIRST):
            return 1
        source = _same_rank_source(source, rank)
    return 1 if rank >= 4 else rank - 1


def _same_rank_source(node: fx.Node, rank: int) -> fx.Node | None:
    """Return the first operand of an operator that keeps its rank and order of axes, or None."""
    if node.target is aten.reshape.default or _reorders(node):
        return None
    for source in node.all_input_nodes:
        value = source.meta.get("val")
        if isinstance(value, tuple | list) or (isinstance(value, torch.Tensor) and value.ndim == rank):
            return source if source.op == "call_function" else None
    return None


def _reorders(node: fx.Node) -> bool:
    """Tell whether an operator looks at its operand in another form: all views, but for those of the same form."""
    if not isinstance(node.target, torch._ops.OpOverload) or node.target.overloadpacket in _SAME_FORM:
        return False
    return any(result.alias_info is not None for result in node.target._schema.returns)
