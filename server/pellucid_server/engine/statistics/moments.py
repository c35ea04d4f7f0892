"""Means and variances."""

from typing import Self

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.question import Arrays


class Moments:
    """The count, mean and sum of squared deviations of each of several units, in float64.

    Batches are joined as Chan, Golub and LeVeque join them (1979, "Updating formulae and a pairwise algorithm for
    computing sample variances"), which loses no digits where the mean is large.
    """

    def __init__(self, units: int) -> None:
        self.count = 0
        """Values that each unit has had."""
        self.mean = np.zeros(units)
        self._deviations = np.zeros(units)

    def update(self, values: npt.NDArray[np.generic]) -> None:
        """Take values in, (units, n)."""
        if not values.shape[1]:
            return
        wide = values.astype(np.float64)
        mean = wide.mean(1)
        self.join(values.shape[1], mean, np.square(wide - mean[:, None]).sum(1))

    def merge(self, other: Self) -> None:
        """Take in what another one has seen."""
        self.join(other.count, other.mean, other._deviations)

    @property
    def variance(self) -> npt.NDArray[np.float64]:
        """The variance of each unit, over `count`; NaN before the first value."""
        return self._deviations / self.count if self.count else np.full_like(self.mean, np.nan)

    def state(self) -> Arrays:
        """Return all of it."""
        return {"count": np.array(self.count), "mean": self.mean.copy(), "deviations": self._deviations.copy()}

    @classmethod
    def from_state(cls, state: Arrays) -> Self:
        """Make one again of what `state` returned."""
        found = cls(len(state["mean"]))
        found.count = int(state["count"])
        found.mean = state["mean"].astype(np.float64)
        found._deviations = state["deviations"].astype(np.float64)
        return found

    def join(self, count: int, mean: npt.NDArray[np.float64], deviations: npt.NDArray[np.float64]) -> None:
        """Take in `count` values of each unit by their mean and the sum of squared deviations from it, (units,)."""
        total = self.count + count
        if not total:
            return
        shift = mean - self.mean
        self.mean = self.mean + shift * (count / total)
        self._deviations = self._deviations + deviations + np.square(shift) * (self.count * count / total)
        self.count = total
