"""Kernel SHAP: Shapley values of groups of elements, exact where all coalitions can be evaluated.

Source: Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions", NeurIPS 2017; with the
complement of each coalition and the exact sum of Covert and Lee, AISTATS 2021.
"""

from dataclasses import dataclass

import numpy as np

from pellucid_server.engine.arrays import as_scores
from pellucid_server.engine.coalitions import design
from pellucid_server.engine.groups import LIMIT, coalition_values, group
from pellucid_server.engine.handle import Handle
from pellucid_server.engine.question import Attribution, Question
from pellucid_server.engine.registry import Axiom, Background, Need, method, parameter, require

_SAMPLES = 2048
_SAMPLES_PER_PLAYER = 2
_LEAST_PER_PLAYER = 4


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of kernel SHAP."""

    samples: int | None = parameter(
        None,
        "Coalitions to evaluate beside the empty and the full one, each with every baseline row; at least "
        f"{_LEAST_PER_PLAYER} for each group that differs from the baseline, unless all coalitions fit, which are "
        f"then all evaluated. Left out: {_SAMPLES_PER_PLAYER} for each such group and {_SAMPLES} more.",
        minimum=16,
        maximum=16384,
    )
    segments: int = parameter(50, "About how many regions a picture is cut into.", minimum=2, maximum=LIMIT)
    regions: str = parameter(
        "superpixels",
        "A picture's regions: superpixels, which follow colours and edges, or a grid of near-square tiles.",
        choices=("superpixels", "grid"),
    )


@method(
    "kernel-shap",
    Params,
    family="shapley",
    source="Lundberg and Lee, NeurIPS 2017, https://arxiv.org/abs/1705.07874",
    needs=(Need.FORWARD,),
    axioms=(Axiom.COMPLETE, Axiom.EXACT_ON_LINEAR),
    baselines=Background.MANY,
)
def kernel_shap(model: Handle, question: Question, params: Params) -> Attribution:
    """Share the score's change from the background out by what each group adds to coalitions of the others.

    Group scores are Shapley values in units of the target; they sum to the score minus its mean over the
    background. Groups are a table's columns, a picture's regions, a tensor's elements; each element has an equal
    share of its group's score. Groups equal to the background score 0 and are left out of the sampling. Where
    coalitions are sampled, standard errors say what the drawing of them contributes.

    Raises
    ------
    InvalidRequestError
        There are too many groups, or too few samples for them.
    """
    groups = group(model, question, segments=params.segments, regions=params.regions)
    players = groups.varying(question.inputs, question.baselines)
    count = len(players)
    samples = _SAMPLES_PER_PLAYER * count + _SAMPLES if params.samples is None else params.samples
    least = _LEAST_PER_PLAYER * count
    require(
        samples >= min(least, 2**count - 2), "samples", samples, f"must be at least {least} for {count} varying groups"
    )
    plan = design(count, samples, question.seed, compute=model.compute)
    present = plan.present
    if count < groups.count:
        present = np.ones((len(plan.present), groups.count), np.bool_)
        present[:, players] = plan.present
    values = coalition_values(model, question, groups, present)
    scores, errors = np.zeros(groups.count), np.zeros(groups.count)
    scores[players], errors[players] = plan.shapley_values(values)
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
        resolved={"samples": samples},
    )
