"""What units inside the network say of each row, and its gradient at the inputs; what is behind does not run."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from pellucid_server.engine.asking.recipe import SCORES, Fold, Recipe, Tensors
from pellucid_server.engine.device.kernel import Parts
from pellucid_server.engine.evaluations.folds import Keep
from pellucid_server.engine.evaluations.recipes import With
from pellucid_server.engine.models.loading.loaded import LoadedModel

_DIRECTION, _POSITION, _POWER, _MORE = "\0direction", "\0position", "\0power", "\0more"
_LEAST_COSINE = 0.1
_TINY = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """What is asked of a layer's value, an objective for each row.

    At each position p of a row's value v, an objective is the product of dot(d, v[p]) with the cosine of d and v[p],
    held to at least 0.1, to a power. An objective is that at one position, or the mean over all of them. A unit's own
    value is that of a direction with one 1.

    Source: Olah, Mordvintsev and Schubert, "Feature Visualization", Distill 2017 (lucid, `direction`); the floor and
    the power as in Carter et al., "Activation Atlas", Distill 2019.

    Attributes
    ----------
    directions
        d of each row, (rows, units).
    positions
        Of each row the position, in row-major order of the axes that do not count units; -1 for the mean, (rows,).
    powers
        Of each row the cosine's power, (rows,); 0 for the dot product alone.
    unit_axis
        The axis of a row's value that counts units; None where a row's value is one number.
    """

    directions: npt.NDArray[np.float64]
    positions: npt.NDArray[np.int64]
    powers: npt.NDArray[np.float64]
    unit_axis: int | None = 0

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return what goes with each row to the device."""
        return {_DIRECTION: self.directions, _POSITION: self.positions, _POWER: self.powers}


@dataclass(frozen=True, slots=True)
class UnitGradient:
    """Ask for the objective of each row, (rows,), and its gradient at every floating-point input, (rows, *features).

    Attributes
    ----------
    rows
        The rows.
    layer
        The layer whose value objectives are of.
    units
        The objective of each row.
    gradient
        Whether the gradient is wanted; without, the network runs forward alone.
    rectified
        Whether the rectifier that makes the layer's value, or what it is pooled of, is there: if not, values below 0
        are not cut off.
    more
        A gradient at the layer's value, (rows, *shape), to go back to the inputs with that of the objectives; it
        changes no objective. None for none.
    """

    rows: Recipe
    layer: str
    units: Units
    gradient: bool = True
    rectified: bool = True
    more: npt.NDArray[np.generic] | None = None
    fold: Fold = field(default_factory=Keep)
    exact: bool = False

    @property
    def recipe(self) -> Recipe:
        """The rows, each with its objective."""
        more = {} if self.more is None else {_MORE: self.more}
        return With(self.rows, {**self.units.arrays(), **more})

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What may share a chunk: any objectives at one layer."""
        return ("unit gradient", self.layer, self.units.unit_axis, self.gradient, self.rectified)

    @property
    def derived(self) -> bool:
        """Whether it takes a graph of its own."""
        return True

    def kernel(self, model: LoadedModel, device: str) -> "UnitGradientKernel":
        """Return what evaluates it."""
        return UnitGradientKernel(
            model, device, self.layer, self.units.unit_axis, gradient=self.gradient, rectified=self.rectified
        )


class UnitGradientKernel:
    """Runs a graph forward up to a layer, and backward from there."""

    evaluation = "unit-gradient"

    def __init__(
        self, model: LoadedModel, device: str, layer: str, unit_axis: int | None, *, gradient: bool, rectified: bool
    ) -> None:
        graph = model.graph_for(layer)
        self._run = graph.up_to(layer, rectified=rectified)
        self.runtime = graph.runtime
        self.device = device
        self.backward = gradient
        self.kind = f"unit gradient@{layer}" if gradient else f"unit@{layer}"
        self._unit_axis = unit_axis
        self._inputs = tuple(entry.name for entry in graph.inputs if entry.dtype.is_floating_point)

    def __call__(self, batch: Tensors, parts: Parts) -> Tensors:
        """Return the objectives, (rows,) float64, and the gradients, (rows, *features)."""
        with torch.set_grad_enabled(self.backward):
            leaves = {name: batch[name].detach().requires_grad_(self.backward) for name in self._inputs}
            value = self._run({**batch, **leaves})
            found = objectives(value, batch, self._unit_axis)
            if not self.backward:
                return {SCORES: found.double()}
            total = found.sum()
            if _MORE in batch:
                total = total + (value * batch[_MORE].to(value.dtype)).sum()
            return {SCORES: found.detach().double(), **_gradients(total, leaves)}


def objectives(value: torch.Tensor, beside: Mapping[str, torch.Tensor], unit_axis: int | None) -> torch.Tensor:
    """Return the objective of each row, (rows,), of a layer's value, (rows, *shape); differentiable.

    `beside` has what `Units.arrays` gives.
    """
    if value.dtype in {torch.float16, torch.bfloat16}:
        value = value.float()
    rows = len(value)
    places = (
        value.reshape(rows, 1, 1)
        if unit_axis is None
        else value.movedim(1 + unit_axis, 1).reshape(rows, value.shape[1 + unit_axis], -1)
    )
    direction = beside[_DIRECTION].to(value.dtype)
    found = torch.einsum("rup,ru->rp", places, direction)
    if not bool(torch.isfinite(found).all()):
        # A unit that does not count is none of a row's concern, whatever it is.
        found = torch.einsum("rup,ru->rp", places.masked_fill(direction[:, :, None] == 0, 0), direction)
    power = beside[_POWER].to(value.dtype)[:, None]
    if bool((power != 0).any()):
        lengths = torch.linalg.vector_norm(places, dim=1) * torch.linalg.vector_norm(direction, dim=1)[:, None]
        cosines = (found / lengths.clamp_min(_TINY)).clamp_min(_LEAST_COSINE)
        found = found * torch.where(power == 0, torch.ones_like(cosines), cosines**power)
    position = beside[_POSITION]
    there = found.gather(1, position.clamp_min(0)[:, None])[:, 0]
    return torch.where(position < 0, found.mean(1), there)


def objective_values(values: npt.NDArray[np.generic], units: Units) -> npt.NDArray[np.float64]:
    """Return every objective of `units` at each row, (rows, objectives), of a layer's values, (rows, *shape)."""
    value = torch.from_numpy(np.ascontiguousarray(values)).double()
    found = np.empty((len(value), len(units.positions)))
    for number in range(len(units.positions)):
        beside = {
            name: torch.from_numpy(np.repeat(each[number : number + 1], len(value), axis=0))
            for name, each in units.arrays().items()
        }
        found[:, number] = objectives(value, beside, units.unit_axis).numpy()
    return found


def _gradients(total: torch.Tensor, leaves: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the gradient at each leaf; 0 where nothing depends on it."""
    if not total.requires_grad:
        return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    found = torch.autograd.grad(total, tuple(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, found, strict=True))
