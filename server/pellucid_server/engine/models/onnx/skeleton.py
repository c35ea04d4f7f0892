"""What is kept of an ONNX file to cut it: its nodes, its weights, and what is inferred of its values.

A file is cut only where there is nothing else to cut, so that others take no memory for this.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper

from pellucid_server.engine.models.onnx.beside import DTYPES, LEAST_SHARED_BYTES, placeholder
from pellucid_server.engine.models.onnx.file import SessionError
from pellucid_server.engine.models.onnx.graphs import Shape, bare, inferred, subgraphs
from pellucid_server.engine.models.onnx.session import Weights

_COUNTING = frozenset({"Range", "NonZero", "EyeLike", "CumSum", "CumProd", "Unique", "Loop", "Scan", "If", "Tile"})
"""What makes different numbers of a shape alone, so that a row's depend on its place in the batch."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """Which node of a graph makes what of what.

    Attributes
    ----------
    nodes
        The nodes, each behind those that make what it reads.
    reads
        The values that each node reads, also those that branches and loops in it take from outside.
    maker
        The number of the node that makes a value, by the value's name.
    inputs, outputs
        Names of what goes in and comes out.
    constants
        Values that are the same whatever goes in.
    counting
        Values made of the shapes of others alone that may differ by row: row i holds i, for example.
    """

    nodes: Sequence[onnx.NodeProto]
    reads: Sequence[tuple[str, ...]]
    maker: Mapping[str, int]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: frozenset[str]
    counting: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class Skeleton:
    """A file as it is cut.

    Attributes
    ----------
    model
        The model as ONNX Runtime runs it, with large weights left out.
    weights
        Those, by name.
    shapes, kinds
        Inferred shapes, with `batch` as the number of rows, and types of elements.
    symbols
        Lengths in `shapes` that are known not to follow the number of rows.
    beside
        Files with further weights, and what tells whether they were changed since.
    """

    model: onnx.ModelProto
    weights: Weights
    wiring: Wiring
    batch: str
    shapes: Mapping[str, Shape]
    kinds: Mapping[str, int]
    symbols: frozenset[str]
    beside: Mapping[Path, tuple[int, ...]]

    @classmethod
    def of(
        cls, model: onnx.ModelProto, folder: Path, taken: Mapping[str, onnxruntime.OrtValue] = MappingProxyType({})
    ) -> "Skeleton":
        """Take what is needed of a model that was read and checked; the model may be changed afterwards.

        `taken` are weights that are handed over beside it.
        """
        known = bare(model)
        kept = _without_weights(model)
        wiring = _wiring(kept.graph, {tensor.name for tensor in model.graph.initializer})
        batch, symbols = _named_axes(known, wiring.inputs)
        shapes, kinds = inferred(known)
        shared: dict[str, onnxruntime.OrtValue] = dict(taken)
        beside: dict[Path, tuple[int, ...]] = {}
        for tensor in model.graph.initializer:
            found = None if tensor.name in taken else large_weight(tensor)
            if tensor.name in taken:
                kept.graph.initializer.append(tensor)
                continue
            if found is None:
                kept.graph.initializer.append(tensor)
                location = next((each.value for each in tensor.external_data if each.key == "location"), None)
                if location is not None:
                    beside[folder / location] = _fingerprint(folder / location)
                continue
            shared[tensor.name] = onnxruntime.OrtValue.ortvalue_from_numpy(found)
            kept.graph.initializer.append(placeholder(tensor, found.nbytes))
        return cls(kept, Weights(shared, beside_bytes(model, taken)), wiring, batch, shapes, kinds, symbols, beside)

    def facts(self) -> dict[str, Any]:
        """Return all but the model, its weights and what follows from it, as JSON can hold it."""
        return {
            "batch": self.batch,
            "shapes": self.shapes,
            "kinds": self.kinds,
            "symbols": sorted(self.symbols),
            "beside": [(str(path), known) for path, known in self.beside.items()],
        }

    @classmethod
    def of_facts(cls, content: bytes, weights: Weights, facts: Mapping[str, Any]) -> "Skeleton":
        """Make it of its model, serialized, its weights, and what `facts` gave."""
        model = onnx.ModelProto.FromString(content)
        return cls(
            model,
            weights,
            _wiring(model.graph, {tensor.name for tensor in model.graph.initializer}),
            facts["batch"],
            {name: tuple(shape) for name, shape in facts["shapes"].items()},
            facts["kinds"],
            frozenset(facts["symbols"]),
            {Path(path): tuple(known) for path, known in facts["beside"]},
        )

    def require_unchanged(self) -> None:
        """Refuse to go on with weights beside the file that are not those which were loaded.

        Raises
        ------
        SessionError
            A file was changed or is gone.
        """
        for path, known in self.beside.items():
            try:
                there = _fingerprint(path)
            except OSError:
                there = ()
            if there != known:
                raise SessionError("the weights beside the model's file were changed since it was loaded")


def beside_bytes(model: onnx.ModelProto, taken: Collection[str] = ()) -> int:
    """Return the bytes of the weights in other files, as if each number took eight: no less than they take.

    Those of `taken`, by name, are in none.
    """
    external = [each for each in model.graph.initializer if each.data_location == TensorProto.EXTERNAL]
    beside = [each for each in external if each.name not in taken]
    return sum(8 * math.prod(each.dims) for each in beside)


def _fingerprint(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model's nodes, inputs and outputs; large weights are not copied on the way."""
    lean = onnx.ModelProto(ir_version=model.ir_version)
    lean.opset_import.extend(model.opset_import)
    lean.graph.name = model.graph.name or "graph"
    lean.graph.node.extend(model.graph.node)
    lean.graph.sparse_initializer.extend(model.graph.sparse_initializer)
    lean.graph.input.extend(model.graph.input)
    lean.graph.output.extend(model.graph.output)
    return lean


def large_weight(tensor: TensorProto) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None:
    """Return a weight that is handed over beside a model; None for one that stays in the model or in its file."""
    if tensor.data_location == TensorProto.EXTERNAL or tensor.data_type not in DTYPES:
        return None
    if tensor.ByteSize() <= LEAST_SHARED_BYTES:
        return None
    try:
        return np.ascontiguousarray(numpy_helper.to_array(tensor))
    except (TypeError, ValueError):
        # ONNX Runtime says what it makes of such a one.
        return None


def _named_axes(model: onnx.ModelProto, inputs: Sequence[str]) -> tuple[str, frozenset[str]]:
    """Name every open axis of the inputs; return the name of the rows and those of the others."""
    dims = {
        entry.name: list(entry.type.tensor_type.shape.dim) for entry in model.graph.input if entry.name in set(inputs)
    }
    named = {dim.dim_param for each in dims.values() for dim in each}
    rows = {each[0].dim_param for each in dims.values() if each and each[0].dim_param}
    batch = "pellucid.rows"
    while batch in named:
        batch += "'"
    others: set[str] = set()
    for name, each in dims.items():
        for axis, dim in enumerate(each):
            if axis == 0 or (dim.dim_param and dim.dim_param in rows):
                dim.dim_param = batch
            elif not dim.HasField("dim_value"):
                dim.dim_param = dim.dim_param or f"pellucid.axis.{name}.{axis}"
                others.add(dim.dim_param)
    return batch, frozenset(others)


def _wiring(graph: onnx.GraphProto, weights: set[str]) -> Wiring:
    weights = weights | {each.values.name for each in graph.sparse_initializer}
    inputs = tuple(entry.name for entry in graph.input if entry.name not in weights)
    nodes = list(graph.node)
    reads = [tuple(dict.fromkeys(_reads(node))) for node in nodes]
    maker: dict[str, int] = {}
    constants, dataless, counting = set(weights), set[str](), set[str]()
    for number, (node, names) in enumerate(zip(nodes, reads, strict=True)):
        made = [name for name in node.output if name]
        maker.update(dict.fromkeys(made, number))
        varying = [name for name in names if name not in constants]
        if not varying:
            constants.update(made)
        elif node.op_type in ("Shape", "Size") or all(name in dataless for name in varying):
            dataless.update(made)
            if node.op_type in _COUNTING:
                counting.update(made)
    return Wiring(
        nodes,
        reads,
        maker,
        inputs,
        tuple(entry.name for entry in graph.output),
        frozenset(constants),
        frozenset(counting),
    )


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    yield from filter(None, node.input)
    for graph in subgraphs(node):
        yield from _captured(graph)


def _captured(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield what a graph inside a node takes from outside."""
    own = {entry.name for entry in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {each.values.name for each in graph.sparse_initializer}
    own |= {name for node in graph.node for name in node.output}
    for node in graph.node:
        yield from (name for name in _reads(node) if name not in own)
    yield from (entry.name for entry in graph.output if entry.name not in own)
