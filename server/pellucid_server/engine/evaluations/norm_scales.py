"""What normalisations multiply by."""

from collections.abc import Hashable
from dataclasses import dataclass, field

import torch

from pellucid_server.engine.asking.recipe import Fold, Plain, Recipe, Tensors
from pellucid_server.engine.device.kernel import Parts
from pellucid_server.engine.evaluations.folds import Keep
from pellucid_server.engine.models.loading.loaded import LoadedModel


@dataclass(frozen=True, slots=True)
class NormScales(Plain):
    """Ask for the scale of each of some norms, (rows, ..., 1), by the name that the network gives it."""

    rows: Recipe
    norms: tuple[str, ...]
    fold: Fold = field(default_factory=Keep)
    exact: bool = False

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What may share a chunk."""
        return ("norm scales", *self.norms)

    @property
    def derived(self) -> bool:
        """Whether it takes a graph of its own."""
        return True

    def kernel(self, model: LoadedModel, device: str) -> "NormScalesKernel":
        """Return what evaluates it."""
        return NormScalesKernel(model, device, self.norms)


class NormScalesKernel:
    """Runs a graph forward and returns what norms multiply by."""

    evaluation = "activations"
    kind = "activations"
    backward = False

    def __init__(self, model: LoadedModel, device: str, norms: tuple[str, ...]) -> None:
        # Norms have no names in a second graph.
        graph = model.graph
        assert graph is not None  # noqa: S101 - methods that ask for it need layers
        self._run = graph.norm_scales(norms)
        self.runtime = graph.runtime
        self.device = device

    def __call__(self, batch: Tensors, parts: Parts) -> Tensors:
        """Return each norm's scale by name."""
        with torch.no_grad():
            return self._run(batch)[1]
