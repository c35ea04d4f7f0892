"""Input times gradient: the first-order estimate of what each element adds over zero.

Source: Shrikumar, Greenside, Shcherbina and Kundaje, "Not Just a Black Box: Learning Important
Features Through Propagating Activation Differences", 2016.
"""

from dataclasses import dataclass

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.question import Attribution, Question
from pellucid_server.engine.asking.registry import Axiom, Background, Cost, Need, method
from pellucid_server.engine.asking.verbs import ATTRIBUTE
from pellucid_server.engine.evaluations.gradient import Gradient
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.methods.shared.arrays import as_rows, as_scores, fixed_warnings


@dataclass(frozen=True, slots=True)
class Params:
    """Input times gradient has no parameters."""


@method(
    "input-x-gradient",
    Params,
    verb=ATTRIBUTE,
    family="gradient",
    source="Shrikumar, Greenside, Shcherbina and Kundaje, 2016, https://arxiv.org/abs/1605.01713",
    cost=lambda params, question: Cost(backward=1),
    needs=(Need.GRADIENTS,),
    axioms=(Axiom.EXACT_ON_LINEAR, Axiom.DUMMY, Axiom.SYMMETRIC),
    baselines=Background.NONE,
    implies_zero=True,
)
def input_x_gradient(model: Handle, question: Question, params: Params) -> Attribution:
    """Score each element by its value times the target's gradient.

    Scores are in units of the target, (*features). The absence that they imply is zero after
    preprocessing: on a linear score they sum to its change from there. One row forward and backward.
    """
    answer = model.ask(Gradient(Rows(as_rows(question.inputs)), question.target))
    scores = {name: question.inputs[name] * rows[0] for name, rows in answer.values.items()}
    return Attribution(
        as_scores(scores, question.inputs), instance_value=float(answer.scores[0]), warnings=fixed_warnings(question)
    )
