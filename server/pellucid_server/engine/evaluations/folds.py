"""The folds that methods reduce results by."""

import itertools
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.asking.recipe import SCORES, Accumulator, NonFinite, Tensors
from pellucid_server.engine.device.accelerator import to_host

Floats = npt.NDArray[np.float64]

_SMALL = 4096
"""Elements of a result up to which the rows of a chunk are added by one call: calls cost more than additions then."""


@dataclass(frozen=True, slots=True)
class Keep:
    """All results, (rows, *shape) each."""

    def start(self, count: int) -> Accumulator:
        """Return an accumulator for `count` rows."""
        return _Kept(count)


class _Kept:
    nonfinite: NonFinite | None = None

    def __init__(self, count: int) -> None:
        self._count = count
        self._done = 0
        self._results: dict[str, npt.NDArray[np.generic]] = {}

    def add(self, results: Tensors, start: int, count: int) -> None:
        for name, rows in results.items():
            found = to_host(rows[start : start + count])
            if count == self._count:
                self._results[name] = found
                continue
            if name not in self._results:
                # Room for the results of all rows is made with the first of them.
                self._results[name] = np.empty((self._count, *found.shape[1:]), found.dtype)
            self._results[name][self._done : self._done + count] = found
        self._done += count

    def result(self) -> dict[str, npt.NDArray[np.generic]]:
        return self._results


@dataclass(frozen=True, slots=True)
class ScoresOnly:
    """The scores, (rows,), and nothing of what was computed beside them."""

    def start(self, count: int) -> Accumulator:
        """Return an accumulator for `count` rows."""
        return _Scores(count)


class _Scores:
    nonfinite: NonFinite | None = None

    def __init__(self, count: int) -> None:
        self._kept = _Kept(count)

    def add(self, results: Tensors, start: int, count: int) -> None:
        self._kept.add({SCORES: results[SCORES]}, start, count)

    def result(self) -> dict[str, npt.NDArray[np.generic]]:
        return self._kept.result()


@dataclass(frozen=True, slots=True, eq=False)
class WeightedSum:
    """Sums of results, (sums, *shape) float64 each: row i adds `weights[i]` times its own to sum `owners[i]`.

    A row whose owner is -1 adds nothing, whatever its result is. Scores are kept, (rows,), as they are.
    """

    weights: Floats
    owners: npt.NDArray[np.intp]
    sums: int

    def start(self, count: int) -> Accumulator:
        """Return an accumulator for `count` rows."""
        return _Summed(self, count)


class _Sums:
    """Scores that are kept, and results that are added up."""

    def __init__(self, count: int) -> None:
        self._scores = _Kept(count)
        self._done = 0
        self._sums: dict[str, torch.Tensor] = {}
        self.nonfinite: NonFinite | None = None

    def add(self, results: Tensors, start: int, count: int) -> None:
        if SCORES in results:
            self._scores.add({SCORES: results[SCORES]}, start, count)
        for name, rows in results.items():
            if name != SCORES:
                self._add(name, rows[start : start + count].detach())
        self._done += count

    def _add(self, name: str, rows: torch.Tensor) -> None:
        raise NotImplementedError

    def _look(self, name: str, rows: torch.Tensor, sums: torch.Tensor, *, offset: int = 0) -> None:
        """Note the first row that is not finite, once a sum is not."""
        if self.nonfinite is not None or bool(torch.isfinite(sums.sum())) or bool(torch.isfinite(sums).all()):
            return
        bad = ~torch.isfinite(rows.reshape(len(rows), -1)).all(1)
        if bool(bad.any()):
            first = int(bad.int().argmax())
            self.nonfinite = NonFinite(self._done + offset + first, name, to_host(rows[first]))

    def result(self) -> dict[str, npt.NDArray[np.generic]]:
        return {**self._scores.result(), **{name: to_host(sums) for name, sums in self._sums.items()}}


class _Summed(_Sums):
    def __init__(self, fold: WeightedSum, count: int) -> None:
        super().__init__(count)
        self._fold = fold

    def _add(self, name: str, rows: torch.Tensor) -> None:
        if name not in self._sums:
            shape = (self._fold.sums, *rows.shape[1:])
            self._sums[name] = torch.zeros(shape, dtype=torch.float64, device=rows.device)
        part = slice(self._done, self._done + len(rows))
        owners, weights = self._fold.owners[part], self._fold.weights[part]
        sums = self._sums[name]
        edges = [0, *(np.flatnonzero(np.diff(owners)) + 1).tolist(), len(owners)]
        for begin, end in itertools.pairwise(edges):
            owner = int(owners[begin])
            if owner >= 0:
                _add_rows(sums[owner], rows[begin:end], weights[begin:end].tolist())
                self._look(name, rows[begin:end], sums[owner], offset=begin)


def _add_rows(total: torch.Tensor, rows: torch.Tensor, weights: list[float]) -> None:
    """Add rows, each times its weight, to a float64 total, one after the other."""
    if total.numel() <= _SMALL and not rows.is_cuda:
        scale = torch.tensor(weights, dtype=torch.float64).reshape(-1, *(1,) * total.ndim)
        # A running sum along the rows adds in their order.
        total.copy_(torch.cat([total[None], rows * scale]).cumsum(0)[-1])
        return
    wide = torch.empty_like(total)
    for row, weight in zip(rows, weights, strict=True):
        total.add_(wide.copy_(row), alpha=weight)


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Sums of results and of their squares, (2, *shape) float64 each; of magnitudes if `absolute`.

    Scores are kept, (rows,), as they are. `before` are moments of earlier rows, to which these are added: as if all
    had been asked for at once.
    """

    absolute: bool = False
    before: Arrays = field(default_factory=dict)

    def start(self, count: int) -> Accumulator:
        """Return an accumulator for `count` rows."""
        return _WithSquares(self, count)


class _WithSquares(_Sums):
    def __init__(self, fold: Moments, count: int) -> None:
        super().__init__(count)
        self._absolute = fold.absolute
        self._before = fold.before

    def _add(self, name: str, rows: torch.Tensor) -> None:
        if name not in self._sums:
            before = self._before.get(name)
            begin = np.zeros((2, *rows.shape[1:])) if before is None else before.astype(np.float64)
            self._sums[name] = torch.from_numpy(begin).to(rows.device)
        sums = self._sums[name]
        if rows[0].numel() <= _SMALL and not rows.is_cuda:
            wide = rows.double().abs() if self._absolute else rows.double()
            sums[0] = torch.cat([sums[:1], wide]).cumsum(0)[-1]
            sums[1] = torch.cat([sums[1:], wide * wide]).cumsum(0)[-1]
        else:
            wide = torch.empty_like(sums[0])
            for row in rows:
                wide.copy_(row)
                sums[0].add_(wide.abs_() if self._absolute else wide)
                sums[1].addcmul_(wide, wide)
        self._look(name, rows, sums[1])
