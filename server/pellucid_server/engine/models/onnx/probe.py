"""Finds out how those values of an ONNX file hold the batch of which inference leaves that open.

Parts of the file are run on two rows and on three: a length that follows the rows differs. They begin at the nearest
values that are known, so that little has to run: shapes do not depend on what is in those.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from onnx import TensorProto

from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.models.graph.sizes import BatchLayout
from pellucid_server.engine.models.onnx.file import SessionError
from pellucid_server.engine.models.onnx.graphs import Shape
from pellucid_server.engine.models.onnx.parts import shapes_of
from pellucid_server.engine.models.onnx.session import REFUSALS, Options, Session, Weights
from pellucid_server.engine.models.onnx.skeleton import DTYPES, Skeleton
from pellucid_server.engine.models.onnx.values import FLOATS, Known, Values, counted, inferred_values

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
    """A value's type, and its shape with two rows and with three."""

    kind: int
    two: list[int]
    three: list[int]


def find_values(skeleton: Skeleton, rows: Arrays, options: Options, *, open_lengths: bool) -> Values:
    """Find out about the values of a file, if need be by running parts of it.

    Parameters
    ----------
    rows
        Three rows, (3, *features) by name.
    open_lengths
        Whether rows may be of different sizes: then lengths that are only seen count as open.
    """
    known, unclear = inferred_values(skeleton)
    names = _without_those_by_content(skeleton, unclear)
    if names:
        values = Values(known, frozenset())
        # What is made up may be what an operator does not take; then all is computed.
        found = _tried(skeleton, values, names, _made_up(skeleton, known), rows, options)
        found = found or _tried(skeleton, values, names, (), rows, options)
        known |= {
            name: _layout(seen, skeleton.shapes.get(name), open_lengths=open_lengths) for name, seen in found.items()
        }
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
    try:
        session = Session(part.content, options, weights=weights, largest_value_bytes=0, optimized=False)
        two, three = (session.run(asked, {name: array[:count] for name, array in given.items()}) for count in (2, 3))
    except (SessionError, *REFUSALS):
        return {}
    types = {entry.name: entry.type for entry in session.outputs}
    return {
        name: _Seen(skeleton.kinds.get(name, _KINDS.get(types.get(name, ""), 0)), few.tolist(), more.tolist())
        for name, few, more in zip(names, two, three, strict=True)
    }


def _drawn(known: Known) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    shape = [length or 1 for length in known.shape]
    drawn = np.random.default_rng(0).standard_normal((3, *shape), np.float32)
    return drawn.astype(DTYPES[known.kind], copy=False)


def _layout(seen: _Seen, inferred: Shape | None, *, open_lengths: bool) -> Known:
    """Tell how a value holds the batch by its shapes."""
    if len(seen.two) != len(seen.three):
        return Known(seen.kind, BatchLayout.FOLDED)
    axes = [axis for axis, (few, more) in enumerate(zip(seen.two, seen.three, strict=True)) if few != more]
    if axes != [0] or (seen.two[0], seen.three[0]) != (2, 3):
        return Known(seen.kind, BatchLayout.FOLDED if axes else BatchLayout.SHARED)
    certain = inferred if inferred is not None and len(inferred) == len(seen.two) else (None,) * len(seen.two)
    lengths = [
        known if isinstance(known, int) else None if open_lengths else length
        for known, length in zip(certain, seen.two, strict=True)
    ]
    return Known(seen.kind, BatchLayout.ROWS, tuple(lengths[1:]))
