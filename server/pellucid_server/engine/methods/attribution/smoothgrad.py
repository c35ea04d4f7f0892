"""SmoothGrad: the gradient averaged over noisy copies of the input.

Source: Smilkov, Thorat, Kim, Viégas and Wattenberg, "SmoothGrad: removing noise by adding noise", 2017.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.naming import coded_columns, columns_text
from pellucid_server.engine.asking.question import Arrays, Attribution, Question
from pellucid_server.engine.asking.registry import Axiom, Background, Cost, Need, method, parameter
from pellucid_server.engine.asking.verbs import ATTRIBUTE
from pellucid_server.engine.evaluations.folds import Moments
from pellucid_server.engine.evaluations.gradient import Gradient
from pellucid_server.engine.evaluations.recipes import Noisy
from pellucid_server.engine.methods.shared.anytime import AnytimeBudget
from pellucid_server.engine.methods.shared.arrays import as_scores, differentiable_inputs, fixed_warnings

_LEAST_SAMPLES = 2
"""Fewer samples have no scatter, and so no standard error."""


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of SmoothGrad."""

    samples: int = parameter(
        50, "Noisy copies of the input; each costs one row forward and backward.", minimum=_LEAST_SAMPLES, maximum=4096
    )
    noise: float = parameter(
        0.15,
        "Standard deviation of the Gaussian noise, as a share of an element's range: the one that the model "
        "states, else the largest minus the smallest value of the input.",
        minimum=0.0,
        maximum=10.0,
    )
    absolute: bool = parameter(False, "Average the gradient's magnitude in place of the gradient with its sign.")


@method(
    "smoothgrad",
    Params,
    verb=ATTRIBUTE,
    family="gradient",
    source="Smilkov, Thorat, Kim, Viégas and Wattenberg, 2017, https://arxiv.org/abs/1706.03825",
    cost=lambda params, question: Cost(backward=params.samples, least=Cost(backward=_LEAST_SAMPLES)),
    rows_parameter="samples",
    answers_early=True,
    needs=(Need.GRADIENTS,),
    axioms=(Axiom.DUMMY,),
    baselines=Background.NONE,
)
def smoothgrad(model: Handle, question: Question, params: Params) -> Attribution:
    """Score each element by the target's gradient, averaged over noise around the input.

    Scores are in units of the target per unit of the input, (*features). The same seed gives the same
    noise, however rows are packed; the largest standard error of an element is reported. Codes of categories
    and masks get no noise, as what lies between two codes is no category. `samples` rows forward and backward.
    If the deadline is near, the answer is the average over the samples that there was time for, which are the
    first ones, at least 2.
    """
    noisy = _NoisyGradients(model, question, params)
    budget = AnytimeBudget(model, time_share=question.time_share)
    seconds = model.likely_seconds({"gradient": params.samples})
    count = budget.first(least=_LEAST_SAMPLES, most=params.samples, seconds=seconds)
    while count:
        noisy.draw(count, progress=(noisy.drawn / params.samples, (noisy.drawn + count) / params.samples))
        budget.ran(count)
        count = budget.more(params.samples - noisy.drawn)
    partial = noisy.drawn < params.samples
    warnings = fixed_warnings(question) + _held_warnings(question)
    if partial:
        warnings += (
            f"The deadline left time for {noisy.drawn} of the {params.samples} samples; the answer is the average over "
            "those. Allow more time, or ask for fewer samples.",
        )
    return Attribution(
        as_scores(noisy.means(), question.inputs),
        standard_error=noisy.standard_error(),
        warnings=warnings,
        partial=partial,
        resolved={"samples": noisy.drawn},
    )


class _NoisyGradients:
    """The gradients at noisy copies of the input, drawn one after the other and summed."""

    def __init__(self, model: Handle, question: Question, params: Params) -> None:
        self._model = model
        self._question = question
        self._absolute = params.absolute
        names = differentiable_inputs(question)
        self._deviations = {name: _deviation(question, name, params.noise) for name in names}
        self._moments: Arrays = {}
        self.drawn = 0

    def draw(self, count: int, *, progress: tuple[float, float]) -> None:
        """Add the next `count` copies' gradients."""
        question = self._question
        rows = Noisy(question.inputs, self._deviations, question.seed, count, self.drawn)
        ask = Gradient(rows, question.target, fold=Moments(self._absolute, self._moments))
        found = self._model.ask(ask, progress=progress).values
        self._moments = {name: found[name] for name in self._deviations}
        self.drawn += count

    def means(self) -> dict[str, npt.NDArray[np.float64]]:
        """Return the gradients' means, (*features) each."""
        return {name: sums / self.drawn for name, (sums, _) in self._moments.items()}

    def standard_error(self) -> float:
        """Return the largest standard error of a mean."""
        means = self.means()
        variances = [squares / self.drawn - np.square(means[name]) for name, (_, squares) in self._moments.items()]
        largest = max(float(variance.max(initial=0.0)) for variance in variances)
        return math.sqrt(largest / (self.drawn - 1))


def _deviation(question: Question, name: str, noise: float) -> npt.NDArray[np.float32]:
    """Return the noise's standard deviation, broadcastable to (*features): 0 for what is held."""
    feature, values = question.features[name], question.inputs[name]
    if feature.mask:
        return np.zeros((), np.float32)
    if feature.coded is None:
        found = np.ptp(values) if feature.ranges is None else feature.ranges
        return np.float32(noise) * np.asarray(found, np.float32)
    coded = feature.coded.reshape(values.shape)
    numbers = values[~coded]
    width = feature.ranges if feature.ranges is not None else np.ptp(numbers) if numbers.size else 0.0
    return np.where(coded, np.float32(0), np.float32(noise) * np.asarray(width, np.float32))


def _held_warnings(question: Question) -> tuple[str, ...]:
    """Say which inputs and columns got no noise."""
    found: list[str] = []
    for name in differentiable_inputs(question):
        feature = question.features[name]
        if feature.mask:
            found.append(f"Input {name!r} is a mask of others: no noise was added to it.")
        elif columns := coded_columns(feature):
            named = columns_text(columns)
            found.append(f"No noise was added to {named} of input {name!r}: no row lies between two categories.")
    return tuple(found)
