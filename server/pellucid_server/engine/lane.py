"""A lane: what the evaluations of one key share, and how large their chunks are."""

from collections.abc import Hashable
from dataclasses import dataclass

from pellucid_server.engine.programs import Program

LONG_FACTOR = 4
"""How many times as long chunks may take while nobody urgent waits for their end: they are up to a tenth faster."""

_FIRST_CHUNK = 4
_GROWTH = 4


@dataclass(slots=True)
class Lane:
    """The program of one key and its measured pace; used by one device thread only."""

    program: Program
    row_bytes: int
    whole: bool = False
    """Never split and never packed: a request's rows run together, because they depend on one another."""
    single: bool = False
    """One row at a time, for the explanations of such a model."""
    chunk_rows: int = _FIRST_CHUNK
    """Rows of a long chunk."""
    room: int = _FIRST_CHUNK
    """Rows that the chunk in progress might have had."""
    row_limit: int = 1 << 30
    """Most rows that the model takes at once; smaller when the device's memory could not take as many."""
    model: Hashable = None
    """The model, for the record of row times."""
    growth: float = 1.0
    """How many times as long a row may take as those that the model was tried on."""

    def most_rows(self, chunk_bytes: int) -> int:
        """Return how many rows `chunk_bytes` of memory allow, at least one."""
        return max(1, min(chunk_bytes // max(self.row_bytes, 1), self.row_limit))

    def open(self, *, long: bool) -> int:
        """Set the room of the next chunk and return it."""
        self.room = 1 if self.single else self.chunk_rows if long else max(1, self.chunk_rows // LONG_FACTOR)
        return self.room

    def adapt(self, rows: int, seconds: float, *, chunk_seconds: float, chunk_bytes: int) -> bool:
        """Set the length of later chunks from the time that one took; tell whether rows go no faster in a larger one.

        They do not if this one was as large as is allowed, by time or by memory: one that was smaller has more of
        the costs that do not depend on its rows.
        """
        most_seconds = LONG_FACTOR * chunk_seconds
        most_rows = self.most_rows(chunk_bytes)
        fitting = int(rows * most_seconds / max(seconds, 1e-6))
        filled = 2 * rows >= self.room
        if seconds > most_seconds:
            self.chunk_rows = max(1, fitting)
        elif filled:
            # A chunk much smaller than allowed says little of larger ones: growth goes by steps.
            self.chunk_rows = max(1, min(fitting, self.chunk_rows * _GROWTH, most_rows))
        return filled and (2 * seconds >= chunk_seconds or 2 * rows >= most_rows or self.single)

    def shrink(self, rows: int) -> None:
        """Let no later chunk be as large as one of `rows` rows, which did not fit into memory."""
        self.row_limit = self.chunk_rows = max(1, rows // 2)
