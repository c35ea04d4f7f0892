"""Parts of an answer that have arrived and are not read yet, and how many more a worker may send."""

import asyncio
from collections import deque
from dataclasses import dataclass

from pellucid_server.vocabulary.messages import Checkpoint, Part

WINDOW_PARTS = 16
"""Most parts of a request that a worker is ahead of its reader."""

WINDOW_BYTES = 8 << 20
"""Bytes of parts after which the same holds; the last part may go beyond."""


@dataclass(frozen=True, slots=True)
class Begun:
    """How far a request had come when it was last worked on: its parts, what it goes on from, the model's digest."""

    parts: int
    checkpoint: Checkpoint
    digest: str


class PartQueue:
    """The parts of one request's answer, in order.

    Parameters
    ----------
    resumes
        Whether the verb can go on from a part that is a checkpoint.
    begun
        How far the request had come before; None for one that is new.
    """

    def __init__(self, *, resumes: bool = False, begun: Begun | None = None) -> None:
        self.count = 0 if begun is None else begun.parts
        """Parts that have arrived."""
        self.advanced = False
        """Whether one of them was a checkpoint further on, since this was last set to False."""
        self._begun = begun
        self._resumes = resumes
        self._waiting: deque[Part] = deque()
        self._waiting_bytes = 0
        self._last: Part | None = None
        self._owed_parts = 0
        self._owed_bytes = 0
        self._changed = asyncio.Event()

    @property
    def checkpoint(self) -> Checkpoint | None:
        """What the last part that arrived is gone on from, if a worker can; previews do not count."""
        last = self._last
        if last is None:
            return None if self._begun is None else self._begun.checkpoint
        if not self._resumes or not last.checkpoint:
            return None
        return last.body if last.state is None else last.state

    @property
    def digest(self) -> str:
        """The digest of the model version that the last part was made by; empty if there is none."""
        if self._last is None:
            return "" if self._begun is None else self._begun.digest
        return self._last.digest

    @property
    def redoable(self) -> bool:
        """Whether the request can begin anew as if nothing had happened: nothing but previews has arrived."""
        return self._last is None and self._begun is None

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
        if not part.preview:
            self.advanced |= self._resumes and part.beyond(self._last)
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
