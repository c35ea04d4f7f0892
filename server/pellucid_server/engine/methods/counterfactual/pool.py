"""The candidates that a search has looked at and that may be of use."""

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.methods.counterfactual.columns import Space
from pellucid_server.engine.methods.counterfactual.judge import Judge
from pellucid_server.engine.methods.counterfactual.projection import between

Floats = npt.NDArray[np.float64]

_MOST = 256
_APART = 0.1
"""Share of the nearest one's distance below which two candidates count as copies."""


class Pool:
    """Evaluates candidates, and keeps the valid ones that are nearest, and the others that came closest.

    Attributes
    ----------
    distance
        What is made small.
    valid
        Valid candidates, (rows, columns), the nearest first.
    near
        Candidates that are not valid, (rows, columns), those with the largest margin first.
    """

    def __init__(self, judge: Judge, space: Space, distance: str) -> None:
        self._judge = judge
        self._space = space
        self.distance = distance
        self.valid = np.zeros((0, len(space.start)))
        self.near = np.zeros((0, len(space.start)))
        self._margins = np.zeros(0)

    def look(self, candidates: Floats) -> tuple[Floats, Floats]:
        """Evaluate as many candidates, (rows, columns), as can be afforded; return those and their margins."""
        pieces, done = [np.zeros(0)], 0
        while done < len(candidates):
            count = self._judge.piece(len(candidates) - done)
            if not count:
                break
            pieces.append(self._judge.margins(self._space.recipe(candidates[done : done + count])))
            done += count
        looked, margins = candidates[:done], np.concatenate(pieces)
        if done:
            self._keep(looked, margins)
        return looked, margins

    def ranks(self, candidates: Floats) -> Floats:
        """Return what puts candidates in order, (rows,)."""
        return self._space.ranks(candidates, self.distance)

    def moves(self, values: Floats) -> Floats:
        """Return by how much a candidate changes each column, (columns,)."""
        return np.asarray(values - self._space.start)

    def best(self) -> float:
        """Return the rank of the nearest valid candidate; infinity if there is none."""
        return float(self.ranks(self.valid[:1])[0]) if len(self.valid) else float("inf")

    def apart(self, count: int) -> Floats:
        """Return up to `count` valid candidates that are no near copies of one another, the nearest first."""
        changes = self._space.changes(self.valid)
        least, chosen = _APART * self.best(), list[int]()
        for number in range(len(self.valid)):
            if len(chosen) == count:
                break
            if not chosen or between(changes[chosen], changes[number], self.distance).min() >= least:
                chosen.append(number)
        return np.asarray(self.valid[chosen])

    def sown(self, frozen: npt.NDArray[np.bool_]) -> "Pool":
        """Return a pool that begins with the valid candidates that leave some columns as they are."""
        found = Pool(self._judge, self._space, self.distance)
        found.valid = self.valid[(self.valid[:, frozen] == self._space.start[frozen]).all(axis=1)]
        return found

    def copy(self) -> "Pool":
        """Return a pool of its own with what this one has."""
        found = Pool(self._judge, self._space, self.distance)
        found.valid, found.near, found._margins = self.valid, self.near, self._margins
        return found

    def take(self, other: "Pool") -> None:
        """Add what another pool has."""
        rows = np.unique(np.concatenate([self.valid, other.valid]), axis=0)
        self.valid = rows[np.argsort(self.ranks(rows), kind="stable")[:_MOST]]
        near, at = np.unique(np.concatenate([self.near, other.near]), axis=0, return_index=True)
        margins = np.concatenate([self._margins, other._margins])[at]
        order = np.argsort(-margins, kind="stable")[:_MOST]
        self.near, self._margins = near[order], margins[order]

    def _keep(self, candidates: Floats, margins: Floats) -> None:
        fits = (margins >= 0) & (candidates != self._space.start).any(axis=1)
        if fits.any():
            rows = np.concatenate([self.valid, candidates[fits]])
            self.valid = rows[np.argsort(self.ranks(rows), kind="stable")[:_MOST]]
        others = (margins < 0) & np.isfinite(margins)
        if others.any():
            rows = np.concatenate([self.near, candidates[others]])
            found = np.concatenate([self._margins, margins[others]])
            order = np.argsort(-found, kind="stable")[:_MOST]
            self.near, self._margins = rows[order], found[order]
