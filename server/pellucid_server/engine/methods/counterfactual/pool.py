"""The candidates that a search has looked at and that may be of use."""

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.methods.counterfactual.columns import Space
from pellucid_server.engine.methods.counterfactual.judge import Judge

Floats = npt.NDArray[np.float64]

_MOST = 256


class Pool:
    """Evaluates candidates, and keeps the valid ones that are nearest, and the others that came closest.

    Attributes
    ----------
    valid
        Valid candidates, (rows, columns), the nearest first.
    near
        Candidates that are not valid, (rows, columns), those with the largest margin first.
    """

    def __init__(self, judge: Judge, space: Space, distance: str) -> None:
        self._judge = judge
        self._space = space
        self._distance = distance
        self.valid = np.zeros((0, len(space.start)))
        self.near = np.zeros((0, len(space.start)))
        self._margins = np.zeros(0)

    def look(self, candidates: Floats) -> tuple[Floats, Floats]:
        """Evaluate as many candidates, (rows, columns), as can be afforded; return those and their margins."""
        count = self._judge.affordable(len(candidates))
        looked = candidates[:count]
        if not count:
            return looked, np.zeros(0)
        margins = self._judge.margins(self._space.recipe(looked))
        self._keep(looked, margins)
        return looked, margins

    def ranks(self, candidates: Floats) -> Floats:
        """Return what puts candidates in order, (rows,)."""
        return self._space.ranks(candidates, self._distance)

    def best(self) -> float:
        """Return the rank of the nearest valid candidate; infinity if there is none."""
        return float(self.ranks(self.valid[:1])[0]) if len(self.valid) else float("inf")

    def by_columns(self, count: int) -> Floats:
        """Return up to `count` valid candidates that change different columns, the nearest first."""
        changed = self.valid != self._space.start
        _, first = np.unique(changed, axis=0, return_index=True)
        return np.asarray(self.valid[np.sort(first)[:count]])

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
