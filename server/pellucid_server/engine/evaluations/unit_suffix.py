"""The outputs, or a score, had one unit of a layer other values in each row."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pellucid_server.engine.asking.handle import Held
from pellucid_server.engine.asking.question import Target
from pellucid_server.engine.asking.recipe import SCORES, Ask, Fold, Tensors
from pellucid_server.engine.device.kernel import Parts
from pellucid_server.engine.evaluations.folds import Keep
from pellucid_server.engine.evaluations.patchwork import Patchwork, Piece
from pellucid_server.engine.evaluations.prefix import before
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.evaluations.targets import layout, scores
from pellucid_server.engine.models.graph.suffix import Context
from pellucid_server.engine.models.loading.loaded import LoadedModel

_UNIT = "\0unit"
"""The unit that is changed in each row, (rows,) int64."""
_OF = "\0of"
"""The held row that goes with each, (rows,) int64."""


@dataclass(frozen=True, slots=True)
class UnitSuffix:
    """Ask for what follows a layer, had one unit of it other values in each row.

    Attributes
    ----------
    held
        What lies before the layer, from `Handle.hold_each` with the layer `by_unit`.
    rows
        The unit's values at all positions, (rows, *positions), under the layer's name; beside them which unit it is,
        and which of the held rows it goes with.
    target
        With a target, its score of each row is the answer, (rows,); without, every output, (rows, *shape).
    """

    held: Held
    rows: Rows
    target: Target | None = None
    fold: Fold = field(default_factory=Keep)
    exact: bool = False

    @classmethod
    def of(cls, patchwork: Patchwork, target: Target | None) -> "UnitSuffix | None":
        """Make one of a patchwork that has a single unit, or nothing, in each row; None if it has more in some."""
        found = [_single(pieces) for pieces in patchwork.pieces]
        chosen = [each for each in found if each is not None]
        if len(chosen) < len(found):
            return None
        units = np.array([unit for unit, _ in chosen], np.int64)
        others = np.array([other for _, other in chosen], np.int64)
        own = np.moveaxis(patchwork.held.values[patchwork.number], patchwork.unit_axis, 0)
        values = own[units]
        replaced = others >= 0
        by_unit = np.moveaxis(patchwork.others, patchwork.unit_axis + 1, 1)
        values[replaced] = by_unit[others[replaced], units[replaced]]
        of = np.full(len(units), patchwork.number, np.int64)
        return cls(patchwork.held, Rows({patchwork.held.layer: values, _UNIT: units, _OF: of}), target)

    @property
    def recipe(self) -> Rows:
        """The rows."""
        return self.rows

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What may share a chunk: values of one layer, whatever lies before it."""
        target, context = self.target, self.held.context
        read = None if target is None else layout(target)
        shapes = tuple(tuple(each.shape[1:]) for each in (context.value, *context.rows, *context.tapped))
        return ("unit suffix", self.held.layer, read, shapes)

    @property
    def derived(self) -> bool:
        """Whether it takes a graph of its own."""
        return True

    def kernel(self, model: LoadedModel, device: str) -> "UnitSuffixKernel":
        """Return what evaluates it."""
        return UnitSuffixKernel(model, self.held.layer, self.target)


class UnitSuffixKernel:
    """Runs the part of a graph behind the linear operators that read a layer."""

    evaluation = "suffix"
    backward = False

    def __init__(self, model: LoadedModel, layer: str, target: Target | None) -> None:
        cuts = model.cuts_for(layer)
        self._suffix, self.runtime = model.unit_suffix(layer)
        self._layer = layer
        self._target = target
        self.kind = f"unit suffix@{layer}"
        self.device = cuts.device

    def __call__(self, batch: Tensors, parts: Parts) -> Tensors:
        """Return the outputs by name, or the scores."""
        held = [(_of_unit_suffix(ask).held, rows) for ask, rows in parts]
        context, of = before(batch[_OF], held, _joined)
        outputs = self._suffix(batch[_UNIT], batch[self._layer], context, of)
        if self._target is None:
            return outputs
        return {SCORES: scores(outputs[self._target.output].double(), self._target.space, parts)}


def _single(pieces: Sequence[Piece]) -> tuple[int, int] | None:
    """Return the only unit that pieces change, and what to: (unit, other), (0, -1) for nothing; None if more."""
    if not pieces:
        return 0, -1
    piece = pieces[0]
    if len(pieces) > 1 or piece.units is None or len(piece.units) != 1:
        return None
    if piece.elements is not None and len(piece.elements):
        return None
    return int(piece.units[0]), piece.other


def _of_unit_suffix(ask: Ask) -> UnitSuffix:
    assert isinstance(ask, UnitSuffix)  # noqa: S101 - the key has no others in a chunk
    return ask


def _joined(held: Mapping[int, Held]) -> Context:
    """Put held rows one behind the other."""
    contexts: list[Context] = [each.context for each in held.values()]
    return contexts[0] if len(contexts) == 1 else Context.join(contexts)
