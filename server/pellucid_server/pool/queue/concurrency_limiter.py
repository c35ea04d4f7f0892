"""How many requests of a class are done at once on a worker: as many as make it faster, and no more.

Requests side by side fill device batches together, which is what they are side by side for. Once batches are full,
more requests do not get more done: each takes longer, until all of them outlive their deadlines and the device has
worked for nobody. So the limit follows what completed requests tell. A request's stretch is how much longer it stayed
in its place than its kind does on a quiet worker, row for row; requests side by side divided by their stretch are
those that the device really did at once, and half as many more are allowed, to see whether it could do more. Where
stays are short the limit is what keeps them so, which costs the requests little. A request whose deadline passes in its
place, and not soon after it got it, is a loss: the limit falls by a fifth, and comes back as requests are done.

Source: after Brakmo and Peterson, "TCP Vegas: End to End Congestion Avoidance on a Global Internet", IEEE Journal on
Selected Areas in Communications 13(8), 1995, which compares round-trip times with that of a quiet network alike.
"""

import math
from dataclasses import dataclass

_MEMORY = 0.9
"""Weight of the past in the running means, at each request."""

_FIRST = 8
"""Places of a worker before a request has told of more."""

_LEAST = 2
"""Fewer would leave the device without work between two requests."""

_LOSS = 0.8
_RECOVERY = 1.01

_GROWTH = 1.5

_SHORT_SECONDS = 0.5
"""Stay up to which more requests are welcome, whatever they gain."""

_FORGETTING = 0.01
"""What a request tells of a quiet worker where none is quieter, as callers without a place are there beyond the least
limit: else a class with many callers would stay at it for ever if one of them was quick by chance."""

_MOST_KINDS = 4096


@dataclass(slots=True)
class _Pace:
    """What requests of one kind took: means over requests, whose quotients are means over rows."""

    seconds: float
    rows: float
    weight: float
    """Of the last requests, at whatever crowd: how long they stayed, rows evaluated, and rows expected beforehand."""
    quiet_seconds: float
    quiet_rows: float
    """Of requests on a quiet worker, which had one beside them at most. Until there is such a request, and where it was
    slow by chance, of the last requests when those were quickest."""

    @property
    def lately(self) -> float:
        """Seconds that a row took recently."""
        return self.seconds / self.rows

    @property
    def quiet(self) -> float:
        """Seconds that a row takes on a quiet worker."""
        return self.quiet_seconds / self.quiet_rows

    def learn(self, seconds: float, rows: float, weight: float, part: float) -> None:
        """Note a request; `part` is what it tells of a quiet worker."""
        self.seconds += (1 - _MEMORY) * (seconds - self.seconds)
        self.rows += (1 - _MEMORY) * (rows - self.rows)
        self.weight += (1 - _MEMORY) * (weight - self.weight)
        self.quiet_seconds += part * (seconds - self.quiet_seconds)
        self.quiet_rows += part * (rows - self.quiet_rows)
        if self.lately < self.quiet:
            self.quiet_seconds, self.quiet_rows = self.seconds, self.rows


class ConcurrencyLimiter:
    """What the requests of one class that were done tell of those that are.

    Parameters
    ----------
    places
        Most places of a worker.
    workers
        Workers among which requests are spread.
    """

    def __init__(self, places: int, workers: int) -> None:
        self._places = places
        self._workers = workers
        self._limit = min(_FIRST, places)
        self._restraint = 1.0
        self._restrained = -math.inf
        self._placed = 0
        self._paces: dict[str, _Pace] = {}
        # Sums over completed requests, each weighed by the time that it should have taken alone.
        self._alone = self._stays = self._beside = self._gain = 0.0

    @property
    def limit(self) -> int:
        """Places of each worker, from 1 to all there are."""
        return max(min(_LEAST, self._places), math.ceil(self._limit * self._restraint))

    @property
    def placed(self) -> int:
        """Requests in places."""
        return self._placed

    def enter(self) -> int:
        """Note a request that got a place; return how many there are then."""
        self._placed += 1
        return self._placed

    def lose(self, entered: float, now: float) -> None:
        """Note that a deadline passed while its request had a place, since `entered`; it leaves it separately."""
        # Requests that were there before the limit last fell, and so could not heed it, tell nothing new; nor does one
        # that got its place shortly before its deadline.
        if entered >= self._restrained and now - entered >= _SHORT_SECONDS:
            self._restraint = max(_LOSS * self._restraint, 1 / self._places)
            self._restrained = now

    def leave(self, kind: str, rows: int, seconds: float, *, weight: int, beside: int, counted: bool) -> None:
        """Note a request that left its place.

        Parameters
        ----------
        kind
            What it has in common with requests whose rows take as long: its model and methods.
        rows, seconds
            Rows evaluated for it, and how long it stayed.
        weight
            The rows that it was taken to need beforehand.
        beside
            Requests in places when it got its own, itself included.
        counted
            Whether it was done, so that it tells of others.
        """
        around = (beside + self._placed) / 2 / self._workers
        self._placed -= 1
        if not counted or seconds <= 0:
            return
        self._restraint = min(1.0, _RECOVERY * self._restraint)
        alone = rows * self._learn(kind, seconds, rows, weight, around).quiet
        self._alone = _MEMORY * self._alone + alone
        self._stays = _MEMORY * self._stays + alone * seconds
        self._beside = _MEMORY * self._beside + alone * around
        self._gain = _MEMORY * self._gain + alone * around * min(1.0, alone / seconds)
        useful = _GROWTH * self._gain / self._alone
        harmless = self._beside / self._stays * _SHORT_SECONDS
        self._limit = min(self._places, max(_LEAST, math.ceil(max(useful, harmless))))

    def stay_seconds(self, kind: str, weight: int) -> float:
        """Return how long a request should stay in its place at the present crowd; 0 if there is no telling."""
        pace = self._paces.get(kind)
        if pace is None:
            return 0.0
        # No request takes longer than one after the other with those in places.
        row_seconds = min(pace.lately, pace.quiet * (self._placed / self._workers + 1))
        return weight * pace.rows / pace.weight * row_seconds

    def _learn(self, kind: str, seconds: float, rows: int, weight: int, around: float) -> _Pace:
        """Note a request that is done, and return what those of its kind take."""
        pace = self._paces.get(kind)
        if pace is None:
            if len(self._paces) >= _MOST_KINDS:
                self._paces.clear()
            pace = self._paces[kind] = _Pace(seconds, rows, weight, seconds, rows)
        crowded = _FORGETTING if self._limit <= _LEAST else 0.0
        pace.learn(seconds, rows, weight, 1 - _MEMORY if around <= _LEAST else crowded)
        return pace
