"""The target's score of each row, and its gradient at the inputs, at a layer, or at values that a layer is given."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pellucid_server.engine.asking.question import Target
from pellucid_server.engine.asking.recipe import SCORES, Fold, Plain, Recipe, Tensors
from pellucid_server.engine.device.kernel import Parts
from pellucid_server.engine.evaluations.folds import Keep
from pellucid_server.engine.evaluations.targets import layout, scores
from pellucid_server.engine.models.loading.loaded import LoadedModel


@dataclass(frozen=True, slots=True)
class Gradient(Plain):
    """Ask for the target's score of each row, (rows,), and its gradient.

    The gradient is with respect to every floating-point input by name, (rows, *features); or, with `at`, to that
    layer's value under the layer's name.
    """

    rows: Recipe
    target: Target
    at: str = ""
    fold: Fold = field(default_factory=Keep)
    exact: bool = False

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What may share a chunk: any elements of one output."""
        return ("gradient", layout(self.target), self.at)

    @property
    def derived(self) -> bool:
        """Whether it takes a graph of its own."""
        return bool(self.at)

    def kernel(self, model: LoadedModel, device: str) -> "GradientKernel":
        """Return what evaluates it."""
        return GradientKernel(model, device, self.target, self.at)


class GradientKernel:
    """Runs a graph forward and backward."""

    evaluation = "gradient"
    backward = True

    def __init__(self, model: LoadedModel, device: str, target: Target, at: str) -> None:
        self._graph = model.graph_for(*([at] if at else []))
        self.runtime = self._graph.runtime
        self.device = device
        self.kind = f"gradient@{at}" if at else "gradient"
        self._target = target
        self._leafed = self._graph.with_leaf_at(at) if at else None
        self._inputs = tuple(entry.name for entry in self._graph.inputs if entry.dtype.is_floating_point)

    def __call__(self, batch: Tensors, parts: Parts) -> Tensors:
        """Return the scores, (rows,), and gradients of the shape of what they are taken at."""
        with torch.enable_grad():
            outputs, leaves = self._run(batch)
            return score_and_gradients(outputs[self._target.output], self._target.space, parts, leaves)

    def _run(self, rows: Tensors) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        if self._leafed is not None:
            return self._leafed(rows)
        # Of views, the rows' own tensors must not become leaves.
        leaves = {name: rows[name].detach().requires_grad_(True) for name in self._inputs}
        return self._graph({**rows, **leaves}), leaves


def score_and_gradients(output: Tensor, space: str, parts: Parts, leaves: Mapping[str, Tensor]) -> Tensors:
    """Return the scores, (rows,) float64, and their gradient at each leaf; 0 where a score does not depend on it."""
    found = scores(output, space, parts)
    total = found.sum()
    gradients: tuple[Tensor | None, ...] = (None,) * len(leaves)
    if total.requires_grad:
        gradients = torch.autograd.grad(total, tuple(leaves.values()), allow_unused=True)
    return {
        SCORES: found.detach().double(),
        **{
            name: torch.zeros_like(leaf) if gradient is None else gradient
            for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)
        },
    }
