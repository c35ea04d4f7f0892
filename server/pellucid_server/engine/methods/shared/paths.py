"""The straight path from a baseline to an input, and integrals of the gradient along it.

Quadrature is Gauss-Legendre, over segments of the path. A segment's attributions should sum to the score's
change along it; by how much they do not is its gap.
"""

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle, Held, UnfitLayerError
from pellucid_server.engine.asking.question import Arrays, Question, Scores
from pellucid_server.engine.asking.recipe import Ask, Fold
from pellucid_server.engine.evaluations.capture import Capture
from pellucid_server.engine.evaluations.folds import WeightedSum
from pellucid_server.engine.evaluations.gradient import Gradient
from pellucid_server.engine.evaluations.recipes import Path, Rows
from pellucid_server.engine.evaluations.score import Score
from pellucid_server.engine.evaluations.suffix import Suffix
from pellucid_server.engine.methods.shared.arrays import as_rows, differentiable_inputs, score_type
from pellucid_server.errors import InvalidRequestError

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
NOTHING: Mapping[str, Flags] = MappingProxyType({})

ABSOLUTE_ALLOWANCE = 5.0
"""How many times the signed gap's allowance the summed magnitudes of the gaps may reach."""

POINTS = 8
"""Points of a segment."""

FIRST_SEGMENTS = 4

_ROUNDING_SHARE = 4 * float(np.finfo(np.float32).eps)
"""Share of a score that its rounding can make a gap of."""

_SMALL_ROW_BYTES = 1 << 14
"""Rows up to this size have their end points evaluated with the gradient: two rows are cheaper than a second wait."""

_TOGETHER = 16
"""Segments that are integrated over at once: each has sums of the input's size."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of the path and what was found on it.

    Attributes
    ----------
    begin, end
        Where it begins and ends, as shares of the path.
    begin_value, end_value
        The target's score there.
    slopes
        The gradient's integral, (*shape) each: times the change it is the segment's attributions.
    gap
        The attributions' sum minus the score's change along the segment.
    """

    begin: float
    end: float
    begin_value: float
    end_value: float
    slopes: Arrays
    gap: float


class Line(Protocol):
    """A straight path, from 0 to 1, and what there is to ask for on it."""

    @property
    def change(self) -> Arrays:
        """What changes from its start to its end, (*shape) each."""
        ...

    @property
    def corners_beside_points(self) -> bool:
        """Whether rows are so small that corners are scored in the evaluation of the points."""
        ...

    def scores(self, places: Floats, *, held: Mapping[str, Flags] = NOTHING) -> Ask:
        """Ask for the scores at `places`, shares of the path; elements that are held stay as at the end."""
        ...

    def gradients(self, places: Floats, *, fold: Fold, held: Mapping[str, Flags] = NOTHING) -> Ask:
        """Ask for the gradients there, folded, and the scores."""
        ...


class InputLine:
    """The straight path from the baseline to the input; inputs without a gradient stay as they are."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._start = {name: question.baselines[name][0] for name in differentiable_inputs(question)}
        self.change = {name: question.inputs[name] - start for name, start in self._start.items()}
        self.corners_beside_points = _corners_beside_points(question.inputs)

    def scores(self, places: Floats, *, held: Mapping[str, Flags] = NOTHING) -> Ask:
        """Ask for the scores at `places`."""
        return Score(self._path(places, held), self._question.target)

    def gradients(self, places: Floats, *, fold: Fold, held: Mapping[str, Flags] = NOTHING) -> Ask:
        """Ask for the gradients there, folded, and the scores."""
        return Gradient(self._path(places, held), self._question.target, fold=fold)

    def _path(self, places: Floats, held: Mapping[str, Flags]) -> Path:
        inputs = self._question.inputs
        start = {
            name: np.where(held[name], inputs[name], each) if name in held else each
            for name, each in self._start.items()
        }
        return Path(start, inputs, places)


class LayerLine:
    """The straight path between the values of a layer at the baseline and at the input.

    What crosses beside the layer is the input's all along.
    """

    def __init__(self, prefix: Held, start: npt.NDArray[np.generic], question: Question) -> None:
        self.layer = prefix.layer
        self._held = prefix
        self._ends = {prefix.layer: start}, {prefix.layer: prefix.values[0]}
        self._target = question.target
        self.change = {prefix.layer: prefix.values[0] - start}
        # By the inputs, as the cost is, which knows no layer's size.
        self.corners_beside_points = _corners_beside_points(question.inputs)

    def scores(self, places: Floats, *, held: Mapping[str, Flags] = NOTHING) -> Ask:
        """Ask for the scores at `places`."""
        return Suffix(self._held, self._path(places, held), self._target)

    def gradients(self, places: Floats, *, fold: Fold, held: Mapping[str, Flags] = NOTHING) -> Ask:
        """Ask for the gradients there, folded, and the scores."""
        return Suffix(self._held, self._path(places, held), self._target, gradient=True, fold=fold)

    def _path(self, places: Floats, held: Mapping[str, Flags]) -> Path:
        start, end = self._ends
        kept = {name: np.where(held[name], end[name], each) if name in held else each for name, each in start.items()}
        return Path(kept, end, places)


@contextlib.contextmanager
def layer_line(model: Handle, question: Question, layer: str) -> Iterator[LayerLine]:
    """Run the part of the network before a layer, for the row and for the baseline; hold the row's as long as needed.

    Raises
    ------
    InvalidRequestError
        There is no such layer, or no cut at it.
    """
    try:
        prefix = model.hold(Rows(as_rows(question.inputs)), layer)
    except UnfitLayerError as error:
        field = 'parameters["at"]'
        raise InvalidRequestError(f"{field} is {layer!r}: {error.message}", field=field) from error
    try:
        start = model.ask(Capture(Rows(as_rows(question.baseline)), (layer,))).values[layer][0]
        yield LayerLine(prefix, start, question)
    finally:
        model.release(prefix)


def measure(
    model: Handle, line: Line, segments: Floats, corners: Floats, *, points: int
) -> tuple[Scores, dict[str, Floats]]:
    """Integrate the gradient over segments of the path, and score its corners.

    Parameters
    ----------
    segments
        Where each begins and ends, (segments, 2) shares of the path.
    corners
        Places to score, (corners,) shares of the path.
    points
        Points of each segment, one gradient row each.

    Returns
    -------
    The score at each corner, (corners,), and by name the gradient's integral over each segment, (segments, *shape):
    times the change it is the segment's attributions.
    """
    beside = tuple(corners.tolist()) if line.corners_beside_points else ()
    places, fold = _quadrature(tuple(segments.reshape(-1).tolist()), beside, points)
    if beside:
        answer = model.ask(line.gradients(places, fold=fold))
        values = answer.scores[len(places) - len(corners) :]
    else:
        values = model.ask(line.scores(corners)).scores
        answer = model.ask(line.gradients(places, fold=fold))
    return values, {
        name: sums.astype(np.float64, copy=False) for name, sums in answer.values.items() if name in line.change
    }


@functools.lru_cache(maxsize=256)
def _quadrature(segments: tuple[float, ...], corners: tuple[float, ...], points: int) -> tuple[Floats, WeightedSum]:
    """Return the places to evaluate and how their gradients add up; corners come last.

    `segments` are the begin and the end of each. Most requests ask for the same ones.
    """
    nodes, weights = gauss_legendre(points)
    begins, ends = np.reshape(segments, (-1, 2, 1)).transpose(1, 0, 2)
    widths = ends - begins
    places = (begins + widths * nodes).reshape(-1)
    # The corners' own gradients belong to no segment.
    shares = np.append((widths * weights).reshape(-1), np.zeros(len(corners)))
    owners = np.append(np.repeat(np.arange(len(widths)), points), np.full(len(corners), -1))
    return np.append(places, corners), WeightedSum(shares, owners, len(widths))


def scaled(slopes: npt.NDArray[np.generic], change: npt.NDArray[np.generic]) -> Floats:
    """Multiply slopes by the change: what does not change scores 0, whatever its slope is, infinite or NaN."""
    return np.where(change == 0, 0.0, np.multiply(slopes, change, dtype=np.float64))


def _total(slopes: Floats, change: npt.NDArray[np.generic]) -> float:
    """Return the sum of `scaled`, in float64."""
    found = float(np.vdot(slopes, change.astype(np.float64)))
    return found if math.isfinite(found) else float(scaled(slopes, change).sum())


@functools.lru_cache(maxsize=1024)
def gauss_legendre(points: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the rule's nodes in (0, 1), ascending, and its weights, which sum to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return (nodes + 1) / 2, weights / 2


def _corners_beside_points(inputs: Arrays) -> bool:
    """Whether rows are so small that corners are scored in the evaluation of the points, backward."""
    return sum(array.nbytes for array in inputs.values()) <= _SMALL_ROW_BYTES


def first_segments(model: Handle, line: Line) -> tuple[Segment, ...]:
    """Integrate over the path in `FIRST_SEGMENTS` equal segments."""
    return integrated(model, line, np.linspace(0.0, 1.0, FIRST_SEGMENTS + 1))


def integrated(model: Handle, line: Line, edges: npt.NDArray[np.float64]) -> tuple[Segment, ...]:
    """Integrate over the path in segments between `edges`, (segments + 1,) shares of it."""
    found: tuple[Segment, ...] = ()
    for start in range(0, len(edges) - 1, _TOGETHER):
        some = edges[start : start + _TOGETHER + 1]
        pairs = np.stack([some[:-1], some[1:]], axis=1)
        # The first corner is the last one's of the segments before.
        values, sums = measure(model, line, pairs, some[min(start, 1) :], points=POINTS)
        if found:
            values = np.append(found[-1].end_value, values)
        found += _segments(line, pairs, np.stack([values[:-1], values[1:]], axis=1), sums)
    return found


def path_rows(inputs: Arrays, *, points: int, corners: int) -> tuple[int, int]:
    """Return the rows forward and backward that `measure` takes for so many points and corners in all."""
    small = _corners_beside_points(inputs)
    return (0, points + corners) if small else (corners, points)


def refined(model: Handle, line: Line, segments: tuple[Segment, ...], halved: tuple[int, ...]) -> tuple[Segment, ...]:
    """Return the path with the segments at the indices `halved` replaced by their halves, all in order."""
    parents = [segments[index] for index in halved]
    middles = np.array([(parent.begin + parent.end) / 2 for parent in parents])
    pairs = np.array(
        [
            pair
            for parent, middle in zip(parents, middles, strict=True)
            for pair in ((parent.begin, middle), (middle, parent.end))
        ]
    )
    found, sums = measure(model, line, pairs, middles, points=POINTS)
    values = np.array(
        [
            pair
            for parent, value in zip(parents, found, strict=True)
            for pair in ((parent.begin_value, value), (value, parent.end_value))
        ]
    )
    kept = tuple(segment for index, segment in enumerate(segments) if index not in set(halved))
    return tuple(sorted(kept + _segments(line, pairs, values, sums), key=lambda segment: segment.begin))


def finite(segments: tuple[Segment, ...]) -> bool:
    """Whether every segment's gap is a finite number; more points cannot mend one that is not."""
    return bool(np.isfinite([segment.gap for segment in segments]).all())


def closed(segments: tuple[Segment, ...], tolerance: float) -> bool:
    """Whether the gaps' sum, and the sum of their magnitudes, are within the tolerance or within rounding."""
    gaps = np.array([segment.gap for segment in segments])
    values = np.array([segments[0].begin_value, *(segment.end_value for segment in segments)])
    allowed = max(tolerance * abs(values[-1] - values[0]), rounding(values))
    return bool(abs(gaps.sum()) <= allowed and np.abs(gaps).sum() <= ABSOLUTE_ALLOWANCE * allowed)


def _segments(line: Line, pairs: Floats, values: Floats, slopes: Mapping[str, Floats]) -> tuple[Segment, ...]:
    gaps = values[:, 0] - values[:, 1]
    for name, rows in slopes.items():
        gaps += [_total(each, line.change[name]) for each in rows]
    # A path may have a hundred pieces, of a picture each: in float32 they take half the memory.
    kept = {name: rows.astype(score_type(line.change[name].dtype)) for name, rows in slopes.items()}
    return tuple(
        Segment(begin, end, begin_value, end_value, {name: rows[index] for name, rows in kept.items()}, gap)
        for index, ((begin, end), (begin_value, end_value), gap) in enumerate(
            zip(pairs.tolist(), values.tolist(), gaps.tolist(), strict=True)
        )
    )


def summed(segments: tuple[Segment, ...], line: Line, name: str) -> Floats:
    """Return the attributions over all segments, (*shape)."""
    found = np.zeros(line.change[name].shape)
    for segment in segments:
        np.add(found, segment.slopes[name], out=found)
    return scaled(found, line.change[name])


def rounding(values: npt.NDArray[np.float64]) -> float:
    """Return the gap that the rounding of scores alone can make."""
    return _ROUNDING_SHARE * float(np.abs(values).max())
