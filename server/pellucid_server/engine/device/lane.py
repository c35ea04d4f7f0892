"""A lane: what the evaluations of one key share, and how large their chunks are."""

from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum

from pellucid_server.engine.device.kernel import Kernel

LONG_FACTOR = 4
"""How many times as long chunks may take while nobody urgent waits for their end: they are up to a tenth faster."""

_FIRST_CHUNK = 4
_GROWTH = 4

_UNBOUNDED = 1 << 30
_FITTING_CHUNKS = 64
"""Chunks as large as allowed after which twice as many rows are tried again: memory may have been short for a while.

Where it is not to be had, one chunk in so many is evaluated in vain.
"""


class Packing(Enum):
    """Which rows may be in a chunk together."""

    SHARED = "shared"
    """Those of any requests, as many as fit."""
    WHOLE = "whole"
    """All of an evaluation and no others: they depend on one another."""
    SINGLE = "single"
    """One: for explanations of a model whose rows depend on one another."""
    FIXED = "fixed"
    """A fixed number of one evaluation's, so that bits depend on nothing else."""


FIXED_ROWS = 8
"""Rows of a chunk of fixed size."""


@dataclass(slots=True)
class Lane:
    """The kernel of one key and its measured pace; used by one device thread only."""

    kernel: Kernel
    row_bytes: int
    packing: Packing = Packing.SHARED
    chunk_rows: int = _FIRST_CHUNK
    """Rows of a long chunk."""
    room: int = _FIRST_CHUNK
    """Rows that the chunk in progress might have had."""
    row_limit: int = _UNBOUNDED
    """Most rows that the model takes at once."""
    fitting_rows: int = _UNBOUNDED
    """Most rows that are tried after more of them did not fit into the device's memory."""
    fitted: int = 0
    """Chunks of half of `fitting_rows` or more since it was set."""
    model: Hashable = None
    """The model, for the record of row times."""
    growth: float = 1.0
    """How many times as long a row may take as those that the model was tried on."""

    def most_rows(self, chunk_bytes: int) -> int:
        """Return how many rows `chunk_bytes` of memory allow, at least one."""
        return max(1, min(chunk_bytes // max(self.row_bytes, 1), self.row_limit, self.fitting_rows))

    def open(self, *, long: bool) -> int:
        """Set the room of the next chunk and return it."""
        match self.packing:
            case Packing.SINGLE:
                self.room = 1
            case Packing.FIXED:
                self.room = min(FIXED_ROWS, self.row_limit)
            case _:
                self.room = self.chunk_rows if long else max(1, self.chunk_rows // LONG_FACTOR)
        return self.room

    def adapt(self, rows: int, seconds: float, *, chunk_seconds: float, chunk_bytes: int) -> bool:
        """Set the length of later chunks from the time that one took; tell whether rows go no faster in a larger one.

        They do not if this one was as large as is allowed, by time or by memory: one that was smaller has more of
        the costs that do not depend on its rows.
        """
        filled = 2 * rows >= self.room
        if 2 * rows >= self.fitting_rows:
            self._count_fitted()
        most_seconds = LONG_FACTOR * chunk_seconds
        most_rows = self.most_rows(chunk_bytes)
        fitting = int(rows * most_seconds / max(seconds, 1e-6))
        if seconds > most_seconds:
            self.chunk_rows = max(1, fitting)
        elif filled:
            # A chunk much smaller than allowed says little of larger ones: growth goes by steps.
            self.chunk_rows = max(1, min(fitting, self.chunk_rows * _GROWTH, most_rows))
        return filled and (2 * seconds >= chunk_seconds or 2 * rows >= most_rows or self.packing is Packing.SINGLE)

    def shrink(self, rows: int) -> None:
        """Let no chunk soon be as large as one of `rows` rows, which did not fit into memory."""
        self.fitting_rows = self.chunk_rows = max(1, rows // 2)
        self.fitted = 0

    def _count_fitted(self) -> None:
        """Count a chunk that was about as large as is tried, and try more once there were enough of them."""
        self.fitted += 1
        if self.fitted >= _FITTING_CHUNKS:
            self.fitting_rows = min(2 * self.fitting_rows, _UNBOUNDED)
            self.fitted = 0
