"""Finds out how those values of an ONNX file hold the batch of which inference leaves that open.

Parts of the file are run on two rows and on three: a length that follows the rows differs. Where rows may be of
different sizes, two shorter ones show which lengths follow those. Parts begin at the nearest values that are known, so
that little has to run: shapes do not depend on what is in those.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.models.graph.sizes import BatchLayout
from pellucid_server.engine.models.onnx.beside import DTYPES
from pellucid_server.engine.models.onnx.file import SessionError
from pellucid_server.engine.models.onnx.graphs import Shape
from pellucid_server.engine.models.onnx.parts import shapes_of
from pellucid_server.engine.models.onnx.session import REFUSALS, Options, Session, Weights
from pellucid_server.engine.models.onnx.skeleton import Skeleton
from pellucid_server.engine.models.onnx.values import FLOATS, Known, Values, counted, inferred_values
from pellucid_server.vocabulary.requests import Array

_KINDS = {
    "tensor(float)": TensorProto.FLOAT,
    "tensor(double)": TensorProto.DOUBLE,
    "tensor(float16)": TensorProto.FLOAT16,
    "tensor(int64)": TensorProto.INT64,
    "tensor(int32)": TensorProto.INT32,
    "tensor(int16)": TensorProto.INT16,
    "tensor(int8)": TensorProto.INT8,
    "tensor(uint8)": TensorProto.UINT8,
    "tensor(bool)": TensorProto.BOOL,
}

_BY_CONTENT = frozenset({"Compress", "NonMaxSuppression", "NonZero", "Unique"})
"""Operators of which the shape that they make follows what is in a value: trying it out says nothing."""

_MOST_MADE_UP = 1 << 24
"""Numbers in a row of a value that is made up; larger ones are computed."""


class _Seen(NamedTuple):
    """A value's type, and its shape with two rows, with three, and with two shorter ones; empty if not known."""

    kind: int
    two: list[int]
    three: list[int]
    shorter: list[int]


def find_values(skeleton: Skeleton, rows: Arrays, options: Options) -> Values:
    """Find out about the values of a file, if need be by running parts of it on three rows, (3, *features) by name."""
    known, unclear = inferred_values(skeleton)
    names = _without_those_by_content(skeleton, unclear)
    if names:
        values = Values(known, frozenset())
        # What is made up may be what an operator does not take; then all is computed.
        found = _tried(skeleton, values, names, _made_up(skeleton, known), rows, options)
        found = found or _tried(skeleton, values, names, (), rows, options)
        known |= {name: _layout(seen, skeleton.shapes.get(name)) for name, seen in found.items()}
    return Values(known, counted(skeleton, known))


def _without_those_by_content(skeleton: Skeleton, names: Sequence[str]) -> list[str]:
    wiring, unclear = skeleton.wiring, set(names)
    found: set[str] = set()
    for node, reads in zip(wiring.nodes, wiring.reads, strict=True):
        if node.op_type in _BY_CONTENT or any(name in found for name in reads):
            found.update(name for name in node.output if name in unclear)
    return [name for name in names if name not in found]


def _made_up(skeleton: Skeleton, known: Mapping[str, Known]) -> list[str]:
    """Return values that parts may begin at: floating-point ones that nodes make, of known shape."""
    made = skeleton.wiring.maker
    return [
        name
        for name, each in known.items()
        if name in made and each.rows and each.kind in FLOATS and None not in each.shape
        if np.prod([length or 0 for length in each.shape]) <= _MOST_MADE_UP
    ]


def _tried(
    skeleton: Skeleton, values: Values, names: Sequence[str], made_up: Iterable[str], rows: Arrays, options: Options
) -> dict[str, _Seen]:
    """Return what is seen of values, with `made_up` ones in place of what would be computed; nothing if it fails."""
    part = shapes_of(skeleton, values, names, made_up)
    weights = Weights({name: skeleton.weights.values[name] for name in part.weights}, skeleton.weights.beside)
    given = {name: rows[name] if name in rows else _drawn(values.of(name)) for name in part.inputs}
    asked = part.outputs[: len(names)]
    few, more = ({name: array[:count] for name, array in given.items()} for count in (2, 3))
    short = _shortened(skeleton, values, few)
    try:
        session = Session(part.content, options, weights=weights, largest_value_bytes=0, optimized=False)
        two, three = session.run(asked, few), session.run(asked, more)
        shorter = two if short is None else _run_if_possible(session, asked, short)
    except (SessionError, *REFUSALS):
        return {}
    types = {entry.name: entry.type for entry in session.outputs}
    kinds = [skeleton.kinds.get(name, _KINDS.get(types.get(name, ""), 0)) for name in names]
    shapes = ([shape.tolist() for shape in found] for found in (two, three, shorter))
    return {name: _Seen(*seen) for name, *seen in zip(names, kinds, *shapes, strict=True)}


def _shortened(skeleton: Skeleton, values: Values, rows: Mapping[str, Array]) -> dict[str, Array] | None:
    """Halve the open axes of the inputs; None if there are none."""
    found = dict(rows)
    for name in set(skeleton.wiring.inputs) & set(rows):
        shape = values.of(name).shape
        cut = [
            slice(None if known else (length + 1) // 2)
            for known, length in zip(shape, rows[name].shape[1:], strict=False)
        ]
        found[name] = rows[name][(slice(None), *cut)]
    return found if any(found[name].shape != rows[name].shape for name in rows) else None


def _run_if_possible(session: Session, asked: Sequence[str], rows: Arrays) -> list[Array]:
    """Run on rows that may be too short for the file; without an answer, nothing is known."""
    try:
        return session.run(asked, rows)
    except REFUSALS:
        return [np.zeros(0, np.int64)] * len(asked)


def _drawn(known: Known) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    shape = [length or 1 for length in known.shape]
    drawn = np.random.default_rng(0).standard_normal((3, *shape), np.float32)
    return drawn.astype(DTYPES[known.kind], copy=False)


def _layout(seen: _Seen, inferred: Shape | None) -> Known:
    """Tell how a value holds the batch by its shapes."""
    if len(seen.two) != len(seen.three):
        return Known(seen.kind, BatchLayout.FOLDED)
    axes = [axis for axis, (few, more) in enumerate(zip(seen.two, seen.three, strict=True)) if few != more]
    if axes != [0] or (seen.two[0], seen.three[0]) != (2, 3):
        return Known(seen.kind, BatchLayout.FOLDED if axes else BatchLayout.SHARED)
    shorter = seen.shorter if len(seen.shorter) == len(seen.two) else [None] * len(seen.two)
    certain = inferred if inferred is not None and len(inferred) == len(seen.two) else (None,) * len(seen.two)
    lengths = [
        known if isinstance(known, int) else length if length == other else None
        for known, length, other in zip(certain, seen.two, shorter, strict=True)
    ]
    return Known(seen.kind, BatchLayout.ROWS, tuple(lengths[1:]))
