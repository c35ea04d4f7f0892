"""Climbing an objective from several starts at once, held to a constraint.

Source: Erhan, Bengio, Courville and Vincent, "Visualizing Higher-Layer Features of a Deep Network", 2009; Kingma and
Ba, "Adam", ICLR 2015.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.methods.shared.searching.constraints import Constraint
from pellucid_server.engine.methods.shared.searching.input_space import Floats
from pellucid_server.engine.methods.shared.searching.objectives import Goals
from pellucid_server.engine.methods.shared.searching.regularisers import size, total_variation

_FADE, _SQUARE_FADE, _TINY = 0.9, 0.999, 1e-12


@dataclass(frozen=True, slots=True)
class Settings:
    """How to climb.

    Attributes
    ----------
    steps
        Steps; there is one evaluation more.
    rate
        Length of the first step in shares of what the constraint allows; it falls to 0 by a half cosine.
    adam
        Whether steps follow Adam's moments, else the steepest way of each point.
    l2
        What the mean square of a point's elements, in shares from the centre, costs.
    total_variation
        What a picture's total variation costs.
    """

    steps: int
    rate: float
    adam: bool = False
    l2: float = 0.0
    total_variation: float = 0.0


class Climb:
    """Points on their way up: `starts` for each objective, one behind the other; `points` are (rows, elements)."""

    def __init__(self, goals: Goals, constraint: Constraint, settings: Settings, points: Floats) -> None:
        rows, objectives = len(points), len(goals.objectives)
        self.goals = goals
        self.step = 0
        self._constraint = constraint
        self._settings = settings
        self._of = np.repeat(np.arange(objectives), rows // objectives)
        self._points = points
        self._best = points.copy()
        self._best_totals = np.full(rows, -np.inf)
        self._lit = np.zeros(objectives, np.bool_)
        self._first, self._second = (np.zeros_like(points),) * 2
        self.trajectory = np.full((objectives, settings.steps + 1), np.nan)
        """The highest objective among an objective's points at each step so far, (objectives, steps + 1)."""

    @property
    def elements(self) -> int:
        """How many numbers its points have."""
        return self._points.size

    @property
    def ended(self) -> bool:
        """Whether all steps were made."""
        return self.step > self._settings.steps

    @property
    def lit(self) -> npt.NDArray[np.bool_]:
        """Whether each objective had a gradient of its own anywhere, (objectives,)."""
        return self._lit

    def advance(self, handle: Handle) -> None:
        """Evaluate all points, and make a step."""
        space, goals = self._constraint.space, self.goals
        work = 8 * self._points.nbytes
        rows = handle.beside(lambda: space.rows(self._points), byte_count=work)
        scores, gradients, dark = goals.lit_gradient(handle, rows, self._of)
        whole = _of_all(gradients, rows)
        handle.beside(lambda: self._take(scores, space.points(whole), dark), byte_count=work)

    def best(self) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Return the best point of each objective, (objectives, elements), and whether it has one that is finite."""
        totals = self._best_totals.reshape(len(self.goals.objectives), -1)
        chosen = totals.argmax(axis=1) + np.arange(len(totals)) * totals.shape[1]
        return self._best[chosen], np.isfinite(self._best_totals[chosen])

    def state(self) -> Arrays:
        """Return all of it as arrays by name: copies, as a climb changes its own in place."""
        found: dict[str, npt.NDArray[np.generic]] = {
            "points": self._points,
            "best": self._best,
            "best totals": self._best_totals,
            "lit": self._lit,
            "trajectory": self.trajectory,
            "step": np.array(self.step),
        }
        if self._settings.adam:
            found |= {"first": self._first, "second": self._second}
        return {name: each.copy() for name, each in found.items()}

    def restore(self, state: Arrays) -> None:
        """Go on from what `state` returned."""
        copied: dict[str, Any] = {name: np.array(each) for name, each in state.items()}
        self._points, self._best, self._best_totals = (copied[name] for name in ("points", "best", "best totals"))
        self._lit, self.trajectory, self.step = copied["lit"], copied["trajectory"], int(copied["step"])
        if self._settings.adam:
            self._first, self._second = copied["first"], copied["second"]

    def _take(self, scores: npt.NDArray[np.float64], gradients: Floats, dark: npt.NDArray[np.bool_]) -> None:
        charges, charged = self._charges()
        finite = np.isfinite(scores) & np.isfinite(gradients).all(axis=1)
        totals = np.where(finite, scores - charges, -np.inf)
        # Of points that are equally high, to the last digit, the last is nearest to where the climb ends.
        better = (totals >= self._best_totals) & finite
        self._best[better], self._best_totals[better] = self._points[better], totals[better]
        objectives = len(self.goals.objectives)
        highest = np.where(finite, scores, -np.inf).reshape(objectives, -1).max(axis=1)
        self.trajectory[:, self.step] = np.where(np.isfinite(highest), highest, np.nan)
        self._lit |= (~dark & finite).reshape(objectives, -1).any(axis=1)
        if self.step < self._settings.steps:
            self._move(np.where(finite[:, None], gradients - charged, 0).astype(gradients.dtype))
        self.step += 1

    def _move(self, gradients: Floats) -> None:
        settings, scale = self._settings, self._constraint.scale
        rate = settings.rate * (1 + math.cos(math.pi * self.step / settings.steps)) / 2
        way = self._adam(gradients * scale) if settings.adam else self._constraint.steepest(gradients * scale)
        self._points = self._constraint.project((self._points + rate * scale * way).astype(self._points.dtype))

    def _adam(self, gradients: Floats) -> Floats:
        """Return Adam's way. In a Euclidean ball the second moment is of the gradient's length, or it would turn it."""
        self._first = (_FADE * self._first + (1 - _FADE) * gradients).astype(gradients.dtype)
        squares = gradients**2
        if self._constraint.kind == "l2":
            numbers = self._constraint.numbers
            together = (squares * numbers).sum(axis=1, keepdims=True)
            squares = np.where(numbers, together, squares)
        self._second = (_SQUARE_FADE * self._second + (1 - _SQUARE_FADE) * squares).astype(gradients.dtype)
        first = self._first / (1 - _FADE ** (self.step + 1))
        second = self._second / (1 - _SQUARE_FADE ** (self.step + 1))
        return np.asarray(first / (np.sqrt(second) + _TINY))

    def _charges(self) -> tuple[npt.NDArray[np.float64], Floats]:
        """Return what points are charged, (rows,), and its gradient, (rows, elements)."""
        settings, space = self._settings, self._constraint.space
        if not settings.l2 and not settings.total_variation:
            return np.zeros(len(self._points)), np.zeros((1, 1), self._points.dtype)
        points = torch.from_numpy(self._points).requires_grad_()
        scale = np.where(self._constraint.scale > 0, self._constraint.scale, 1)
        shares = (points - torch.from_numpy(space.centre)) / torch.from_numpy(scale)
        charges = settings.l2 * size(shares)
        for part in space.parts:
            if len(part.shape) == 3 and settings.total_variation:
                pictures = points[:, part.begin : part.end].reshape(len(points), *part.shape)
                charges = charges + settings.total_variation * total_variation(pictures)
        (gradient,) = torch.autograd.grad(charges.sum(), points)
        return charges.detach().double().numpy(), gradient.numpy()


def _of_all(gradients: Arrays, rows: Arrays) -> Arrays:
    """Return a gradient for every input of `rows`: 0 where there is none."""
    return {name: gradients[name] if name in gradients else np.zeros_like(row) for name, row in rows.items()}
