"""Handles that answer from a formula, and questions about them: what methods are tested against."""

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from pellucid_server.engine.asking.question import Arrays, Feature, Question, Scores, Target

TARGET = Target("y", ((0, 1.0),))


class Formula:
    """Answers from a torch function of the inputs, dicts of (rows, *features) in float64, to (rows,).

    `sizes` has the number of rows of each evaluation, by kind, `latest` the rows of the last gradient. `block` is
    how many rows `blocks` allows. Each gradient row takes `row_seconds` of `seconds`, each forward row
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

    def compute(self, function: Callable, *arguments: object) -> object:
        return function(*arguments)

    def blocks(self, count: int) -> Iterator[slice]:
        return (slice(start, min(start + self._block, count)) for start in range(0, count, self._block))

    def seconds_left(self) -> float:
        return self._seconds

    def least_seconds(self, *, forward: int, backward: int) -> float:
        return forward * self._forward_seconds + backward * self._row_seconds

    def likely_seconds(self, *, forward: int, backward: int) -> float:
        return self.least_seconds(forward=forward, backward=backward) or math.inf

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
