"""Parts of an answer that have arrived and are not read yet, and how many more a worker may send."""

import asyncio
from collections import deque

from pellucid_server.vocabulary.messages import Part, PartBody

WINDOW_PARTS = 16
"""Most parts of a request that a worker is ahead of its reader."""

WINDOW_BYTES = 8 << 20
"""Bytes of parts after which the same holds; the last part may go beyond."""


class PartQueue:
    """The parts of one request's answer, in order.

    Parameters
    ----------
    resumes
        Whether the verb can go on from a part that is a checkpoint.
    """

    def __init__(self, *, resumes: bool = False) -> None:
        self.count = 0
        """Parts that have arrived."""
        self._resumes = resumes
        self._waiting: deque[Part] = deque()
        self._waiting_bytes = 0
        self._last: Part | None = None
        self._owed_parts = 0
        self._owed_bytes = 0
        self._changed = asyncio.Event()

    @property
    def checkpoint(self) -> PartBody | None:
        """The body of the last part that arrived, if a worker can go on from there."""
        last = self._last
        return last.body if self._resumes and last is not None and last.checkpoint else None

    @property
    def digest(self) -> str:
        """The digest of the model version that the last part was made by; empty if there is none."""
        return "" if self._last is None else self._last.digest

    def add(self, part: Part) -> None:
        """Take a part that has arrived.

        Raises
        ------
        ValueError
            It is not the next one.
        """
        if part.number != self.count:
            raise ValueError(f"part {part.number} came where part {self.count} was due")
        self.count += 1
        self._last = part
        self._waiting.append(part)
        self._waiting_bytes += part.size_bytes
        self._changed.set()

    def pop(self) -> Part | None:
        """Return the next part, if it has arrived."""
        if not self._waiting:
            return None
        part = self._waiting.popleft()
        self._waiting_bytes -= part.size_bytes
        self._owed_parts += 1
        self._owed_bytes += part.size_bytes
        return part

    def wake(self) -> None:
        """Have the reader look again: no further part may come."""
        self._changed.set()

    async def change(self) -> None:
        """Wait until something has happened since the last call."""
        await self._changed.wait()
        self._changed.clear()

    def first_credit(self) -> tuple[int, int]:
        """Return the parts and the bytes that a worker may send which begins now."""
        self._owed_parts = self._owed_bytes = 0
        return max(WINDOW_PARTS - len(self._waiting), 0), max(WINDOW_BYTES - self._waiting_bytes, 0)

    def credit(self) -> tuple[int, int] | None:
        """Return the parts and bytes to grant for what was read, once that is half of the most; else None."""
        if 2 * self._owed_parts < WINDOW_PARTS and 2 * self._owed_bytes < WINDOW_BYTES:
            return None
        owed = self._owed_parts, self._owed_bytes
        self._owed_parts = self._owed_bytes = 0
        return owed
