"""A request on a worker: until when somebody waits for it, and what it has cost so far."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from pellucid_server.engine.tasks.spans import SpanLog
from pellucid_server.errors import CancelledError, OverloadedError, PellucidError, TimedOutError
from pellucid_server.vocabulary.results import BatchShape, Work

_MOST_RESERVE_SHARE = 0.1

MOST_HELD_BYTES = 256 << 20
"""Bytes that one request may hold on the device between its evaluations."""

_counting = threading.Lock()
"""Parts of one request may be on two device threads."""


@dataclass(slots=True)
class Tally:
    """Rows evaluated for one answer and the device batches they were in; the device thread adds to it."""

    rows_forward: int = 0
    rows_backward: int = 0
    batches: Counter[tuple[str, int]] = field(default_factory=Counter)
    forward_by: set[str] = field(default_factory=set)
    """What ran rows forward: "onnxruntime", "graph", "fast-graph"."""
    backward_by: set[str] = field(default_factory=set)
    """What ran rows backward."""
    span: int = 0
    """Number of the span that asks for the rows, if the request is traced."""

    def add(self, evaluation: str, *, rows: int, batch_rows: int, backward: bool, runtime: str) -> None:
        """Note `rows` rows that ran in a batch of `batch_rows`."""
        if backward:
            self.rows_backward += rows
            self.backward_by.add(runtime)
        else:
            self.rows_forward += rows
            self.forward_by.add(runtime)
        self.batches[evaluation, batch_rows] += 1

    def work(self) -> Work:
        """Return what was noted."""
        shapes = (BatchShape(name, rows, count) for (name, rows), count in sorted(self.batches.items()))
        return Work(self.rows_forward, self.rows_backward, tuple(shapes))


@dataclass(slots=True)
class RequestState:
    """A request's deadline on `time.monotonic()`'s clock, whether its caller has left, and its row counts.

    `priority` is its class and `caller` on whose behalf it runs, which say whose share of the device it has; the
    rows of a request that is `alone` share no batch with another's; `model` is the name of what it runs.
    A part of a request may have an earlier deadline: it is a state of its own with the request as `whole`.
    """

    request_number: int
    deadline: float | None
    arrived: float = field(default_factory=time.monotonic)
    started: float | None = None
    cancelled: bool = False
    rows_forward: int = 0
    rows_backward: int = 0
    whole: "RequestState | None" = None
    priority: str = field(default="", kw_only=True)
    caller: str = field(default="", kw_only=True)
    alone: bool = field(default=False, kw_only=True)
    model: str = field(default="", kw_only=True)
    rows: Counter[str] = field(default_factory=Counter, kw_only=True)
    """Evaluated rows by kind of evaluation."""
    rows_done: int = field(default=0, kw_only=True)
    """Rows looked at, or steps done, as callers read them of a long request; 0 where they are not counted."""
    rows_asked: int = field(default=0, kw_only=True)
    """Rows, or steps, in all."""
    held_bytes: int = field(default=0, kw_only=True)
    """Bytes that it holds on the device."""
    spans: SpanLog | None = field(default=None, kw_only=True)
    """Where its times are noted, if it is traced."""

    def part(self, *, reserve_seconds: float) -> "RequestState":
        """Return the state of a part of the request, to end `reserve_seconds` before it, or sooner if it is short."""
        deadline = self.deadline
        if deadline is not None:
            deadline -= min(reserve_seconds, _MOST_RESERVE_SHARE * max(0.0, deadline - time.monotonic()))
        return RequestState(
            self.request_number,
            deadline,
            started=self.started,
            whole=self,
            priority=self.priority,
            caller=self.caller,
            alone=self.alone,
            model=self.model,
            spans=self.spans,
        )

    def count(self, rows: int, *, kind: str, backward: bool) -> None:
        """Note rows that were evaluated; callable from any thread."""
        with _counting:
            self.rows[kind] += rows
            if backward:
                self.rows_backward += rows
            else:
                self.rows_forward += rows
        if self.whole is not None:
            self.whole.count(rows, kind=kind, backward=backward)

    def rows_by_kind(self) -> tuple[tuple[str, int], ...]:
        """Return how many rows of each kind of evaluation were evaluated, of those that were."""
        with _counting:
            return tuple((kind, rows) for kind, rows in self.rows.items() if rows)

    def hold(self, nbytes: int) -> None:
        """Count bytes that the request holds on the device from now on, or no longer if below 0.

        Raises
        ------
        OverloadedError
            They would be more than a request may hold.
        """
        owner = self.whole or self
        with _counting:
            if nbytes > 0 and owner.held_bytes + nbytes > MOST_HELD_BYTES:
                raise OverloadedError(
                    f"The request would hold {owner.held_bytes + nbytes} bytes of a layer's values on the device, more "
                    f"than the {MOST_HELD_BYTES} that one may; ask for fewer rows, or for a layer with fewer values."
                )
            owner.held_bytes += nbytes

    def error(self, now: float) -> PellucidError | None:
        """Return why the request must stop, or None."""
        stage = "queued" if self.started is None else "running"
        if self.cancelled or (self.whole is not None and self.whole.cancelled):
            return CancelledError("The caller left before the answer was ready.", stage=stage)
        if self.deadline is not None and now >= self.deadline:
            return TimedOutError("The deadline passed before the answer was ready.", stage=stage)
        return None

    def check(self) -> None:
        """Raise if the request must stop.

        Raises
        ------
        CancelledError, TimedOutError
            The caller left, or the deadline passed.
        """
        error = self.error(time.monotonic())
        if error is not None:
            raise error
