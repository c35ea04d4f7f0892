"""Painting pictures that maximise objectives: parameters, views, Adam's moments, and when to stop.

Source: Olah, Mordvintsev and Schubert, "Feature Visualization", Distill 2017; Kingma and Ba, "Adam", ICLR 2015.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.methods.shared.arrays import generator
from pellucid_server.engine.methods.shared.painting.likeness import likeness_gradient
from pellucid_server.engine.methods.shared.painting.parameterisations import Colours, Parameterisation
from pellucid_server.engine.methods.shared.painting.views import Views, seen
from pellucid_server.engine.methods.shared.searching.objectives import Goals
from pellucid_server.engine.methods.shared.searching.regularisers import detail, size, total_variation

Floats = npt.NDArray[np.float32]

_FADE, _SQUARE_FADE, _EPSILON = 0.9, 0.999, 1e-8
_GREY = 0.5
_WHITE = 255.0

_STRETCH, _LEAST_GAIN = 50, 1e-3
"""A picture is done once the mean objective of so many steps is less than this share above that of those before."""

_TRIES, _STRONGER = 4, 10.0
"""Where no gradient reaches a picture at its start, it begins anew so often, with noise so much stronger each time."""


@dataclass(frozen=True, slots=True)
class Canvas:
    """The input that pictures are painted for.

    Attributes
    ----------
    name
        The input.
    mean, deviation
        Of each channel, (channels, 1, 1), in levels: a row is (255 * level - mean) / deviation.
    held
        The other inputs, (*features) each.
    """

    name: str
    mean: Floats
    deviation: Floats
    held: Arrays

    def rows(self, levels: torch.Tensor) -> torch.Tensor:
        """Return the input's rows of levels in [0, 1], (pictures, channels, height, width); differentiable."""
        mean, deviation = torch.from_numpy(self.mean), torch.from_numpy(self.deviation)
        found: torch.Tensor = (levels * _WHITE - mean) / deviation
        return found

    def arrays(self, rows: npt.NDArray[np.generic]) -> Arrays:
        """Return the rows of all inputs."""
        held = {name: np.repeat(np.asarray(each)[None], len(rows), axis=0) for name, each in self.held.items()}
        return {**held, self.name: rows}


@dataclass(frozen=True, slots=True)
class Brush:
    """How pictures are painted; what charges are is in units of the objective.

    Attributes
    ----------
    pictures
        Pictures of each objective.
    diversity
        What a picture is charged for its likeness to the others of its objective.
    total_variation, blur, l2
        What it is charged for its total variation, its fine detail, and its distance from mid-grey.
    transparency
        Whether to note where gradients came.
    """

    parameterisation: Parameterisation
    colours: Colours
    views: Views
    steps: int
    rate: float
    pictures: int = 1
    diversity: float = 0.0
    total_variation: float = 0.0
    blur: float = 0.0
    l2: float = 0.0
    transparency: bool = False
    seed: int = 0

    @property
    def charged(self) -> bool:
        """Whether anything is charged beside likeness."""
        return bool(self.total_variation or self.blur or self.l2)


class Painting:
    """The pictures of some objectives on their way: `brush.pictures` of each, one behind the other."""

    def __init__(self, goals: Goals, canvas: Canvas, brush: Brush) -> None:
        self.goals = goals
        self.step = 0
        self.lit = np.zeros(len(goals.objectives) * brush.pictures, np.bool_)
        """Which pictures had a gradient of the objective's own at some step."""
        self._canvas = canvas
        self._brush = brush
        self._of = np.repeat(np.arange(len(goals.objectives)), brush.pictures)
        self._parameters = np.stack([self._start(number, 0) for number in range(len(self._of))])
        self._first, self._second = np.zeros_like(self._parameters), np.zeros_like(self._parameters)
        self._tries = np.zeros(len(self._of), np.int64)
        self._stopped = np.zeros(len(self._of), np.bool_)
        self.trajectory = np.full((len(self._of), brush.steps), np.nan)
        """The objective of each picture at each step, as its view showed it, (pictures, steps)."""
        self.transparency = np.zeros((len(self._of), *self._levels(self._parameters[:1]).shape[2:]), np.float32)
        """The sum of the gradients' sizes at each pixel so far, (pictures, height, width)."""

    @property
    def elements(self) -> int:
        """How many numbers its pictures have."""
        return self._parameters.size

    @property
    def work_bytes(self) -> int:
        """Bytes that stand for what a step takes: transforms take many times what copies do."""
        return 16 * self._parameters.nbytes

    @property
    def ended(self) -> bool:
        """Whether all steps were made, or every picture is done."""
        return self.step >= self._brush.steps or bool(self._stopped.all())

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """The steps of each picture, (pictures,)."""
        return np.asarray(np.isfinite(self.trajectory).sum(axis=1))

    @property
    def tries(self) -> npt.NDArray[np.int64]:
        """How often each picture began anew, (pictures,)."""
        return self._tries

    def advance(self, handle: Handle) -> None:
        """Make a step of all pictures that are not done."""
        active = np.flatnonzero(~self._stopped)
        while True:
            painted = handle.beside(lambda: self._painted(active), byte_count=self.work_bytes)
            rows = self._canvas.arrays(painted.rows.detach().numpy())
            more = self._more(handle, rows)
            scores, gradients, dark = self.goals.lit_gradient(handle, rows, self._of[active], more)
            if self.step or not self._begun_anew(active[dark]):
                break
        self.lit[active] |= ~dark
        self.trajectory[active, self.step] = np.where(np.isfinite(scores), scores, np.nan)
        gradient = gradients[self._canvas.name]
        handle.beside(lambda: self._take(painted, active, gradient), byte_count=self.work_bytes)
        self.step += 1
        if self.step % _STRETCH == 0 and self.step >= 2 * _STRETCH:
            self._stop()

    def levels(self) -> Floats:
        """Return the pictures so far, (pictures, channels, height, width), levels in (0, 1)."""
        with torch.no_grad():
            return np.asarray(self._levels(self._parameters).numpy())

    def state(self) -> Arrays:
        """Return all of it as arrays by name: copies, as a painting changes its own in place."""
        found: dict[str, npt.NDArray[np.generic]] = {
            "parameters": self._parameters,
            "first": self._first,
            "second": self._second,
            "tries": self._tries,
            "stopped": self._stopped,
            "lit": self.lit,
            "trajectory": self.trajectory,
            "step": np.array(self.step),
        }
        if self._brush.transparency:
            found["transparency"] = self.transparency
        return {name: each.copy() for name, each in found.items()}

    def restore(self, state: Arrays) -> None:
        """Go on from what `state` returned."""
        copied: dict[str, Any] = {name: np.array(each) for name, each in state.items()}
        self._parameters, self._first, self._second = (copied[name] for name in ("parameters", "first", "second"))
        self._tries, self._stopped, self.lit = copied["tries"], copied["stopped"], copied["lit"]
        self.trajectory, self.step = copied["trajectory"], int(copied["step"])
        self.transparency = copied.get("transparency", self.transparency)

    def _named(self, number: int) -> str:
        """Name a picture for its random numbers: they depend on no other picture of the request."""
        return f"{self.goals.objectives[self._of[number]].name}/{number % self._brush.pictures}"

    def _start(self, number: int, tried: int) -> Floats:
        source = generator(self._brush.seed, f"start/{tried}/{self._named(number)}")
        return self._brush.parameterisation.start(source, _STRONGER**tried)

    def _begun_anew(self, dark: npt.NDArray[np.int64]) -> bool:
        """Begin pictures anew that no gradient reaches, as long as there are tries left; return whether any did."""
        again = dark[self._tries[dark] < _TRIES]
        if self.goals.layer is None:
            return False
        for number in again.tolist():
            self._tries[number] += 1
            # The strongest noise is black and white, where the sigmoid lets little through: in the end the first again.
            self._parameters[number] = self._start(number, int(self._tries[number]) % _TRIES)
        return bool(len(again))

    def _levels(self, parameters: Floats | torch.Tensor) -> torch.Tensor:
        tensor = torch.from_numpy(parameters) if isinstance(parameters, np.ndarray) else parameters
        return self._brush.colours.levels(self._brush.parameterisation.pictures(tensor))

    def _painted(self, active: npt.NDArray[np.int64]) -> "_Painted":
        leaf = torch.from_numpy(self._parameters[active]).requires_grad_()
        with torch.enable_grad():
            levels = self._levels(leaf)
            views = self._brush.views
            shown = levels
            if not views.plain:
                drawn = [
                    views.draw(generator(self._brush.seed, f"view/{self.step}/{self._named(number)}"))
                    for number in active.tolist()
                ]
                shown = seen(levels, np.stack(drawn))
            return _Painted(leaf, levels, self._canvas.rows(shown))

    def _more(self, handle: Handle, rows: Arrays) -> Floats | None:
        """Return the gradient at the layer's value of what likeness charges; None if it charges nothing."""
        brush, layer = self._brush, self.goals.layer
        if not brush.diversity or layer is None:
            return None
        held = handle.hold(Rows(rows), layer.name)
        values = held.values
        handle.release(held)
        found = handle.beside(
            lambda: likeness_gradient(values, layer.layer.unit_axis, brush.pictures), byte_count=16 * values.nbytes
        )
        return np.asarray(-brush.diversity * found, np.float32)

    def _take(self, painted: "_Painted", active: npt.NDArray[np.int64], gradient: npt.NDArray[np.generic]) -> None:
        given = torch.from_numpy(np.nan_to_num(np.asarray(gradient, np.float32), posinf=0, neginf=0))
        with torch.enable_grad():
            gain = (painted.rows * given).sum()
            if self._brush.charged:
                gain = gain - self._charges(painted.levels)
            at_levels, at_parameters = torch.autograd.grad(gain, (painted.levels, painted.leaf))
        if self._brush.transparency:
            self.transparency[active] += at_levels.abs().mean(1).numpy()
        self._climb(active, at_parameters.numpy())

    def _charges(self, levels: torch.Tensor) -> torch.Tensor:
        brush = self._brush
        found = torch.zeros(len(levels))
        if brush.total_variation:
            found = found + brush.total_variation * total_variation(levels)
        if brush.blur:
            found = found + brush.blur * detail(levels)
        if brush.l2:
            found = found + brush.l2 * size(levels - _GREY)
        return found.sum()

    def _climb(self, active: npt.NDArray[np.int64], gradient: Floats) -> None:
        """Make a step by Adam."""
        first = self._first[active] = _FADE * self._first[active] + (1 - _FADE) * gradient
        second = self._second[active] = _SQUARE_FADE * self._second[active] + (1 - _SQUARE_FADE) * gradient**2
        count = self.step + 1
        rate = self._brush.rate * np.sqrt(1 - _SQUARE_FADE**count) / (1 - _FADE**count)
        scaled = np.float32(_EPSILON * np.sqrt(1 - _SQUARE_FADE**count))
        self._parameters[active] += np.float32(rate) * first / (np.sqrt(second) + scaled)

    def _stop(self) -> None:
        """Stop pictures whose objective hardly grew: those of one objective together, as they are charged together."""
        last = self.trajectory[:, self.step - _STRETCH : self.step].mean(axis=1)
        before = self.trajectory[:, self.step - 2 * _STRETCH : self.step - _STRETCH].mean(axis=1)
        # Where there is no number, nothing compares, and the picture goes on.
        done = last - before < _LEAST_GAIN * np.abs(before)
        together = done.reshape(-1, self._brush.pictures).all(axis=1)
        self._stopped |= np.repeat(together, self._brush.pictures)


@dataclass(frozen=True, slots=True)
class _Painted:
    leaf: torch.Tensor
    levels: torch.Tensor
    rows: torch.Tensor
