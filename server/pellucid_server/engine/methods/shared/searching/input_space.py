"""The rows that a model takes as points of one space with bounds: numbers that may vary, one behind the other."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.counterfactuals import Cells
from pellucid_server.engine.asking.probes import ProbeQuestion
from pellucid_server.engine.asking.question import Arrays
from pellucid_server.errors import InvalidRequestError, UnsupportedError

Floats = npt.NDArray[np.floating]

_DEVIATIONS = 3.0
"""Standard deviations about its mean that a standardized column without a range is held to."""

_LARGE = 8192
"""Elements of a row above which points are in float32: pictures are, and tables are not."""


@dataclass(frozen=True, slots=True)
class Part:
    """One input in the space: its elements are `begin` to `end` of a point, (*shape) in a row."""

    name: str
    begin: int
    end: int
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


@dataclass(frozen=True, slots=True)
class InputSpace:
    """Points of (elements,), and the rows that they stand for.

    Attributes
    ----------
    parts
        The inputs that vary, in the model's order.
    held
        Those that do not, (*features) each.
    low, high
        Bounds of each element, (elements,); infinite for none.
    centre
        What balls are around, (elements,), within the bounds.
    one_hot
        Elements that stand for the categories of a column, of which the largest counts as 1 and the others as 0.
    ordinal
        Elements that count as the nearest whole number, (ordinal elements,).
    """

    parts: tuple[Part, ...]
    held: Arrays
    low: Floats
    high: Floats
    centre: Floats
    one_hot: tuple[npt.NDArray[np.int64], ...] = ()
    ordinal: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def size(self) -> int:
        """How many elements a point has."""
        return len(self.low)

    @property
    def coded(self) -> npt.NDArray[np.int64]:
        """The elements that are categories."""
        return np.concatenate([*self.one_hot, self.ordinal]).astype(np.int64)

    def rows(self, points: Floats) -> Arrays:
        """Return the rows, (rows, *features) each, of points, (rows, elements): categories are whole ones."""
        points = self._hardened(points)
        found = {name: np.repeat(np.asarray(row)[None], len(points), axis=0) for name, row in self.held.items()}
        for part in self.parts:
            found[part.name] = points[:, part.begin : part.end].reshape(len(points), *part.shape).astype(part.dtype)
        return found

    def points(self, rows: Arrays) -> Floats:
        """Return the points, (rows, elements), of rows, (rows, *features) each."""
        flat = [rows[part.name].reshape(len(rows[part.name]), -1) for part in self.parts]
        return np.concatenate(flat, axis=1).astype(self.low.dtype)

    def _hardened(self, points: Floats) -> Floats:
        if not len(self.one_hot) and not len(self.ordinal):
            return points
        points = points.copy()
        for group in self.one_hot:
            chosen = points[:, group].argmax(axis=1)
            points[:, group] = np.arange(len(group)) == chosen[:, None]
        ordinal = self.ordinal
        points[:, ordinal] = np.rint(np.clip(points[:, ordinal], self.low[ordinal], self.high[ordinal]))
        return points


def input_space(
    question: ProbeQuestion, lowest: float | None, highest: float | None, centre: npt.NDArray[np.generic] | None
) -> InputSpace:
    """Return the space of a model's inputs.

    Pictures lie between black and white; a table's columns within the range that the model states, else within that
    of its background if that may be shown, else within three standard deviations; tensors within the range that the
    model states, else from `lowest` to `highest`. Inputs of whole numbers, and masks, are held, as by `held_row`.

    Raises
    ------
    InvalidRequestError
        A bound or the centre does not fit, or the shape of an input is open and there is no probe.
    UnsupportedError
        Nothing says within what a column lies.
    """
    shapes = row_shapes(question)
    parts: list[Part] = []
    held: dict[str, npt.NDArray[np.generic]] = {}
    lows: list[Floats] = []
    highs: list[Floats] = []
    one_hot: list[npt.NDArray[np.int64]] = []
    ordinal: list[int] = []
    begin = 0
    for name, feature in question.features.items():
        dtype = np.dtype(question.inputs[name].data_type)
        if feature.mask or not feature.differentiable:
            held[name] = held_row(question, name, shapes[name], dtype)
            continue
        low, high = _bounds(question, name, shapes[name], lowest, highest)
        part = Part(name, begin, begin + low.size, shapes[name], dtype)
        for group in _coded(question, name):
            if len(group) > 1:
                one_hot.append(begin + group)
            else:
                ordinal.append(begin + int(group[0]))
        parts.append(part)
        lows.append(low)
        highs.append(high)
        begin = part.end
    kind = np.float32 if begin > _LARGE else np.float64
    low, high = np.concatenate(lows).astype(kind), np.concatenate(highs).astype(kind)
    middle: Floats = np.clip(_centre(question, parts, low, high, centre), low, high).astype(kind)
    return InputSpace(tuple(parts), held, low, high, middle, tuple(one_hot), np.array(ordinal, np.int64))


def row_shapes(question: ProbeQuestion) -> dict[str, tuple[int, ...]]:
    """Return the shape of a row of each input: of open ones, that of the probe's first row."""
    shapes = {name: tuple(info.shape) for name, info in question.inputs.items()}
    if all(length >= 0 for shape in shapes.values() for length in shape):
        return shapes
    if question.probe is None:
        name = next(name for name, shape in shapes.items() if -1 in shape)
        text = f"probe is not set, and rows of input {name!r} may have any length; give a row of the length wanted."
        raise InvalidRequestError(text, field="probe")
    return {name: each.shape[1:] for name, each in question.probe.rows([0]).items()}


def held_row(
    question: ProbeQuestion, name: str, shape: tuple[int, ...], dtype: np.dtype[np.generic]
) -> npt.NDArray[np.generic]:
    """Return what an input is held at, (*shape): 1 for a mask, else the commonest values of a background, else 0.

    Callers see it, so that it is of a background only where that may be shown.
    """
    if question.features[name].mask:
        return np.ones(shape, dtype)
    rows = _shown_background(question, name, shape)
    if rows is None:
        return np.zeros(shape, dtype)
    columns = [np.unique(column, return_counts=True) for column in rows.reshape(len(rows), -1).T]
    return np.array([values[counts.argmax()] for values, counts in columns], dtype).reshape(shape)


def _shown_background(question: ProbeQuestion, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.generic] | None:
    """Return the background rows of an input, (rows, *shape), where there are some of that shape that may be shown."""
    rows = question.background.get(name) if question.disclosable else None
    return None if rows is None or rows.shape[1:] != shape else rows


def _bounds(
    question: ProbeQuestion, name: str, shape: tuple[int, ...], lowest: float | None, highest: float | None
) -> tuple[Floats, Floats]:
    """Return the bounds of an input's elements, (elements,) each."""
    image = question.inputs[name].image
    if image is not None:
        mean, deviation = np.array(image.mean), np.array(image.standard_deviation)
        found = ((np.full(3, level)[: len(mean)] - mean) / deviation for level in (0.0, 255.0))
        low, high = (np.broadcast_to(each[:, None, None], shape).reshape(-1) for each in found)
        return low, high
    if name in question.cells:
        return _table_bounds(question, name, question.cells[name])
    size = int(np.prod(shape))
    if name in question.boxes:
        low, high = (np.broadcast_to(each, shape).reshape(-1).astype(np.float64) for each in question.boxes[name])
        return low, high
    return _given(lowest, size, -np.inf), _given(highest, size, np.inf)


def _given(bound: float | None, size: int, none: float) -> Floats:
    return np.full(size, none if bound is None else bound)


def _table_bounds(question: ProbeQuestion, name: str, cells: Cells) -> tuple[Floats, Floats]:
    feature = question.features[name]
    columns = list(_column_bounds(question, name, cells))
    low, high = (cells.encode(np.array([bounds]))[0].astype(np.float64) for bounds in zip(*columns, strict=True))
    for group in _coded(question, name):
        low[group], high[group] = (0.0, 1.0) if len(group) > 1 else (0.0, float(_categories(feature, cells, group) - 1))
    return low, high


def _categories(feature: object, cells: Cells, group: npt.NDArray[np.int64]) -> int:
    groups = feature.groups.reshape(-1)  # type: ignore[attr-defined]
    return len(cells.columns[int(groups[group[0]])].categories)


def _column_bounds(question: ProbeQuestion, name: str, cells: Cells) -> Iterator[tuple[float, float]]:
    """Yield the bounds of each column in its own unit; 0 and 0 for categories."""
    uncentred = question.features[name].uncentred
    zero = cells.encode(np.zeros((1, len(cells.columns))))[0].astype(np.float64)
    for at, column in enumerate(cells.columns):
        if column.categories:
            yield 0.0, 0.0
            continue
        low, high = column.minimum, column.maximum
        if question.disclosable and len(cells.background):
            seen = cells.background[:, at]
            low, high = (float(seen.min()) if np.isinf(low) else low), (float(seen.max()) if np.isinf(high) else high)
        if (np.isinf(low) or np.isinf(high)) and column.name not in uncentred:
            slope = float(cells.slopes[at])
            mean = -float(zero[cells.elements[at]]) / slope
            low = mean - _DEVIATIONS / slope if np.isinf(low) else low
            high = mean + _DEVIATIONS / slope if np.isinf(high) else high
        if np.isinf(low) or np.isinf(high):
            text = (
                f"Nothing says within what column {column.name!r} of input {name!r} lies: state its min and max in "
                "model.toml, or its mean and standard deviation, or a background that may be shown (disclosable)."
            )
            raise UnsupportedError(text, subject=f"inputs/{name}")
        yield low, high


def _coded(question: ProbeQuestion, name: str) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the elements of each column of categories."""
    feature = question.features[name]
    if feature.coded is None or feature.groups is None:
        return
    groups, coded = feature.groups.reshape(-1), feature.coded.reshape(-1)
    for column in np.unique(groups[coded]):
        yield np.flatnonzero(groups == column)


def _centre(
    question: ProbeQuestion, parts: list[Part], low: Floats, high: Floats, given: npt.NDArray[np.generic] | None
) -> Floats:
    if given is not None:
        return _given_centre(parts, given)
    found = []
    for part in parts:
        rows = _shown_background(question, part.name, part.shape)
        if rows is not None and question.features[part.name].modality != "image":
            found.append(rows.reshape(len(rows), -1).mean(axis=0, dtype=np.float64))
            continue
        bounds = low[part.begin : part.end], high[part.begin : part.end]
        middle = (bounds[0] + bounds[1]) / 2 if np.isfinite(bounds).all() else np.zeros(bounds[0].size)
        found.append(np.where(_centred(question, part), 0.0, middle))
    return np.concatenate(found)


def _centred(question: ProbeQuestion, part: Part) -> npt.NDArray[np.bool_]:
    """Return the elements whose zero is a mean: of pictures, and of columns that are standardized, (elements,)."""
    feature = question.features[part.name]
    if feature.groups is None or part.name not in question.cells:
        return np.full(part.end - part.begin, question.inputs[part.name].image is not None)
    names = [column.name for column in question.cells[part.name].columns]
    known = np.array([name not in feature.uncentred for name in names])
    coded = feature.coded.reshape(-1) if feature.coded is not None else False
    return np.asarray(known[feature.groups.reshape(-1)] & ~np.asarray(coded))


def _given_centre(parts: list[Part], given: npt.NDArray[np.generic]) -> Floats:
    path = 'parameters["centre"]'
    if len(parts) != 1:
        names = ", ".join(part.name for part in parts)
        raise InvalidRequestError(
            f"{path} is set, and the model has several inputs ({names}); leave it out.", field=path
        )
    part = parts[0]
    if given.shape != part.shape or given.dtype.kind not in "fiu" or not np.isfinite(given).all():
        text = (
            f"{path} is of the shape {given.shape}; it must be finite numbers of {part.shape}, as a row of the model."
        )
        raise InvalidRequestError(text, field=path)
    return given.astype(np.float64).reshape(-1)
