"""The values of some layers."""

from collections.abc import Hashable
from dataclasses import dataclass, field

from pellucid_server.engine.asking.recipe import Fold, Plain, Recipe, Tensors
from pellucid_server.engine.device.kernel import Parts
from pellucid_server.engine.evaluations.folds import Keep
from pellucid_server.engine.models.loading.loaded import LoadedModel


@dataclass(frozen=True, slots=True)
class Capture(Plain):
    """Ask for the value of each layer by name, (rows, *shape)."""

    rows: Recipe
    layers: tuple[str, ...]
    fold: Fold = field(default_factory=Keep)
    exact: bool = False

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What may share a chunk."""
        return ("activations", *self.layers)

    @property
    def derived(self) -> bool:
        """Whether it takes a graph of its own."""
        return True

    def kernel(self, model: LoadedModel, device: str) -> "CaptureKernel":
        """Return what evaluates it."""
        return CaptureKernel(model, device, self.layers)


class CaptureKernel:
    """Runs a graph forward, no further than it must, and returns what layers made."""

    evaluation = "activations"
    kind = "activations"
    backward = False

    def __init__(self, model: LoadedModel, device: str, layers: tuple[str, ...]) -> None:
        cuts = model.cuts_for(*layers)
        self._run = cuts.prefixes(layers)
        self._layers = layers
        self.runtime = cuts.runtime
        self.device = cuts.device

    def __call__(self, batch: Tensors, parts: Parts) -> Tensors:
        """Return each layer's value by name, (rows, *shape)."""
        contexts = self._run(batch)
        return {layer: contexts[layer].value for layer in self._layers}
