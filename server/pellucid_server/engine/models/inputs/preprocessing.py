"""What callers send becomes rows as the model takes them: the part that all modalities share, and plain tensors."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.question import Feature
from pellucid_server.engine.models.files.manifest import InputManifest
from pellucid_server.engine.models.graph.index_ranges import UNBOUNDED, IndexRange
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.descriptions import InputInfo
from pellucid_server.vocabulary.requests import Array, Input, PicturesInput, TableInput, TensorInput, TextsInput
from pellucid_server.vocabulary.results import Box

RowShape = tuple[int | None, ...]
"""Shape of a row; None where any length will do."""

_WORDS: dict[type[Input], str] = {
    TensorInput: "a tensor",
    PicturesInput: "encoded pictures",
    TextsInput: "texts",
    TableInput: "a table",
}


class UnfitManifestError(Exception):
    """A manifest that does not fit its model; the message says what would be right."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Rows as the model takes them.

    `rows` is (rows, *features) and may share memory with what was sent. `boxes` has an entry a row:
    the part of the caller's picture that the row shows, or None where no picture was cut.
    """

    rows: Array
    boxes: tuple[Box | None, ...]


class Preprocessor(Protocol):
    """Prepares one input of a model."""

    info: InputInfo
    """What callers are told of the input."""
    feature: Feature
    """What methods are told of it."""
    columns: tuple[str, ...]
    """Names of a table's columns, in order; empty for other modalities."""

    def prepare(self, given: Input, field: str) -> Prepared:
        """Make rows of `given`; `field` is its path in the request (`inputs["image"]`).

        Raises
        ------
        InvalidRequestError
            `given` is not of a kind that the input takes, or its values are not.
        """
        ...


class TensorPreprocessor:
    """Numbers as they are: only the type is converted, and only where no digit that it can hold is lost.

    A floating-point input takes any floating-point numbers within its range, and whole numbers that
    it holds exactly; an input of whole numbers takes whole numbers within its range; an input of
    flags takes flags. NaN and infinity are refused, and whole numbers outside the ranges that the manifest states,
    or outside `taken`, those that the model itself takes.
    """

    def __init__(
        self,
        manifest: InputManifest,
        dtype: np.dtype[np.generic],
        shape: RowShape,
        *,
        taken: IndexRange = UNBOUNDED,
    ) -> None:
        self._dtype = dtype
        self._shape = shape
        self.info = InputInfo(manifest.name, "tensor", dtype.name, _wire_shape(shape))
        self.columns: tuple[str, ...] = ()
        self.feature = Feature("tensor", dtype.kind == "f", ranges=_ranges(manifest, shape))
        self._taken = _narrowed(taken, manifest) if dtype.kind in "iu" else UNBOUNDED

    def prepare(self, given: Input, field: str) -> Prepared:
        """Check shape, type and values; see `Preprocessor.prepare`."""
        if not isinstance(given, TensorInput):
            raise unexpected(given, field, "a tensor")
        array = checked_rows(given.array, self._dtype, self._shape, f"{field}.tensor")
        if self._taken.bounded:
            _require_taken(array, self._taken, f"{field}.tensor")
        return Prepared(array, (None,) * len(array))


def checked_rows(array: Array, dtype: np.dtype[np.generic], shape: RowShape, field: str) -> Array:
    """Return rows of the tensor at `field` in the model's type, a copy only where it is in another.

    Raises
    ------
    InvalidRequestError
        The shape is not (rows, *shape) with at least one row, or the type cannot hold the values.
    """
    if array.ndim != len(shape) + 1 or not len(array) or not _fits(array.shape[1:], shape):
        wanted = shape_text((None, *shape), first="rows")
        raise InvalidRequestError(
            f"{field} has the shape {shape_text(array.shape)}; it must be {wanted}, with at least one row.",
            field=f"{field}.shape",
        )
    rows = array if array.dtype == dtype else _converted(array, dtype, field)
    if dtype.kind == "f" and not np.isfinite(rows).all():
        raise _not_finite(array, rows, dtype, field)
    return rows


def unexpected(given: Input, field: str, right: str) -> InvalidRequestError:
    """Make the error for an input of a kind that is not taken; `right` says what is."""
    return InvalidRequestError(f"{field} is {_WORDS[type(given)]}; it must be {right}.", field=field)


def shape_text(shape: RowShape, *, first: str = "any") -> str:
    """Write a shape down, "any" where any length will do and `first` where axis 0 is open."""
    words = ["any" if length is None else str(length) for length in shape]
    if shape and shape[0] is None:
        words[0] = first
    return f"({', '.join(words)}{',' if len(words) == 1 else ''})"


def _wire_shape(shape: RowShape) -> tuple[int, ...]:
    return tuple(-1 if length is None else length for length in shape)


def _fits(lengths: tuple[int, ...], shape: RowShape) -> bool:
    return all(length == wanted or (wanted is None and length) for length, wanted in zip(lengths, shape, strict=True))


def _converted(array: Array, dtype: np.dtype[np.generic], field: str) -> Array:
    kinds = f"{array.dtype.kind}>{dtype.kind}"
    if kinds == "f>f":
        with np.errstate(over="ignore"):
            return array.astype(dtype)
    if array.dtype.kind in "iu" and dtype.kind in "fiu":
        least, most = _whole_range(dtype)
        if array.size == 0 or (int(array.min()) >= least and int(array.max()) <= most):
            return array.astype(dtype)
        raise InvalidRequestError(
            f"{field} has values from {array.min()} to {array.max()}; as the model takes {dtype.name}, whole "
            f"numbers must lie from {least} to {most}.",
            field=f"{field}.data",
        )
    raise InvalidRequestError(
        f"{field} is of type {array.dtype.name}; it must be {dtype.name}, or a type that turns into it without a loss.",
        field=f"{field}.data_type",
    )


def _whole_range(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Return the range in which a type holds every whole number exactly."""
    if dtype.kind == "f":
        most = 2 ** (int(np.finfo(dtype).nmant) + 1)
        return -most, most
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def _not_finite(sent: Array, rows: Array, dtype: np.dtype[np.generic], field: str) -> InvalidRequestError:
    where = tuple(int(index) for index in np.argwhere(~np.isfinite(rows))[0])
    value = sent[where]
    right = f"within the range of {dtype.name}" if np.isfinite(value) else "finite"
    return InvalidRequestError(
        f"{field} is {value} at index {list(where)}; every element must be {right}.",
        field=f"{field}.data",
    )


def _require_taken(array: Array, taken: IndexRange, field: str) -> None:
    numbers = array.astype(np.int64, copy=False)
    outside = (numbers < taken.lowest) | (numbers > taken.highest)
    if outside.any():
        where = tuple(int(index) for index in np.argwhere(outside)[0])
        least, most = (np.broadcast_to(bound, array.shape)[where] for bound in (taken.lowest, taken.highest))
        raise InvalidRequestError(
            f"{field} is {array[where]} at index {list(where)}; the model takes whole numbers from {least} to {most} "
            "there.",
            field=f"{field}.data",
        )


def _narrowed(taken: IndexRange, manifest: InputManifest) -> IndexRange:
    """Narrow the numbers that the model takes to the manifest's ranges, of all elements or of each on the last axis."""
    if not manifest.ranges:
        return taken
    pairs = np.array([(_whole(low, math.ceil), _whole(high, math.floor)) for low, high in manifest.ranges])
    lowest, highest = pairs.T if len(pairs) > 1 else pairs[0]
    return taken.within(lowest, highest)


def _whole(bound: float, rounded: Callable[[float], int]) -> np.int64:
    """Return a bound as a whole number; one beyond what 64 bits hold is no bound."""
    limits = np.iinfo(np.int64)
    if not limits.min < bound < limits.max:
        return np.int64(limits.min if bound < 0 else limits.max)
    return np.int64(rounded(bound))


def _ranges(manifest: InputManifest, shape: RowShape) -> npt.NDArray[np.float32] | None:
    if not manifest.ranges:
        return None
    if len(manifest.ranges) != 1 and manifest.ranges and (not shape or shape[-1] != len(manifest.ranges)):
        raise UnfitManifestError(
            f"input {manifest.name!r} has {len(manifest.ranges)} ranges; a row's shape is {shape_text(shape)}, so that "
            "there must be one, or one for each element of its last axis"
        )
    widths = np.array([high - low for low, high in manifest.ranges], np.float32)
    return widths[0] if len(widths) == 1 else widths
