"""Bounds the values of ONNX files whose size follows what a caller sends, such as a Range up to the largest number.

Which sizes do is found by following the values of the inputs through the file. Before each node that makes such a
value, and before each that may make a larger one of it, the number of its elements is worked out; where that is too
many, the run ends before anything is allocated. A file is refused where the number cannot be worked out beforehand.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from pellucid_server.engine.models.onnx.counts import COUNTS, GROWING, Count, Writer, attribute
from pellucid_server.engine.models.onnx.graphs import Scope, scopes, subgraphs
from pellucid_server.engine.models.onnx.guards import PREFIX, TOO_LARGE
from pellucid_server.engine.models.onnx.operators import listed

MOST_ELEMENTS = 1 << 26
"""Of a value whose size follows what a caller sends, of all rows together."""

_MOST_TURNS = 1 << 20
"""Of a loop whose end follows what a caller sends: exporters write the largest number for "until it says stop"."""

_FIRST_OPSET = 13
"""Of the standard domain, in which all that is written here is as it is now."""

_NOT_LARGER = listed(
    """
    Abs Acos Acosh ArgMax ArgMin Asin Asinh Atan Atanh BatchNormalization BitCast BitwiseNot Cast CastLike Ceil Celu
    Clip Compress Concat Cos Cosh CumProd CumSum DepthToSpace DequantizeLinear Dropout Elu Erf Exp EyeLike Flatten Floor
    GatherElements Gelu GlobalAveragePool GlobalLpPool GlobalMaxPool GroupNormalization HardSigmoid HardSwish Hardmax
    Identity InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Log LogSoftmax LpNormalization
    MeanVarianceNormalization Mish Neg NonZero Not QuantizeLinear RMSNormalization Reciprocal ReduceL1 ReduceL2
    ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape
    ReverseSequence Round Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax
    Softplus Softsign SpaceToDepth Split Sqrt Squeeze Swish Tan Tanh ThresholdedRelu TopK Transpose Trilu Unique
    Unsqueeze
    """
)
"""What they make of values has at most as many elements, or so many times more as the file says."""

_NOT_LARGER_THAN_FIRST = listed("AveragePool Conv ConvTranspose GRU LSTM LpPool MaxPool RNN")
"""The same, as long as the size of no other input follows what a caller sends."""

_PLACES = {
    "CumSum": (1,),
    "NonMaxSuppression": (2, 3, 4),
    "Reshape": (1,),
    "ReverseSequence": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
}
"""Inputs that say of what shape a value is to be, and do not make it larger."""

_TURNS = (
    "how often it runs follows what a caller sends, so that it has no bound; give it a number of turns that is in the "
    "file, or write the turns out"
)
_UNBOUNDED = (
    "the size of what it makes follows what a caller sends, and cannot be bounded beforehand; take the size from the "
    "file or from the shape of an input"
)
_OLD = (
    f"the size of what it makes follows what a caller sends, which can be bounded from opset {_FIRST_OPSET} on; export "
    "the model with that or a newer one"
)


@dataclass(frozen=True, slots=True)
class SizeGuard:
    """A node of which the output must not have too many elements."""

    graph: int
    """The place of the node's graph in the walk of `scopes`."""

    node: int
    """The node's place in its graph."""

    input: int
    """The input at which a run ends."""

    described: str
    """The node, as it may stand in a message."""

    @property
    def harm(self) -> str:
        """What went wrong where the guard ended a run."""
        return (
            f"node {self.described} would make a value of more than {MOST_ELEMENTS} elements of them, or of a number "
            "that is none"
        )

    def chain(self, number: int, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the nodes that make the guarded value of the input."""
        write = Writer(number)
        fitting = write.add("LessOrEqual", _count(node)(write, node), write.constant([MOST_ELEMENTS]))
        # A count that is none fits nothing.
        bad = write.add("Reshape", write.add("Not", fitting), write.constant([1], np.int64))
        end = write.add("Cast", bad, to=onnx.TensorProto.INT64)
        more = write.add("Slice", write.constant([TOO_LARGE], np.int64), write.constant([0], np.int64), end)
        name, made = node.input[self.input], f"{PREFIX}{number}"
        # One Reshape: of two in a row ONNX Runtime makes one, of the second's shape.
        wanted = write.add("Concat", write.add("Shape", name), more, axis=0)
        return [*write.nodes, helper.make_node("Reshape", [name, wanted], [made], name=made)]


def _count(node: onnx.NodeProto) -> Count:
    made = COUNTS.get(node.op_type, ((), None))[1] or GROWING.get(node.op_type)
    assert made is not None  # noqa: S101 - others have no guard
    return made


@dataclass(slots=True)
class Flow:
    """Names of values that follow what a caller sends, of those whose size does, and of nodes that are given such."""

    values: set[str]
    sized: set[str]
    operators: dict[str, str]
    """By an operator that is given a shape or a place which follows what a caller sends, one such node."""


def follow(model: onnx.ModelProto) -> Flow:
    """Follow the values of a model's inputs through it, from one input to another of a node in any case."""
    weights = {tensor.name for tensor in model.graph.initializer}
    flow = Flow({entry.name for entry in model.graph.input} - weights, set(), {})
    found = -1
    nodes = [(node, scope) for scope in scopes(model, {}) for node in scope.graph.node]
    while found < len(flow.values) + len(flow.sized):
        found = len(flow.values) + len(flow.sized)
        for node, scope in nodes:
            _follow(node, scope, flow)
    return flow


def _follow(node: onnx.NodeProto, scope: Scope, flow: Flow) -> None:
    inner = list(subgraphs(node))
    around = [*node.input, *(entry.name for graph in inner for entry in graph.output)]
    values, sized = any(name in flow.values for name in around), any(name in flow.sized for name in around)
    if _domain(node) == "" and node.op_type in ("Shape", "Size"):
        values, sized = sized, False
    if _told(node, flow, _size_places(node)):
        sized = True
    if values and _told(node, flow, _PLACES.get(node.op_type, ()) or _size_places(node)):
        flow.operators.setdefault(node.op_type, _described(node))
    if sized and _fixes_size(node, scope):
        sized = False
    made = [*node.output, *(entry.name for graph in inner for entry in graph.input)]
    if values:
        flow.values.update(filter(None, made))
    if sized:
        flow.sized.update(filter(None, made))


def _told(node: onnx.NodeProto, flow: Flow, places: Sequence[int]) -> bool:
    return _domain(node) == "" and any(name in flow.values for name in _inputs(node, places))


def _size_places(node: onnx.NodeProto) -> tuple[int, ...]:
    return COUNTS[node.op_type][0] if node.op_type in COUNTS else ()


def _inputs(node: onnx.NodeProto, places: Sequence[int]) -> list[str]:
    return [node.input[place] for place in places if place < len(node.input) and node.input[place]]


def _fixes_size(node: onnx.NodeProto, scope: Scope) -> bool:
    """Tell whether a node makes a value of one size of values of any: a sum of all, or a shape in the file."""
    if _domain(node) != "":
        return False
    if node.op_type.startswith("Reduce"):
        return not any(node.input[1:]) and not any(entry.name == "axes" for entry in node.attribute)
    if node.op_type == "Reshape" and len(node.input) > 1:
        shape = scope.constant(node.input[1])
        return shape is not None and shape.dtype.kind == "i" and all(length > 0 for length in shape.tolist())
    return False


def size_guards(graph: int, scope: Scope, flow: Flow, opset: int) -> Iterator[SizeGuard]:
    """Yield a guard for each node of a graph that must not make too many elements of what a caller sends.

    Raises
    ------
    UnboundedSizeError
        The number cannot be worked out.
    """
    for place, node in enumerate(scope.graph.node):
        reason = _unbounded(node, scope, flow, opset)
        if reason is not None:
            raise UnboundedSizeError(f"node {_described(node)} cannot be served: {reason}")
        guarded = _guarded_input(node, flow)
        if guarded is not None:
            yield SizeGuard(graph, place, guarded, _described(node))


class UnboundedSizeError(Exception):
    """The size of a value cannot be bounded; the message names the node and a way round."""


def _guarded_input(node: onnx.NodeProto, flow: Flow) -> int | None:
    if _domain(node) != "":
        return None
    told = _size_places(node)
    if node.op_type == "Resize":
        # ONNX Runtime infers that what a Reshape makes of the sizes has none.
        return 0 if _told(node, flow, told) or node.input[0] in flow.sized else None
    for place, name in enumerate(node.input):
        if name and ((place in told and name in flow.values) or (name in flow.sized and _counted_when_sized(node))):
            return place
    return None


def _counted_when_sized(node: onnx.NodeProto) -> bool:
    return node.op_type in GROWING or node.op_type in COUNTS


def _unbounded(node: onnx.NodeProto, scope: Scope, flow: Flow, opset: int) -> str | None:
    """Return why the size of what a node makes cannot be bounded, or None where it can or need not be."""
    if _domain(node) == "" and node.op_type in ("Loop", "Scan"):
        if node.op_type == "Loop" and _follows_turns(node, scope, flow):
            return _TURNS
        # What each turn makes is put together.
        joined = any(entry.name in flow.sized for graph in subgraphs(node) for entry in graph.output)
        return _UNBOUNDED if joined else None
    sized = [place for place, name in enumerate(node.input) if name in flow.sized]
    if not sized and not _told(node, flow, _size_places(node)):
        return None
    if _domain(node) == "" and _is_not_larger(node, sized):
        return None
    if _domain(node) != "" or not _countable(node):
        return _UNBOUNDED
    return _OLD if opset < _FIRST_OPSET else None


def _is_not_larger(node: onnx.NodeProto, sized: Sequence[int]) -> bool:
    if node.op_type in _NOT_LARGER_THAN_FIRST:
        return sized == [0]
    # What branches make is looked at in them.
    return node.op_type in _NOT_LARGER or node.op_type == "If"


def _countable(node: onnx.NodeProto) -> bool:
    if node.op_type == "Pad":
        return not _inputs(node, (3,))
    if node.op_type == "Resize":
        cropped = attribute(node, "coordinate_transformation_mode", b"") == b"tf_crop_and_resize"
        others = any(entry.name in ("axes", "keep_aspect_ratio_policy") for entry in node.attribute)
        return not others and (not cropped or bool(_inputs(node, (3,))))
    return node.op_type in GROWING or COUNTS.get(node.op_type, ((), None))[1] is not None


def _follows_turns(node: onnx.NodeProto, scope: Scope, flow: Flow) -> bool:
    """Tell whether a caller decides how often a loop runs."""
    name = node.input[0] if node.input else ""
    turns = scope.constant(name) if name else None
    if name in flow.values:
        return True
    if turns is not None and turns.size == 1 and int(turns.item()) <= _MOST_TURNS:
        return False
    body = next(subgraphs(node), None)
    return body is not None and any(entry.name in flow.values for entry in body.output[:1])


def _described(node: onnx.NodeProto) -> str:
    return f"{node.name[:80]!a} ({node.op_type})"


def _domain(node: onnx.NodeProto) -> str:
    return "" if node.domain == "ai.onnx" else node.domain
