"""What is noted of a traced request on its way through the front; at its end it is made into spans."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pellucid_server.tracing.context import TraceContext, new_span_id
from pellucid_server.tracing.span import Event, Span, SpanKind
from pellucid_server.vocabulary.messages import Done
from pellucid_server.vocabulary.spans import Attribute, WorkerSpan

MOST_EVENTS = 128
"""Parts of a stream that are events of its span; further ones are counted."""

LOST = "WORKER_LOST"
"""Why an attempt ended whose worker was lost."""

Export = Callable[[Sequence[Span]], None]


@dataclass(slots=True)
class _Attempt:
    """One worker's try at the request."""

    queued: float
    sent: float = 0.0
    ended: float = 0.0
    pid: int = 0
    device: str = ""
    error: str = ""
    spans: tuple[WorkerSpan, ...] = ()
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended, in names that the server itself serves."""

    code: str
    """Name of gRPC's code."""
    error: str = ""
    """Why it counts as the server's failure; empty if it does not."""
    attributes: dict[str, Attribute] = field(default_factory=dict)


class RequestTrace:
    """A recorded request; all times are of `time.monotonic()`.

    Parameters
    ----------
    context
        Of the request's own span.
    parent_id
        The caller's span; empty if the trace begins here.
    rpc
        The RPC's full name, "package.Service/Method".
    export
        Takes finished spans, at once and without blocking.
    """

    def __init__(self, context: TraceContext, parent_id: str, rpc: str, arrived: float, export: Export) -> None:
        self.context = context
        self._parent_id = parent_id
        self._rpc = rpc
        self._arrived = arrived
        self._export = export
        self._offset = time.time_ns() - time.monotonic_ns()
        self._read = 0.0
        self._attempts: list[_Attempt] = []
        self._events: list[Event] = []
        self._dropped_events = 0
        self._finished = False

    def read(self) -> None:
        """Note that the request has been read."""
        self._read = time.monotonic()

    def queued(self, now: float) -> None:
        """Note that the request waits for a worker: it was admitted, or its worker was lost."""
        self._attempts.append(_Attempt(now))

    def sent(self, now: float, *, device: str, pid: int) -> None:
        """Note that a worker, by the id of its process, was given the request."""
        attempt = self._attempts[-1]
        attempt.sent, attempt.device, attempt.pid = now, device, pid

    def lost(self, now: float) -> None:
        """Note that the worker was lost."""
        self._end(now, LOST)

    def answered(self, now: float, done: Done) -> None:
        """Note a worker's answer; one to a request that ended before is exported by itself."""
        attempt = self._attempts[-1]
        attempt.spans, attempt.dropped = done.spans, done.spans_dropped
        self._end(now, "" if done.failure is None else done.failure.reason)

    def part(self, size_bytes: int) -> None:
        """Note that a part of the answer was sent."""
        if len(self._events) < MOST_EVENTS:
            number = len(self._events)
            attributes: dict[str, Attribute] = {"pellucid.part": number, "pellucid.part.bytes": size_bytes}
            self._events.append(Event("part", self._ns(time.monotonic()), attributes))
        else:
            self._dropped_events += 1

    def finish(self, outcome: Outcome) -> None:
        """Export the request's spans; what a worker is still at follows when it answers."""
        now, self._finished = time.monotonic(), True
        spans = [self._own_span(now, outcome)]
        spans.append(self._span("read", self._arrived, self._read or now))
        for number, attempt in enumerate(self._attempts, 1):
            if attempt.ended or not attempt.sent:
                spans += self._attempt_spans(number, attempt, now)
        last = self._attempts[-1] if self._attempts else None
        if last is not None and last.ended and not last.error:
            spans.append(self._span("reply", last.ended, now))
        self._export(spans)

    def _own_span(self, now: float, outcome: Outcome) -> Span:
        attributes: dict[str, Attribute] = {
            "rpc.system.name": "grpc",
            "rpc.method": self._rpc,
            "rpc.response.status_code": outcome.code,
            **outcome.attributes,
        }
        if outcome.code != "OK":
            attributes["error.type"] = outcome.code
        if self._dropped_events:
            attributes["pellucid.parts_dropped"] = self._dropped_events
        return Span(
            self._rpc,
            self.context.trace_id,
            self.context.span_id,
            self._parent_id,
            self._ns(self._arrived),
            self._ns(now),
            attributes,
            SpanKind.SERVER,
            tuple(self._events),
            error=outcome.error,
            remote_parent=bool(self._parent_id),
        )

    def _end(self, now: float, error: str) -> None:
        attempt = self._attempts[-1]
        attempt.ended, attempt.error = now, error
        if self._finished:
            self._export(self._attempt_spans(len(self._attempts), attempt, now))

    def _attempt_spans(self, number: int, attempt: _Attempt, now: float) -> list[Span]:
        """Return the spans of one worker's try: the wait for it, and its work."""
        own = attempt.spans[0] if attempt.spans else WorkerSpan("work", 0, attempt.sent, attempt.ended)
        waited: dict[str, Attribute] = {"pellucid.attempt": number}
        if not attempt.sent:
            return [self._span("queue", attempt.queued, now, waited)]
        found = [self._span("queue", attempt.queued, own.began, waited)]
        ids = [new_span_id() for _ in attempt.spans or (own,)]
        for span_id, span in zip(ids, attempt.spans or (own,), strict=True):
            attributes = dict(span.attributes)
            if not span.parent:
                attributes |= {
                    "pellucid.device": attempt.device,
                    "pellucid.worker.pid": attempt.pid,
                    "pellucid.attempt": number,
                }
                if attempt.dropped:
                    attributes["pellucid.spans_dropped"] = attempt.dropped
            if span.batch:
                attributes["pellucid.batch.id"] = f"{attempt.pid}-{span.batch}"
            found.append(
                Span(
                    span.name,
                    self.context.trace_id,
                    span_id,
                    ids[span.parent - 1] if span.parent else self.context.span_id,
                    self._ns(span.began),
                    self._ns(span.ended),
                    attributes,
                    links=span.links,
                    error=span.error or ("" if span.parent else attempt.error),
                )
            )
        return found

    def _span(self, name: str, began: float, ended: float, attributes: dict[str, Attribute] | None = None) -> Span:
        return Span(
            name,
            self.context.trace_id,
            new_span_id(),
            self.context.span_id,
            self._ns(began),
            self._ns(max(began, ended)),
            attributes or {},
        )

    def _ns(self, seconds: float) -> int:
        """Return a time in nanoseconds since 1970; one offset for all of a request keeps them in order."""
        return round(seconds * 1e9) + self._offset
