"""What becomes of a layer's values: every intervention as keep * v + add."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.asking.sites import Intervention, SiteLayer, SiteQuestion
from pellucid_server.engine.evaluations.capture import Capture
from pellucid_server.engine.evaluations.folds import WeightedSum
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.methods.shared.arrays import generator

Floats = npt.NDArray[np.float64]

RANDOM = frozenset({"resample", "noise"})
"""The kinds that are drawn several times."""

MOST_KEPT_BYTES = 256 << 20
"""Bytes of other rows' values that are kept to be used again."""


@dataclass(frozen=True, slots=True)
class Affine:
    """What becomes of a value v of a layer: keep * v + add; `add` broadcasts to the layer's shape."""

    keep: float
    add: Floats


class Interventions:
    """What the interventions of a question make of layers' values, row by row and draw by draw.

    Parameters
    ----------
    own
        Returns the unchanged value of a layer for a row of the question, (*shape).
    """

    def __init__(
        self, model: Handle, question: SiteQuestion, own: Callable[[str, int], npt.NDArray[np.generic]]
    ) -> None:
        self._model = model
        self._question = question
        self._own = own
        self._means: dict[tuple[str, str], Floats] = {}
        self._values: dict[tuple[str, str, int], Floats] = {}

    def draws(self, numbers: set[int]) -> int:
        """Return how often interventions are drawn that hold at once: once if none is random."""
        chosen = [self._question.interventions[number] for number in numbers]
        return max((each.draws for each in chosen if each.kind in RANDOM), default=1)

    def of(self, number: int, layer: SiteLayer, row: int, draw: int) -> Affine:
        """Return what intervention `number` makes of a layer's value in a row."""
        intervention = self._question.interventions[number]
        if intervention.kind == "scale":
            return Affine(intervention.value, _wide(layer, 0.0))
        if intervention.kind == "steer":
            assert intervention.vector is not None  # noqa: S101 - the operation requires it
            return Affine(1.0, intervention.value * intervention.vector)
        if intervention.kind == "noise":
            own = np.asarray(self._own(layer.name, row), np.float64)
            source = generator(self._question.seed, f"noise/{number}/{layer.name}/{row}/{draw}")
            return Affine(1.0, intervention.value * float(own.std()) * source.standard_normal(own.shape))
        return Affine(0.0, self._replacement(number, layer, row, draw))

    def _replacement(self, number: int, layer: SiteLayer, row: int, draw: int) -> Floats:
        """Return what takes a value's place."""
        intervention = self._question.interventions[number]
        match intervention.kind:
            case "mean":
                return self._mean(intervention, layer)
            case "resample":
                return self._value(intervention.reference, layer.name, self._drawn(number, row, draw))
            case "patch":
                return self._value("source", layer.name, min(row, _count(self._question.source) - 1))
            case "constant" if intervention.vector is not None:
                return intervention.vector
            case _:
                return _wide(layer, intervention.value)

    def forget(self) -> None:
        """Let go of layers' values that were kept: the next ones are of other layers."""
        self._values.clear()
        self._means.clear()

    def _drawn(self, number: int, row: int, draw: int) -> int:
        """Return which reference row a draw takes: the same one for every site."""
        intervention = self._question.interventions[number]
        count = _count(self._question.references[intervention.reference])
        source = generator(self._question.seed, f"resample/{number}/{row}/{draw}")
        if intervention.reference != "batch":
            return int(source.integers(count))
        # Of the request's own rows, another one.
        return int((row + 1 + source.integers(count - 1)) % count)

    def _mean(self, intervention: Intervention, layer: SiteLayer) -> Floats:
        key = (intervention.reference, layer.name)
        if key not in self._means:
            rows = self._question.references[intervention.reference]
            count = _count(rows)
            fold = WeightedSum(np.full(count, 1.0 / count), np.zeros(count, np.intp), 1)
            found = self._model.ask(Capture(Rows(rows), (layer.name,), fold=fold)).arrays[layer.name][0]
            self._means[key] = np.asarray(found, np.float64)
        mean = self._means[key]
        if intervention.per_position or not layer.shape:
            return mean
        others = tuple(axis for axis in range(mean.ndim) if axis != layer.unit_axis)
        return np.asarray(mean.mean(axis=others, keepdims=True))

    def _value(self, reference: str, layer: str, number: int) -> Floats:
        """Return a layer's value for a row of the source or of a reference."""
        key = (reference, layer, number)
        if key not in self._values:
            rows = self._question.source if reference == "source" else self._question.references[reference]
            one = Rows({name: array[number : number + 1] for name, array in rows.items()})
            found = np.asarray(self._model.ask(Capture(one, (layer,))).arrays[layer][0], np.float64)
            if (len(self._values) + 1) * found.nbytes > MOST_KEPT_BYTES:
                self._values.clear()
            self._values[key] = found
        return self._values[key]


def _wide(layer: SiteLayer, value: float) -> Floats:
    return np.full((1,) * len(layer.shape), value)


def _count(rows: Arrays) -> int:
    return len(next(iter(rows.values())))
