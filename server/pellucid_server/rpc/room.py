"""When requests are read: small ones at once, large ones while there is room for their bytes.

The size of a message is known only once it has been read; until then HTTP/2's flow control keeps it with its sender. So
a sender's last message says what to expect of the next one.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

LARGE_BYTES = 1 << 20
"""Messages above this size are large: they need room, and are decoded off the event loop."""

_PROBE_SECONDS = 0.02
"""Time in which a small message is read."""

_SLOW_SECONDS = 10.0
"""A read that takes longer takes room from no other until it is done: its network is slow, or nothing comes."""

_MOST_SENDERS = 4096

_WAITS, _READS, _HELD = range(3)


@dataclass(slots=True, eq=False)
class Place:
    """One request's share of the room."""

    sender: Hashable
    expected_bytes: int
    """What its message probably has; 0 is small, and -1 stands for a sender of whom nothing is known."""
    stage: int = _READS
    counted_bytes: int = 0
    """What counts towards the bound now."""
    turn: "asyncio.Future[None] | None" = None
    """Done once it may be read, where it has to wait for that."""
    timer: asyncio.TimerHandle | None = None


class Room:
    """The bytes of large requests in flight, from the start of the read to the answer.

    A sender whose last message was small is read at once. Others take turns: a sender of whom nothing is known yet is
    read when fewer bytes than the bound are in flight, one such sender at a time, and one whose last message was large
    when as many bytes fit in beside those in flight, or when there are none. Each in order of arrival, unknown senders
    first, as most of them send little. So the bytes of messages from senders whose messages are all large exceed the
    bound by at most one message.

    Parameters
    ----------
    bound_bytes
        Bytes of large requests in flight.
    largest_bytes
        The largest message that is taken.
    """

    def __init__(self, bound_bytes: int, largest_bytes: int) -> None:
        self._bound = bound_bytes
        self._largest = largest_bytes
        self._expected: dict[Hashable, int] = {}
        self._unknown: deque[Place] = deque()
        self._large: deque[Place] = deque()
        self._probe: Place | None = None
        self.counted_bytes = 0
        """What counts towards the bound: large messages that are here, and those expected of reads in progress."""
        self.held_bytes = 0
        """Of these, messages that have been read."""
        self.most_held_bytes = 0
        """The most that `held_bytes` has been."""
        self.used = False
        """Whether a large message has come since this was last set to False."""

    @property
    def waiting(self) -> int:
        """Requests that wait to be read."""
        return len(self._unknown) + len(self._large)

    def place(self, sender: Hashable) -> Place:
        """Return the place of a request that begins: to be read at once, or when its `turn` is done, if it has one."""
        expected = self._expected.get(sender, -1)
        place = Place(sender, expected)
        if expected:
            place.stage = _WAITS
            self._queue(place).append(place)
            self._admit()
            if place.stage == _WAITS:
                place.turn = asyncio.get_running_loop().create_future()
        return place

    def arrived(self, place: Place, size_bytes: int) -> None:
        """Take note that a message has been read."""
        size_bytes = size_bytes if size_bytes > LARGE_BYTES else 0
        if size_bytes == place.expected_bytes == 0:
            return
        self._learn(place.sender, size_bytes)
        self._count(place, size_bytes)
        place.stage = _HELD
        self.held_bytes += size_bytes
        self.used = self.used or size_bytes > 0
        self.most_held_bytes = max(self.most_held_bytes, self.held_bytes)
        self._admit()

    def leave(self, place: Place) -> None:
        """Give back what a request had or waited for."""
        if place.stage == _WAITS:
            self._queue(place).remove(place)
        elif place.stage == _HELD:
            self.held_bytes -= place.counted_bytes
        elif not place.expected_bytes:
            return
        self._count(place, 0)
        self._admit()

    def _queue(self, place: Place) -> deque[Place]:
        return self._unknown if place.expected_bytes < 0 else self._large

    def _admit(self) -> None:
        """Start the reads that there is room for."""
        if self._probe is not None:
            return
        if self._unknown and self.counted_bytes < self._bound:
            self._probe = self._unknown.popleft()
            self._start(self._probe, _PROBE_SECONDS, self._is_large)
            return
        while self._large and self._fits(self._large[0].expected_bytes):
            place = self._large.popleft()
            self._count(place, place.expected_bytes)
            self._start(place, _SLOW_SECONDS, self._is_slow)

    def _fits(self, size_bytes: int) -> bool:
        return not self.counted_bytes or self.counted_bytes + size_bytes <= self._bound

    def _start(self, place: Place, seconds: float, late: Callable[[Place], None]) -> None:
        """Let a message be read; `late` is called if that takes longer than `seconds`."""
        place.stage = _READS
        place.timer = asyncio.get_running_loop().call_later(seconds, late, place)
        if place.turn is not None and not place.turn.done():
            place.turn.set_result(None)

    def _is_large(self, place: Place) -> None:
        """Take a message that is still being read for as large as any."""
        self._count(place, self._largest)
        place.timer = asyncio.get_running_loop().call_later(_SLOW_SECONDS, self._is_slow, place)
        self._admit()

    def _is_slow(self, place: Place) -> None:
        self._count(place, 0)
        self._admit()

    def _count(self, place: Place, size_bytes: int) -> None:
        """Let a place count for so much, and end what was pending for it."""
        self.counted_bytes += size_bytes - place.counted_bytes
        place.counted_bytes = size_bytes
        if self._probe is place:
            self._probe = None
        if place.timer is not None:
            place.timer.cancel()
            place.timer = None

    def _learn(self, sender: Hashable, size_bytes: int) -> None:
        """Keep what a sender's message had, of the senders that came last."""
        if sender not in self._expected and len(self._expected) >= _MOST_SENDERS:
            del self._expected[next(iter(self._expected))]
        self._expected[sender] = size_bytes
