"""The straight path from a baseline to an input, and integrals of the gradient along it.

Quadrature is Gauss-Legendre, over segments of the path. A segment's attributions should sum to the score's
change along it; by how much they do not is its gap.
"""

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.question import Arrays, Question, Scores, Target
from pellucid_server.engine.methods.shared.arrays import along_rows, differentiable_inputs, score_type

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
    scores
        Its attributions, (*features) each.
    gap
        Their sum minus the score's change along the segment.
    """

    begin: float
    end: float
    begin_value: float
    end_value: float
    scores: Arrays
    gap: float


class Line:
    """The straight path from the baseline, at 0, to the input, at 1."""

    def __init__(self, question: Question) -> None:
        self._inputs = question.inputs
        self._start = {name: question.baselines[name][0] for name in differentiable_inputs(question)}
        self.change = {name: self._inputs[name] - start for name, start in self._start.items()}
        self.corners_beside_points = _corners_beside_points(question.inputs)

    def rows(self, places: npt.NDArray[np.float64]) -> Arrays:
        """Return the points at `places`, (places,) shares of the path, as rows, (places, *features) each."""
        ends = np.flatnonzero(places == 1.0)
        rows: dict[str, npt.NDArray[np.generic]] = {}
        for name, value in self._inputs.items():
            if name not in self.change:
                rows[name] = np.broadcast_to(value, (len(places), *value.shape))
                continue
            change = self.change[name]
            points = along_rows(places.astype(change.dtype), change.ndim) * change
            points += self._start[name]
            # baseline + (input - baseline) is not the input to the last bit.
            points[ends] = value
            rows[name] = points
        return rows


def measure(
    model: Handle,
    target: Target,
    line: Line,
    segments: npt.NDArray[np.float64],
    corners: npt.NDArray[np.float64],
    *,
    points: int,
) -> tuple[Scores, dict[str, npt.NDArray[np.float64]]]:
    """Integrate over segments of the path, and score its corners.

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
    The score at each corner, (corners,), and by input the attributions of each segment, (segments, *features).
    """
    nodes, weights = gauss_legendre(points)
    widths = segments[:, 1:] - segments[:, :1]
    places = (segments[:, :1] + widths * nodes).reshape(-1)
    # Row by row, the share of each point in each segment's integral: 0 but for its own segment's.
    shares = (np.eye(len(segments))[:, :, np.newaxis] * (widths * weights)).reshape(len(segments), -1)
    if line.corners_beside_points:
        values, gradients = model.gradient(line.rows(np.concatenate([places, corners])), target)
        sums = _weighted({name: rows[: len(places)] for name, rows in gradients.items()}, shares)
        return values[len(places) :], {name: _scaled(rows, line.change[name]) for name, rows in sums.items()}
    values = model.scores(line.rows(corners), target)
    sums = {name: np.zeros((len(segments), *change.shape)) for name, change in line.change.items()}
    for block in model.blocks(len(places)):
        _, gradients = model.gradient(line.rows(places[block]), target)
        touched = np.flatnonzero(shares[:, block].any(axis=1))
        for name, rows in _weighted(gradients, shares[touched, block]).items():
            sums[name][touched] += _scaled(rows, line.change[name])
    return values, sums


def _scaled(gradients: npt.NDArray[np.float64], change: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """Multiply gradients by the change: what does not change scores 0, whatever its gradient is, infinite or NaN."""
    return np.where(change == 0, 0.0, np.multiply(gradients, change))


@functools.lru_cache(maxsize=1024)
def gauss_legendre(points: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the rule's nodes in (0, 1), ascending, and its weights, which sum to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return (nodes + 1) / 2, weights / 2


def _corners_beside_points(inputs: Arrays) -> bool:
    """Whether rows are so small that corners are scored in the evaluation of the points, backward."""
    return sum(array.nbytes for array in inputs.values()) <= _SMALL_ROW_BYTES


def _weighted(gradients: Arrays, shares: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
    """Return the gradients' weighted sums, (sums, *features) each; `shares` is (sums, rows)."""
    return {
        name: np.matmul(shares, rows.reshape(len(rows), -1)).reshape(len(shares), *rows.shape[1:])
        for name, rows in gradients.items()
    }


def first_segments(model: Handle, target: Target, line: Line) -> tuple[Segment, ...]:
    """Integrate over the path in `FIRST_SEGMENTS` equal segments."""
    return integrated(model, target, line, np.linspace(0.0, 1.0, FIRST_SEGMENTS + 1))


def integrated(model: Handle, target: Target, line: Line, edges: npt.NDArray[np.float64]) -> tuple[Segment, ...]:
    """Integrate over the path in segments between `edges`, (segments + 1,) shares of it."""
    found: tuple[Segment, ...] = ()
    for start in range(0, len(edges) - 1, _TOGETHER):
        some = edges[start : start + _TOGETHER + 1]
        pairs = np.stack([some[:-1], some[1:]], axis=1)
        # The first corner is the last one's of the segments before.
        values, sums = measure(model, target, line, pairs, some[min(start, 1) :], points=POINTS)
        if found:
            values = np.append(found[-1].end_value, values)
        found += _segments(line, pairs, np.stack([values[:-1], values[1:]], axis=1), sums)
    return found


def path_rows(inputs: Arrays, *, points: int, corners: int) -> tuple[int, int]:
    """Return the rows forward and backward that `measure` takes for so many points and corners in all."""
    small = _corners_beside_points(inputs)
    return (0, points + corners) if small else (corners, points)


def refined(
    model: Handle, target: Target, line: Line, segments: tuple[Segment, ...], halved: tuple[int, ...]
) -> tuple[Segment, ...]:
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
    found, sums = measure(model, target, line, pairs, middles, points=POINTS)
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


def _segments(
    line: Line, pairs: npt.NDArray[np.float64], values: npt.NDArray[np.float64], sums: Arrays
) -> tuple[Segment, ...]:
    gaps = np.zeros(len(pairs)) - (values[:, 1] - values[:, 0])
    for rows in sums.values():
        gaps += rows.reshape(len(rows), -1).sum(axis=1, dtype=np.float64)
    # A path may have a hundred pieces, of a picture each: in float32 they take half the memory.
    kept = {name: rows.astype(score_type(line.change[name].dtype)) for name, rows in sums.items()}
    return tuple(
        Segment(begin, end, begin_value, end_value, {name: rows[index] for name, rows in kept.items()}, gap)
        for index, ((begin, end), (begin_value, end_value), gap) in enumerate(
            zip(pairs.tolist(), values.tolist(), gaps.tolist(), strict=True)
        )
    )


def summed(segments: tuple[Segment, ...], name: str) -> npt.NDArray[np.float64]:
    """Return the attributions of an input over all segments, (*features)."""
    found = np.zeros(segments[0].scores[name].shape)
    for segment in segments:
        np.add(found, segment.scores[name], out=found)
    return found


def rounding(values: npt.NDArray[np.float64]) -> float:
    """Return the gap that the rounding of scores alone can make."""
    return _ROUNDING_SHARE * float(np.abs(values).max())
