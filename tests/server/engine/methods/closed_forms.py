"""Handles that answer from a formula, and questions about them: what methods are tested against."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from pellucid_server.engine.asking.handle import Answer
from pellucid_server.engine.asking.question import Arrays, Feature, Question, Scores, Target
from pellucid_server.engine.asking.recipe import SCORES
from pellucid_server.engine.evaluations.score import Score

TARGET = Target("y", ((0, 1.0),))


def grown(recipe: Any) -> Arrays:
    """Return all rows of a recipe on the host, (rows, *features) each."""
    tensors = recipe.stage("cpu").rows(0, recipe.count)
    if tensors is None:
        tensors = {
            name: torch.from_numpy(np.empty((recipe.count, *shape), np.dtype(kind)))
            for name, kind, shape in recipe.layout
        }
        recipe.stage("cpu").write(tensors, 0)
    return {name: tensor.numpy() for name, tensor in tensors.items()}


class Formula:
    """Answers from a torch function of the inputs, dicts of (rows, *features) in float64, to (rows,).

    `sizes` has the number of rows of each evaluation, by kind, `latest` the rows of the last gradient. `block` is
    how many rows at most are folded at once. Each gradient row takes `row_seconds` of `seconds`, each forward row
    `forward_seconds`.
    """

    def __init__(
        self,
        function: Callable[[Mapping[str, torch.Tensor]], torch.Tensor],
        *,
        block: int = 1000,
        seconds: float = math.inf,
        row_seconds: float = 0.0,
        forward_seconds: float = 0.0,
    ) -> None:
        self._function = function
        self._block = block
        self._seconds, self._row_seconds, self._forward_seconds = seconds, row_seconds, forward_seconds
        self.sizes: dict[str, list[int]] = {"scores": [], "gradient": []}
        self.latest: Arrays = {}
        self.shares: list[float] = []

    def scores(self, rows: Arrays, target: Target) -> Scores:
        self.sizes["scores"].append(_count(rows))
        self._seconds -= self._forward_seconds * _count(rows)
        return self._function(_tensors(rows)).detach().numpy()

    def gradient(self, rows: Arrays, target: Target, *, at: str = "") -> tuple[Scores, Arrays]:
        self.sizes["gradient"].append(_count(rows))
        self.latest = rows
        self._seconds -= self._row_seconds * _count(rows)
        tensors = _tensors(rows)
        leaves = {name: tensor.requires_grad_() for name, tensor in tensors.items() if tensor.is_floating_point()}
        values = self._function(tensors)
        found = torch.autograd.grad(values.sum(), list(leaves.values()), materialize_grads=True)
        gradients = {name: slope.numpy().astype(rows[name].dtype) for name, slope in zip(leaves, found, strict=True)}
        return values.detach().numpy(), gradients

    def ask(self, ask: Any, *, progress: tuple[float, float] | None = None) -> Answer:
        """Grow the rows, evaluate them in pieces of unequal sizes, and fold what comes."""
        rows = grown(ask.rows)
        if isinstance(ask, Score):
            found = {SCORES: torch.from_numpy(np.asarray(self.scores(rows, ask.target), np.float64))}
        else:
            scores, gradients = self.gradient(rows, ask.target, at=ask.at)
            found = {SCORES: torch.from_numpy(np.asarray(scores, np.float64))}
            found |= {name: torch.from_numpy(np.asarray(each)) for name, each in gradients.items()}
        results, done = ask.fold.start(ask.rows.count), 0
        for most in itertools.cycle((3, 1, self._block)):
            size = min(most, ask.rows.count - done)
            results.add(found, done, size)
            done += size
            if done == ask.rows.count:
                break
        if progress is not None:
            self.progress(progress[1])
        return Answer(results.result(), results.nonfinite)

    def compute(self, function: Callable, *arguments: object) -> object:
        return function(*arguments)

    def seconds_left(self) -> float:
        return self._seconds

    def least_seconds(self, rows: Mapping[str, int]) -> float:
        return rows.get("forward", 0) * self._forward_seconds + rows.get("gradient", 0) * self._row_seconds

    def likely_seconds(self, rows: Mapping[str, int]) -> float:
        return self.least_seconds(rows) or math.inf

    @property
    def rows(self) -> tuple[int, int]:
        """Rows evaluated so far, forward and backward."""
        return sum(self.sizes["scores"]), sum(self.sizes["gradient"])

    def progress(self, share: float) -> None:
        self.shares.append(share)


class Trembling(Formula):
    """A formula whose numbers are off by rounding, otherwise in each evaluation, as in shared batches."""

    def __init__(self, function: Callable[[Mapping[str, torch.Tensor]], torch.Tensor], seed: int) -> None:
        super().__init__(function)
        self._source = np.random.default_rng(seed)

    def scores(self, rows: Arrays, target: Target) -> Scores:
        return self._shaken(super().scores(rows, target))

    def gradient(self, rows: Arrays, target: Target, *, at: str = "") -> tuple[Scores, Arrays]:
        values, gradients = super().gradient(rows, target)
        return self._shaken(values), {name: self._shaken(slope) for name, slope in gradients.items()}

    def _shaken(self, values: np.ndarray) -> np.ndarray:
        return values * (1 + 1e-7 * self._source.uniform(-1, 1, values.shape)).astype(values.dtype)


def tensor_question(
    x: object, baseline: object = 0.0, *, seed: int = 0, tolerance: float | None = None, **feature: object
) -> Question:
    """Ask about one input, "x", of a model of tensors; the baseline is a number, a row or rows."""
    row = np.asarray(x, np.float32)
    baselines = np.asarray(baseline, np.float32)
    if baselines.ndim <= row.ndim:
        baselines = np.broadcast_to(baselines, row.shape)[np.newaxis]
    described = Feature(**{"modality": "tensor", "differentiable": True, **feature})
    return Question({"x": row}, {"x": baselines}, TARGET, {"x": described}, seed, tolerance)


def _count(rows: Arrays) -> int:
    counts = {len(array) for array in rows.values()}
    (count,) = counts
    return count


def _tensors(rows: Arrays) -> dict[str, torch.Tensor]:
    found = {name: torch.from_numpy(np.array(array)) for name, array in rows.items()}
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in found.items()}
