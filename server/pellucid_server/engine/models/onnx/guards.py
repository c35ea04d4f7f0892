"""Keeps empty arrays from the ONNX operators that must not get them, where reading the file cannot.

Some end the process at an empty array. A Concat takes one for an array that fits any other, adds its length along the
axis all the same, and leaves that part of the output as the memory was. Before such a node, an input that may be empty
passes through a Reshape to its own shape with 1 in place of each 0. That changes nothing, and copies nothing, unless
the array is empty: then it does not fit, and the run ends.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pellucid_server.engine.models.onnx.graphs import Scope, scopes

PREFIX = "pellucid.filled."
"""Before the names of the nodes and values that are added to a file."""

_TRIPPED = re.compile(rf"'{re.escape(PREFIX)}(\d+)'")
_UNNAMED = re.compile(r"running Reshape node.*Input shape:\{(\d+,)*0(,\d+)*\}, requested shape", re.DOTALL)
"""As a guard ends a run in a branch that ONNX Runtime has put in place of its If, under a name of its own."""

TOO_LARGE = 982_451_653
"""The length of an axis that a guard of a size asks for where it ends a run; no model asks for just that."""

_UNNAMED_SIZE = re.compile(rf"requested shape:\{{(\d+,)*{TOO_LARGE}\}}")

_OPSET = 21
"""Of the standard domain, for a file that imports none."""

_ENDING = frozenset(
    {
        ("", "ConvTranspose"),
        ("", "GRU"),
        ("", "LSTM"),
        ("", "RNN"),
        ("", "STFT"),
        ("", "Unique"),
        ("com.microsoft", "MultiHeadAttention"),
        ("com.microsoft", "SkipLayerNormalization"),
        ("com.microsoft", "SkipSimplifiedLayerNormalization"),
    }
)
"""Operators that end the process at an empty array."""

_JOINING = frozenset({("", "Concat"), ("com.microsoft", "QLinearConcat")})


class AnyGuard(Protocol):
    """What stands before a node and may end a run there."""

    @property
    def graph(self) -> int:
        """The place of the node's graph in the walk of `scopes`."""

    @property
    def node(self) -> int:
        """The node's place in its graph."""

    @property
    def input(self) -> int:
        """The input that passes through it."""

    @property
    def harm(self) -> str:
        """What went wrong where it ended a run."""

    def chain(self, number: int, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the nodes that make the guarded value of the input."""


@dataclass(frozen=True, slots=True)
class Guard:
    """An input of a node that must not be empty."""

    graph: int
    """The place of the node's graph in the walk of `scopes`."""

    node: int
    """The node's place in its graph."""

    input: int
    described: str
    """The node, as it may stand in a message."""

    vectors: bool
    """Whether an array of one axis may be empty."""

    @property
    def harm(self) -> str:
        """What went wrong where the guard ended a run."""
        return f"node {self.described} takes an array that is empty as its input {self.input}"

    def chain(self, number: int, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Return the nodes that make the guarded value of the input, of operators of opset 7."""
        return _chain(number, node.input[self.input], self.vectors)


def guards(model: onnx.ModelProto, graph: int, scope: Scope) -> Iterator[Guard]:
    """Yield a guard for each input in a graph that must not be empty and may be, as far as the file shows."""
    for place, node in enumerate(scope.graph.node):
        key = ("" if node.domain == "ai.onnx" else node.domain, node.op_type)
        if key not in _ENDING | _JOINING:
            continue
        shapes = [scope.shape(name) if name else () for name in node.input]
        joins = key in _JOINING
        if joins and any(shape is not None and len(shape) == 1 for shape in shapes):
            # Then all have one axis, or ONNX Runtime refuses the node.
            continue
        described = f"{node.name[:80]!a} ({node.op_type})"
        for number, shape in enumerate(shapes):
            if shape is None or not all(_filled(length, scope) for length in shape):
                yield Guard(graph, place, number, described, vectors=joins and shape is None)


def _filled(length: int | str | None, scope: Scope) -> bool:
    """Tell whether an axis has at least one element: names of the inputs' axes do, as no row is empty."""
    return length in scope.filled if isinstance(length, str) else bool(length)


def known_empty(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Return what is wrong with a node of which an input is always empty, or None."""
    shapes = [scope.shape(name) if name else None for name in node.input]
    empty = next((place for place, shape in enumerate(shapes) if shape is not None and 0 in shape), None)
    return None if empty is None else f"its input {empty} is empty; give it elements"


def add_guards(model: onnx.ModelProto, needed: Sequence[AnyGuard]) -> None:
    """Put guards into a model."""
    if needed and not any(entry.domain in ("", "ai.onnx") for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid("", _OPSET))
    for place, scope in enumerate(list(scopes(model, {}))):
        before: dict[int, list[onnx.NodeProto]] = {}
        for number, guard in enumerate(needed):
            if guard.graph == place:
                node = scope.graph.node[guard.node]
                before.setdefault(guard.node, []).extend(guard.chain(number, node))
                node.input[guard.input] = f"{PREFIX}{number}"
        for index in sorted(before, reverse=True):
            for added in reversed(before[index]):
                scope.graph.node.insert(index, added)


def _chain(number: int, name: str, vectors: bool) -> list[onnx.NodeProto]:
    def value(part: str) -> str:
        return f"{PREFIX}{number}.{part}"

    def node(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(operator, inputs, [output], name=output, **attributes)

    constants = {"zero": np.array(0, np.int64), "one": np.array(1, np.int64)}
    nodes = [
        *(node("Constant", [], value(key), value=numpy_helper.from_array(entry)) for key, entry in constants.items()),
        node("Shape", [name], value("shape")),
        node("Equal", [value("shape"), value("zero")], value("empty")),
        node("Cast", [value("empty")], value("more"), to=onnx.TensorProto.INT64),
    ]
    more = value("more")
    if vectors:
        nodes += [
            node("Size", [value("shape")], value("axes")),
            node("Equal", [value("axes"), value("one")], value("single")),
            node("Cast", [value("single")], value("spared"), to=onnx.TensorProto.INT64),
            node("Sub", [value("one"), value("spared")], value("held")),
            node("Mul", [more, value("held")], value("more.held")),
        ]
        more = value("more.held")
    nodes.append(node("Add", [value("shape"), more], value("wanted")))
    nodes.append(node("Reshape", [name, value("wanted")], f"{PREFIX}{number}"))
    return nodes


def tripped(error: Exception, harms: Sequence[str]) -> str | None:
    """Return what a guard found that ended a run with an error of ONNX Runtime, of what each guard finds; or None."""
    found = _TRIPPED.search(str(error)) if harms else None
    if found and int(found.group(1)) < len(harms):
        return harms[int(found.group(1))]
    if harms and _UNNAMED_SIZE.search(str(error)):
        return "nodes would make a value of too many elements of them"
    return "nodes take an array that is empty" if harms and _UNNAMED.search(str(error)) else None
