"""The outputs, the target's score, or values of other layers, with the values of some layers changed on the way."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from pellucid_server.engine.asking.question import Target
from pellucid_server.engine.asking.recipe import SCORES, Fold, Recipe, Tensors
from pellucid_server.engine.device.kernel import Parts
from pellucid_server.engine.evaluations.folds import Keep
from pellucid_server.engine.evaluations.recipes import With
from pellucid_server.engine.evaluations.targets import layout, scores
from pellucid_server.engine.models.loading.loaded import LoadedModel

Array = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """What becomes of a layer's value v in each row: `keep` times v, plus `add`; where `keep` is 0, `add` alone.

    So an element is switched off (0, 0), set (0, c), scaled (s, 0), shifted (1, d) or left as it is (1, 0).

    Attributes
    ----------
    keep, add
        (rows, *shape) each, where shape broadcasts to the layer's: (rows, channels, 1, 1) for whole channels.
    """

    keep: Array
    add: Array


@dataclass(frozen=True, slots=True)
class Edited:
    """Ask for what the network says with edits at some layers.

    With a target, its score of each row is the answer, (rows,) float64; with layers in `capture`, the value of each by
    name, (rows, *shape); without either, every output by name, (rows, *shape).
    All edits of a row hold at once: a layer behind another sees what that one's edit brought about. Captured values
    are those after the edits. So what a layer would be if only one before it changed, and others stayed as they are, is
    its captured value with an edit at the one and the others set to what they were.
    `norms` has what some norms multiply by in each row, (rows, ..., 1), as `NormScales` answers.
    """

    rows: Recipe
    edits: Mapping[str, Edit]
    target: Target | None = None
    capture: tuple[str, ...] = ()
    norms: Mapping[str, Array] = field(default_factory=dict)
    fold: Fold = field(default_factory=Keep)
    exact: bool = False

    @property
    def recipe(self) -> Recipe:
        """The rows, each with its edits."""
        beside = {}
        for layer, edit in self.edits.items():
            if not len(edit.keep) == len(edit.add) == self.rows.count:
                raise ValueError(
                    f"the edit of {layer} has {len(edit.keep)} and {len(edit.add)} rows; it must have {self.rows.count}"
                )
            beside[_keep(layer)], beside[_add(layer)] = edit.keep, edit.add
        beside.update({_scale(name): scales for name, scales in self.norms.items()})
        return With(self.rows, beside)

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What may share a chunk: any edits of the same layers, by arrays of the same shapes."""
        read = None if self.target is None else layout(self.target)
        return ("edited", *self.edits, read, *self.capture, "", *self.norms)

    @property
    def derived(self) -> bool:
        """Whether it takes a graph of its own."""
        return True

    def kernel(self, model: LoadedModel, device: str) -> "EditedKernel":
        """Return what evaluates it."""
        return EditedKernel(model, device, tuple(self.edits), self.target, self.capture, tuple(self.norms))


class EditedKernel:
    """Runs a graph forward with edits at some layers."""

    evaluation = "forward"
    backward = False

    def __init__(
        self,
        model: LoadedModel,
        device: str,
        layers: tuple[str, ...],
        target: Target | None,
        capture: tuple[str, ...],
        norms: tuple[str, ...] = (),
    ) -> None:
        # Norms have no names in a second graph.
        cuts = model.graph if norms and model.graph is not None else model.cuts_for(*layers, *capture)
        self._run = cuts.editing(layers, capture, norms)
        self._norms = norms
        self._capture = capture
        self.runtime = cuts.runtime
        self._layers = layers
        self._target = target
        self.kind = "edited"
        self.device = cuts.device

    def __call__(self, batch: Tensors, parts: Parts) -> Tensors:
        """Return every output by name, (rows, *shape), or the scores, (rows,), and captured values, (rows, *shape)."""
        with torch.no_grad():
            edits = {layer: (batch[_keep(layer)], batch[_add(layer)]) for layer in self._layers}
            scales = ({name: batch[_scale(name)] for name in self._norms},) if self._norms else ()
            outputs, captured = self._run(batch, edits, *scales)
            if self._target is None:
                return captured if self._capture else outputs
            found = scores(outputs[self._target.output].double(), self._target.space, parts)
            return {SCORES: found, **captured}


def _keep(layer: str) -> str:
    return f"\0keep@{layer}"


def _add(layer: str) -> str:
    return f"\0add@{layer}"


def _scale(norm: str) -> str:
    return f"\0scale/{norm}"
