"""Saliency: the gradient of the score at the input.

Source: Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks: Visualising Image
Classification Models and Saliency Maps", ICLR workshop 2014.
"""

from dataclasses import dataclass

import numpy as np

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.question import Attribution, Question
from pellucid_server.engine.asking.registry import Axiom, Background, Cost, Need, method, parameter
from pellucid_server.engine.asking.verbs import ATTRIBUTE
from pellucid_server.engine.evaluations.gradient import Gradient
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.methods.shared.arrays import as_rows, as_scores, fixed_warnings


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of saliency."""

    absolute: bool = parameter(
        True, "Give the gradient's magnitude, as the paper does; if false, the gradient with its sign."
    )


@method(
    "saliency",
    Params,
    verb=ATTRIBUTE,
    family="gradient",
    source="Simonyan, Vedaldi and Zisserman, ICLR workshop 2014, https://arxiv.org/abs/1312.6034",
    cost=lambda params, question: Cost(backward=1),
    needs=(Need.GRADIENTS,),
    axioms=(Axiom.DUMMY, Axiom.SYMMETRIC),
    baselines=Background.NONE,
)
def saliency(model: Handle, question: Question, params: Params) -> Attribution:
    """Score each element by how fast the target changes with it.

    Scores are in units of the target per unit of the input, (*features), and at least 0 unless
    `absolute` is false. They do not sum to anything. One row forward and backward.
    """
    answer = model.ask(Gradient(Rows(as_rows(question.inputs)), question.target))
    scores = {name: np.abs(rows[0]) if params.absolute else rows[0] for name, rows in answer.values.items()}
    return Attribution(
        as_scores(scores, question.inputs), instance_value=float(answer.scores[0]), warnings=fixed_warnings(question)
    )
