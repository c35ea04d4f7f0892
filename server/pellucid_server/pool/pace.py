"""How fast the places of a class go round, and how long rows ahead of a job will therefore take."""

_MEMORY = 0.9
"""Weight of the past in the running means, at each job."""


class Pace:
    """Rows in places, and the mean time that a row stays in one.

    By Little's law the rows that leave in a second are the rows in places, divided by that time.
    """

    def __init__(self) -> None:
        self._placed = 0
        self._placed_rows = 0
        self._rows = 0.0
        self._row_seconds = 0.0

    def enter(self, rows: int) -> None:
        """Note a job that got a place."""
        self._placed += 1
        self._placed_rows += rows

    def leave(self, rows: int, seconds: float, *, counted: bool) -> None:
        """Note a job that left its place after `seconds`; `counted` is whether that tells of others."""
        self._placed -= 1
        self._placed_rows -= rows
        if counted:
            self._rows = _MEMORY * self._rows + rows
            self._row_seconds = _MEMORY * self._row_seconds + rows * seconds

    @property
    def next_place_seconds(self) -> float:
        """How long it takes on average until a place is free; 0 if there is no telling."""
        return self._row_seconds / self._rows / self._placed if self._rows and self._placed else 0.0

    def seconds(self, rows: float) -> float | None:
        """Return how long it takes until so many rows have got a place; None if there is no telling."""
        if not self._rows or not self._placed_rows:
            return None
        return rows * self._row_seconds / self._rows / self._placed_rows
