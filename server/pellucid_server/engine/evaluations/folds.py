"""The folds that methods reduce results by."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.asking.recipe import SCORES, Accumulator, HostTensors, NonFinite, Tensors
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
        self.keep(results, results, start, count)

    def keep(self, results: Tensors, names: Iterable[str], start: int, count: int) -> None:
        """Take in those results alone."""
        arrays = results.arrays if isinstance(results, HostTensors) else None
        for name in names:
            found = (
                to_host(results[name][start : start + count]) if arrays is None else arrays[name][start : start + count]
            )
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
        self._kept.keep(results, (SCORES,), start, count)

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
    run: tuple[int, int] | None = field(init=False)
    """Where the rows that add to the only sum begin and end; None if there are more sums, or rows between."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "run", self._only_run())

    def start(self, count: int) -> Accumulator:
        """Return an accumulator for `count` rows."""
        return _Summed(self, count)

    def _only_run(self) -> tuple[int, int] | None:
        used = np.flatnonzero(self.owners >= 0)
        if self.sums != 1 or not len(used) or used[-1] - used[0] + 1 != len(used):
            return None
        return int(used[0]), int(used[-1]) + 1


class _Sums:
    """Scores that are kept, and results that are added up: small ones by numpy, whose calls take less time."""

    added_small = True
    """Whether there is a way of its own for small results."""

    def __init__(self, count: int) -> None:
        self._scores = _Kept(count)
        self._done = 0
        self._sums: dict[str, torch.Tensor] = {}
        self._small: dict[str, Floats] = {}
        self.nonfinite: NonFinite | None = None

    def add(self, results: Tensors, start: int, count: int) -> None:
        if SCORES in results:
            self._scores.keep(results, (SCORES,), start, count)
        arrays = results.arrays if self.added_small and isinstance(results, HostTensors) else {}
        for name in results:
            if name == SCORES:
                continue
            array = arrays.get(name)
            if array is not None and array.size <= _SMALL * len(array):
                self._add_small(name, array[start : start + count])
            else:
                self._add(name, results[name][start : start + count].detach())
        self._done += count

    def _add(self, name: str, rows: torch.Tensor) -> None:
        raise NotImplementedError

    def _add_small(self, name: str, rows: npt.NDArray[np.generic]) -> None:
        raise NotImplementedError

    def _look_small(self, name: str, rows: npt.NDArray[np.generic], used: npt.NDArray[np.bool_] | None = None) -> None:
        """Note the first row, of those used, that is not finite, once a sum is not."""
        if self.nonfinite is not None or np.isfinite(self._small[name]).all():
            return
        bad = ~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
        if used is not None:
            bad &= used
        if bad.any():
            first = int(bad.argmax())
            self.nonfinite = NonFinite(self._done + first, name, rows[first].copy())

    def _look(
        self, name: str, rows: torch.Tensor, sums: torch.Tensor, *, numbers: npt.NDArray[np.intp] | None = None
    ) -> None:
        """Note the first row that is not finite, once a sum is not; `numbers` are the rows' within the chunk."""
        if self.nonfinite is not None or math.isfinite(float(sums.sum())) or bool(torch.isfinite(sums).all()):
            return
        self._find(name, rows, numbers)

    def _find(self, name: str, rows: torch.Tensor, numbers: npt.NDArray[np.intp] | None = None) -> None:
        bad = ~torch.isfinite(rows.reshape(len(rows), -1)).all(1)
        if bool(bad.any()):
            first = int(bad.int().argmax())
            number = first if numbers is None else int(numbers[first])
            self.nonfinite = NonFinite(self._done + number, name, to_host(rows[first]))

    def result(self) -> dict[str, npt.NDArray[np.generic]]:
        sums = {name: to_host(sums) for name, sums in self._sums.items()}
        return {**self._scores.result(), **sums, **self._small}


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
                self._look(name, rows[begin:end], sums[owner], numbers=np.arange(begin, end))

    def _add_small(self, name: str, rows: npt.NDArray[np.generic]) -> None:
        fold = self._fold
        if name not in self._small:
            self._small[name] = np.zeros((fold.sums, *rows.shape[1:]))
        part = slice(self._done, self._done + len(rows))
        weights, sums = fold.weights[part], self._small[name]
        if fold.run is not None:
            begin, end = (min(max(edge - self._done, 0), len(rows)) for edge in fold.run)
            sums[0] = _added(sums[0], rows[begin:end], weights[begin:end])
            self._look_small(name, rows, fold.owners[part] >= 0)
            return
        owners = fold.owners[part]
        edges = [0, *(np.flatnonzero(np.diff(owners)) + 1).tolist(), len(owners)]
        _add_runs(sums, rows, weights, owners, edges)
        self._look_small(name, rows, owners >= 0)


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """How often the elements of each unit of a result fall between edges: (units, edges + 1) int64 each.

    A unit is a place of axis 0 of a row's result: a channel, whose elements are at all its positions. Count i is of
    elements in [edge i - 1, edge i): the first of those below all edges, the last of those from the last edge on, and
    of NaN. Counts of parts add up to those of the whole. Scores are kept, (rows,), as they are; results without edges
    are not looked at.

    Attributes
    ----------
    edges
        By the result's name, (edges,) or (units, edges), increasing.
    """

    edges: Arrays

    def start(self, count: int) -> Accumulator:
        """Return an accumulator for `count` rows."""
        return _Counted(self, count)


class _Counted(_Sums):
    added_small = False

    def __init__(self, fold: Histogram, count: int) -> None:
        super().__init__(count)
        self._edges = {name: torch.from_numpy(np.array(edges)) for name, edges in fold.edges.items()}

    def _add(self, name: str, rows: torch.Tensor) -> None:
        if name not in self._edges:
            return
        edges = self._edges[name] = self._edges[name].to(rows.device)
        bins = edges.shape[-1] + 1
        units = rows.shape[1] if rows.ndim > 1 else 1
        if name not in self._sums:
            self._sums[name] = torch.zeros((units, bins), dtype=torch.int64, device=rows.device)
        if self.nonfinite is None and not bool(torch.isfinite(rows).all()):
            self._find(name, rows)
        edges = edges.expand(units, -1).contiguous()
        starts = bins * torch.arange(units, device=rows.device)[:, None]
        for row in rows:
            # One at a time: places are of 8 bytes for each element.
            places = torch.searchsorted(edges, row.reshape(units, -1).to(edges.dtype), right=True).add_(starts)
            self._sums[name] += torch.bincount(places.reshape(-1), minlength=units * bins).reshape(units, bins)


def _add_runs(
    sums: Floats, rows: npt.NDArray[np.generic], weights: Floats, owners: npt.NDArray[np.intp], edges: list[int]
) -> None:
    """Add weighted rows to the sums of their owners, of which each run of rows has one, in the order of rows."""
    products = rows.astype(np.float64) * weights.reshape(-1, *(1,) * (rows.ndim - 1))
    firsts = owners[edges[:-1]]
    lengths = np.diff(edges)
    if firsts.min() >= 0 and (lengths == lengths[0]).all() and len(set(firsts.tolist())) == len(firsts):
        runs = products.reshape(len(firsts), int(lengths[0]), *rows.shape[1:])
        sums[firsts] = _running(sums[firsts][:, np.newaxis], runs, axis=1)
        return
    for begin, end, owner in zip(edges[:-1], edges[1:], firsts.tolist(), strict=True):
        if owner >= 0:
            sums[owner] = _running(sums[owner][np.newaxis], products[begin:end], axis=0)


def _added(total: Floats, rows: npt.NDArray[np.generic], weights: Floats) -> Floats:
    """Return the total with rows, each times its weight, added to it one after the other."""
    terms = np.empty((len(rows) + 1, *rows.shape[1:]))
    terms[0] = total
    np.multiply(rows, weights.reshape(-1, *(1,) * (rows.ndim - 1)), out=terms[1:])
    found: Floats = np.add.accumulate(terms, axis=0)[-1]
    return found


def _running(total: Floats, rows: Floats, *, axis: int) -> Floats:
    """Return the total with rows added to it along an axis: a running sum adds them in their order."""
    found: Floats = np.add.accumulate(np.concatenate([total, rows], axis=axis), axis=axis)
    return np.asarray(found.take(-1, axis=axis))


def _add_rows(total: torch.Tensor, rows: torch.Tensor, weights: list[float]) -> None:
    """Add rows, each times its weight, to a float64 total, one after the other."""
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
        wide = torch.empty_like(sums[0])
        for row in rows:
            wide.copy_(row)
            sums[0].add_(wide.abs_() if self._absolute else wide)
            sums[1].addcmul_(wide, wide)
        self._look(name, rows, sums[1])

    def _add_small(self, name: str, rows: npt.NDArray[np.generic]) -> None:
        if name not in self._small:
            before = self._before.get(name)
            self._small[name] = np.zeros((2, *rows.shape[1:])) if before is None else np.array(before, np.float64)
        sums, wide = self._small[name], rows.astype(np.float64)
        added = np.abs(wide) if self._absolute else wide
        sums[0] = _running(sums[:1], added, axis=0)
        sums[1] = _running(sums[1:], wide * wide, axis=0)
        self._look_small(name, rows)
