"""The target's score of each row, and its gradient at several layers at once, with the layers' values."""

from collections.abc import Hashable
from dataclasses import dataclass, field

import torch

from pellucid_server.engine.asking.question import Target
from pellucid_server.engine.asking.recipe import Fold, Plain, Recipe, Tensors
from pellucid_server.engine.device.kernel import Parts
from pellucid_server.engine.evaluations.folds import Keep
from pellucid_server.engine.evaluations.gradient import score_and_gradients
from pellucid_server.engine.evaluations.targets import layout
from pellucid_server.engine.models.loading.loaded import LoadedModel

VALUE = "\0value/"
"""Begins the name of a layer's value among the results; the gradient has the layer's name."""


@dataclass(frozen=True, slots=True)
class LayerGradients(Plain):
    """Ask for the target's score of each row, (rows,), and each layer's value and the gradient there, (rows, *shape).

    A layer's gradient goes through the layers behind it: it is what a small change of its value would do.
    """

    rows: Recipe
    target: Target
    layers: tuple[str, ...]
    fold: Fold = field(default_factory=Keep)
    exact: bool = False

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What may share a chunk: any elements of one output."""
        return ("layer gradients", layout(self.target), *self.layers)

    @property
    def derived(self) -> bool:
        """Whether it takes a graph of its own."""
        return True

    def kernel(self, model: LoadedModel, device: str) -> "LayerGradientsKernel":
        """Return what evaluates it."""
        return LayerGradientsKernel(model, device, self.target, self.layers)


class LayerGradientsKernel:
    """Runs a graph forward, and once backward to all of the layers."""

    evaluation = "gradient"
    backward = True

    def __init__(self, model: LoadedModel, device: str, target: Target, layers: tuple[str, ...]) -> None:
        graph = model.graph_for(*layers)
        self._run = graph.with_gradients_at(layers)
        self.runtime = graph.runtime
        self.device = device
        self.kind = f"gradient@{layers[0]},..." if len(layers) > 1 else f"gradient@{layers[0]}"
        self._target = target

    def __call__(self, batch: Tensors, parts: Parts) -> Tensors:
        """Return the scores, (rows,), and gradients and values, (rows, *shape)."""
        with torch.enable_grad():
            outputs, values = self._run(batch)
            found = score_and_gradients(outputs[self._target.output], self._target.space, parts, values)
        return {**found, **{f"{VALUE}{layer}": value.detach() for layer, value in values.items()}}
