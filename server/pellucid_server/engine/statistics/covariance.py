"""Covariances of the columns of rows."""

from typing import Self

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.question import Arrays

Floats = npt.NDArray[np.float64]


class Covariance:
    """The count, the means and the sums of products of deviations of some columns, in float64.

    Batches are joined as Chan, Golub and LeVeque join variances (1979, "Updating formulae and a pairwise algorithm for
    computing sample variances"): no digits are lost where means are large. It takes width squared numbers of memory,
    and half as many in its state.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        """Rows so far."""
        self.mean: Floats = np.zeros(width)
        self._products: Floats = np.zeros((width, width))

    @property
    def matrix(self) -> Floats:
        """The covariances over `count`, (width, width), symmetric to the last bit; NaN before the first row."""
        if not self.count:
            return np.full_like(self._products, np.nan)
        upper = np.triu(self._products) / self.count
        return np.asarray(upper + np.triu(upper, 1).T)

    def update(self, rows: npt.NDArray[np.generic]) -> None:
        """Take rows in, (n, width)."""
        if not len(rows):
            return
        wide = rows.astype(np.float64)
        mean = wide.mean(0)
        wide -= mean
        self._join(len(rows), mean, wide.T @ wide)

    def merge(self, other: Self) -> None:
        """Take in what another one has seen."""
        self._join(other.count, other.mean, other._products)

    def state(self) -> Arrays:
        """Return all of it, of the products those on and above the diagonal."""
        upper = self._products[np.triu_indices(len(self.mean))]
        return {"count": np.array(self.count), "mean": self.mean.copy(), "products": upper}

    @classmethod
    def from_state(cls, state: Arrays) -> Self:
        """Make one again of what `state` returned."""
        found = cls(len(state["mean"]))
        found.count = int(state["count"])
        found.mean = state["mean"].astype(np.float64)
        found._products[np.triu_indices(len(found.mean))] = state["products"]
        return found

    def _join(self, count: int, mean: Floats, products: Floats) -> None:
        total = self.count + count
        if not total:
            return
        shift = mean - self.mean
        self.mean = self.mean + shift * (count / total)
        self._products = self._products + products + np.outer(shift, shift) * (self.count * count / total)
        self.count = total


def participation_ratio(matrix: Floats) -> float | None:
    """Return (sum of eigenvalues)² / sum of their squares: how many directions the variance is spread over.

    It is between 1, all in one direction, and the width, equal in all; None where nothing varies.

    Source: Gao, Trautmann, Yu, Santhanam, Ryu, Shenoy and Ganguli, "A theory of multineuronal dimensionality, dynamics
    and measurement", 2017.
    """
    largest = float(np.abs(matrix).max(initial=0.0))
    if largest == 0:
        return None
    scaled = matrix / largest
    return float(np.trace(scaled) ** 2 / np.square(scaled).sum())
