"""Kernel SHAP: Shapley values of groups of elements, exact where all coalitions can be evaluated.

Source: Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions", NeurIPS 2017; with the
complement of each coalition and the exact sum of Covert and Lee, AISTATS 2021.
"""

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.question import Attribution, Question, Scores
from pellucid_server.engine.asking.registry import Axiom, Background, Cost, Need, method, parameter, require
from pellucid_server.engine.asking.verbs import ATTRIBUTE
from pellucid_server.engine.methods.shared.anytime import AnytimeBudget, require_time
from pellucid_server.engine.methods.shared.arrays import as_scores
from pellucid_server.engine.methods.shared.coalitions import Sampled, coalition_count, design, least_coalition_count
from pellucid_server.engine.methods.shared.groups import LIMIT, Groups, coalition_values, group, varying_counts
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.requests import ParamValue

_SAMPLES = 2048
_SAMPLES_PER_PLAYER = 2
_LEAST_PER_PLAYER = 4
_LEAST_SAMPLES = 16

_FIRST_PARTS = 4
"""With a deadline, the first round is the least that makes an answer divided by this."""

_ADVICE = "ask for fewer groups"

_USUAL_ROWS = 1 << 20
"""Rows forward that the default number of samples stays within, if it can, over a large background."""

_MOST_ROWS = 10_000_000
"""Most rows forward of an answer: coalitions times baseline rows."""


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of kernel SHAP."""

    samples: int | None = parameter(
        None,
        "Coalitions to evaluate beside the empty and the full one, each with every baseline row; at least "
        f"{_LEAST_PER_PLAYER} for each group that differs from the baseline, unless all coalitions fit, which are "
        f"then all evaluated. Left out: {_SAMPLES_PER_PLAYER} for each such group and {_SAMPLES} more, or fewer where "
        f"they make more than {_USUAL_ROWS} rows with the baseline rows.",
        minimum=_LEAST_SAMPLES,
        maximum=16384,
    )
    evaluated: int | None = parameter(
        None,
        "Of the samples, evaluate only so many, an even number: what an answer did that its deadline cut short, so "
        "that its receipt makes it again. Left out: all.",
        minimum=2,
        maximum=16384,
    )
    segments: int = parameter(50, "About how many regions a picture is cut into.", minimum=2, maximum=LIMIT)
    regions: str = parameter(
        "superpixels",
        "A picture's regions: superpixels, which follow colours and edges, or a grid of near-square tiles.",
        choices=("superpixels", "grid"),
    )


def _cost(params: Params, question: Question) -> Cost:
    least, likely = varying_counts(question, segments=params.segments, regions=params.regions)
    rows = functools.partial(_rows, question)
    samples = _samples(params, likely, question)
    if least != likely:
        # Regions are not known yet: a design has all coalitions, or two pairs of them for each group at least.
        likely_here = coalition_count(likely, samples) if params.evaluated is None else params.evaluated + 2
        fewest = min(2**least, _LEAST_PER_PLAYER * least + 2, likely_here)
        return Cost(forward=rows(likely_here), least=Cost(forward=rows(fewest)))
    whole = _coalitions(params, question, least, samples)
    return Cost(forward=rows(whole), least=Cost(forward=rows(least_coalition_count(least, samples))))


@method(
    "kernel-shap",
    Params,
    verb=ATTRIBUTE,
    family="shapley",
    source="Lundberg and Lee, NeurIPS 2017, https://arxiv.org/abs/1705.07874",
    cost=_cost,
    rows_parameter="samples",
    answers_early=True,
    needs=(Need.FORWARD,),
    axioms=(Axiom.COMPLETE, Axiom.EXACT_ON_LINEAR),
    baselines=Background.MANY,
)
def kernel_shap(model: Handle, question: Question, params: Params) -> Attribution:
    """Share the score's change from the background out by what each group adds to coalitions of the others.

    Group scores are Shapley values in units of the target; they sum to the score minus its mean over the
    background. Groups are a table's columns, a picture's regions, a tensor's elements; each element has an equal
    share of its group's score. Groups equal to the background score 0 and are left out of the sampling. Where
    coalitions are sampled, standard errors say what the drawing of them contributes; and if the deadline is near,
    the answer is the estimate from those that there was time for.

    Raises
    ------
    InvalidRequestError
        There are too many groups, or too few samples for them, or too many samples for the baseline rows.
    TimedOutError
        Even the fewest coalitions that make an answer take longer than what is left.
    """
    groups = group(model, question, segments=params.segments, regions=params.regions)
    players = groups.varying(question.inputs, question.baselines)
    samples = _samples(params, len(players), question)
    coalitions = _coalitions(params, question, len(players), samples)
    least = coalitions if params.evaluated is not None else least_coalition_count(len(players), samples)
    what = f"An answer for {len(players)} varying groups"
    require_time(model, forward=_rows(question, least), what=what, advice=_ADVICE)
    plan = design(len(players), samples, question.seed, compute=model.compute)
    game = _Game(model, question, groups, players)
    resolved: dict[str, ParamValue] = {"samples": samples}
    warnings: tuple[str, ...] = ()
    partial = False
    if isinstance(plan, Sampled):
        wanted = (coalitions - 2) // 2
        plan, values, partial = game.sampled(plan, wanted)
        evaluated = 2 * plan.pairs
        if evaluated < samples // 2 * 2:
            resolved["evaluated"] = evaluated
        if partial:
            warnings = (
                f"The deadline left time for {evaluated} of the {2 * wanted} coalitions; the answer is the estimate "
                "from those, with its standard errors. Allow more time, or ask for fewer samples.",
            )
    else:
        values = game.values(plan.present)
    scores, errors = np.zeros(groups.count), np.zeros(groups.count)
    scores[players], errors[players] = plan.shapley_values(values, compute=model.compute)
    gap = float(scores.sum() - (values[-1] - values[0]))
    return Attribution(
        as_scores(groups.spread(scores, question.inputs), question.inputs),
        instance_value=float(values[-1]),
        baseline_value=float(values[0]),
        signed_gap=gap,
        absolute_gap=abs(gap),
        groups=groups.labels,
        group_scores=scores,
        group_standard_errors=errors,
        warnings=warnings,
        partial=partial,
        resolved=resolved,
    )


class _Game:
    """What coalitions of the varying groups are worth."""

    def __init__(self, model: Handle, question: Question, groups: Groups, players: npt.NDArray[np.intp]) -> None:
        self._model = model
        self._question = question
        self._groups = groups
        self._players = players

    def values(self, present: npt.NDArray[np.bool_], *, progress: tuple[float, float] = (0.0, 1.0)) -> Scores:
        """Return what coalitions, (coalitions, players), are worth, (coalitions,); the others are always there."""
        everywhere = np.ones((len(present), self._groups.count), np.bool_)
        everywhere[:, self._players] = present
        return coalition_values(self._model, self._question, self._groups, everywhere, progress=progress)

    def sampled(self, plan: Sampled, wanted: int) -> tuple[Sampled, Scores, bool]:
        """Evaluate the first `wanted` pairs of a design, or as many as there is time for.

        Returns
        -------
        The design of the pairs that were evaluated, their coalitions' values, and whether time was short.
        """
        count, present = plan.pairs, plan.present
        budget = AnytimeBudget(
            self._model, time_share=self._question.time_share, after_unit_seconds=plan.solving_seconds
        )
        seconds = self._model.likely_seconds({"forward": _rows(self._question, 2 * wanted + 2)})
        more, done = budget.first(least=plan.least_pairs, most=wanted, seconds=seconds), 0
        if more == count:
            return plan, self.values(present), False
        least = plan.least_pairs if more < wanted else 0
        if least:
            # A few show the pace, so that what cannot be ready is given up long before the deadline.
            more = -(-least // _FIRST_PARTS)
        sequence = plan.sequence(self._question.seed)
        found = np.empty(len(present))
        while more:
            pairs = np.sort(sequence[done : done + more])
            ends = (0, len(found) - 1) if done == 0 else ()
            chosen = np.sort(np.concatenate([ends, 1 + pairs, 1 + count + pairs]).astype(np.intp))
            found[chosen] = self.values(present[chosen], progress=(done / wanted, (done + more) / wanted))
            done += more
            budget.ran(more)
            if done < least:
                more = least - done
                what = f"An answer for {len(self._players)} varying groups needs {2 * more} more coalitions"
                budget.require(more, what=what, advice=_ADVICE)
            else:
                more = budget.more(wanted - done)
        if done == count:
            return plan, found, False
        pairs = np.sort(sequence[:done])
        evaluated = np.concatenate([[0], 1 + pairs, 1 + count + pairs, [len(found) - 1]])
        return plan.part(pairs), found[evaluated], done < wanted


def _rows(question: Question, coalitions: int) -> int:
    """Return the rows forward of so many coalitions, of which the full one needs no baseline."""
    return (coalitions - 1) * _baseline_count(question) + 1


def _baseline_count(question: Question) -> int:
    return len(next(iter(question.baselines.values())))


def _samples(params: Params, players: int, question: Question) -> int:
    """Return the samples asked for; or the default, fewer over a background that would make them too many rows."""
    if params.samples is not None:
        return params.samples
    fitting = _USUAL_ROWS // _baseline_count(question)
    return min(_SAMPLES_PER_PLAYER * players + _SAMPLES, max(fitting, _LEAST_PER_PLAYER * players, _LEAST_SAMPLES))


def _coalitions(params: Params, question: Question, players: int, samples: int) -> int:
    """Return how many coalitions are evaluated, the empty and the full one included.

    Raises
    ------
    InvalidRequestError
        There are too few samples for the groups, or so many that are evaluated as no design has, or too many rows.
    """
    least = _LEAST_PER_PLAYER * players
    right = f"must be at least {least} for {players} varying groups"
    require(samples >= min(least, 2**players - 2), "samples", samples, right)
    coalitions = coalition_count(players, samples)
    if params.evaluated is not None:
        _require_part(params.evaluated, players, samples)
        coalitions = params.evaluated + 2
    _require_rows(question, coalitions, "samples" if params.evaluated is None else "evaluated")
    return coalitions


def _require_part(evaluated: int, players: int, samples: int) -> None:
    """Check how many of a design's coalitions, but for the empty and the full one, the request wants evaluated."""
    least, most = least_coalition_count(players, samples) - 2, coalition_count(players, samples) - 2
    all_here = "cannot be set where all coalitions fit into the samples, which are then all evaluated"
    require(most + 2 != 2**players, "evaluated", evaluated, all_here)
    right = f"must be an even number in [{least}, {most}] for these samples and {players} varying groups"
    require(evaluated % 2 == 0 and least <= evaluated <= most, "evaluated", evaluated, right)


def _require_rows(question: Question, coalitions: int, name: str) -> None:
    """Refuse more rows than there is any use in evaluating: each coalition is one row for every baseline row."""
    baselines, rows = _baseline_count(question), _rows(question, coalitions)
    if rows > _MOST_ROWS:
        field = f'parameters["{name}"]'
        text = (
            f"{coalitions} coalitions, each with {baselines} baseline rows, are {rows} rows to evaluate, more than the "
            f"{_MOST_ROWS} that are taken; lower {field}, or compare with fewer baseline rows."
        )
        raise InvalidRequestError(text, field=field)
