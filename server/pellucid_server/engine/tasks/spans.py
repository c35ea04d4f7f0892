"""The times of a traced request on its worker: a bounded list that the front makes spans of."""

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import replace

from pellucid_server.vocabulary.spans import WORK, Attribute, WorkerSpan

MOST_BATCHES = 128
"""Device batches of one request that are reported; further ones are counted."""

MOST_SPANS = 256
"""Spans of one request."""


class SpanLog:
    """Gathers spans; any thread may add to it.

    Parameters
    ----------
    context
        The request's trace context, by which spans of other requests link to it.
    """

    def __init__(self, context: str) -> None:
        self.context = context
        self.dropped = 0
        """Spans beyond the bounds."""
        self._spans: list[WorkerSpan] = [WorkerSpan(WORK, 0, 0.0, math.inf)]
        self._batches = 0
        self._lock = threading.Lock()

    def start(self) -> None:
        """Note that the work on the request starts now."""
        self._spans[0] = replace(self._spans[0], began=time.monotonic())

    def begin(self, name: str, parent: int, attributes: Mapping[str, Attribute]) -> int:
        """Begin a span and return its number, by which others name it as their parent; 0 if there is no room."""
        span = WorkerSpan(name, parent or 1, time.monotonic(), math.inf, attributes)
        with self._lock:
            if len(self._spans) >= MOST_SPANS:
                self.dropped += 1
                return 0
            self._spans.append(span)
            return len(self._spans)

    def end(self, number: int, error: str = "") -> None:
        """End a span that was begun."""
        if number:
            self._spans[number - 1] = replace(self._spans[number - 1], ended=time.monotonic(), error=error)

    def batch(self, span: WorkerSpan) -> None:
        """Note a device batch that held rows of the request."""
        with self._lock:
            if self._batches >= MOST_BATCHES or len(self._spans) >= MOST_SPANS:
                self.dropped += 1
                return
            self._batches += 1
            self._spans.append(span)

    def report(self, error: str) -> tuple[WorkerSpan, ...]:
        """Return all spans, the request's own first; those that have not ended end now."""
        self.end(1, error)
        now = time.monotonic()
        with self._lock:
            return tuple(
                span if span.ended < math.inf and span.began else replace(span, began=span.began or now, ended=now)
                for span in self._spans
            )
