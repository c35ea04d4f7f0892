"""How many jobs of a class are done at once on a worker: as many as make it faster, and no more.

Jobs side by side fill device batches together, which is what they are side by side for. Once batches are full, more
jobs do not get more done: each takes longer, until all of them outlive their deadlines and the device has worked for
nobody. So the limit follows what completed jobs tell. A job's stretch is how much longer it stayed in its place than
the quickest of its kind, row for row; jobs side by side divided by their stretch are those that the device really did
at once, and half as many more are allowed, to see whether it could do more. Where stays are short the limit is what
keeps them so, as nobody is hurt by that. A job whose deadline passes in its place is a loss: the limit falls by a
fifth, and comes back as jobs are done.

Source: after Brakmo and Peterson, "TCP Vegas: End to End Congestion Avoidance on a Global Internet", IEEE Journal on
Selected Areas in Communications 13(8), 1995, which compares round-trip times with the least one alike.
"""

import math

_MEMORY = 0.9
"""Weight of the past in the running means, at each job."""

_FIRST = 8
"""Places of a worker before a job has told of more."""

_LEAST = 2
"""Fewer would leave the device without work between two jobs."""

_LOSS = 0.8
_RECOVERY = 1.01

_GROWTH = 1.5

_SHORT_SECONDS = 0.5
"""Stay up to which more jobs are welcome, whatever they gain."""

_MOST_KINDS = 4096


class Crowding:
    """What the jobs of one class that were done tell of those that are.

    Parameters
    ----------
    places
        Most places of a worker.
    workers
        Workers among which jobs are spread.
    """

    def __init__(self, places: int, workers: int) -> None:
        self._places = places
        self._workers = workers
        self._limit = min(_FIRST, places)
        self._restraint = 1.0
        self._placed = 0
        self._quickest: dict[str, float] = {}
        self._alone_seconds: dict[str, float] = {}
        # Sums over completed jobs, each weighed by the time that it should have taken alone.
        self._alone = self._stays = self._beside = self._gain = 0.0

    @property
    def limit(self) -> int:
        """Places of each worker, from 1 to all there are."""
        return max(min(_LEAST, self._places), math.ceil(self._limit * self._restraint))

    @property
    def placed(self) -> int:
        """Jobs in places."""
        return self._placed

    def enter(self) -> int:
        """Note a job that got a place; return how many there are then."""
        self._placed += 1
        return self._placed

    def lose(self) -> None:
        """Note that the deadline of a job passed in its place; it leaves it separately."""
        self._restraint = max(_LOSS * self._restraint, 1 / self._places)

    def leave(self, kind: str, rows: int, seconds: float, *, weight: int, beside: int, counted: bool) -> None:
        """Note a job that left its place.

        Parameters
        ----------
        kind
            What it has in common with jobs whose rows take as long: its model and methods.
        rows, seconds
            Rows evaluated for it, and how long it stayed.
        weight
            The rows that it was taken to need beforehand.
        beside
            Jobs in places when it got its own, itself included.
        counted
            Whether it was done, so that it tells of others.
        """
        around = (beside + self._placed) / 2 / self._workers
        self._placed -= 1
        if not counted or seconds <= 0:
            return
        self._restraint = min(1.0, _RECOVERY * self._restraint)
        quickest = self._quickest.get(kind, math.inf)
        if seconds / rows < quickest:
            if len(self._quickest) >= _MOST_KINDS:
                self._quickest.clear()
                self._alone_seconds.clear()
            self._quickest[kind] = quickest = seconds / rows
        alone = quickest * rows
        before = self._alone_seconds.get(kind, alone / weight)
        self._alone_seconds[kind] = _MEMORY * before + (1 - _MEMORY) * alone / weight
        self._alone = _MEMORY * self._alone + alone
        self._stays = _MEMORY * self._stays + alone * seconds
        self._beside = _MEMORY * self._beside + alone * around
        self._gain = _MEMORY * self._gain + alone * around * alone / seconds
        useful = _GROWTH * self._gain / self._alone
        harmless = self._beside / self._stays * _SHORT_SECONDS
        self._limit = min(self._places, max(_LEAST, math.ceil(max(useful, harmless))))

    def stay_seconds(self, kind: str, weight: int) -> float:
        """Return how long a job should stay in its place at the present crowd; 0 if there is no telling."""
        if not self._gain or kind not in self._alone_seconds:
            return 0.0
        # Jobs side by side over those really done at once is the stretch of late; but no job takes longer than one
        # after the other with those in places, whatever kinds of jobs were about before.
        stretch = min(self._beside / self._gain, self._placed / self._workers + 1)
        return self._alone_seconds[kind] * weight * max(1.0, stretch)
