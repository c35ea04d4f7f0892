"""Which whole numbers a model takes: found from the tables that a graph looks them up in.

An index beyond a table is an error of the device, on a GPU one that ends the process; so the range is found when the
model is loaded. Each element of a row is followed through the operators that only move elements about, to the lookups
that it reaches: `x[:, 0]` may index a table of ten rows and `x[:, 1]` one of a thousand.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from pellucid_server.engine.models.graph.functional_graph import GraphValue
from pellucid_server.errors import InvalidRequestError

aten = torch.ops.aten

_BATCH = 2
_LENGTH = 5
"""Length of an axis that is open: long enough for the places of it to be told apart."""

_MOVING = frozenset(
    {
        aten.alias,
        aten.clone,
        aten.contiguous,
        aten.detach,
        aten.expand,
        aten.flatten,
        aten.movedim,
        aten.permute,
        aten.reshape,
        aten.select,
        aten.slice,
        aten.squeeze,
        aten.t,
        aten.transpose,
        aten.unflatten,
        aten.unsqueeze,
        aten.view,
    }
)
_CASTING = frozenset({aten._to_copy, aten.to})
_BEYOND = re.compile(
    r"index.* out of (range|bounds)|out of data bounds|Class values must be|"
    r"out of range in self|out of range: tried to access index"
)
_LOWEST, _HIGHEST = np.iinfo(np.int64).min, np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class IndexRange:
    """The lowest and the highest whole number that each element of a row may be, broadcastable to (*features)."""

    lowest: npt.NDArray[np.int64]
    highest: npt.NDArray[np.int64]

    @property
    def bounded(self) -> bool:
        """Whether there is any number that is not taken."""
        return bool((self.lowest > _LOWEST).any() or (self.highest < _HIGHEST).any())

    def within(self, lowest: npt.NDArray[np.int64], highest: npt.NDArray[np.int64]) -> "IndexRange":
        """Return the range narrowed to another, broadcastable to this one's shape or this one's to its."""
        return IndexRange(np.maximum(self.lowest, lowest), np.minimum(self.highest, highest))


UNBOUNDED = IndexRange(np.array(_LOWEST), np.array(_HIGHEST))
"""Any whole number."""


def find_index_ranges(graph: fx.Graph, inputs: Sequence[GraphValue]) -> Mapping[str, IndexRange]:
    """Return the range of each input of whole numbers by name, as far as the graph's lookups show it."""
    shapes = [(_BATCH, *(_LENGTH if length is None else length for length in value.shape)) for value in inputs]
    starts = np.cumsum([0, *(math.prod(shape) for shape in shapes)]).tolist()
    numbered = {
        value.name: torch.arange(start, start + math.prod(shape)).reshape(shape)
        for value, shape, start in zip(inputs, shapes, starts, strict=False)
    }
    lowest, highest = np.full(starts[-1], _LOWEST), np.full(starts[-1], _HIGHEST)
    for places, least, most in _lookups(graph, list(numbered.values())):
        lowest[places], highest[places] = np.maximum(lowest[places], least), np.minimum(highest[places], most)
    ranges = {
        value.name: _of_rows(lowest[numbered[value.name]], highest[numbered[value.name]], value.shape)
        for value in inputs
        if whole_numbers(value.dtype)
    }
    return {name: found for name, found in ranges.items() if found.bounded}


def whole_numbers(dtype: torch.dtype) -> bool:
    """Whether a type is of whole numbers."""
    return not (dtype.is_floating_point or dtype.is_complex or dtype is torch.bool)


def names_an_index(error: Exception) -> bool:
    """Whether an error of torch or of ONNX Runtime is of an index that is beyond its table."""
    return _BEYOND.search(str(error)) is not None


def index_error(inputs: Sequence[str]) -> InvalidRequestError:
    """Make the error for a lookup that failed, where it was not known which numbers the model takes."""
    return InvalidRequestError(
        f"A whole number in the inputs ({', '.join(inputs)}), or the length of an axis, is beyond a table of the "
        "model; send numbers that the model knows.",
        field="inputs",
    )


def _lookups(graph: fx.Graph, inputs: Sequence[torch.Tensor]) -> Iterator[tuple[npt.NDArray[np.int64], int, int]]:
    """Follow the elements of the inputs, given by number, through the graph.

    Yields
    ------
    The numbers of the elements that index a table, and the range of the indices that it has.
    """
    known: dict[fx.Node, Any] = dict(
        zip((node for node in graph.nodes if node.op == "placeholder"), inputs, strict=True)
    )
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        for index, least, most in _indices(node):
            if isinstance(known.get(index), torch.Tensor):
                yield known[index].numpy().reshape(-1), least, most
        value = _moved(node, known)
        if value is not None:
            known[node] = value


def _indices(node: fx.Node) -> Iterator[tuple[fx.Node, int, int]]:
    """Yield each value by which an operator looks something up, and the range that it must be in."""
    packet, args = getattr(node.target, "overloadpacket", None), node.args
    if packet is aten.embedding:
        yield from _bounded(args[1], _length(args[0], 0))
    elif packet in (aten.index_select, aten.gather):
        yield from _bounded(args[2], _length(args[0], args[1]))
    elif packet is aten.one_hot and len(args) > 1 and isinstance(args[1], int) and args[1] > 0:
        yield from _bounded(args[0], args[1])
    elif packet is aten.index and isinstance(args[1], list | tuple):
        for axis, index in enumerate(args[1]):
            yield from _bounded(index, _length(args[0], axis), from_end=True)


def _bounded(index: Any, length: int | None, *, from_end: bool = False) -> Iterator[tuple[fx.Node, int, int]]:
    if isinstance(index, fx.Node) and length is not None:
        yield index, -length if from_end else 0, length - 1


def _length(table: Any, axis: Any) -> int | None:
    """Return the length of a value along an axis, if it is the same for all inputs."""
    value = table.meta.get("val") if isinstance(table, fx.Node) else None
    if not isinstance(value, torch.Tensor) or not isinstance(axis, int) or not value.ndim:
        return None
    size = value.shape[axis]
    return size if isinstance(size, int) else None


def _moved(node: fx.Node, known: Mapping[fx.Node, Any]) -> Any:
    """Return the value of a node that moves known elements or reckons with known sizes, or None."""
    if not all(argument in known for argument in node.all_input_nodes) or not node.all_input_nodes:
        return None
    packet = getattr(node.target, "overloadpacket", None)
    if packet in _CASTING:
        kept = node.meta["val"].dtype
        return known[node.all_input_nodes[0]] if whole_numbers(kept) else None
    moves = packet in _MOVING and isinstance(known[node.all_input_nodes[0]], torch.Tensor)
    reckons = not any(isinstance(known[argument], torch.Tensor) for argument in node.all_input_nodes)
    if not (moves or reckons or packet is aten.sym_size):
        return None
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda argument: known[argument])
    try:
        value = node.target(*args, **kwargs)  # type: ignore[operator]
    except (RuntimeError, IndexError, ValueError, ArithmeticError):
        # An open length that the model needs longer: what is read there cannot be told.
        return None
    # A tensor made of sizes alone, such as the places of a sequence, holds no elements of the inputs.
    return None if isinstance(value, torch.Tensor) and not moves else value


def _of_rows(
    lowest: npt.NDArray[np.int64], highest: npt.NDArray[np.int64], shape: tuple[int | None, ...]
) -> IndexRange:
    """Make a range for rows of any length of bounds found for some rows, (rows, *features)."""
    least, most = lowest.max(axis=0), highest.min(axis=0)
    for axis, length in enumerate(shape):
        if length is None:
            first_least, first_most = least.take([0], axis), most.take([0], axis)
            if (least != first_least).any() or (most != first_most).any():
                return UNBOUNDED
            least, most = first_least, first_most
    return IndexRange(least, most)
