"""SmoothGrad: the gradient averaged over noisy copies of the input.

Source: Smilkov, Thorat, Kim, Viégas and Wattenberg, "SmoothGrad: removing noise by adding noise", 2017.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.arrays import as_scores, differentiable_inputs, fixed_warnings, generator
from pellucid_server.engine.handle import Handle
from pellucid_server.engine.question import Arrays, Attribution, Question
from pellucid_server.engine.registry import Axiom, Background, Need, method, parameter


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of SmoothGrad."""

    samples: int = parameter(
        50, "Noisy copies of the input; each costs one row forward and backward.", minimum=2, maximum=4096
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
    family="gradient",
    source="Smilkov, Thorat, Kim, Viégas and Wattenberg, 2017, https://arxiv.org/abs/1706.03825",
    needs=(Need.GRADIENTS,),
    axioms=(Axiom.DUMMY,),
    baselines=Background.NONE,
)
def smoothgrad(model: Handle, question: Question, params: Params) -> Attribution:
    """Score each element by the target's gradient, averaged over noise around the input.

    Scores are in units of the target per unit of the input, (*features). The same seed gives the same
    noise, however rows are packed; the largest standard error of an element is reported. `samples` rows
    forward and backward.
    """
    deviations = {name: _deviation(question, name, params.noise) for name in differentiable_inputs(question)}
    generators = {name: generator(question.seed, name) for name in deviations}
    sums = {name: np.zeros(question.inputs[name].shape) for name in deviations}
    squares = {name: np.zeros_like(values) for name, values in sums.items()}
    for block in model.blocks(params.samples):
        count = block.stop - block.start
        noise = {
            name: source.standard_normal((count, *question.inputs[name].shape), np.float32) * deviations[name]
            for name, source in generators.items()
        }
        _, gradients = model.gradient(_noisy(question.inputs, noise, count), question.target)
        for name in sums:
            found = np.abs(gradients[name]) if params.absolute else gradients[name]
            sums[name] += found.sum(axis=0, dtype=np.float64)
            squares[name] += np.square(found, dtype=np.float64).sum(axis=0)
        model.progress(block.stop / params.samples)
    scores = {name: values / params.samples for name, values in sums.items()}
    variances = [squares[name] / params.samples - np.square(values) for name, values in scores.items()]
    largest = max(float(variance.max(initial=0.0)) for variance in variances)
    return Attribution(
        as_scores(scores, question.inputs),
        standard_error=math.sqrt(largest / (params.samples - 1)),
        warnings=fixed_warnings(question),
    )


def _deviation(question: Question, name: str, noise: float) -> npt.NDArray[np.float32]:
    """Return the noise's standard deviation, broadcastable to (*features)."""
    ranges, values = question.features[name].ranges, question.inputs[name]
    found = np.ptp(values) if ranges is None else ranges
    return np.float32(noise) * np.asarray(found, np.float32)


def _noisy(inputs: Arrays, noise: Arrays, count: int) -> Arrays:
    return {
        name: np.add(values, noise[name]).astype(values.dtype, copy=False)
        if name in noise
        else np.broadcast_to(values, (count, *values.shape))
        for name, values in inputs.items()
    }
