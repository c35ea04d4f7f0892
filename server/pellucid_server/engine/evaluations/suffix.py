"""The outputs, or a score and its gradient, had a layer given values."""

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from pellucid_server.engine.asking.handle import Held
from pellucid_server.engine.asking.question import Target
from pellucid_server.engine.asking.recipe import SCORES, Ask, Fold, Recipe, Tensors
from pellucid_server.engine.device.kernel import Parts
from pellucid_server.engine.evaluations.folds import Keep
from pellucid_server.engine.evaluations.gradient import score_and_gradients
from pellucid_server.engine.evaluations.prefix import before, joined
from pellucid_server.engine.evaluations.recipes import With
from pellucid_server.engine.evaluations.targets import layout, scores
from pellucid_server.engine.models.graph.cuts import Behind
from pellucid_server.engine.models.loading.loaded import LoadedModel

_OF = "\0of"
"""The held row that goes with each value, (rows,) int64."""


@dataclass(frozen=True, slots=True)
class Suffix:
    """Ask for what follows a layer, had it other values.

    Attributes
    ----------
    held
        What lies before the layer, from `Handle.hold`.
    rows
        The layer's values, (rows, *shape), under the layer's name.
    target
        With a target, its score of each row is the answer, (rows,); without, every output, (rows, *shape).
    gradient
        Whether the score's gradient at the values is wanted too, under the layer's name.
    of
        The held row that goes with each value, (rows,); left out, the only one, or row i with value i.
    """

    held: Held
    rows: Recipe
    target: Target | None = None
    gradient: bool = False
    of: npt.NDArray[np.int64] | None = None
    fold: Fold = field(default_factory=Keep)
    exact: bool = False

    @property
    def recipe(self) -> Recipe:
        """The values, and the held row of each."""
        count = self.rows.count
        of = self.of
        if of is None and self.held.count == 1:
            of = np.zeros(count, np.int64)
        elif of is None:
            if self.held.count != count:
                raise ValueError(
                    f"{count} values do not go with {self.held.count} held rows; say which goes with which"
                )
            of = np.arange(count, dtype=np.int64)
        return With(self.rows, {_OF: of})

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What may share a chunk: values of one layer, whatever lies before it."""
        target = self.target
        read = None if target is None else layout(target)
        # Crossings that belong to no row are the same for rows of one layout.
        shapes = tuple(tuple(each.shape[1:]) for each in (self.held.context.value, *self.held.context.rows))
        return ("suffix", self.held.layer, read, self.gradient, shapes)

    @property
    def derived(self) -> bool:
        """Whether it takes a graph of its own."""
        return True

    def kernel(self, model: LoadedModel, device: str) -> "SuffixKernel":
        """Return what evaluates it."""
        return SuffixKernel(model, device, self.held.layer, self.target, gradient=self.gradient)


class SuffixKernel:
    """Runs the part of a graph behind a layer; the part before it is held, and not run again."""

    evaluation = "suffix"

    def __init__(self, model: LoadedModel, device: str, layer: str, target: Target | None, *, gradient: bool) -> None:
        cuts = model.graph_for(layer) if gradient else model.cuts_for(layer)
        self._suffix: Behind
        if gradient:
            self._suffix, self.runtime = cuts.suffix(layer), cuts.runtime
        else:
            self._suffix, self.runtime = model.suffix(layer)
        self._layer = layer
        self._target = target
        self.backward = gradient
        self.kind = f"suffix gradient@{layer}" if gradient else f"suffix@{layer}"
        self.device = cuts.device

    def __call__(self, batch: Tensors, parts: Parts) -> Tensors:
        """Return the outputs by name, or the scores, and with them their gradient at the values."""
        values = batch[self._layer]
        context, of = before(batch[_OF], [(_of_suffix(ask).held, rows) for ask, rows in parts], joined)
        if self._target is None:
            with torch.no_grad():
                return self._suffix(values, context, of)
        with torch.set_grad_enabled(self.backward):
            leaf = values.detach().requires_grad_(self.backward)
            output = self._suffix(leaf, context, of)[self._target.output]
            if self.backward:
                return score_and_gradients(output, self._target.space, parts, {self._layer: leaf})
            return {SCORES: scores(output.double(), self._target.space, parts)}


def _of_suffix(ask: Ask) -> Suffix:
    assert isinstance(ask, Suffix)  # noqa: S101 - the key has no others in a chunk
    return ask
