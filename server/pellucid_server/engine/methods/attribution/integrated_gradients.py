"""Integrated gradients: the gradient averaged on the straight path from a baseline to the input.

Source: Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", ICML 2017.

Quadrature is Gauss-Legendre: with a number of steps once over the whole path, else over segments of
it. A segment's attributions should sum to the score's change along it; by how much they do not is its
gap. Networks with kinks make gaps that more points on the whole path do not reliably close, and gaps of
opposite sign that cancel, so the segments with the largest gaps are halved until the sum of the
gaps and the sum of their magnitudes are both small.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.question import Arrays, Attribution, Question
from pellucid_server.engine.asking.registry import Axiom, Cost, Need, method, parameter, require
from pellucid_server.engine.asking.verbs import ATTRIBUTE
from pellucid_server.engine.methods.shared.anytime import AnytimeBudget
from pellucid_server.engine.methods.shared.arrays import as_scores, fixed_warnings, total
from pellucid_server.engine.methods.shared.flatness import flat_text, path_warnings, stuck_text
from pellucid_server.engine.methods.shared.paths import (
    ABSOLUTE_ALLOWANCE,
    FIRST_SEGMENTS,
    POINTS,
    InputLine,
    LayerLine,
    Line,
    Segment,
    closed,
    finite,
    first_segments,
    integrated,
    layer_line,
    measure,
    path_rows,
    refined,
    rounding,
    scaled,
    summed,
)
from pellucid_server.errors import InvalidRequestError

DEFAULT_TOLERANCE = 0.01
"""Share of the score's change that the signed gap stays below, if the caller names neither steps nor tolerance."""

_WORST_SHARE = 0.35
"""Segments are halved together if their gaps reach this share of the largest gap.

A share of the largest and not a number of segments: segments that are alike are halved together, so that
rounding, which differs between batches, does not choose among them.
"""

_REMEDIES = {
    "the deadline": "Allow more time, raise the tolerance",
    "max_rows": "Raise max_rows or the tolerance",
    "the edges": "Leave the edges out, raise the tolerance",
}
"""What helps against what stood in the way of a tolerance."""

_ROUNDS = 3
"""Rounds of halving after which it is asked whether the gradient misses what the score depends on.

By then the segments with the largest gaps are a 32nd of the path long: a kink shows its slope there.
"""

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
    edges: npt.NDArray[np.generic] | None = parameter(  # noqa: RUF009 - a field, which nobody shares
        None,
        "Where the path is cut into segments, as shares of it: numbers that ascend from 0 to 1. Given, exactly these "
        "segments are integrated over: what an answer did whose deadline was near, so that its receipt makes it again. "
        "Not together with steps.",
    )
    at: str | None = parameter(
        None,
        "A layer's name, as GetModel shows it: the score's change is then shared out among the elements of the layer's "
        "value, along the straight path from its value at the baseline. Left out: among the inputs'.",
    )


def _cost(params: Params, question: Question) -> Cost:
    if params.steps is not None:
        forward, backward = path_rows(question.inputs, points=params.steps, corners=2)
    else:
        segments = FIRST_SEGMENTS if params.edges is None else len(_checked_edges(params.edges, params.max_rows)) - 1
        forward, backward = path_rows(question.inputs, points=POINTS * segments, corners=segments + 1)
    if params.at is not None:
        # Beside them the part before the layer: for the row, and for the baseline.
        before = {"activations": 1, f"prefix@{params.at}": 1}
        return Cost(others={f"suffix@{params.at}": forward, f"suffix gradient@{params.at}": backward, **before})
    return Cost(forward, backward)


@method(
    "integrated-gradients",
    Params,
    verb=ATTRIBUTE,
    family="gradient",
    source="Sundararajan, Taly and Yan, ICML 2017, https://arxiv.org/abs/1703.01365",
    cost=_cost,
    rows_parameter="steps",
    needs=(Need.GRADIENTS,),
    axioms=(Axiom.COMPLETE, Axiom.EXACT_ON_LINEAR, Axiom.SYMMETRIC, Axiom.DUMMY),
    takes_tolerance=True,
)
def integrated_gradients(model: Handle, question: Question, params: Params) -> Attribution:
    """Share the score's change from the baseline out by the gradient along the straight path between them.

    Scores are in units of the target, (*features), or of a layer's value (*shape), and sum to the target's change,
    up to the quadrature's error, which is reported. Inputs without a gradient are held at their own value on the
    whole path, so that the baseline is theirs too. A tolerance that cannot be met before the deadline is given up in
    time to answer with what was found, and with a warning.

    Raises
    ------
    InvalidRequestError
        Both steps and a tolerance or edges are given, the edges do not cut the path, or there is no such layer.
    OverloadedError
        The rows of the request hold more bytes of a layer than one may.
    """
    together = params.steps is not None and question.tolerance is not None
    require(not together, "steps", params.steps, "cannot stand beside a tolerance; leave one of the two out")
    if params.at is None:
        return _on_line(model, question, InputLine(question), params)
    with layer_line(model, question, params.at) as line:
        return _on_line(model, question, line, params)


def _on_line(model: Handle, question: Question, line: Line, params: Params) -> Attribution:
    """Integrate along a path, as the parameters say."""
    if params.steps is not None:
        require(params.edges is None, "steps", params.steps, "cannot stand beside edges; leave one of the two out")
        return _with_steps(model, question, line, params.steps)
    if params.edges is not None:
        edges = _checked_edges(params.edges, params.max_rows)
        segments = integrated(model, line, edges)
        short = "" if _met(question, segments) else "the edges"
        return _in_segments(question, line, segments, rows=POINTS * len(segments), short=short)
    return _with_tolerance(model, question, line, params.max_rows)


def _with_steps(model: Handle, question: Question, line: Line, steps: int) -> Attribution:
    whole = np.array([[0.0, 1.0]])
    values, slopes = measure(model, line, whole, whole[0], points=steps)
    change = float(values[1] - values[0])
    scores = {name: scaled(rows[0], line.change[name]) for name, rows in slopes.items()}
    gap = total(scores) - change
    warnings = _warnings(question, line)
    if abs(gap) > max(_LARGE_GAP * abs(change), rounding(values)):
        flat = flat_text(question, line, slopes)
        reason = f"; the gradient of {flat} was 0 at every point, so that more may not help" if flat else ""
        warnings += (
            f"The attributions' sum misses the score's change, {change:.6g}, by {gap:.3g}; "
            f"ask for more steps, or for a tolerance in place of steps{reason}.",
        )
    return Attribution(
        as_scores(scores, _scored(question, line)),
        layer=_layer(line),
        instance_value=float(values[1]),
        baseline_value=float(values[0]),
        signed_gap=gap,
        absolute_gap=abs(gap),
        warnings=warnings,
    )


def _with_tolerance(model: Handle, question: Question, line: Line, max_rows: int) -> Attribution:
    budget = AnytimeBudget(model, time_share=question.time_share)
    segments = first_segments(model, line)
    rows = POINTS * len(segments)
    budget.ran(len(segments) // 2)
    short, hurried, stuck, rounds = "", False, "", 0
    while finite(segments) and not _met(question, segments):
        if rounds in (0, _ROUNDS):
            stuck = stuck_text(model, question, line, segments, every=rounds == _ROUNDS)
        if stuck:
            short = "the gradient"
            break
        rounds += 1
        wanted = _worst(segments, (max_rows - rows) // (2 * POINTS))
        halved = _worst(segments, budget.more(len(wanted)))
        hurried = hurried or len(halved) < len(wanted)
        if not halved:
            short = "the deadline" if wanted else "max_rows"
            break
        segments = refined(model, line, segments, halved)
        rows += 2 * POINTS * len(halved)
        budget.ran(len(halved))
    return _in_segments(question, line, segments, rows=rows, short=short, hurried=hurried, stuck=stuck)


def _in_segments(
    question: Question,
    line: Line,
    segments: tuple[Segment, ...],
    *,
    rows: int,
    short: str = "",
    hurried: bool = False,
    stuck: str = "",
) -> Attribution:
    """Make the answer of its segments.

    Parameters
    ----------
    rows
        Gradient rows that were spent.
    short
        What stood in the way of the tolerance; empty if it is met.
    hurried
        Whether with more time it would have been other segments.
    stuck
        What has no gradient on the path although the score depends on it.
    """
    gaps = np.array([segment.gap for segment in segments])
    first, last = segments[0].begin_value, segments[-1].end_value
    warnings = _warnings(question, line)
    if stuck:
        warnings += (
            f"The gradient of {stuck} was 0 at all points of the path, though the score depends on it: it scores 0, "
            f"and the attributions' sum misses the score's change, {last - first:.6g}, by {gaps.sum():.3g}. More "
            "points do not help; use feature-ablation or kernel-shap.",
        )
    elif short:
        warnings += (
            f"The tolerance was not met with {rows} gradient rows, all that {short} allowed: the segments' gaps sum to "
            f"{gaps.sum():.3g} and their magnitudes to {np.abs(gaps).sum():.3g}, where the score changes by "
            f"{last - first:.6g}. {_REMEDIES[short]}, or choose a baseline whose score is further from the "
            "input's.",
        )
    return Attribution(
        as_scores({name: summed(segments, line, name) for name in line.change}, _scored(question, line)),
        layer=_layer(line),
        instance_value=last,
        baseline_value=first,
        signed_gap=float(gaps.sum()),
        absolute_gap=float(np.abs(gaps).sum()),
        tolerance=_tolerance(question),
        absolute_tolerance=ABSOLUTE_ALLOWANCE * _tolerance(question),
        tolerance_met=not short,
        warnings=warnings,
        partial=short == "the deadline",
        resolved={"edges": np.array([0.0, *(segment.end for segment in segments)])} if hurried else {},
    )


def _layer(line: Line) -> str:
    return line.layer if isinstance(line, LayerLine) else ""


def _scored(question: Question, line: Line) -> Arrays:
    """Return arrays of the shapes and types of what is scored: the inputs, or the layer's value."""
    return line.change if isinstance(line, LayerLine) else question.inputs


def _warnings(question: Question, line: Line) -> tuple[str, ...]:
    return () if isinstance(line, LayerLine) else fixed_warnings(question) + path_warnings(question)


def _tolerance(question: Question) -> float:
    return DEFAULT_TOLERANCE if question.tolerance is None else question.tolerance


def _met(question: Question, segments: tuple[Segment, ...]) -> bool:
    return closed(segments, _tolerance(question))


def _checked_edges(edges: npt.NDArray[np.generic], max_rows: int) -> npt.NDArray[np.float64]:
    """Return the edges as numbers, (segments + 1,)."""
    numeric = edges.ndim == 1 and edges.dtype.kind in "fiu"
    found = edges.astype(np.float64) if numeric else np.zeros(0)
    # NaN compares as neither.
    cuts = len(found) >= 2 and found[0] == 0 and found[-1] == 1 and bool((np.diff(found) > 0).all())
    require(cuts, "edges", edges.tolist(), "must be numbers in one axis that ascend from 0 to 1")
    segments, most = len(found) - 1, max_rows // POINTS
    if segments > most:
        text = f'parameters["edges"] makes {segments} segments; max_rows, {max_rows}, suffices for {most}.'
        raise InvalidRequestError(text, field='parameters["edges"]')
    return found


def _worst(segments: tuple[Segment, ...], most: int) -> tuple[int, ...]:
    """Return the indices of the segments to halve next, at most `most`, in order."""
    gaps = np.array([abs(segment.gap) for segment in segments])
    # Where not all can be halved, gaps that differ by rounding alone must not choose: the earlier segment is.
    order = np.argsort(-np.round(gaps / gaps.max(), 3), kind="stable")
    return tuple(sorted(int(index) for index in order[:most] if gaps[index] >= _WORST_SHARE * gaps.max()))
