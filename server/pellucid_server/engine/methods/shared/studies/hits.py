"""Right and wrong predictions counted by subset, and bootstrap intervals of what they add up to.

The bootstrap draws as many rows of a subset as it has, with replacement. Only how many rows of each kind are drawn
matters, where a kind is: right or wrong before, and right in how many draws after. Those numbers are multinomial, so
that they are drawn directly, and no row is kept.

Source: Efron, "Bootstrap methods: another look at the jackknife", The Annals of Statistics 7, 1979.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.methods.shared.arrays import generator

Counts = npt.NDArray[np.int64]
"""Rows by whether the prediction before was right, and in how many draws that after was: (2, draws + 1)."""
_LEAST_SUBSETS = 64


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over rows with its interval; None where it was not asked for."""

    value: float
    low: float | None = None
    high: float | None = None


class Hits:
    """Counts for one change: by subset, (2, draws + 1)."""

    def __init__(self, draws: int) -> None:
        self.draws = draws
        self._counts = np.zeros((_LEAST_SUBSETS, 2, draws + 1), np.int64)

    def add(self, subsets: Sequence[npt.NDArray[np.intp]], before: npt.NDArray[np.bool_], after: Counts) -> None:
        """Add rows: whether each was right before, and in how many draws it was after, (rows,) each."""
        for numbers in subsets:
            needed = int(numbers.max(initial=0)) + 1
            if needed > len(self._counts):
                more = np.zeros((_room(needed), *self._counts.shape[1:]), np.int64)
                more[: len(self._counts)] = self._counts
                self._counts = more
            np.add.at(self._counts, (numbers, before.astype(np.intp), after), 1)

    def of(self, subset: int) -> Counts:
        """Return the counts of a subset, (2, draws + 1)."""
        found: Counts = self._counts[subset]
        return found


def count_bytes(draws: int, subsets: int) -> int:
    """Return how many bytes the counts of one change have."""
    return _room(subsets) * 2 * (draws + 1) * np.dtype(np.int64).itemsize


def _room(subsets: int) -> int:
    """Return for how many subsets there is room where so many are needed: a power of two."""
    return max(1 << (subsets - 1).bit_length(), _LEAST_SUBSETS)


def estimates(
    counts: Counts, seed: int, name: str, *, resamples: int, level: float
) -> tuple[Estimate, Estimate, Estimate]:
    """Return the accuracy before, that after, and the difference, after less before.

    Parameters
    ----------
    counts
        (2, draws + 1), at least one row in all.
    name
        Of the random numbers: others for each subset.
    resamples
        0 for no intervals.
    """
    rows = int(counts.sum())
    draws = counts.shape[1] - 1
    before, after = np.divmod(np.arange(counts.size), draws + 1)
    share = after / max(draws, 1)
    kinds = np.stack([before, share, share - before], axis=1)
    flat = counts.reshape(-1)
    means = flat @ kinds / rows
    if not resamples:
        return Estimate(float(means[0])), Estimate(float(means[1])), Estimate(float(means[2]))
    drawn = generator(seed, f"bootstrap/{name}").multinomial(rows, flat / rows, size=resamples)
    tail = (1 - level) / 2
    low, high = np.quantile(drawn @ kinds / rows, (tail, 1 - tail), axis=0)
    first, second, third = (
        Estimate(float(mean), float(least), float(most)) for mean, least, most in zip(means, low, high, strict=True)
    )
    return first, second, third


def all_estimates(
    counts: npt.NDArray[np.int64], names: tuple[str, ...], seed: int, resamples: int, level: float
) -> npt.NDArray[np.float64]:
    """Return `estimates` for several counts, (n, 2, draws + 1), as (n, 3, 3): value, low and high; NaN for none."""
    found = np.full((len(names), 3, 3), np.nan)
    for place, name in enumerate(names):
        for kind, each in enumerate(estimates(counts[place], seed, name, resamples=resamples, level=level)):
            found[place, kind] = [np.nan if part is None else part for part in (each.value, each.low, each.high)]
    return found
