"""Which coalitions of players to evaluate, and how to read Shapley values off their values.

Sources: Shapley, "A Value for n-Person Games", 1953; Lundberg and Lee, "A Unified Approach to Interpreting
Model Predictions", NeurIPS 2017 (the weighted regression); Covert and Lee, "Improving KernelSHAP: Practical
Shapley Value Estimation via Linear Regression", AISTATS 2021 (pairs, the constraint).

A design depends on the number of players, the samples and the seed, and never on the values, so that the
same one serves every request of a kind: what remains for each is two products of a matrix and a vector.
Designs are kept up to a number of bytes; one that takes long to draw is drawn in the helper process.
"""

import dataclasses
import itertools
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

_KEPT_BYTES = 64 << 20
"""Most memory for designs; the seed is the caller's, so that any number of them can be asked for."""

_LARGE = 400_000
"""Players times samples above which a design is drawn in the helper process: at 330 thousand it took 17 ms."""

_STRATUM_PAIRS = 8
"""Least number of pairs that a standard error's stratum is judged by."""


class Design(Protocol):
    """Coalitions, and Shapley values from their values."""

    @property
    def present(self) -> Flags:
        """Which players each coalition has, (coalitions, players); the first has none, the last all."""
        ...

    def shapley_values(self, values: Floats) -> tuple[Floats, Floats]:
        """Return from the coalitions' values, (coalitions,), each player's Shapley value and its standard error.

        The values sum to the last coalition's value minus the first's.
        """
        ...


def design(players: int, samples: int, seed: int, *, compute: Callable[..., Any]) -> Design:
    """Choose coalitions of `players`: all if `samples`, those with none and all left out, suffice; else some.

    A sampled design needs at least 4 samples for each player. One that takes long is drawn by `compute`, which is
    a handle's: `compute(function, *arguments)` runs a function of this module elsewhere.
    """
    key = (players, samples, seed)
    found = _kept.get(key)
    if found is None:
        found = _made(players, samples, seed, compute)
        _kept.put(key, found)
    return found


def drawn(players: int, samples: int, seed: int) -> tuple[Any, ...]:
    """Draw a sampled design; return the arrays of `Sampled` in order, which can cross to another process."""
    found = Sampled.draw(players, samples // 2, np.random.Generator(np.random.PCG64(seed)))
    return tuple(getattr(found, entry.name) for entry in dataclasses.fields(found))


class Kept:
    """The designs used last, together of at most `limit` bytes; larger ones are not kept."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._designs: OrderedDict[tuple[int, int, int], Complete | Sampled] = OrderedDict()
        self._turn = threading.Lock()
        self.byte_count = 0

    def get(self, key: tuple[int, int, int]) -> "Complete | Sampled | None":
        """Return a design for (players, samples, seed), or None."""
        with self._turn:
            if key in self._designs:
                self._designs.move_to_end(key)
            return self._designs.get(key)

    def put(self, key: tuple[int, int, int], made: "Complete | Sampled") -> None:
        """Keep a design, and let go of those used longest ago."""
        with self._turn:
            if key in self._designs or byte_count(made) > self._limit:
                return
            self._designs[key] = made
            self.byte_count += byte_count(made)
            while self.byte_count > self._limit:
                _, oldest = self._designs.popitem(last=False)
                self.byte_count -= byte_count(oldest)


def byte_count(made: "Complete | Sampled") -> int:
    """Return the size of a design's arrays."""
    return sum(getattr(made, entry.name).nbytes for entry in dataclasses.fields(made))


def _made(players: int, samples: int, seed: int, compute: Callable[..., Any]) -> "Complete | Sampled":
    if 2**players - 2 <= samples:
        return Complete.of(players)
    if players * samples <= _LARGE:
        return Sampled(*drawn(players, samples, seed))
    return Sampled(*compute(drawn, players, samples, seed))


@dataclass(frozen=True, slots=True)
class Complete:
    """Every coalition: Shapley values are exact."""

    present: Flags
    operator: Floats
    """From values to Shapley values, (players, coalitions)."""

    @classmethod
    def of(cls, players: int) -> "Complete":
        """Enumerate the coalitions of `players`."""
        present = (np.arange(2**players)[:, np.newaxis] >> np.arange(players) & 1).astype(np.bool_)
        sizes = present.sum(axis=1)
        # A player adds its value to each coalition of s others with the weight 1 / (players * C(players - 1, s)).
        orders: Floats = np.array(
            [players * math.comb(players - 1, size) for size in range(players)] or [1], np.float64
        )
        joined, missed = 1 / orders[sizes - 1], -1 / orders[np.minimum(sizes, players - 1)]
        return cls(present, np.where(present.T, joined, missed))

    def shapley_values(self, values: Floats) -> tuple[Floats, Floats]:
        """Return the exact values, and standard errors of 0; see `Design.shapley_values`."""
        return self.operator @ values, np.zeros(len(self.operator))


@dataclass(frozen=True, slots=True)
class Sampled:
    """Some coalitions, each with its complement: Shapley values by weighted least squares.

    In a pair the regression sees only the difference of the two values, v(S) - v(not S), which for the values
    phi is the sum over players of phi, with its sign turned for those not in S. Small sizes have all their
    pairs; of the others, numbers in proportion to the Shapley kernel's mass, distinct, uniform within a size.

    Attributes
    ----------
    signs
        1 where the pair's first coalition has the player, else -1, (pairs, players).
    operator, offset
        Values are operator @ differences + offset * (v(all) - v(none)): (players, pairs) and (players,).
    error_operator
        The operator's columns of the pairs that were drawn, which are the last, (players, drawn), each divided by 1
        minus its leverage, as a jackknife would.
    strata, factors
        First drawn pair of each stratum of sizes, and the factor of its sum of squares, (strata,).
    """

    present: Flags
    signs: Floats
    operator: Floats
    offset: Floats
    error_operator: Floats
    strata: npt.NDArray[np.intp]
    factors: Floats

    @classmethod
    def draw(cls, players: int, pairs: int, source: np.random.Generator) -> "Sampled":
        """Draw a design with `pairs` pairs, at least 2 for each player and fewer than there are."""
        masses = _masses(players)
        complete = _complete_sizes(players, pairs, masses)
        blocks = [_every_pair(players, size) for size in range(1, complete + 1)]
        weights: list[Floats] = [
            np.full(len(block), masses[size] / len(block), np.float64) for size, block in enumerate(blocks)
        ]
        known = sum(len(block) for block in blocks)
        drawn = pairs - known
        rest = masses[complete:].copy()
        # Sizes at equal steps of the kernel's mass from a random start: each gets its share, rounded at random.
        places = (source.random() + np.arange(drawn)) / drawn * rest.sum()
        chosen = np.minimum(np.searchsorted(np.cumsum(rest), places, side="right"), len(rest) - 1)
        counts = np.bincount(chosen, minlength=len(rest))
        for step, count in enumerate(counts.tolist()):
            if count:
                blocks.append(_draw_pairs(players, complete + 1 + step, count, source))
        weights.append(np.full(drawn, rest.sum() / drawn, np.float64))
        first = np.concatenate(blocks)
        none, every = np.zeros((1, players), np.bool_), np.ones((1, players), np.bool_)
        present = np.concatenate([none, first, ~first, every])
        return cls._solved(present, first, np.concatenate(weights), known, _strata(players, complete, counts))

    @classmethod
    def _solved(
        cls, present: Flags, first: Flags, weights: Floats, known: int, strata: tuple[npt.NDArray[np.intp], Floats]
    ) -> "Sampled":
        signs = np.where(first, 1.0, -1.0)
        weighted = signs.T * weights
        # Minimise the weighted squares under sum(phi) = v(all) - v(none), by Lagrange's multiplier.
        both = np.linalg.solve(weighted @ signs, np.column_stack([weighted, np.ones(signs.shape[1])]))
        free, ones = both[:, :-1].astype(np.float64, copy=False), both[:, -1]
        offset: Floats = ones / ones.sum()
        operator = free - np.outer(offset, free.sum(axis=0))
        leverage = np.einsum("jp,pj->j", signs[known:], operator[:, known:])
        error_operator: Floats = operator[:, known:] / np.maximum(1 - leverage, 0.1)
        return cls(present, signs, operator, offset, error_operator, *strata)

    def shapley_values(self, values: Floats) -> tuple[Floats, Floats]:
        """Return estimates whose sum is exact, and their standard errors; see `Design.shapley_values`.

        Errors are those of drawing coalitions, from the scatter of the drawn pairs' residuals within strata.
        """
        pairs = len(self.signs)
        differences = values[1 : 1 + pairs] - values[1 + pairs : -1]
        found = self.operator @ differences + self.offset * (values[-1] - values[0])
        drawn = self.error_operator.shape[1]
        residuals = differences[-drawn:] - self.signs[-drawn:] @ found
        effects = self.error_operator * residuals
        squares = np.add.reduceat(effects * effects, self.strata, axis=1)
        sums = np.add.reduceat(effects, self.strata, axis=1)
        counts = np.diff(np.append(self.strata, drawn))
        scatter = np.maximum(squares - sums * sums / counts, 0.0)
        return found, np.sqrt(scatter @ self.factors)


def _masses(players: int) -> Floats:
    """Return the Shapley kernel's mass of the pairs of each size from 1 to players // 2, summing to 1."""
    sizes = np.arange(1, players // 2 + 1)
    masses = np.where(2 * sizes == players, 0.5, 1.0) / (sizes * (players - sizes))
    return np.asarray(masses / masses.sum(), np.float64)


def _pair_count(players: int, size: int) -> int:
    """Return how many pairs of a coalition of `size` and its complement there are."""
    return math.comb(players, size) // (2 if 2 * size == players else 1)


def _complete_sizes(players: int, pairs: int, masses: Floats) -> int:
    """Return up to which size all pairs are evaluated: size 1 always, others if their share pays for all of them."""
    left, size = pairs - players, 1
    while left * masses[size] / masses[size:].sum() >= _pair_count(players, size + 1):
        left -= _pair_count(players, size + 1)
        size += 1
    return size


def _every_pair(players: int, size: int) -> Flags:
    """Return the first coalition of every pair of a size, (pairs, players)."""
    count = _pair_count(players, size)
    members = itertools.islice(itertools.combinations(range(players), size), count)
    # In lexical order the first half of the coalitions of half the players are those that have player 0.
    indices = np.fromiter(itertools.chain.from_iterable(members), np.intp, count * size).reshape(count, size)
    found = np.zeros((count, players), np.bool_)
    np.put_along_axis(found, indices, True, axis=1)
    return found


def _draw_pairs(players: int, size: int, count: int, source: np.random.Generator) -> Flags:
    """Draw `count` distinct pairs of a size, uniformly; return their first coalitions, (count, players)."""
    if _pair_count(players, size) <= 4 * count:
        every = _every_pair(players, size)
        return every[source.permutation(len(every))[:count]]
    found = np.zeros((0, players), np.bool_)
    while len(found) < count:
        ranks = source.random((count, players)).argsort(axis=1)
        more = np.zeros((count, players), np.bool_)
        np.put_along_axis(more, ranks[:, :size], True, axis=1)
        if 2 * size == players:
            more ^= ~more[:, :1]
        found = np.concatenate([found, more])
        _, firsts = np.unique(np.packbits(found, axis=1), axis=0, return_index=True)
        found = found[np.sort(firsts)]
    return found[:count]


def _strata(players: int, complete: int, counts: npt.NDArray[np.intp]) -> tuple[npt.NDArray[np.intp], Floats]:
    """Return the first drawn pair of each stratum, and its factor from a sum of squares to a variance.

    A stratum is a size, or neighbouring sizes taken together until they have enough pairs to be judged by;
    the sizes' own differences then count as scatter, and the error is too large rather than too small.
    """
    strata: list[list[tuple[int, int]]] = [[]]
    for size, count in enumerate(counts.tolist(), start=complete + 1):
        if sum(number for _, number in strata[-1]) >= _STRATUM_PAIRS:
            strata.append([])
        if count:
            strata[-1].append((size, count))
    if len(strata) > 1 and sum(number for _, number in strata[-1]) < _STRATUM_PAIRS:
        last = strata.pop()
        strata[-1].extend(last)
    numbers = np.array([sum(number for _, number in stratum) for stratum in strata])
    # Pairs are drawn without repetition: of a size that is half known, half the scatter is left.
    unknown = np.array([_unknown_share(players, stratum) for stratum in strata])
    return np.cumsum(numbers) - numbers, unknown * numbers / np.maximum(numbers - 1, 1)


def _unknown_share(players: int, stratum: list[tuple[int, int]]) -> float:
    if len(stratum) > 1:
        return 1.0
    ((size, count),) = stratum
    return 1 - count / _pair_count(players, size)


_kept = Kept(_KEPT_BYTES)
