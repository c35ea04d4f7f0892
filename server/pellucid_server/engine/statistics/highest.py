"""The rows with the highest values."""

from typing import Self

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.question import Arrays

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

_NO_ROW = np.iinfo(np.int64).max


class Highest:
    """The rows in which each of several units is highest, highest first; of equal ones, the row that comes first.

    Attributes
    ----------
    values
        (units, most); minus infinity where there are fewer rows.
    rows
        Their numbers, (units, most).
    places
        Where in the row the value is, as it was given, (units, most).
    """

    def __init__(self, units: int, most: int) -> None:
        self.values: Floats = np.full((units, most), -np.inf)
        self.rows: Numbers = np.full((units, most), _NO_ROW)
        self.places: Numbers = np.zeros((units, most), np.int64)

    @property
    def count(self) -> int:
        """How many rows there are for each unit."""
        return int((self.rows[:1] != _NO_ROW).sum())

    def update(self, values: npt.NDArray[np.generic], places: Numbers, numbers: Numbers) -> None:
        """Take rows in: the value of each, (units, n), where it is, (units, n), and its number, (n,)."""
        self._join(values.astype(np.float64), places, np.broadcast_to(numbers, values.shape))

    def merge(self, other: Self) -> None:
        """Take in what another one has seen."""
        self._join(other.values, other.places, other.rows)

    def state(self) -> Arrays:
        """Return all of it."""
        return {"values": self.values.copy(), "rows": self.rows.copy(), "places": self.places.copy()}

    @classmethod
    def from_state(cls, state: Arrays) -> Self:
        """Make one again of what `state` returned."""
        found = cls(*state["values"].shape)
        found.values = state["values"].astype(np.float64)
        found.rows, found.places = state["rows"].astype(np.int64), state["places"].astype(np.int64)
        return found

    def _join(self, values: Floats, places: Numbers, rows: Numbers) -> None:
        most = self.values.shape[1]
        values, rows = np.hstack([self.values, values]), np.hstack([self.rows, rows])
        places = np.hstack([self.places, places])
        order = np.lexsort((rows, -values), axis=1)[:, :most]
        self.values = np.take_along_axis(values, order, 1)
        self.rows = np.take_along_axis(rows, order, 1)
        self.places = np.take_along_axis(places, order, 1)
