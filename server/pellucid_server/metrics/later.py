"""Records that are put off, so that a request does not wait for what they cost.

The lists and numbers of a record are seldom in the processor's caches while a request is handled: it then takes five
times as long as right after another one. So a request leaves a note of what is to be recorded, and notes are recorded
in batches, when there are enough of them or when the page is read.
"""

import threading
from collections import deque
from typing import Any

_MOST = 192
"""Notes in a batch, three for each request: together they take some 0.2 ms."""


Note = tuple[Any, ...]


class Later:
    """Notes of one thread, the event loop's; `settle` may be called by any.

    A note is a tuple: a function, and whatever it needs. It is called with the note itself.
    """

    def __init__(self) -> None:
        self._notes: deque[Note] = deque()
        self._settling = threading.Lock()
        self.put = self._notes.append
        """Has a note recorded before the page is read next; never two at a time. Another call must see to `tidy`."""

    def tidy(self) -> None:
        """Record what was noted if that is a batch; called with the last note of each request."""
        if len(self._notes) >= _MOST:
            self.settle()

    def settle(self) -> None:
        """Record everything that was noted."""
        if not self._notes:
            return
        with self._settling:
            for _ in range(len(self._notes)):
                note = self._notes.popleft()
                note[0](note)
