"""The callers of a class in the order of their virtual times."""

import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from pellucid_server.pool.queue.ticket import Ticket

_SPARE = 64


@dataclass(slots=True, eq=False)
class Caller:
    """Somebody with requests of the class, waiting or in places."""

    name: str
    start: float = 0.0
    """Virtual time at which its next request starts; never falls."""
    running: int = 0
    """Its requests in places."""
    waiting_rows: int = 0
    line: OrderedDict[Ticket, None] = field(default_factory=OrderedDict)
    """Its requests that wait, in their order."""


class FairQueue:
    """A heap from which callers who no longer belong there are dropped when they come up.

    Parameters
    ----------
    present
        Tells whether a caller belongs there still.
    """

    def __init__(self, present: Callable[[Caller], bool]) -> None:
        self._present = present
        self._heap: list[tuple[float, int, Caller]] = []
        self._members: set[Caller] = set()
        self._most = _SPARE
        self._order = itertools.count()

    def __len__(self) -> int:
        """Return the callers who are held, those included who no longer belong there."""
        return len(self._heap)

    def add(self, caller: Caller) -> None:
        """Put a caller there who belongs there; one who is there stays where it is."""
        if caller in self._members:
            return
        if len(self._heap) >= self._most:
            self._sweep()
        self._members.add(caller)
        heapq.heappush(self._heap, (caller.start, next(self._order), caller))

    def first(self) -> Caller | None:
        """Return the caller with the least virtual time, the one who was put there first among equals."""
        heap = self._heap
        while heap:
            noted, order, caller = heap[0]
            if not self._present(caller):
                heapq.heappop(heap)
                self._members.discard(caller)
            elif noted < caller.start:
                heapq.heapreplace(heap, (caller.start, order, caller))
            else:
                return caller
        return None

    def _sweep(self) -> None:
        """Drop all who do not belong there, so that they do not pile up behind one who does."""
        self._heap = [(caller.start, order, caller) for _, order, caller in self._heap if self._present(caller)]
        heapq.heapify(self._heap)
        self._members = {caller for _, _, caller in self._heap}
        self._most = 2 * len(self._heap) + _SPARE
