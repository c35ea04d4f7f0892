"""Integrated gradients: the gradient averaged on the straight path from a baseline to the input.

Source: Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", ICML 2017.

Quadrature is Gauss-Legendre: with a number of steps once over the whole path, else over segments of
it. A segment's attributions should sum to the score's change along it; by how much they do not is its
gap. Networks with kinks make gaps that more points on the whole path do not reliably close, and gaps of
opposite sign that cancel, so the segments with the largest gaps are halved until the sum of the
gaps and the sum of their magnitudes are both small.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.arrays import (
    along_rows,
    as_scores,
    differentiable_inputs,
    fixed_warnings,
    score_type,
    total,
)
from pellucid_server.engine.handle import Handle
from pellucid_server.engine.question import Arrays, Attribution, Question, Scores, Target
from pellucid_server.engine.registry import Axiom, Need, method, parameter, require

DEFAULT_TOLERANCE = 0.01
"""Share of the score's change that the signed gap stays below, if the caller names neither steps nor tolerance."""

ABSOLUTE_ALLOWANCE = 5.0
"""How many times the signed gap's allowance the summed magnitudes of the gaps may reach."""

POINTS = 8
"""Points of a segment."""

FIRST_SEGMENTS = 4

_WORST_SHARE = 0.35
"""Segments are halved together if their gaps reach this share of the largest gap.

A share of the largest and not a number of segments: segments that are alike are halved together, so that
rounding, which differs between batches, does not choose among them.
"""

_ROUNDING_SHARE = 4 * float(np.finfo(np.float32).eps)
"""Share of a score that its rounding can make a gap of."""

_SMALL_ROW_BYTES = 1 << 14
"""Rows up to this size have their end points evaluated with the gradient: two rows are cheaper than a second wait."""

_RESERVE_SECONDS = 0.1
_RESERVE_SHARE = 0.1
"""Time that is kept for the answer's way back: a share of what was left at the start, and no less than the seconds."""

_LARGE_GAP = 0.05
"""Share of the score's change above which a gap deserves a warning, where no tolerance speaks of it."""


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of integrated gradients."""

    steps: int | None = parameter(
        None,
        "Points on the path; each costs one row forward and backward. Left out, points are added until "
        f"the tolerance ({DEFAULT_TOLERANCE:g} if the request has none) is met or the deadline is near. Not together "
        "with a tolerance.",
        minimum=1,
        maximum=1024,
    )
    max_rows: int = parameter(
        2048,
        "With a tolerance: most rows forward and backward to spend on meeting it.",
        minimum=FIRST_SEGMENTS * POINTS,
        maximum=65536,
    )


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


@method(
    "integrated-gradients",
    Params,
    family="gradient",
    source="Sundararajan, Taly and Yan, ICML 2017, https://arxiv.org/abs/1703.01365",
    needs=(Need.GRADIENTS,),
    axioms=(Axiom.COMPLETE, Axiom.EXACT_ON_LINEAR, Axiom.SYMMETRIC, Axiom.DUMMY),
    takes_tolerance=True,
)
def integrated_gradients(model: Handle, question: Question, params: Params) -> Attribution:
    """Share the score's change from the baseline out by the gradient along the straight path between them.

    Scores are in units of the target, (*features), and sum to its change, up to the quadrature's error,
    which is reported. Inputs without a gradient are held at their own value on the whole path, so that
    the baseline is theirs too. A tolerance that cannot be met before the deadline is given up in time to
    answer with what was found, and with a warning.

    Raises
    ------
    InvalidRequestError
        Both steps and a tolerance are given.
    """
    together = params.steps is not None and question.tolerance is not None
    require(not together, "steps", params.steps, "cannot stand beside a tolerance; leave one of the two out")
    line = Line(question)
    if params.steps is not None:
        return _with_steps(model, question, line, params.steps)
    return _with_tolerance(model, question, line, params.max_rows)


class Line:
    """The straight path from the baseline, at 0, to the input, at 1."""

    def __init__(self, question: Question) -> None:
        self._inputs = question.inputs
        self._start = {name: question.baselines[name][0] for name in differentiable_inputs(question)}
        self.change = {name: self._inputs[name] - start for name, start in self._start.items()}
        self.row_bytes = sum(array.nbytes for array in self._inputs.values())

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
    if line.row_bytes <= _SMALL_ROW_BYTES:
        values, gradients = model.gradient(line.rows(np.concatenate([places, corners])), target)
        sums = _weighted({name: rows[: len(places)] for name, rows in gradients.items()}, shares)
        return values[len(places) :], {name: rows * line.change[name] for name, rows in sums.items()}
    values = model.scores(line.rows(corners), target)
    sums = {name: np.zeros((len(segments), *change.shape)) for name, change in line.change.items()}
    for block in model.blocks(len(places)):
        _, gradients = model.gradient(line.rows(places[block]), target)
        touched = np.flatnonzero(shares[:, block].any(axis=1))
        for name, rows in _weighted(gradients, shares[touched, block]).items():
            sums[name][touched] += rows * line.change[name]
    return values, sums


@functools.lru_cache(maxsize=1024)
def gauss_legendre(points: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the rule's nodes in (0, 1), ascending, and its weights, which sum to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    return (nodes + 1) / 2, weights / 2


def _weighted(gradients: Arrays, shares: npt.NDArray[np.float64]) -> dict[str, npt.NDArray[np.float64]]:
    """Return the gradients' weighted sums, (sums, *features) each; `shares` is (sums, rows)."""
    return {
        name: np.matmul(shares, rows.reshape(len(rows), -1)).reshape(len(shares), *rows.shape[1:])
        for name, rows in gradients.items()
    }


def _with_steps(model: Handle, question: Question, line: Line, steps: int) -> Attribution:
    whole = np.array([[0.0, 1.0]])
    values, sums = measure(model, question.target, line, whole, whole[0], points=steps)
    change = float(values[1] - values[0])
    gap = total(sums) - change
    warnings = fixed_warnings(question)
    if abs(gap) > max(_LARGE_GAP * abs(change), _rounding(values)):
        warnings += (
            f"The attributions' sum misses the score's change, {change:.6g}, by {gap:.3g}; "
            "ask for more steps, or for a tolerance in place of steps.",
        )
    return Attribution(
        as_scores({name: rows[0] for name, rows in sums.items()}, question.inputs),
        instance_value=float(values[1]),
        baseline_value=float(values[0]),
        signed_gap=gap,
        absolute_gap=abs(gap),
        warnings=warnings,
    )


def _with_tolerance(model: Handle, question: Question, line: Line, max_rows: int) -> Attribution:
    tolerance = DEFAULT_TOLERANCE if question.tolerance is None else question.tolerance
    pace = Pace(model)
    segments = first_segments(model, question.target, line)
    rows = POINTS * len(segments)
    pace.ran(rows)
    while not closed(segments, tolerance):
        affordable = (max_rows - rows) // (2 * POINTS)
        halved = _worst(segments, pace.halvings(affordable))
        if not halved:
            break
        segments = refined(model, question.target, line, segments, halved)
        rows += 2 * POINTS * len(halved)
        pace.ran(2 * POINTS * len(halved))
    met = closed(segments, tolerance)
    gaps = np.array([segment.gap for segment in segments])
    first, last = segments[0].begin_value, segments[-1].end_value
    warnings = fixed_warnings(question)
    if not met:
        short = "the deadline" if affordable else "max_rows"
        warnings += (
            f"The tolerance was not met with {rows} gradient rows, all that {short} allowed: the segments' gaps sum to "
            f"{gaps.sum():.3g} and their magnitudes to {np.abs(gaps).sum():.3g}, where the score changes by "
            f"{last - first:.6g}. Raise {short} or the tolerance, or choose a baseline whose score is further from the "
            "input's.",
        )
    return Attribution(
        as_scores({name: _summed(segments, name) for name in line.change}, question.inputs),
        instance_value=last,
        baseline_value=first,
        signed_gap=float(gaps.sum()),
        absolute_gap=float(np.abs(gaps).sum()),
        tolerance=tolerance,
        tolerance_met=met,
        warnings=warnings,
    )


class Pace:
    """How fast gradient rows come, and for how many there is time before the deadline."""

    def __init__(self, model: Handle) -> None:
        self._model = model
        self._left = model.seconds_left()
        self._reserve = max(_RESERVE_SECONDS, _RESERVE_SHARE * self._left)
        self._seconds_per_row = 0.0

    def ran(self, rows: int) -> None:
        """Note that `rows` gradient rows have come since the last note, or since the start."""
        before, self._left = self._left, self._model.seconds_left()
        if math.isfinite(self._left):
            self._seconds_per_row = (before - self._left) / rows

    def halvings(self, most: int) -> int:
        """Return how many segments to halve in the next round, at most `most`; 0 if there is no time for one.

        A round is to take half of the time that is left, or less: other jobs may come and slow it down.
        """
        if math.isinf(self._left):
            return most
        spare = self._left - self._reserve
        if spare <= 0:
            return 0
        seconds = 2 * POINTS * self._seconds_per_row
        fitting = 2 * most if 2 * most * seconds <= spare else int(spare / seconds)
        return -(-fitting // 2)


def first_segments(model: Handle, target: Target, line: Line) -> tuple[Segment, ...]:
    """Integrate over the path in `FIRST_SEGMENTS` equal segments."""
    edges = np.linspace(0.0, 1.0, FIRST_SEGMENTS + 1)
    pairs = np.stack([edges[:-1], edges[1:]], axis=1)
    values, sums = measure(model, target, line, pairs, edges, points=POINTS)
    return _segments(line, pairs, np.stack([values[:-1], values[1:]], axis=1), sums)


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


def closed(segments: tuple[Segment, ...], tolerance: float) -> bool:
    """Whether the gaps' sum, and the sum of their magnitudes, are within the tolerance or within rounding."""
    gaps = np.array([segment.gap for segment in segments])
    values = np.array([segments[0].begin_value, *(segment.end_value for segment in segments)])
    allowed = max(tolerance * abs(values[-1] - values[0]), _rounding(values))
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


def _summed(segments: tuple[Segment, ...], name: str) -> npt.NDArray[np.float64]:
    found = np.zeros(segments[0].scores[name].shape)
    for segment in segments:
        np.add(found, segment.scores[name], out=found)
    return found


def _worst(segments: tuple[Segment, ...], most: int) -> tuple[int, ...]:
    """Return the indices of the segments to halve next, at most `most`, in order."""
    gaps = np.array([abs(segment.gap) for segment in segments])
    # Where not all can be halved, gaps that differ by rounding alone must not choose: the earlier segment is.
    order = np.argsort(-np.round(gaps / gaps.max(), 3), kind="stable")
    return tuple(sorted(int(index) for index in order[:most] if gaps[index] >= _WORST_SHARE * gaps.max()))


def _rounding(values: npt.NDArray[np.float64]) -> float:
    """Return the gap that the rounding of scores alone can make."""
    return _ROUNDING_SHARE * float(np.abs(values).max())
