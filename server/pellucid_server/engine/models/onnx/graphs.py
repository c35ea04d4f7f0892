"""Walks over the parts of an ONNX file: nodes wherever they stand, constants, and shapes that can be inferred."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from onnx import numpy_helper

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]

Shape = tuple[int | str | None, ...]
"""Lengths of a value's axes: numbers, names, or None where nothing is known."""

_SMALL = 4096
"""Bytes of a weight up to which its values are kept where shapes are inferred; reshapes and the like need them."""


@dataclass(frozen=True, slots=True)
class Scope:
    """A graph, and what its nodes may name: its own constants and those of the graphs around it."""

    graph: onnx.GraphProto | onnx.FunctionProto
    constants: Mapping[str, onnx.TensorProto]
    depth: int
    shapes: Mapping[str, tuple[int | str | None, ...]] = field(default_factory=dict)
    """What is inferred of the graph's values, of the outermost graph only."""
    filled: frozenset[str] = frozenset()
    """Names of the axes of the model's inputs, which have at least one element each."""

    def constant(self, name: str) -> Array | None:
        """Return the value that an input always has, or None."""
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return None
        try:
            return numpy_helper.to_array(tensor)
        except (TypeError, ValueError, KeyError):
            return None

    def shape(self, name: str) -> tuple[int | str | None, ...] | None:
        """Return what is known of a value's shape, with None for unknown lengths; None where nothing is."""
        if name in self.constants:
            return tuple(self.constants[name].dims)
        return self.shapes.get(name)


def scopes(model: onnx.ModelProto, shapes: Mapping[str, tuple[int | str | None, ...]]) -> Iterator[Scope]:
    """Yield the model's graph, every graph inside its nodes, and its functions."""
    taken = (entry.type.tensor_type.shape.dim for entry in model.graph.input)
    filled = frozenset(dim.dim_param for dims in taken for dim in dims if dim.dim_param)
    for scope in _inside(model.graph, {}, 0, shapes):
        yield replace(scope, filled=filled) if scope.depth == 0 else scope
    for function in model.functions:
        yield from _inside(function, {}, 1, {})


def _inside(
    graph: onnx.GraphProto | onnx.FunctionProto,
    outer: Mapping[str, onnx.TensorProto],
    depth: int,
    shapes: Mapping[str, tuple[int | str | None, ...]],
) -> Iterator[Scope]:
    constants = dict(outer)
    if isinstance(graph, onnx.GraphProto):
        for entry in graph.input if depth else ():
            constants.pop(entry.name, None)
        constants |= {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for name in node.output:
            constants.pop(name, None)
        if node.op_type == "Constant" and node.output:
            value = next((entry.t for entry in node.attribute if entry.name == "value" and entry.HasField("t")), None)
            if value is not None:
                constants[node.output[0]] = value
    yield Scope(graph, constants, depth, shapes)
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _inside(inner, constants, depth + 1, {})


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs directly inside a node."""
    for entry in node.attribute:
        if entry.HasField("g"):
            yield entry.g
        yield from entry.graphs


def inferred_shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """Infer shapes from the inputs and weights alone: what the file says of values between them may be untrue."""
    return inferred(bare(model))[0]


def inferred(model: onnx.ModelProto) -> tuple[dict[str, Shape], dict[str, int]]:
    """Infer shapes, and types of elements, of a model that claims nothing (`bare`)."""
    try:
        found = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return {}, {}
    tensors = {
        entry.name: entry.type.tensor_type
        for entry in (*found.graph.value_info, *found.graph.input, *found.graph.output)
    }
    shapes = {
        name: tuple(_length(dim) for dim in kind.shape.dim) for name, kind in tensors.items() if kind.HasField("shape")
    }
    return shapes, {name: kind.elem_type for name, kind in tensors.items() if kind.elem_type}


def inferred_types(model: onnx.ModelProto) -> dict[str, int]:
    """Infer the type of each value's elements, also inside branches and loops; what is not known is left out."""
    try:
        found_types = onnx.shape_inference.infer_shapes(bare(model))
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return {}
    found: dict[str, int] = {}
    for scope in scopes(found_types, {}):
        if isinstance(scope.graph, onnx.GraphProto):
            for entry in (*scope.graph.value_info, *scope.graph.input, *scope.graph.output):
                found[entry.name] = entry.type.tensor_type.elem_type
        found |= {name: tensor.data_type for name, tensor in scope.constants.items()}
    return {name: kind for name, kind in found.items() if kind}


def _length(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return dim.dim_value
    return dim.dim_param or None


def bare(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model without large weights, and without what it claims of shapes."""
    lean = onnx.ModelProto(ir_version=model.ir_version)
    lean.opset_import.extend(model.opset_import)
    lean.functions.extend(model.functions)
    lean.graph.name = model.graph.name
    lean.graph.input.extend(model.graph.input)
    lean.graph.node.extend(model.graph.node)
    for node in lean.graph.node:
        for graph in subgraphs(node):
            _strip(graph)
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= _SMALL:
            lean.graph.initializer.append(tensor)
        else:
            lean.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    lean.graph.output.extend(model.graph.output)
    for entry in lean.graph.output:
        entry.type.tensor_type.ClearField("shape")
    return lean


def drop_claims(model: onnx.ModelProto, shapes: Mapping[str, tuple[int | str | None, ...]]) -> None:
    """Take out of a model what it says of shapes between its inputs and outputs, as ONNX Runtime would trust it.

    It fuses operators by it, and works out what a Shape gives. Inputs and outputs of branches and loops keep their
    number of axes, as do outputs that nodes take as well, with the lengths that are inferred.
    """
    for scope in scopes(model, {}):
        if isinstance(scope.graph, onnx.GraphProto):
            scope.graph.ClearField("value_info")
            for entry in (*scope.graph.input, *scope.graph.output) if scope.depth else ():
                for dim in entry.type.tensor_type.shape.dim:
                    dim.Clear()
    taken = {name for scope in scopes(model, {}) for node in scope.graph.node for name in node.input}
    for entry in model.graph.output:
        if entry.name not in taken:
            continue
        known = shapes.get(entry.name, ())
        for axis, dim in enumerate(entry.type.tensor_type.shape.dim):
            if axis >= len(known) or known[axis] != _length(dim):
                dim.Clear()


def _strip(graph: onnx.GraphProto) -> None:
    graph.ClearField("value_info")
    for entry in (*graph.input, *graph.output):
        if entry.type.HasField("tensor_type"):
            entry.type.tensor_type.ClearField("shape")
    for node in graph.node:
        for inner in subgraphs(node):
            _strip(inner)
