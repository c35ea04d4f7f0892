"""What an input is sought for: a channel, a neuron, a direction of a layer, or a class."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.probes import ProbeLayer, ProbeQuestion
from pellucid_server.engine.asking.question import Arrays, Scores, Target
from pellucid_server.engine.asking.recipe import Recipe
from pellucid_server.engine.asking.registry import parameter, require
from pellucid_server.engine.evaluations.capture import Capture
from pellucid_server.engine.evaluations.gradient import Gradient
from pellucid_server.engine.evaluations.recipes import Picked, Rows
from pellucid_server.engine.evaluations.score import Score
from pellucid_server.engine.evaluations.unit_gradient import UnitGradient, Units, objective_values
from pellucid_server.errors import InvalidRequestError

Floats = npt.NDArray[np.float64]

KINDS = ("channel", "neuron", "direction")


@dataclass(frozen=True, slots=True)
class ObjectiveParams:
    """Parameters of all methods that seek inputs for objectives."""

    objective: str = parameter(
        "channel",
        "What is maximised of each unit: channel, its mean over all positions; neuron, its value at one position; or "
        "direction, the layer's values along `direction`. Of a class, it is the target's score.",
        choices=KINDS,
    )
    position: int | None = parameter(
        None,
        "The position of a neuron or a direction, in row-major order of the axes that do not count units. Left out: "
        "the middle for a neuron, the mean over all positions for a direction.",
        minimum=0,
    )
    direction: npt.NDArray[np.generic] | None = parameter(  # noqa: RUF009 - a field, which nobody shares
        None, "For directions, the weight of each of the layer's units: (units,), or (directions, units) for several."
    )
    power: float = parameter(
        0.0,
        "The dot product with a direction is multiplied by its cosine, held to at least 0.1, to this power: above 0, "
        "the values have to point along the direction and not only be large.",
        minimum=0.0,
        maximum=8.0,
    )


@dataclass(frozen=True, slots=True)
class Objective:
    """What one input is sought for.

    Attributes
    ----------
    name
        What callers read: "conv1[3]", "conv1[3]@24", "conv1[direction 0]", "logits[tabby]".
    unit
        The unit's number; -1 for a direction or a class.
    direction
        Its weights, (units,); empty for a class.
    position
        The place in row-major order of the axes that do not count units; -1 for the mean over all.
    """

    name: str
    unit: int = -1
    direction: Floats = field(default_factory=lambda: np.zeros(0))
    position: int = -1


@dataclass(frozen=True, slots=True)
class Goals:
    """Objectives that one evaluation has rows for: those of a layer, or one class.

    Attributes
    ----------
    objectives
        At least one; exactly one with a target.
    layer
        The layer; None for a class.
    target
        The class.
    power
        Of the cosine; see `Units`.
    """

    objectives: tuple[Objective, ...]
    layer: ProbeLayer | None = None
    target: Target | None = None
    power: float = 0.0

    @property
    def name(self) -> str:
        """The layer's name, or the output's."""
        if self.layer is not None:
            return self.layer.name
        return "" if self.target is None else self.target.output

    def split(self, most: int) -> Iterator["Goals"]:
        """Yield the objectives in groups of at most `most`."""
        for first in range(0, len(self.objectives), most):
            yield Goals(self.objectives[first : first + most], self.layer, self.target, self.power)

    def scores(self, handle: Handle, rows: Recipe, of: npt.NDArray[np.int64]) -> Scores:
        """Return the objective number `of[i]` of row i, (rows,)."""
        if self.target is not None:
            return handle.ask(Score(rows, self.target)).scores
        return handle.ask(UnitGradient(rows, self.name, self._units(of), gradient=False)).scores

    def gradient(
        self,
        handle: Handle,
        rows: Recipe,
        of: npt.NDArray[np.int64],
        *,
        rectified: bool = True,
        more: npt.NDArray[np.generic] | None = None,
    ) -> tuple[Scores, Arrays]:
        """Return the objective number `of[i]` of row i, (rows,), and its gradient, (rows, *features) each.

        `rectified` and `more` as for `UnitGradient`; a class has neither.
        """
        if self.target is not None:
            answer = handle.ask(Gradient(rows, self.target))
        else:
            asked = UnitGradient(rows, self.name, self._units(of), rectified=rectified, more=more)
            answer = handle.ask(asked)
        return answer.scores, answer.values

    def lit_gradient(
        self, handle: Handle, rows: Arrays, of: npt.NDArray[np.int64], more: npt.NDArray[np.generic] | None = None
    ) -> tuple[Scores, Arrays, npt.NDArray[np.bool_]]:
        """Return objectives and gradients, and where the gradient is that of the value before a rectifier, (rows,).

        That is so where the objective's own gradient is 0 everywhere, as behind a rectifier that is off.
        """
        scores, found = self.gradient(handle, Rows(rows), of, more=more)
        gradients = {name: np.array(each) for name, each in found.items()}
        dark = _nowhere(gradients)
        if more is not None and (scores == 0).any():
            # Of a unit that is off, the gradient is that of what is charged.
            off = np.flatnonzero(scores == 0)
            alone = self.gradient(handle, Rows({name: each[off] for name, each in rows.items()}), of[off])[1]
            dark[off] = _nowhere(alone)
        if self.layer is not None and dark.any():
            chosen = {name: each[dark] for name, each in rows.items()}
            _, before = self.gradient(handle, Rows(chosen), of[dark], rectified=False)
            for name, each in before.items():
                gradients[name][dark] = each
        return scores, gradients, dark

    def all_scores(self, handle: Handle, rows: Arrays) -> Floats:
        """Return every objective of every row, (rows, objectives)."""
        count, objectives = len(next(iter(rows.values()))), len(self.objectives)
        of = np.tile(np.arange(objectives), count)
        picked = Picked(rows, np.repeat(np.arange(count), objectives))
        return self.scores(handle, picked, of).reshape(count, objectives)

    def values_of(self, values: npt.NDArray[np.generic]) -> Floats:
        """Return every objective, (rows, objectives), of the layer's values, (rows, *shape)."""
        assert self.layer is not None  # noqa: S101 - only layers have values
        return objective_values(values, self._units(np.arange(len(self.objectives))))

    def _units(self, of: npt.NDArray[np.int64]) -> Units:
        assert self.layer is not None  # noqa: S101 - asked where there is no target
        chosen = [self.objectives[number] for number in of.tolist()]
        return Units(
            np.stack([each.direction for each in chosen]),
            np.array([each.position for each in chosen], np.int64),
            np.full(len(of), self.power),
            self.layer.layer.unit_axis if self.layer.layer.shape else None,
        )


def _nowhere(gradients: Arrays) -> npt.NDArray[np.bool_]:
    """Return which rows have no gradient anywhere, (rows,)."""
    found: npt.NDArray[np.bool_] = ~np.logical_or.reduce(
        [each.reshape(len(each), -1).any(axis=1) for each in gradients.values()]
    )
    return found


def natural_scores(handle: Handle, goals: Sequence[Goals], rows: Arrays) -> Floats:
    """Return the objectives of all goals at rows, (rows, objectives), by one pass for all layers."""
    names = tuple(dict.fromkeys(each.name for each in goals if each.layer is not None))
    values = handle.ask(Capture(Rows(rows), names)).arrays if names else {}
    size = sum(each.nbytes for each in values.values())
    found = [
        each.all_scores(handle, rows)
        if each.layer is None
        else handle.beside(lambda each=each: each.values_of(values[each.name]), byte_count=size)  # type: ignore[misc]
        for each in goals
    ]
    return np.concatenate(found, axis=1)


def objective_rows(question: ProbeQuestion, params: ObjectiveParams, rows_of_each: int) -> dict[str, int]:
    """Return the rows by kind of evaluation that all objectives at layers take, for costs."""
    units = {layer.name: 1 if params.objective == "direction" else len(layer.units) for layer in question.layers}
    return {f"unit gradient@{name}": count * rows_of_each for name, count in units.items()}


def find_goals(question: ProbeQuestion, params: ObjectiveParams, *, most: int) -> tuple[Goals, ...]:
    """Return what the inputs are sought for, in the order of the request.

    Parameters
    ----------
    most
        Objectives at most.

    Raises
    ------
    InvalidRequestError
        There is neither a layer nor a target, or both, or a parameter does not fit the layers.
    """
    _require_one_of(question)
    kind, direction = params.objective, params.direction
    require(kind == "direction" or direction is None, "objective", kind, 'must be "direction" if direction is set')
    if question.target is not None:
        require(kind == "channel", "objective", kind, 'must be left out, or "channel", where target is set')
        return (Goals((Objective(_class_name(question, question.target)),), target=question.target),)
    count = sum(1 if kind == "direction" else len(each.units) for each in question.layers)
    if count > most:
        text = f"layers has {count} units; at most {most} are maximised by one request. Name the units wanted."
        raise InvalidRequestError(text, field="layers")
    return tuple(
        Goals(_objectives(each, kind, params.position, direction), each, power=params.power) for each in question.layers
    )


def _require_one_of(question: ProbeQuestion) -> None:
    if question.target is not None and question.layers:
        text = "target is set, and layers too; name the layers whose units to maximise, or the target, not both."
        raise InvalidRequestError(text, field="target")
    if question.target is None and not question.layers:
        text = "layers is empty, and target is not set; name layers and their units, or a class by the target."
        raise InvalidRequestError(text, field="layers")


def _objectives(
    layer: ProbeLayer, kind: str, position: int | None, direction: npt.NDArray[np.generic] | None
) -> tuple[Objective, ...]:
    positions, units = layer.layer.positions, layer.layer.units
    if position is not None:
        require(kind != "channel", "position", position, 'must be left out unless objective is "neuron" or "direction"')
        right = f"must be in [0, {positions - 1}], a position of {layer.name} in row-major order"
        require(0 <= position < positions, "position", position, right)
    if kind == "direction":
        at = -1 if position is None else position
        return tuple(
            Objective(f"{layer.name}[direction {number}]{_at(at)}", direction=each, position=at)
            for number, each in enumerate(_directions(layer, direction))
        )
    at = -1
    if kind == "neuron":
        at = _middle(layer) if position is None else position
    eye = np.eye(units)
    return tuple(Objective(f"{layer.name}[{unit}]{_at(at)}", unit, eye[unit], at) for unit in layer.units.tolist())


def _at(position: int) -> str:
    return "" if position < 0 else f"@{position}"


def _middle(layer: ProbeLayer) -> int:
    """Return the position in the middle of the axes that do not count units."""
    shape = tuple(length for axis, length in enumerate(layer.layer.shape) if axis != layer.layer.unit_axis)
    return int(np.ravel_multi_index(tuple(length // 2 for length in shape), shape)) if shape else 0


def _directions(layer: ProbeLayer, direction: npt.NDArray[np.generic] | None) -> Floats:
    field, units = 'parameters["direction"]', layer.layer.units
    if direction is None:
        text = f"{field} is not set; give the weights of the {units} units of {layer.name}, as a tensor."
        raise InvalidRequestError(text, field=field)
    if direction.dtype.kind not in "fiu" or direction.ndim not in (1, 2) or direction.shape[-1] != units:
        text = (
            f"{field} is {direction.dtype.name} of the shape {direction.shape}; it must be numbers of the shape "
            f"({units},), or (directions, {units}), one for each unit of {layer.name}."
        )
        raise InvalidRequestError(text, field=field)
    found = np.atleast_2d(direction.astype(np.float64))
    if not len(found) or not np.isfinite(found).all() or not found.any(axis=1).all():
        text = f"{field} has a direction that is zero or not finite; every direction must have a finite length above 0."
        raise InvalidRequestError(text, field=field)
    return found


def _class_name(question: ProbeQuestion, target: Target) -> str:
    info = next((each for each in question.outputs if each.name == target.output), None)
    labels = () if info is None else info.labels
    words = [labels[index] if index < len(labels) else str(index) for index, _ in target.elements]
    return f"{target.output}[{' - '.join(words)}]"
