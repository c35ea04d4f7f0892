"""A second graph of a model, which computes the same in less time on a CPU, to rounding.

Batch norms that follow a convolution or a linear operator are folded into its weights, operators that only hand their
operand on are left out, zeros beside a picture are left to the convolution behind them, and convolutions over pictures
have their weights channels-last, in which layout their values then are, too: that of oneDNN's fastest kernels.
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from pellucid_server.engine.models.graph.functional_graph import FunctionalGraph

aten = torch.ops.aten

_PICTURE_CONVOLUTIONS = frozenset({aten.conv2d.default, aten.conv2d.padding})
_CONVOLUTIONS = _PICTURE_CONVOLUTIONS | {
    aten.conv1d.default,
    aten.conv1d.padding,
    aten.conv3d.default,
    aten.conv3d.padding,
}
_PADS = frozenset({aten.constant_pad_nd.default, aten.pad.default})
_HANDING_ON = frozenset({aten.alias.default, aten.clone.default, aten.detach.default})
"""Operators whose result is their operand, but perhaps for its layout; nothing in a functional graph writes to it."""


@dataclass(frozen=True, slots=True)
class Faster:
    """A second graph, and which of its nodes has the value of which node of the first.

    Nodes whose value the second graph does not make are not in `nodes`, nor are those whose value it shares between
    several users of the first.
    """

    program: FunctionalGraph
    nodes: Mapping[fx.Node, fx.Node]


@dataclass(frozen=True, slots=True)
class _Norm:
    """A batch norm that can be folded: what it follows, the arguments of the norm, and which node has its value."""

    before: Any
    parameters: tuple[Any, ...]
    epsilon: float


def faster(program: FunctionalGraph) -> Faster | None:
    """Make the second graph; None if it would be none the faster."""
    whole, places = fx.Graph(), dict[fx.Node, fx.Node]()
    whole.output(whole.graph_copy(program.graph, places))
    for node in whole.nodes:
        _take_padding(node)
    whole.eliminate_dead_code()
    norms = _foldable(whole)
    pictures = [node for node in whole.nodes if node.target in _PICTURE_CONVOLUTIONS]
    if not norms and not pictures:
        return None
    graph, tensors = fx.Graph(), dict(program.tensors)
    folded = {norm.before for norm in norms.values()}
    copies: dict[fx.Node, fx.Node] = {}
    nodes: dict[fx.Node, fx.Node] = {}
    for node in whole.nodes:
        if node.op == "output" or node in folded:
            continue
        if node in norms:
            copies[node] = nodes[node] = _folded(graph, node, norms[node], copies, tensors)
        elif node.target in _HANDING_ON:
            source = node.all_input_nodes[0]
            copies[node] = copies[source]
            if len(source.users) == 1:
                nodes[node] = copies[source]
        elif any(source in folded for source in node.all_input_nodes):
            # A norm's statistics, of which nothing but the value is used.
            continue
        else:
            copies[node] = nodes[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(fx.node.map_arg(whole.output_node().args[0], copies.__getitem__))
    for node in graph.nodes:
        if node.target in _PICTURE_CONVOLUTIONS:
            _put_channels_last(node, tensors)
    graph.eliminate_dead_code()
    graph.lint()
    used = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    live = set(graph.nodes)
    return Faster(
        replace(program, graph=graph, tensors={name: tensors[name] for name in used}),
        {node: nodes[place] for node, place in places.items() if nodes.get(place) in live},
    )


def widened(program: FunctionalGraph) -> FunctionalGraph:
    """Return the program in float64: the truth that float32 is measured by. Its rows must be in float64, too."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(program.graph, {}))
    for node in graph.nodes:
        node.args, node.kwargs = fx.node.map_aggregate((node.args, node.kwargs), _wide_type)
    tensors = {
        name: tensor.double() if tensor.dtype is torch.float32 else tensor for name, tensor in program.tensors.items()
    }
    return replace(program, graph=graph, tensors=tensors)


def _wide_type(part: Any) -> Any:
    return torch.float64 if part is torch.float32 else part


def _take_padding(node: Any) -> None:
    """Let a convolution pad its pictures itself, where it is alone behind as many zeros on one side as on the other."""
    if node.target is not aten.conv2d.default:
        return
    padded: Any = node.args[0]
    sides = _zeros_beside(padded)
    if sides is None or len(padded.users) != 1:
        return
    left, right, top, bottom = sides
    if left != right or top != bottom or min(left, top) < 0:
        return
    given: list[Any] = [*node.args[3:], *([1, 1], [0, 0], [1, 1], 1)[len(node.args[3:]) :]]
    stride, padding, *rest = given
    own = list(padding) * (2 if len(padding) == 1 else 1)
    bias = node.args[2] if len(node.args) > 2 else None
    node.args = (padded.args[0], node.args[1], bias, stride, [own[0] + top, own[1] + left], *rest)


def _zeros_beside(node: Any) -> tuple[int, int, int, int] | None:
    """Return how many zeros a node puts left, right, above and below of pictures; None if it does something else."""
    if node.target not in _PADS or node.kwargs or len(node.args[1]) != 4:
        return None
    sides, rest = node.args[1], list(node.args[2:])
    mode = rest.pop(0) if rest and node.target is aten.pad.default else "constant"
    whole = all(isinstance(side, int) for side in sides)
    return tuple(sides) if mode == "constant" and not any(rest) and whole else None


def _foldable(graph: fx.Graph) -> dict[fx.Node, _Norm]:
    """Find the batch norms whose operand is made by a linear operator for them alone, by the node of their value."""
    found = {}
    for node in graph.nodes:
        norm = _norm(node)
        if norm is not None and _for_it_alone(norm):
            found[node] = norm
    return found


def _norm(node: Any) -> _Norm | None:
    """Read the batch norm whose value a node has."""
    if node.target is operator.getitem and node.args[1] == 0:
        source = node.args[0]
        if not isinstance(source, fx.Node) or source.target is not aten._native_batch_norm_legit_no_training.default:
            return None
        if len(source.users) != 1:
            return None
        before, weight, bias, mean, variance, _, epsilon = tuple[Any, ...](source.args)
        return _Norm(before, (weight, bias, mean, variance), epsilon)
    if node.target is aten.batch_norm.default and not node.args[5]:
        before, weight, bias, mean, variance, _, _, epsilon, *_ = node.args
        return _Norm(before, (weight, bias, mean, variance), epsilon)
    return None


def _for_it_alone(norm: _Norm) -> bool:
    before: Any = norm.before
    if not isinstance(before, fx.Node) or len(before.users) != 1 or len(before.args) < 2:
        return False
    # A linear operator's channels are on its last axis, and a norm's on axis 1.
    linear = before.target is aten.linear.default and before.meta["val"].ndim == 2
    return (linear or before.target in _CONVOLUTIONS) and all(
        each is None or (isinstance(each, fx.Node) and each.op == "get_attr")
        for each in (*norm.parameters, before.args[1], _bias(before))
    )


def _bias(node: Any) -> Any:
    return node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")


def _folded(
    graph: fx.Graph, node: fx.Node, norm: _Norm, copies: Mapping[fx.Node, fx.Node], tensors: dict[str, torch.Tensor]
) -> fx.Node:
    """Put the operator before a norm in the norm's place, with the norm in its weights."""

    def of(part: Any) -> torch.Tensor | None:
        return None if part is None else tensors[str(part.target)].double()

    before = norm.before
    weight = of(before.args[1])
    assert weight is not None  # noqa: S101 - every linear operator has a weight
    gain, shift, mean, variance = map(of, norm.parameters)
    zeros = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
    scale = (zeros + 1 if gain is None else gain) / torch.sqrt(
        (zeros + 1 if variance is None else variance) + norm.epsilon
    )
    bias = of(_bias(before))
    moved = (zeros if bias is None else bias) - (zeros if mean is None else mean)
    dtype = tensors[str(before.args[1].target)].dtype
    made = {
        "weight": weight * scale.reshape(-1, *(1,) * (weight.ndim - 1)),
        "bias": (zeros if shift is None else shift) + moved * scale,
    }
    arguments = []
    for role, tensor in made.items():
        name = f"{before.name}_folded_{role}"
        tensors[name] = tensor.to(dtype)
        arguments.append(_attribute(graph, name, before.args[1]))
    kwargs = {name: value for name, value in before.kwargs.items() if name != "bias"}
    copy = graph.call_function(
        before.target,
        (copies[before.args[0]], *arguments, *before.args[3:]),
        fx.node.map_arg(kwargs, copies.__getitem__),
    )
    # The value is the norm's, and so is the module that made it.
    copy.meta = dict(node.meta)
    return copy


def _put_channels_last(node: Any, tensors: dict[str, torch.Tensor]) -> None:
    weight = node.args[1]
    if isinstance(weight, fx.Node) and weight.op == "get_attr" and tensors[str(weight.target)].ndim == 4:
        name = f"{node.name}_channels_last_weight"
        tensors[name] = tensors[str(weight.target)].contiguous(memory_format=torch.channels_last)
        with node.graph.inserting_before(node):
            new = _attribute(node.graph, name, weight)
        node.args = (node.args[0], new, *node.args[2:])


def _attribute(graph: fx.Graph, name: str, like: fx.Node) -> fx.Node:
    copy = graph.create_node("get_attr", name, name=name)
    copy.meta = dict(like.meta)
    return copy
