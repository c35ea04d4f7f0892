"""How long the axes of a row may be that are open, and which of them must be as long as others.

An export knows most of it: a table of 16 positions bounds a sequence, and a mask is as long as what it masks. What it
does not know shows when the model is run, as an error about shapes.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch.export import ExportedProgram

from pellucid_server.engine.device.memory import out_of_memory
from pellucid_server.engine.models.graph.sizes import expression
from pellucid_server.errors import InvalidRequestError

_USUAL = 5
"""Length of open axes in rows that are made up: long enough for most models."""
_ASSUMED_LEAST = 2
"""The least that an export promises of every open axis, whether the model needs it or not."""
_OF_SHAPES = re.compile(r"\b(size|sizes|shape|shapes|dimension|dimensions|broadcast|broadcasting)\b", re.IGNORECASE)

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Size:
    """The length of an open axis: `factor` times the size called `symbol`, and `more`."""

    symbol: str
    factor: int = 1
    more: int = 0

    def length(self, size: int) -> int:
        """Return the length of the axis for a size."""
        return self.factor * size + self.more


@dataclass(frozen=True, slots=True)
class Range:
    """From and to which number a size goes; `highest` is None for any."""

    lowest: int = 1
    highest: int | None = None

    def nearest(self, size: int) -> int:
        """Return the number in the range that is nearest to a size."""
        return max(self.lowest, size if self.highest is None else min(size, self.highest))

    def __contains__(self, size: int) -> bool:
        return self.nearest(size) == size


@dataclass(frozen=True, slots=True)
class Lengths:
    """The open axes of a model's inputs.

    Attributes
    ----------
    axes
        By input, the size of each axis of a row; None where it is fixed, or where nothing is known of it.
    ranges
        The range of each size, by its symbol.
    """

    axes: Mapping[str, tuple[Size | None, ...]]
    ranges: Mapping[str, Range]

    def usual(self, name: str, shape: tuple[int | None, ...]) -> Shape:
        """Return a row's shape of the input `name` with open axes of a length that the model takes."""
        sizes = self.axes.get(name) or (None,) * len(shape)
        pairs = zip(shape, sizes, strict=True)
        return tuple(self._usual(size) if length is None else length for length, size in pairs)

    def _usual(self, size: Size | None) -> int:
        return _USUAL if size is None else size.length(self._range(size.symbol).nearest(_USUAL))

    def _range(self, symbol: str) -> Range:
        return self.ranges.get(symbol, Range())

    @property
    def unsure(self) -> tuple[str, ...]:
        """The sizes of which the export says that they are at least 2, as it says of all: 1 may do as well."""
        return tuple(symbol for symbol, known in self.ranges.items() if known.lowest == _ASSUMED_LEAST)

    def from_one(self, symbol: str) -> "Lengths":
        """Return the same with a size that may be 1."""
        return Lengths(self.axes, {**self.ranges, symbol: Range(1, self._range(symbol).highest)})

    def shortened(self, shapes: Mapping[str, Shape], symbol: str) -> dict[str, Shape] | None:
        """Return rows' shapes with a size at 1; None if an axis has no length then."""
        short = {
            name: tuple(
                size.length(1) if size is not None and size.symbol == symbol else length
                for length, size in zip(shape, self.axes.get(name) or (None,) * len(shape), strict=True)
            )
            for name, shape in shapes.items()
        }
        return short if all(length > 0 for shape in short.values() for length in shape) else None

    def require(self, shapes: Mapping[str, Shape], field: str) -> None:
        """Check the lengths of a request's rows, given by the shape of a row of each input, in the map at `field`.

        Raises
        ------
        InvalidRequestError
            An axis is too long or too short for the model, or not as long as another must be.
        """
        found: dict[str, tuple[int, str]] = {}
        for name, sizes in self.axes.items():
            for axis, size in enumerate(sizes, 1):
                if size is None:
                    continue
                length, place = shapes[name][axis - 1], f'{field}["{name}"]'
                number, rest = divmod(length - size.more, size.factor)
                if rest or number not in self._range(size.symbol):
                    wanted = _described(size, self._range(size.symbol))
                    raise InvalidRequestError(
                        f"{place} has the length {length} on axis {axis}; the model takes {wanted} there.", field=place
                    )
                first, where = found.setdefault(size.symbol, (number, f"{place} on axis {axis}"))
                if number != first:
                    raise InvalidRequestError(
                        f"{place} has the length {length} on axis {axis}; it must be {size.length(first)} there, to go "
                        f"with {where}.",
                        field=place,
                    )


FIXED = Lengths({}, {})
"""No axis is open, or nothing is known of those that are."""


def read_lengths(program: ExportedProgram, inputs: Mapping[str, Any], batch: Any) -> Lengths:
    """Return what an export knows of the open axes of its inputs, given as tensors with symbolic shapes."""
    axes = {name: tuple(_size(length, batch) for length in tensor.shape[1:]) for name, tensor in inputs.items()}
    symbols = {size.symbol for sizes in axes.values() for size in sizes if size is not None}
    ranges = {str(symbol): limits for symbol, limits in program.range_constraints.items() if str(symbol) in symbols}
    return Lengths(
        {name: sizes for name, sizes in axes.items() if any(sizes)},
        {symbol: Range(_number(limits.lower) or 1, _number(limits.upper)) for symbol, limits in ranges.items()},
    )


def _size(length: Any, batch: Any) -> Size | None:
    """Read the length of an axis: a size, or so many times one and more. Others have no simple range."""
    found = expression(length)
    symbols = tuple(getattr(found, "free_symbols", ()))
    if len(symbols) != 1 or symbols[0] == batch:
        return None
    (symbol,) = symbols
    factor, more = found.coeff(symbol, 1), found.coeff(symbol, 0)
    simple = factor.is_Integer and more.is_Integer and factor > 0 and found == factor * symbol + more
    return Size(str(symbol), int(factor), int(more)) if simple else None


def _number(limit: Any) -> int | None:
    """Read one end of a range; None where it has none."""
    return int(limit) if limit.is_Integer else None


def _described(size: Size, known: Range) -> str:
    lowest = size.length(known.lowest)
    to = "or more" if known.highest is None else f"to {size.length(known.highest)}"
    steps = "" if size.factor == 1 else f", in steps of {size.factor},"
    return f"{lowest} {to}{steps}" if known.highest is None or known.lowest != known.highest else str(lowest)


def names_a_length(error: Exception) -> bool:
    """Whether an error of torch or of ONNX Runtime is of shapes that do not go together, or of numbers made of them."""
    if isinstance(error, ArithmeticError):
        return True
    return _OF_SHAPES.search(str(error)) is not None and not out_of_memory(error)


class UnfitLengthsError(InvalidRequestError):
    """The model failed on rows of their lengths."""


class UnfitValuesError(InvalidRequestError):
    """The model failed on rows of their values."""

    harm = ""
    """At what, as a sentence."""


def values_error(inputs: Iterable[str], harm: str) -> UnfitValuesError:
    """Make the error for rows of `inputs` that come to values on which the model cannot be run."""
    text = f"The model cannot be run on these rows of {', '.join(inputs)}: {harm} Send other rows."
    error = UnfitValuesError(text, field="inputs")
    error.harm = harm
    return error


def length_error(shapes: Mapping[str, Shape]) -> UnfitLengthsError:
    """Make the error for rows, (rows, *features) each, that failed where it was not known how long they may be."""
    listed = ", ".join(f"{name} ({', '.join(map(str, shape[1:]))})" for name, shape in shapes.items())
    return UnfitLengthsError(
        f"The model cannot be run on rows of these shapes: {listed}; send rows of lengths that it takes.",
        field="inputs",
    )
