"""Feature ablation: how much the score falls when a group of elements is replaced by the baseline.

Source: Covert, Lundberg and Lee, "Explaining by Removing: A Unified Framework for Model Explanation", JMLR 2021,
where it is the removal of single features.
"""

from dataclasses import dataclass

import numpy as np

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.question import Attribution, Question
from pellucid_server.engine.asking.registry import Axiom, Cost, Need, method, parameter
from pellucid_server.engine.asking.verbs import ATTRIBUTE
from pellucid_server.engine.methods.shared.arrays import as_scores
from pellucid_server.engine.methods.shared.groups import LIMIT, coalition_values, group, varying_counts


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of feature ablation."""

    segments: int = parameter(50, "About how many regions a picture is cut into.", minimum=2, maximum=LIMIT)
    regions: str = parameter(
        "superpixels",
        "A picture's regions: superpixels, which follow colours and edges, or a grid of near-square tiles.",
        choices=("superpixels", "grid"),
    )


def _cost(params: Params, question: Question) -> Cost:
    least, likely = varying_counts(question, segments=params.segments, regions=params.regions)
    return Cost(forward=likely + 2, least=Cost(forward=least + 2))


@method(
    "feature-ablation",
    Params,
    verb=ATTRIBUTE,
    family="perturbation",
    source="Covert, Lundberg and Lee, JMLR 2021, https://arxiv.org/abs/2011.14878",
    cost=_cost,
    needs=(Need.FORWARD,),
    axioms=(Axiom.EXACT_ON_LINEAR, Axiom.DUMMY, Axiom.SYMMETRIC),
)
def feature_ablation(model: Handle, question: Question, params: Params) -> Attribution:
    """Score each group of elements by how much the target falls when the group alone is at the baseline.

    Group scores are in units of the target and need not sum to its change. Groups are a table's columns, a
    picture's regions, a tensor's elements; each element has an equal share of its group's score. Groups equal
    to the baseline score 0. A row forward for each other group, and two more.

    Raises
    ------
    InvalidRequestError
        There are too many groups.
    """
    groups = group(model, question, segments=params.segments, regions=params.regions)
    varying = groups.varying(question.inputs, question.baselines)
    present = np.ones((len(varying) + 2, groups.count), np.bool_)
    present[0] = False
    present[np.arange(len(varying)) + 1, varying] = False
    values = coalition_values(model, question, groups, present)
    scores = np.zeros(groups.count)
    scores[varying] = values[-1] - values[1:-1]
    return Attribution(
        as_scores(groups.spread(scores, question.inputs), question.inputs),
        instance_value=float(values[-1]),
        baseline_value=float(values[0]),
        groups=groups.labels,
        group_scores=scores,
    )
