"""How fast the places of a class go round, and how long rows ahead of a request will therefore take."""

import math

_MEMORY = 0.9
"""Weight of the past in the running means, at each request."""

_STAYS = 4.0
"""Mean stays after which what has left is forgotten, but for 1 / e: requests that share batches leave in bursts."""


class QueueRate:
    """Rows in places, the mean time that a row stays in one, and how many have left while there were any.

    By Little's law the rows that leave in a second are the rows in places, divided by that time. Those in places just
    now may be unlike the rest, one row where there are mostly hundreds; then those that have left tell more. But those
    tell too little when few requests came until now: so it is the faster of both that counts.
    """

    def __init__(self) -> None:
        self._placed = 0
        self._placed_rows = 0
        self._rows = 0.0
        self._row_seconds = 0.0
        # What has left, and in how much time in which there were requests in places.
        self._left_rows = 0.0
        self._busy_seconds = 0.0
        self._now = 0.0

    def enter(self, rows: int, now: float) -> None:
        """Note a request that got a place."""
        self._pass(now)
        self._placed += 1
        self._placed_rows += rows

    def leave(self, rows: int, seconds: float, now: float, *, counted: bool) -> None:
        """Note a request that left its place after `seconds`; `counted` is whether that tells of others."""
        self._pass(now)
        self._placed -= 1
        self._placed_rows -= rows
        # What took no time by the clock would have the places go round infinitely fast.
        if counted and seconds > 0:
            self._rows = _MEMORY * self._rows + rows
            self._row_seconds = _MEMORY * self._row_seconds + rows * seconds
            self._left_rows += rows

    @property
    def next_place_seconds(self) -> float:
        """How long it takes on average until a place is free; 0 if there is no telling."""
        return self._row_seconds / self._rows / self._placed if self._rows and self._placed else 0.0

    def seconds(self, rows: float) -> float | None:
        """Return how long it takes until so many rows have got a place; None if there is no telling.

        Callable from any thread: each number is read once.
        """
        placed, left, busy_seconds = self._placed_rows, self._left_rows, self._busy_seconds
        known, row_seconds = self._rows, self._row_seconds
        if not known or not placed or not row_seconds:
            return None
        # In rows per second, as nothing at all has left lately when a request stays very much longer than others do.
        return rows / max(placed * known / row_seconds, left / busy_seconds if busy_seconds else 0.0)

    def _pass(self, now: float) -> None:
        if self._placed and self._rows:
            # By time and not by requests, as of those that leave together only the first has any time before it.
            kept = math.exp((self._now - now) / (_STAYS * self._row_seconds / self._rows))
            self._left_rows *= kept
            self._busy_seconds *= kept
        if self._placed:
            self._busy_seconds += now - self._now
        self._now = now
