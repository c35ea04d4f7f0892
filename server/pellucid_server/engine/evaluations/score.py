"""The target's score of each row."""

from collections.abc import Hashable
from dataclasses import dataclass, field

import torch

from pellucid_server.engine.asking.question import Target
from pellucid_server.engine.asking.recipe import SCORES, Fold, HostTensors, Plain, Recipe, Tensors
from pellucid_server.engine.device.kernel import Parts
from pellucid_server.engine.evaluations.folds import Keep
from pellucid_server.engine.evaluations.forward import ForwardKernel
from pellucid_server.engine.evaluations.targets import layout, scores, scores_of_arrays
from pellucid_server.engine.models.loading.loaded import LoadedModel


@dataclass(frozen=True, slots=True)
class Score(Plain):
    """Ask for the target's score of each row, (rows,) float64; nothing else leaves the device."""

    rows: Recipe
    target: Target
    fold: Fold = field(default_factory=Keep)
    exact: bool = False

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What may share a chunk: any elements of one output."""
        return ("scores", layout(self.target))

    def kernel(self, model: LoadedModel, device: str) -> "ScoreKernel":
        """Return what evaluates it."""
        return ScoreKernel(model, device, self.target)


class ScoreKernel:
    """Runs a model forward and reads scores off its output, in float64."""

    evaluation = "forward"
    kind = "forward"
    backward = False

    def __init__(self, model: LoadedModel, device: str, target: Target) -> None:
        self._forward = ForwardKernel(model, device)
        self._target = target
        self.device = self._forward.device
        self.runtime = self._forward.runtime

    def __call__(self, batch: Tensors, parts: Parts) -> Tensors:
        """Return the scores, (rows,)."""
        outputs, output, space = self._forward(batch, parts), self._target.output, self._target.space
        if isinstance(outputs, HostTensors):
            return HostTensors({SCORES: scores_of_arrays(outputs.arrays[output], space, parts)})
        return {SCORES: scores(outputs[output].to(torch.float64), space, parts)}
