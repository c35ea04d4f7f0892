"""A lane: what the evaluations of one key share, and how large their chunks are."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum

from pellucid_server.engine.device.kernel import Kernel

LONG_FACTOR = 4
"""How many times as long chunks may take while nobody urgent waits for their end: they are up to a tenth faster."""

_FIRST_CHUNK = 4
_GROWTH = 4

_FEW_ROWS = 10
_FEW_FACTOR = 20
"""A chunk of up to so many rows may take so many times as long as is aimed at: in smaller ones rows are far slower."""

_LIGHT_SECONDS = 1e-3
"""Time of a row below which chunks are as long as allowed: what a chunk of them takes is mostly waits and calls."""

_TOLD_BY = 2
"""Chunks of a size that tell its pace: the first one of a size takes longer."""
_ALIKE = 0.97
"""Paces that differ by less are taken to be one."""
_REMEMBERED = 512
"""Chunks after which sizes are tried again: the machine may have other work by then."""

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
    paces: "dict[int, list[float]]" = field(default_factory=dict)
    """The last seconds for each row in chunks of so many rows, by step of size; see `_step`."""
    chunks: int = 0
    """Chunks since paces were last forgotten."""
    fresh: bool = True
    """Whether no chunk has run yet: the first one loads kernels, which may take seconds."""
    model: Hashable = None
    """The model, for the record of row times."""
    short_rows: int | None = None
    """Rows that last went into the time aimed at; None before the first chunk."""
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
                self.room = self.chunk_rows if long else self._short()
        return self.room

    def _short(self) -> int:
        """Return the rows of a chunk that others wait behind.

        They follow from the time that a chunk took: where a large chunk takes no longer than a small one, as on a GPU,
        a share of the long chunk's rows would be few for nothing, and say nothing of larger ones.
        """
        if self.short_rows is None:
            return max(1, self.chunk_rows // LONG_FACTOR)
        return max(1, min(self.chunk_rows, self.short_rows))

    def adapt(self, rows: int, seconds: float, *, chunk_seconds: float, chunk_bytes: int) -> bool:
        """Set the length of later chunks from the time that one took; tell whether rows go no faster in a larger one.

        Chunks of light rows grow as far as time and memory allow. Those of heavy rows grow until their time is no more
        mostly that of calls, and from there on to the size at which most rows are done in a second: beyond it values no
        longer fit into the processor's caches. Rows are taken to go no faster if this chunk was as large as is allowed,
        or took long enough.
        """
        filled = 2 * rows >= self.room
        if 2 * rows >= self.fitting_rows:
            self._count_fitted()
        most_rows, row_seconds = self.most_rows(chunk_bytes), max(seconds, 1e-6) / rows
        self.short_rows = int(chunk_seconds / row_seconds)
        within = int(LONG_FACTOR * chunk_seconds / row_seconds)
        fitting = max(within, min(_FEW_ROWS, int(_FEW_FACTOR * chunk_seconds / row_seconds)))
        if rows > within:
            self.chunk_rows = min(self.chunk_rows, max(1, fitting))
        fresh, self.fresh = self.fresh, False
        if rows > fitting:
            if not fresh:
                self._note(row_seconds, rows)
        elif filled and (row_seconds < _LIGHT_SECONDS or (2 * seconds < chunk_seconds and not self.paces)):
            # A chunk much smaller than allowed says little of larger ones: growth goes by steps.
            self.chunk_rows = max(1, min(fitting, self.chunk_rows * _GROWTH, most_rows))
        elif filled and not fresh:
            self._note(row_seconds, max(rows, self.room))
            self.chunk_rows = self._fastest(min(fitting, most_rows))
        return filled and (2 * seconds >= chunk_seconds or 2 * rows >= most_rows or self.packing is Packing.SINGLE)

    def _note(self, row_seconds: float, size: int) -> None:
        """Note the pace of chunks of a size; now and then forget those of before.

        A chunk that was to have twelve rows may have had ten, so that fifty make five alike: that is what asking for
        twelve comes to, and what tells whether to ask for more.
        """
        self.chunks += 1
        if self.chunks > _REMEMBERED:
            self.chunks, self.paces = 0, {}
        self.paces[_step(size)] = [*self.paces.get(_step(size), []), row_seconds][-4 * _TOLD_BY :]

    def _best(self) -> int:
        """Return the step with the fastest rows, the largest of those that measuring cannot tell apart."""
        fastest = min(min(paces) for paces in self.paces.values())
        return max(step for step, paces in self.paces.items() if min(paces) * _ALIKE <= fastest)

    def _fastest(self, most: int) -> int:
        """Return how many rows to take, at most so many: the best size known, or one beside it that is not yet."""
        best = self._best()
        for step in (best, best + 1, best - 1):
            if step >= 0 and _rows(step) <= most and len(self.paces.get(step, [])) < _TOLD_BY:
                return _rows(step)
        return max(1, min(_rows(best), most))

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


def _step(rows: int) -> int:
    """Return the step of a size, of steps with 1, 2, 3, 4, 6, 8, 12, 16, 24, 32... rows; between two, the lower one."""
    if rows < 3:
        return rows - 1
    power = rows.bit_length() - 1
    return 2 * power - 1 + (rows >= 3 << power - 1)


def _rows(step: int) -> int:
    """Return the rows of a step of size."""
    if step < 2:
        return step + 1
    power, half = divmod(step + 1, 2)
    return (1 << power) + half * (1 << power - 1)
