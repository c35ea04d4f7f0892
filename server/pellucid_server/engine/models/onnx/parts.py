"""Parts of an ONNX file as models of their own: before a cut, behind it, up to some values, or all of it with edits.

A part behind a cut takes the value there and what else crosses: values that hold rows and do not follow the cut. What
crosses and holds no rows (a shape, a number of rows, heads folded with the batch) is worked out behind the cut, from
what crosses by row. The shape of a value whose row has fixed lengths is put together from the number of rows at hand.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pellucid_server.engine.models.onnx.skeleton import Skeleton
from pellucid_server.engine.models.onnx.values import Values

CUT = "pellucid.cut."
"""Before the names of nodes and values that are put into a part."""


_OPSET = 13
"""Of the standard domain, for a part of a file that imports none."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A model made of some nodes of a file.

    Attributes
    ----------
    content
        The model, serialized.
    weights
        The shared weights that it takes.
    inputs
        What it takes, by the names of the file's values.
    outputs
        What it gives, by its own names, in the order in which it was asked for.
    made
        The same, by the names of the file's values.
    """

    content: bytes
    weights: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    made: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is on either side of a cut at a value.

    Attributes
    ----------
    crossings
        Other values that cross, in the order in which they are made; all hold rows.
    shapes
        Nodes behind the cut that read the shape of a value before it, by number, and the lengths of a row of that.
    operators
        Those of the part behind, where `plan_between` made the plan.
    """

    value: str
    crossings: tuple[str, ...]
    shapes: Mapping[int, tuple[int, ...]]
    operators: frozenset[str] = frozenset()

    @property
    def crossing(self) -> tuple[str, ...]:
        """All values that cross, that of the cut first."""
        return (self.value, *self.crossings)


def plan(skeleton: Skeleton, values: Values, value: str) -> Plan:
    """Work out what crosses a cut at a value that holds rows."""
    wiring = skeleton.wiring
    behind = {value}
    for node, names in zip(wiring.nodes, wiring.reads, strict=True):
        if any(name in behind for name in names):
            behind.update(filter(None, node.output))
    crossing: set[str] = set()
    shapes: dict[int, tuple[int, ...]] = {}
    reached: set[str] = set()
    waiting = list(wiring.outputs)
    while waiting:
        name = waiting.pop()
        if name == value or name in reached or name in wiring.constants:
            continue
        reached.add(name)
        if name not in wiring.maker or (name not in behind and values.crosses(name)):
            crossing.add(name)
            continue
        number = wiring.maker[name]
        lengths = _known_lengths(wiring.nodes[number], values)
        if lengths is None:
            waiting.extend(wiring.reads[number])
        else:
            shapes[number] = lengths
    ordered = sorted(crossing, key=lambda name: wiring.maker.get(name, -1))
    return Plan(value, tuple(ordered), shapes)


def plan_between(skeleton: Skeleton, values: Values, given: Sequence[str]) -> Plan | None:
    """Work out the part that makes the outputs of some values; None if they do not suffice.

    Nodes before those values that the outputs need, too, are run again from what is given.
    """
    wiring = skeleton.wiring
    shapes: dict[int, tuple[int, ...]] = {}
    reached: set[str] = set()
    operators: set[str] = set()
    waiting = list(wiring.outputs)
    while waiting:
        name = waiting.pop()
        if name in reached or name in given or name in wiring.constants:
            continue
        reached.add(name)
        if name not in wiring.maker:
            return None
        number = wiring.maker[name]
        operators.add(wiring.nodes[number].op_type)
        lengths = _known_lengths(wiring.nodes[number], values)
        if lengths is None:
            waiting.extend(wiring.reads[number])
        else:
            shapes[number] = lengths
    return Plan(given[0], tuple(given[1:]), shapes, frozenset(operators))


def _known_lengths(node: onnx.NodeProto, values: Values) -> tuple[int, ...] | None:
    """Return the lengths of a row whose shape a node reads; None if it does something else, or some are open."""
    known = values.of(node.input[0]) if node.op_type == "Shape" else None
    if known is None or not known.rows or None in known.shape:
        return None
    return tuple(length for length in known.shape if length is not None)


def up_to(skeleton: Skeleton, wanted: Sequence[str]) -> Part:
    """Return the part that makes some values of the inputs."""
    builder = _Builder(skeleton, skeleton.wiring.inputs)
    return builder.part([builder.output(name) for name in wanted])


def behind(skeleton: Skeleton, values: Values, planned: Plan) -> Part:
    """Return the part that makes the outputs of what crosses a cut."""
    builder = _Builder(skeleton, planned.crossing, values)
    for number, lengths in planned.shapes.items():
        builder.replace(number, _shape_nodes(skeleton.wiring.nodes[number], planned.value, lengths, number))
    return builder.part([builder.output(name) for name in skeleton.wiring.outputs])


def with_edits(
    skeleton: Skeleton, values: Values, edits: Mapping[str, tuple[str, str]], read: Sequence[str] = ()
) -> Part:
    """Return all of a file with edits, and further values behind its outputs.

    `edits` have, by the value that is edited, the inputs (keep, add) of its edit. What is read is as it is then.
    """
    builder = _Builder(skeleton, skeleton.wiring.inputs)
    for number, (value, (keep, add)) in enumerate(edits.items()):
        builder.edit(value, keep, add, values.of(value).kind, f"{CUT}edit.{number}.")
    return builder.part([builder.output(name) for name in (*skeleton.wiring.outputs, *read)])


def shapes_of(skeleton: Skeleton, values: Values, names: Sequence[str], given: Iterable[str]) -> Part:
    """Return the part that makes the shapes of values, where that begins at others that are given and the inputs.

    Values of a type that is not known follow in its outputs, for ONNX Runtime to tell.
    """
    builder = _Builder(skeleton, (*skeleton.wiring.inputs, *given), values)
    shapes = [builder.shape(name, f"{CUT}shape.{number}") for number, name in enumerate(names)]
    return builder.part([*shapes, *(name for name in names if name not in skeleton.kinds)])


class _Builder:
    """Puts together the nodes that some values are made by, of values that are given."""

    def __init__(self, skeleton: Skeleton, given: Iterable[str], values: Values | None = None) -> None:
        self._skeleton = skeleton
        self._wiring = skeleton.wiring
        self._given = dict.fromkeys(given)
        self._values = values
        self._replaced: dict[int, list[onnx.NodeProto]] = {}
        self._behind: dict[int, list[onnx.NodeProto]] = {}
        self._renamed: dict[int, dict[str, str]] = {}
        self._last: list[onnx.NodeProto] = []
        self._edits: dict[str, int] = {}
        self._wanted: list[str] = []

    def output(self, name: str) -> str:
        """Ask for a value; return what the part calls it."""
        self._wanted.append(name)
        if name not in self._given and name not in self._wiring.constants and self._wanted.count(name) == 1:
            return name
        # What goes in, or is a weight, cannot come out under its own name.
        called = f"{CUT}out.{len(self._wanted)}"
        self._last.append(helper.make_node("Identity", [name], [called], name=called))
        return called

    def shape(self, name: str, called: str) -> str:
        """Ask for the shape of a value; return what the part calls it."""
        self._wanted.append(name)
        self._last.append(helper.make_node("Shape", [name], [called], name=called))
        return called

    def replace(self, number: int, nodes: list[onnx.NodeProto]) -> None:
        """Put nodes in a node's place that read nothing but what is given."""
        self._replaced[number] = nodes

    def edit(self, value: str, keep: str, add: str, kind: int, prefix: str) -> None:
        """Put keep * value + add in a value's place, and add where keep is 0."""
        raw, names = f"{prefix}raw", [f"{prefix}{part}" for part in ("kept", "scaled", "moved")]
        number = self._wiring.maker[value]
        self._renamed.setdefault(number, {})[value] = raw
        self._behind.setdefault(number, []).extend(
            [
                helper.make_node("Cast", [keep], [names[0]], name=names[0], to=TensorProto.BOOL),
                helper.make_node("Mul", [keep, raw], [names[1]], name=names[1]),
                helper.make_node("Add", [names[1], add], [names[2]], name=names[2]),
                helper.make_node("Where", [names[0], names[2], add], [value], name=f"{prefix}edited"),
            ]
        )
        self._edits |= {keep: kind, add: kind}

    def part(self, outputs: Sequence[str]) -> Part:
        """Return the part."""
        used, read = self._used()
        skeleton, model = self._skeleton, onnx.ModelProto()
        model.ir_version = skeleton.model.ir_version
        model.opset_import.extend(skeleton.model.opset_import)
        model.graph.name = "part"
        for number in sorted(used):
            model.graph.node.extend(self._nodes(number))
        model.graph.node.extend(self._last)
        if not any(entry.domain in ("", "ai.onnx") for entry in model.opset_import):
            model.opset_import.append(helper.make_opsetid("", _OPSET))
        model.graph.initializer.extend(each for each in skeleton.model.graph.initializer if each.name in read)
        model.graph.sparse_initializer.extend(
            each for each in skeleton.model.graph.sparse_initializer if each.values.name in read
        )
        taken = [name for name in self._given if name in read]
        model.graph.input.extend(map(self._input, taken))
        model.graph.input.extend(helper.make_tensor_value_info(name, kind, None) for name, kind in self._edits.items())
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        weights = tuple(name for name in skeleton.weights.values if name in read)
        return Part(model.SerializeToString(), weights, (*taken, *self._edits), tuple(outputs), tuple(self._wanted))

    def _used(self) -> tuple[set[int], set[str]]:
        """Return the numbers of the nodes that are needed, and the values that are read."""
        wiring, used, read = self._wiring, set[int](), set[str]()
        waiting = list(self._wanted)
        while waiting:
            name = waiting.pop()
            if name in read:
                continue
            read.add(name)
            number = None if name in self._given else wiring.maker.get(name)
            if number is None or number in used:
                continue
            used.add(number)
            nodes = self._replaced.get(number)
            waiting.extend(wiring.reads[number] if nodes is None else [each for node in nodes for each in node.input])
        return used, read

    def _nodes(self, number: int) -> Iterable[onnx.NodeProto]:
        renamed = self._renamed.get(number)
        if number in self._replaced:
            yield from self._replaced[number]
        elif renamed is None:
            yield self._wiring.nodes[number]
        else:
            node = onnx.NodeProto()
            node.CopyFrom(self._wiring.nodes[number])
            node.output[:] = [renamed.get(name, name) for name in node.output]
            yield node
        yield from self._behind.get(number, ())

    def _input(self, name: str) -> onnx.ValueInfoProto:
        if self._values is None or name in self._wiring.inputs:
            return next(entry for entry in self._skeleton.model.graph.input if entry.name == name)
        known = self._values.of(name)
        return helper.make_tensor_value_info(name, known.kind, [self._skeleton.batch, *known.shape])


def _shape_nodes(node: onnx.NodeProto, value: str, lengths: tuple[int, ...], number: int) -> list[onnx.NodeProto]:
    """Return what gives a shape, (rows, *lengths) or a part of it, with as many rows as a value has."""
    bounds = {entry.name: entry.i for entry in node.attribute}
    found = [None, *lengths][slice(bounds.get("start"), bounds.get("end"))]
    prefix, made = f"{CUT}shape.{number}.", node.output[0]
    fixed = numpy_helper.from_array(np.array([length for length in found if length is not None], np.int64))
    if None not in found:
        return [helper.make_node("Constant", [], [made], name=f"{prefix}made", value=fixed)]
    names = [f"{prefix}{part}" for part in ("first", "all", "rows", "fixed")]
    first = numpy_helper.from_array(np.array([0], np.int64))
    return [
        helper.make_node("Constant", [], [names[0]], name=names[0], value=first),
        helper.make_node("Shape", [value], [names[1]], name=names[1]),
        helper.make_node("Gather", [names[1], names[0]], [names[2]], name=names[2], axis=0),
        helper.make_node("Constant", [], [names[3]], name=names[3], value=fixed),
        helper.make_node("Concat", [names[2], names[3]], [made], name=f"{prefix}made", axis=0),
    ]
