"""Which coalitions of players to evaluate, and how to read Shapley values off their values.

Sources: Shapley, "A Value for n-Person Games", 1953; Lundberg and Lee, "A Unified Approach to Interpreting
Model Predictions", NeurIPS 2017 (the weighted regression); Covert and Lee, "Improving KernelSHAP: Practical
Shapley Value Estimation via Linear Regression", AISTATS 2021 (pairs, the constraint).

A design depends on the number of players, the samples and the seed, and never on the values, so that the
same one serves every request of a kind. Designs are kept up to a number of bytes; one that takes long to draw is
drawn in the helper process, and its values are read off there.

A sampled design can be cut short: its pairs are evaluated in an order in which any beginning, if it is not too
short, is a design too, with fewer pairs drawn. So nothing is solved before it is known how many there was time for.
"""

import functools
import itertools
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.duration import takes
from pellucid_server.engine.methods.shared.arrays import generator

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

_KEPT_BYTES = 64 << 20
"""Most memory for designs; the seed is the caller's, so that any number of them can be asked for."""

_LARGE = 400_000
"""Players times samples above which designs are drawn and solved in the helper process: 380 thousand took 15 ms."""

_SMALL = 1 << 16
"""Players times samples up to which a design is kept with its regression, 8 times as large."""

_SOLVING_SECONDS = 1.5e-7
"""Time for each player and pair to solve a design, twice what 512 players with 8192 pairs took."""

_STRATUM_PAIRS = 8
"""Least number of pairs that a standard error's stratum is judged by."""


class Design(Protocol):
    """Coalitions, and Shapley values from their values."""

    @property
    def present(self) -> Flags:
        """Which players each coalition has, (coalitions, players); the first has none, the last all."""
        ...

    def shapley_values(self, values: Floats, *, compute: Callable[..., Any]) -> tuple[Floats, Floats]:
        """Return from the coalitions' values, (coalitions,), each player's Shapley value and its standard error.

        The values sum to the last coalition's value minus the first's. For `compute` see `design`.
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


# A helper process answers one call after the other: of the same large design asked for several times at once, all but
# the first find it here.
@takes(lambda players, samples, seed: 3e-8 * players * samples)
@functools.lru_cache(maxsize=1)
def drawn(players: int, samples: int, seed: int) -> tuple[Flags, int]:
    """Draw a sampled design; return the fields of `Sampled` in order, which can cross to another process."""
    made = Sampled.draw(players, samples // 2, np.random.Generator(np.random.PCG64(seed)))
    return made.first, made.known


def coalition_count(players: int, samples: int) -> int:
    """Return how many coalitions a design has, those with none and all included."""
    every: int = 2**players
    return every if every - 2 <= samples else samples // 2 * 2 + 2


def least_coalition_count(players: int, samples: int) -> int:
    """Return how many coalitions a design must have evaluated at least before it can be cut short."""
    whole = coalition_count(players, samples)
    if 2**players == whole:
        return whole
    pairs = samples // 2
    sizes = range(1, _complete_sizes(players, pairs, _masses(players)) + 1)
    return 2 * _least_pairs(players, sum(_pair_count(players, size) for size in sizes), pairs) + 2


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
    if isinstance(made, Complete):
        return made.present.nbytes + made.operator.nbytes
    return made.first.nbytes + (made.regression.nbytes if made.regression is not None else 0)


def _made(players: int, samples: int, seed: int, compute: Callable[..., Any]) -> "Complete | Sampled":
    if 2**players - 2 <= samples:
        return Complete.of(players)
    if players * samples <= _SMALL:
        first, known = drawn(players, samples, seed)
        return Sampled(first, known, Regression.of(first, known))
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

    def shapley_values(self, values: Floats, *, compute: Callable[..., Any]) -> tuple[Floats, Floats]:
        """Return the exact values, and standard errors of 0; see `Design.shapley_values`."""
        return self.operator @ values, np.zeros(len(self.operator))


@dataclass(frozen=True, slots=True)
class Sampled:
    """Some coalitions, each with its complement: Shapley values by weighted least squares.

    Small sizes have all their pairs; of the others, numbers in proportion to the Shapley kernel's mass, distinct,
    uniform within a size.

    Attributes
    ----------
    first
        The first coalition of each pair, (pairs, players), in order of size.
    known
        How many pairs are of complete sizes; they come first.
    regression
        What reading values off takes, of a small design.
    """

    first: Flags
    known: int
    regression: "Regression | None" = None

    @classmethod
    def draw(cls, players: int, pairs: int, source: np.random.Generator) -> "Sampled":
        """Draw a design with `pairs` pairs, at least 2 for each player and fewer than there are."""
        masses = _masses(players)
        complete = _complete_sizes(players, pairs, masses)
        blocks = [_every_pair(players, size) for size in range(1, complete + 1)]
        known = sum(len(block) for block in blocks)
        drawn = pairs - known
        rest = masses[complete:]
        # Sizes at equal steps of the kernel's mass from a random start: each gets its share, rounded at random.
        places = (source.random() + np.arange(drawn)) / drawn * rest.sum()
        chosen = np.minimum(np.searchsorted(np.cumsum(rest), places, side="right"), len(rest) - 1)
        for step, count in enumerate(np.bincount(chosen).tolist()):
            if count:
                blocks.append(_draw_pairs(players, complete + 1 + step, count, source))
        return cls(np.concatenate(blocks), known)

    @property
    def pairs(self) -> int:
        """How many pairs there are."""
        return len(self.first)

    @property
    def players(self) -> int:
        """How many players there are."""
        return int(self.first.shape[1])

    @property
    def present(self) -> Flags:
        """Which players each coalition has: none, the pairs' first ones, their complements, all."""
        none, every = np.zeros((1, self.players), np.bool_), np.ones((1, self.players), np.bool_)
        return np.concatenate([none, self.first, ~self.first, every])

    @property
    def least_pairs(self) -> int:
        """How many pairs must have been evaluated before the design can be cut short."""
        return _least_pairs(self.players, self.known, self.pairs)

    @property
    def solving_seconds(self) -> float:
        """About how long a pair adds to reading values off, on the high side."""
        return _SOLVING_SECONDS * self.players

    def sequence(self, seed: int) -> npt.NDArray[np.intp]:
        """Return the pairs in the order of evaluation, (pairs,): complete sizes, then the drawn sizes evenly mixed.

        Within a size pairs were drawn one by one, so that any beginning is a draw too; all sizes have about the same
        share of their pairs in it.
        """
        sizes = self.first[self.known :].sum(axis=1)
        starts = np.searchsorted(sizes, sizes)
        counts = np.searchsorted(sizes, sizes, side="right") - starts
        offsets = generator(seed, "order").random(self.players + 1)[sizes]
        order = np.argsort((np.arange(len(sizes)) - starts + offsets) / counts, kind="stable")
        return np.append(np.arange(self.known), self.known + order)

    def part(self, pairs: npt.NDArray[np.intp]) -> "Sampled":
        """Return the design of some of the pairs, ascending, with all of complete sizes."""
        return Sampled(self.first[pairs], self.known)

    def shapley_values(self, values: Floats, *, compute: Callable[..., Any]) -> tuple[Floats, Floats]:
        """Return estimates whose sum is exact, and their standard errors; see `Design.shapley_values`.

        Errors are those of drawing coalitions, from the scatter of the drawn pairs' residuals within strata.
        """
        differences, change = values[1 : 1 + self.pairs] - values[1 + self.pairs : -1], float(values[-1] - values[0])
        if self.regression is not None:
            return self.regression.solve(differences, change)
        question = self.first, self.known, differences, change
        found: tuple[Floats, Floats] = (
            estimates(*question) if 2 * self.first.size <= _LARGE else compute(estimates, *question)
        )
        return found


@takes(lambda first, *_: (5e-8 + 2e-10 * first.shape[1]) * first.size)
def estimates(first: Flags, known: int, differences: Floats, change: float) -> tuple[Floats, Floats]:
    """Solve a design's regression; return each player's Shapley value and its standard error.

    Of a pair it sees only the difference of the two values, v(S) - v(not S), which for the values phi is the sum
    over players of phi, with its sign turned for those not in S.

    Parameters
    ----------
    first, known
        The fields of `Sampled`.
    differences
        The first coalition's value minus its complement's, of each pair, (pairs,).
    change
        What the values sum to: v(all) - v(none).
    """
    return Regression.of(first, known).solve(differences, change)


@dataclass(frozen=True, slots=True)
class Regression:
    """What solving a design's regression takes and no value has a say in.

    Attributes
    ----------
    signs
        1 for the players of each pair's first coalition, -1 for the others, (pairs, players).
    weights
        Of the pairs, (pairs,).
    bound
        From the weighted sums of differences to the values, (players, players).
    offset
        Each player's share of the change, (players,).
    effects
        What a drawn pair's difference does to the values, (drawn, players).
    damping
        A drawn pair's weight, divided by 1 minus its leverage as a jackknife would, (drawn,).
    strata, factors
        Of the drawn pairs; see `_strata`.
    """

    signs: Floats
    weights: Floats
    bound: Floats
    offset: Floats
    effects: Floats
    damping: Floats
    strata: npt.NDArray[np.intp]
    factors: Floats

    @classmethod
    def of(cls, first: Flags, known: int) -> "Regression":
        """Make a design's; see `estimates`."""
        signs = np.where(first, 1.0, -1.0)
        weights, strata, factors = _weighting(first, known)
        # Minimise the weighted squares under sum(phi) = change, by Lagrange's multiplier.
        inverse = np.linalg.inv(signs.T @ (signs * weights[:, np.newaxis]))
        ones = inverse.sum(axis=1)
        offset = ones / ones.sum()
        # Symmetric; its rows sum to 0, so that differences have no say in the sum of the values.
        bound: Floats = np.asarray(inverse - np.outer(ones, offset), np.float64)
        drawn, weight = signs[known:], weights[known:]
        effects = drawn @ bound
        leverage = weight * np.einsum("jp,jp->j", effects, drawn)
        return cls(signs, weights, bound, offset, effects, weight / np.maximum(1 - leverage, 0.1), strata, factors)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays, but for those that are small beside the others."""
        return self.signs.nbytes + self.bound.nbytes + self.effects.nbytes

    def solve(self, differences: Floats, change: float) -> tuple[Floats, Floats]:
        """Return each player's Shapley value and its standard error; see `estimates`."""
        found = self.bound @ (self.signs.T @ (self.weights * differences)) + self.offset * change
        drawn = len(self.effects)
        known = len(self.signs) - drawn
        residuals = differences[known:] - self.signs[known:] @ found
        effects = self.effects * (self.damping * residuals)[:, np.newaxis]
        sums = np.add.reduceat(effects, self.strata)
        squares = np.add.reduceat(np.square(effects, out=effects), self.strata)
        counts = np.diff(np.append(self.strata, drawn))[:, np.newaxis]
        scatter = np.maximum(squares - sums * sums / counts, 0.0)
        return found, np.sqrt(self.factors @ scatter)


def _weighting(first: Flags, known: int) -> tuple[Floats, npt.NDArray[np.intp], Floats]:
    """Return each pair's weight, and the strata of the drawn ones; see `_strata`.

    Pairs of complete sizes weigh what the kernel says, the others what is left of its mass in equal parts.
    """
    players, sizes = first.shape[1], first.sum(axis=1)
    masses, complete = _masses(players), int(sizes[known - 1])
    counts = np.bincount(sizes[known:] - complete - 1, minlength=len(masses) - complete)
    per_pair = np.array([mass / _pair_count(players, size) for size, mass in enumerate(masses[:complete], 1)])
    drawn = len(first) - known
    weights = np.append(per_pair[sizes[:known] - 1], np.full(drawn, masses[complete:].sum() / drawn))
    return weights, *_strata(players, complete, counts)


def _masses(players: int) -> Floats:
    """Return the Shapley kernel's mass of the pairs of each size from 1 to players // 2, summing to 1."""
    sizes = np.arange(1, players // 2 + 1)
    masses = np.where(2 * sizes == players, 0.5, 1.0) / (sizes * (players - sizes))
    return np.asarray(masses / masses.sum(), np.float64)


def _least_pairs(players: int, known: int, pairs: int) -> int:
    """Return how many of a design's pairs make a design.

    One drawn pair for each player, as in the smallest design that can be asked for: with fewer, the pairs' own
    influence on the estimate is so large that their residuals say little of its error.
    """
    return known + min(pairs - known, max(players, _STRATUM_PAIRS))


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
        packed = np.packbits(found, axis=1)
        first_places: dict[bytes, int] = {}
        for place, row in enumerate(packed.view(f"V{packed.shape[1]}").ravel().tolist()):
            first_places.setdefault(row, place)
        found = found[list(first_places.values())]
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
