"""Upper quantiles of each of several units."""

from typing import Self

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.question import Arrays

Floats = npt.NDArray[np.float32]

_SLACK = 64
"""Values beyond those needed that are kept at least until some are dropped."""


class UpperTail:
    """The `rank`-th largest value of each unit, float32: exact, or a sketch where that would take too much memory.

    Up to a rank of half the capacity, the `rank` largest values are kept, and the answer is exact. Above, it is a
    sketch of the tail alone: values that cannot be among the `rank` largest are dropped, and the others are compacted
    as Manku, Rajagopalan and Lindsay do it ("Approximate medians and other quantiles in one pass", SIGMOD 1998), with
    the random offsets of Karnin, Lang and Liberty ("Optimal quantile approximation in streams", FOCS 2016): a full
    level is sorted, and every second value goes to the next level with twice the weight. All units are compacted
    together. Ranks are wrong by at most `rank_error`, and by far less as a rule, as errors of both signs add up.

    Parameters
    ----------
    units
        How many there are.
    rank
        The rank that is asked for, from 1: `floor(share * n) + 1` is the largest threshold that at most a share of n
        values lie above.
    capacity
        Values that each level keeps of a unit, at least 4.
    seed
        Seed of the offsets.
    """

    def __init__(self, units: int, rank: int, *, capacity: int = 1 << 14, seed: int = 0) -> None:
        if rank < 1 or capacity < 4:
            raise ValueError(f"rank {rank} must be at least 1, and capacity {capacity} at least 4")
        self.units, self.rank, self._capacity, self._seed = units, rank, capacity, seed
        self.rank_error = 0
        """By how much the rank of an answer may be wrong."""
        self.floor = np.full(units, -np.inf, np.float32)
        """A value that the answer is never below, whatever follows, (units,): smaller ones need not be given."""
        self._levels: list[Floats] = []
        self._compactions = 0

    @property
    def exact(self) -> bool:
        """Whether the answer is exact."""
        return self.rank_error == 0

    def update(self, values: npt.NDArray[np.generic]) -> None:
        """Take values in, (units, n); -inf stands for none."""
        found = np.asarray(values, np.float32)
        above = found > self.floor[:, None]
        if above.all():
            self._add(0, found)
            self._settle()
        else:
            self.take(np.nonzero(above)[0], found[above])

    def take(self, units: npt.NDArray[np.int64], values: Floats) -> None:
        """Take values in one by one, (n,), each with its unit, (n,), which must not decrease."""
        if not len(units):
            return
        counts = np.bincount(units, minlength=self.units)
        found = np.full((self.units, int(counts.max())), -np.inf, np.float32)
        found[units, np.arange(len(units)) - np.repeat(np.cumsum(counts) - counts, counts)] = values
        self._add(0, found)
        self._settle()

    def merge(self, other: Self) -> None:
        """Take in what another one of the same rank has seen."""
        self.floor = np.maximum(self.floor, other.floor)
        self.rank_error += other.rank_error
        self._compactions += other._compactions
        for level, values in enumerate(other._levels):
            self._add(level, values)
        self._settle()

    def value(self, rank: int | None = None) -> Floats:
        """Return the value of a rank up to `rank`, which is the default, (units,); -inf where there are fewer."""
        wanted = rank or self.rank
        if not self._levels:
            return self.floor.copy()
        values = np.concatenate(self._levels, axis=1)
        weights = np.repeat([1 << level for level in range(len(self._levels))], [v.shape[1] for v in self._levels])
        order = np.argsort(-values, axis=1, kind="stable")
        reached = np.cumsum(weights[order], axis=1) >= wanted
        place = np.where(reached.any(1), reached.argmax(1), -1)
        found = values[np.arange(self.units), order[np.arange(self.units), place]]
        found[place < 0] = -np.inf
        return np.maximum(found, self.floor) if wanted == self.rank else found

    def above(self, threshold: Floats) -> npt.NDArray[np.int64]:
        """Return how many values lie above a threshold that is at least `value()`, (units,)."""
        found = np.zeros(self.units, np.int64)
        for level, values in enumerate(self._levels):
            found += (values > threshold[:, None]).sum(1) << level
        return found

    def state(self) -> Arrays:
        """Return all of it."""
        numbers = [self.rank, self._capacity, self._seed, self.rank_error, self._compactions]
        levels = {f"level{number}": values.copy() for number, values in enumerate(self._levels)}
        return {"numbers": np.array(numbers, np.int64), "floor": self.floor.copy(), **levels}

    @classmethod
    def from_state(cls, state: Arrays) -> Self:
        """Make one again of what `state` returned."""
        rank, capacity, seed, error, compactions = (int(each) for each in state["numbers"])
        found = cls(len(state["floor"]), rank, capacity=capacity, seed=seed)
        found.floor = state["floor"].astype(np.float32)
        found.rank_error, found._compactions = error, compactions
        found._levels = [state[f"level{number}"].astype(np.float32) for number in range(len(state) - 2)]
        return found

    def _add(self, level: int, values: Floats) -> None:
        while len(self._levels) <= level:
            self._levels.append(np.empty((self.units, 0), np.float32))
        self._levels[level] = np.concatenate([self._levels[level], values], axis=1)

    def _most(self, level: int) -> int:
        """Return how many values of a level weigh as much as the rank: those behind them are beyond it."""
        return -(-self.rank >> level)

    def _settle(self) -> None:
        level = 0
        while level < len(self._levels):
            # Not at each value more than the rank: dropping takes longer than keeping.
            if self._levels[level].shape[1] > min(self._capacity, self._most(level) * 5 // 4 + _SLACK):
                self._shrink(level)
            level += 1

    def _shrink(self, level: int) -> None:
        """Drop what cannot be among the `rank` largest; if too much is left, compact it into the next level."""
        most, values = self._most(level), self._levels[level]
        if values.shape[1] > most:
            values = np.partition(values, values.shape[1] - most, axis=1)[:, -most:]
            self.floor = np.maximum(self.floor, values[:, 0])
        if values.shape[1] <= self._capacity // 2:
            self._levels[level] = np.ascontiguousarray(values)
            return
        ordered = np.sort(values, axis=1)[:, ::-1]
        even = ordered.shape[1] & ~1
        offset = int(np.random.default_rng((self._seed, self._compactions)).integers(2))
        self._compactions += 1
        self.rank_error += 1 << level
        self._levels[level] = np.ascontiguousarray(ordered[:, even:])
        self._add(level + 1, np.ascontiguousarray(ordered[:, offset:even:2]))
