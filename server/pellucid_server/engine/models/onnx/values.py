"""How the values of an ONNX file hold the batch, and which of them are layers.

The shapes that are inferred tell it, with a name of its own for the number of rows. What they leave open is found out
by running parts of the file (`find_values`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from pellucid_server.engine.models.graph.names import Layer
from pellucid_server.engine.models.graph.sizes import BatchLayout
from pellucid_server.engine.models.onnx.beside import DTYPES
from pellucid_server.engine.models.onnx.graphs import Shape
from pellucid_server.engine.models.onnx.operators import listed
from pellucid_server.engine.models.onnx.skeleton import Skeleton

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16})

OWN = "pellucid."
"""Before the names of nodes and values that the server puts into a file."""

_MOST_LAYERS = 8192
_MOST_NAME_CHARACTERS = 1 << 20
"""Of all names of layers together: what a caller reads of a model is bounded."""

_CHANNELS_FIRST = listed(
    """
    AveragePool BatchNormalization Col2Im Conv ConvInteger ConvTranspose DeformConv DepthToSpace FusedConv
    GlobalAveragePool GlobalLpPool GlobalMaxPool GridSample GroupNormalization InstanceNormalization LRN LpPool MaxPool
    MaxRoiPool MaxUnpool QLinearAveragePool QLinearConv QLinearGlobalAveragePool Resize RoiAlign SpaceToDepth Upsample
    """
)
_CHANNELS_LAST = listed(
    """
    Attention BiasGelu Einsum EmbedLayerNormalization FastGelu FusedGemm FusedMatMul GRU Gemm LSTM LayerNormalization
    MatMul MatMulInteger MatMulIntegerToFloat MatMulNBits MultiHeadAttention QGemm QLinearMatMul RMSNormalization RNN
    SkipLayerNormalization SkipSimplifiedLayerNormalization
    """
)
_OTHER_FORM = listed(
    """
    Concat Expand Flatten Gather GatherElements GatherND If Loop Reshape Scan Slice Split Squeeze Tile Transpose
    Unsqueeze
    """
)
"""Operators that tell nothing of which axis counts units, and behind which it may be another."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a value.

    Attributes
    ----------
    kind
        The type of its elements, as ONNX numbers them; 0 if not known.
    layout
        How it holds the batch; FOLDED if that is not known.
    shape
        A row's shape if it holds rows, None where a length is open.
    """

    kind: int
    layout: BatchLayout
    shape: tuple[int | None, ...] = ()

    @property
    def rows(self) -> bool:
        """Whether it holds a row at each place of axis 0, and can leave or enter a part of the file."""
        return self.layout is BatchLayout.ROWS and self.kind in DTYPES


_UNKNOWN = Known(0, BatchLayout.FOLDED)


@dataclass(frozen=True, slots=True)
class Values:
    """What is known of the values of a file.

    Attributes
    ----------
    known
        By name.
    counted
        Values that may follow a row's place in the batch: they are made of numbers such as those of a Range.
    """

    known: Mapping[str, Known]
    counted: frozenset[str]

    def of(self, name: str) -> Known:
        """Return what is known of a value."""
        return self.known.get(name, _UNKNOWN)

    def crosses(self, name: str) -> bool:
        """Whether a value may be held for each row and handed to the part behind a cut."""
        return self.of(name).rows and name not in self.counted


def inferred_values(skeleton: Skeleton) -> tuple[dict[str, Known], list[str]]:
    """Return what inference says of the values of a file, and the names of those of which it leaves something open."""
    wiring = skeleton.wiring
    known: dict[str, Known] = {}
    unclear: list[str] = []
    for name in (*wiring.inputs, *wiring.maker):
        if name in wiring.constants:
            continue
        found = _inferred(skeleton, name)
        if found is not None:
            known[name] = found
        elif name in wiring.maker:
            unclear.append(name)
    return known, unclear


def _inferred(skeleton: Skeleton, name: str) -> Known | None:
    """Return what inference says of a value; None if it leaves something open."""
    shape, kind = skeleton.shapes.get(name), skeleton.kinds.get(name)
    if shape is None or kind is None:
        return None
    certain = skeleton.symbols | {skeleton.batch}
    if any(length is None or (isinstance(length, str) and length not in certain) for length in shape):
        return None
    axes = [axis for axis, length in enumerate(shape) if length == skeleton.batch]
    if axes == [0]:
        return Known(kind, BatchLayout.ROWS, _row_shape(shape))
    return Known(kind, BatchLayout.FOLDED if axes else BatchLayout.SHARED)


def _row_shape(shape: Shape) -> tuple[int | None, ...]:
    return tuple(length if isinstance(length, int) else None for length in shape[1:])


def counted(skeleton: Skeleton, known: Mapping[str, Known]) -> frozenset[str]:
    """Follow numbers that count rows through a file."""
    wiring = skeleton.wiring
    found = {name for name in wiring.counting if known.get(name, _UNKNOWN).layout is not BatchLayout.SHARED}
    if found:
        for node, names in zip(wiring.nodes, wiring.reads, strict=True):
            # A shape alone says nothing of what is in a value.
            if node.op_type not in ("Shape", "Size") and any(name in found for name in names):
                found.update(filter(None, node.output))
    return frozenset(found)


def find_layers(skeleton: Skeleton, values: Values) -> tuple[dict[str, Layer], dict[str, str]]:
    """Return the layers by name, in the order of the nodes that make them, and their values' names.

    A layer is a floating-point value that a node makes and that holds rows. It is called as the node, or, where that
    has no name, as the value; for a name that is taken already "#1", "#2"... come behind it.
    """
    layers: dict[str, Layer] = {}
    made: dict[str, str] = {}
    axes: dict[str, tuple[int, int]] = {}
    seen: dict[str, int] = {}
    characters = 0
    for wanted, node, value in _candidates(skeleton, values):
        known = values.of(value)
        axis = _unit_axis(node, known.shape, skeleton, axes)
        axes[value] = len(known.shape), axis
        name = _free(wanted, layers, seen)
        characters += len(name)
        if len(layers) == _MOST_LAYERS or characters > _MOST_NAME_CHARACTERS:
            break
        units = (known.shape[axis] or 0) if known.shape else 1
        layers[name] = Layer(name, node.op_type, known.shape, units, cuttable=True, unit_axis=axis)
        made[name] = value
    return layers, made


def _candidates(skeleton: Skeleton, values: Values) -> Iterator[tuple[str, onnx.NodeProto, str]]:
    """Yield what a layer would be called, its node and its value."""
    for node in skeleton.wiring.nodes:
        for value in node.output:
            known = values.of(value)
            if not value or not known.rows or known.kind not in FLOATS or value.startswith(OWN):
                continue
            own = not node.name or node.name.startswith(OWN)
            yield (value if own else node.name), node, value


def _free(name: str, taken: Mapping[str, Layer], seen: dict[str, int]) -> str:
    found, number = name, seen.get(name, 0)
    while found in taken:
        number += 1
        found = f"{name}#{number}"
    seen[name] = number
    return found


def _unit_axis(
    node: onnx.NodeProto, shape: tuple[int | None, ...], skeleton: Skeleton, axes: Mapping[str, tuple[int, int]]
) -> int:
    """Return the axis of a row that counts units: told by the operator, or by the value that it changes by element.

    Where nothing tells: the first of pictures, (channels, height, width), and of heads, else the last, (length,
    features). Axes that are open count positions.
    """
    rank = len(shape)
    if node.op_type in _CHANNELS_FIRST or rank < 2:
        return 0
    # What two values of a row give (scores of attention) has no features of its own.
    weighted = node.op_type != "MatMul" or any(name in skeleton.wiring.constants for name in node.input)
    if node.op_type in _CHANNELS_LAST and weighted:
        return rank - 1
    if node.op_type not in _OTHER_FORM and weighted:
        alike = (axes[name][1] for name in node.input if name in axes and axes[name][0] == rank)
        source = next(alike, None)
        if source is not None:
            return source
    likely = 0 if rank >= 3 else rank - 1
    return likely if shape[likely] is not None else next((axis for axis in (rank - 1, 0) if shape[axis]), likely)
