"""Writes ONNX nodes that work out how many elements a node's output has, before it is made."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pellucid_server.engine.models.onnx.guards import PREFIX
from pellucid_server.engine.models.onnx.operators import listed

_BROADCASTING = listed(
    """
    Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod
    Mul Or PRelu Pow Sub Sum Where Xor
    """
)


class Writer:
    """Writes the nodes that work out a number of elements, in float64, which is never too small for it."""

    def __init__(self, number: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._prefix = f"{PREFIX}{number}."

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; return the name of what it makes."""
        name = f"{self._prefix}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, value: Any, kind: type[np.generic] = np.float64) -> str:
        """Add a constant."""
        return self.add("Constant", value=numpy_helper.from_array(np.asarray(value, kind)))

    def lengths(self, value: str) -> str:
        """Return the shape of a value, (axes,)."""
        return self.add("Cast", self.add("Shape", value), to=onnx.TensorProto.DOUBLE)

    def numbers(self, value: str) -> str:
        """Return the numbers in a value, (numbers,)."""
        numbers = self.add("Cast", value, to=onnx.TensorProto.DOUBLE)
        return self.add("Reshape", numbers, self.constant([-1], np.int64))

    def product(self, *vectors: str) -> str:
        """Return the product of all numbers in vectors, ()."""
        # Of no numbers at all it is 1.
        return self.add("ReduceProd", self.add("Concat", *vectors, self.constant([1]), axis=0), keepdims=0)

    def part(self, vector: str, start: int, end: int) -> str:
        """Return a slice of a vector."""
        return self.add("Slice", vector, self.constant([start], np.int64), self.constant([end], np.int64))

    def broadcast(self, *shapes: str) -> str:
        """Return the number of elements of a value of shapes that are broadcast, ()."""
        ones = self.constant(np.ones(64))
        aligned = [self.part(self.add("Concat", ones, shape, axis=0), -64, 1 << 31) for shape in shapes]
        return self.product(self.add("Max", *aligned))


Count = Callable[[Writer, onnx.NodeProto], str]
"""Writes how many elements a node's output has."""


def _filled(write: Writer, node: onnx.NodeProto) -> str:
    return write.product(write.numbers(node.input[0]))


def _expanded(write: Writer, node: onnx.NodeProto) -> str:
    return write.broadcast(write.lengths(node.input[0]), write.numbers(node.input[1]))


def _repeated(write: Writer, node: onnx.NodeProto) -> str:
    return write.product(write.lengths(node.input[0]), write.numbers(node.input[1]))


def _counted(write: Writer, node: onnx.NodeProto) -> str:
    start, limit, step = (write.numbers(name) for name in node.input[:3])
    # A step of 0 makes a number that is none, or infinite.
    return write.add("Mul", write.add("Sub", limit, start), write.add("Reciprocal", step))


def _padded(write: Writer, node: onnx.NodeProto) -> str:
    sides = write.add("Reshape", write.numbers(node.input[1]), write.constant([2, -1], np.int64))
    more = write.add("ReduceSum", sides, write.constant([0], np.int64), keepdims=0)
    lengths = write.add("Add", write.lengths(node.input[0]), more)
    return write.product(write.add("Max", lengths, write.constant([0])))


def _resized(write: Writer, node: onnx.NodeProto) -> str:
    if len(node.input) > 3 and node.input[3]:
        return write.product(write.numbers(node.input[3]))
    return write.product(write.lengths(node.input[0]), write.numbers(node.input[2]))


def _unpooled(write: Writer, node: onnx.NodeProto) -> str:
    return write.product(write.numbers(node.input[2]))


def _combined(write: Writer, node: onnx.NodeProto) -> str:
    return write.broadcast(*(write.lengths(name) for name in node.input if name))


def _multiplied(write: Writer, node: onnx.NodeProto) -> str:
    """Count a MatMul: the axis that is summed over is 1 long in both."""
    first, second = (write.lengths(name) for name in node.input[:2])
    one = write.constant([1])
    left = write.add("Concat", write.part(first, 0, -1), one, axis=0)
    right = write.add("Concat", write.part(second, 0, -2), one, write.part(second, -1, 1 << 31), axis=0)
    return write.broadcast(left, right)


def _multiplied_matrices(write: Writer, node: onnx.NodeProto) -> str:
    rows, columns = int(attribute(node, "transA", 0)), 1 - int(attribute(node, "transB", 0))
    first, second = (write.lengths(name) for name in node.input[:2])
    end = 1 << 31
    return write.product(
        write.part(first, rows, rows + 1), write.part(second, columns, columns + 1 if columns == 0 else end)
    )


def _gathered(write: Writer, node: onnx.NodeProto) -> str:
    """Count a Gather: each index takes a slice of the data."""
    axis = int(attribute(node, "axis", 0))
    lengths = write.lengths(node.input[0])
    slices = write.add("Gather", lengths, write.constant(axis, np.int64))
    return write.add("Mul", write.product(lengths, write.lengths(node.input[1])), write.add("Reciprocal", slices))


COUNTS: dict[str, tuple[tuple[int, ...], Count | None]] = {
    **dict.fromkeys(("ConstantOfShape", "BlackmanWindow", "HammingWindow", "HannWindow"), ((0,), _filled)),
    "Expand": ((1,), _expanded),
    "OneHot": ((1,), _repeated),
    "Pad": ((1, 3), _padded),
    "Range": ((0, 1, 2), _counted),
    "Resize": ((1, 2, 3), _resized),
    "Tile": ((1,), _repeated),
    "MaxUnpool": ((2,), _unpooled),
    "AffineGrid": ((1,), None),
    "CenterCropPad": ((1,), None),
    "Col2Im": ((1, 2), None),
    "DFT": ((1,), None),
    "MelWeightMatrix": ((0, 1), None),
}
"""Operators that make a value as large as numbers in these inputs say; None where it is not worked out."""

GROWING: dict[str, Count] = {
    **dict.fromkeys(_BROADCASTING, _combined),
    "MatMul": _multiplied,
    "Gemm": _multiplied_matrices,
    "Gather": _gathered,
}
"""Operators that may make more of values than they take."""


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return an attribute of a node, or the default where it has none."""
    return next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name), default)
