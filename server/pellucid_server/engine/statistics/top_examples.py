"""The rows that each of several units is largest in."""

from typing import Self

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.question import Arrays


class TopExamples:
    """The `count` largest values of each unit, with the row and the position that each is from.

    Ordered from the largest; of equal values the one of the lower row number comes first, whatever came in first.
    """

    def __init__(self, units: int, count: int) -> None:
        self.values = np.full((units, count), -np.inf, np.float32)
        """(units, count); -inf where there are fewer."""
        self.rows = np.full((units, count), -1, np.int64)
        """The rows' numbers, (units, count); -1 where there are fewer."""
        self.positions = np.full((units, count), -1, np.int64)
        """Where in the row, (units, count); -1 where there are fewer."""

    def update(
        self, values: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]
    ) -> None:
        """Take rows in: their numbers, (n,), and the largest value of each unit there and where, (units, n) each."""
        if not self.values.shape[1] or not len(rows):
            return
        # Not smaller: an equal value of a lower row takes the place of one of a higher row.
        units = np.flatnonzero((values >= self.values[:, -1:]).any(1))
        self._join(units, values[units], np.broadcast_to(rows, (len(units), len(rows))), positions[units])

    def merge(self, other: Self) -> None:
        """Take in what another one has seen."""
        self._join(np.arange(len(self.values)), other.values, other.rows, other.positions)

    def state(self) -> Arrays:
        """Return all of it."""
        return {"values": self.values.copy(), "rows": self.rows.copy(), "positions": self.positions.copy()}

    @classmethod
    def from_state(cls, state: Arrays) -> Self:
        """Make one again of what `state` returned."""
        found = cls(*state["values"].shape)
        found.values = state["values"].astype(np.float32)
        found.rows = state["rows"].astype(np.int64)
        found.positions = state["positions"].astype(np.int64)
        return found

    def _join(
        self,
        units: npt.NDArray[np.int64],
        values: npt.NDArray[np.float32],
        rows: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
    ) -> None:
        count = self.values.shape[1]
        all_values = np.concatenate([self.values[units], values], axis=1)
        all_rows = np.concatenate([self.rows[units], rows], axis=1)
        all_positions = np.concatenate([self.positions[units], positions], axis=1)
        order = np.lexsort((all_rows, -all_values), axis=1)[:, :count]
        self.values[units] = np.take_along_axis(all_values, order, axis=1)
        self.rows[units] = np.take_along_axis(all_rows, order, axis=1)
        self.positions[units] = np.take_along_axis(all_positions, order, axis=1)
