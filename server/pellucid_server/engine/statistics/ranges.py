"""Least and greatest values, and how many are positive."""

from typing import Self

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.question import Arrays

Floats = npt.NDArray[np.float64]


class Ranges:
    """The minimum, the maximum and the number of positive values of each of several units.

    Before the first value, the minimum is infinity and the maximum minus infinity.
    """

    def __init__(self, units: int) -> None:
        self.minimum: Floats = np.full(units, np.inf)
        self.maximum: Floats = np.full(units, -np.inf)
        self.positive: npt.NDArray[np.int64] = np.zeros(units, np.int64)
        """Values above 0 that each unit has had."""

    def update(self, values: npt.NDArray[np.generic]) -> None:
        """Take values in, (units, n)."""
        if not values.shape[1]:
            return
        self.join(values.min(1), values.max(1), np.count_nonzero(np.greater(values, 0), axis=1))

    def merge(self, other: Self) -> None:
        """Take in what another one has seen."""
        self.join(other.minimum, other.maximum, other.positive)

    def join(
        self, minimum: npt.NDArray[np.generic], maximum: npt.NDArray[np.generic], positive: npt.NDArray[np.int64]
    ) -> None:
        """Take in values by their minimum, their maximum and how many are positive, (units,) each."""
        self.minimum = np.minimum(self.minimum, minimum)
        self.maximum = np.maximum(self.maximum, maximum)
        self.positive = self.positive + positive

    def state(self) -> Arrays:
        """Return all of it."""
        return {"minimum": self.minimum.copy(), "maximum": self.maximum.copy(), "positive": self.positive.copy()}

    @classmethod
    def from_state(cls, state: Arrays) -> Self:
        """Make one again of what `state` returned."""
        found = cls(0)
        found.minimum = state["minimum"].astype(np.float64)
        found.maximum = state["maximum"].astype(np.float64)
        found.positive = state["positive"].astype(np.int64)
        return found
