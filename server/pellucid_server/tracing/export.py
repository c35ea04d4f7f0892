"""Sends spans to a collector, by OTLP over gRPC, from a thread of OpenTelemetry's batch processor.

The only module that imports OpenTelemetry; it comes with `pip install 'pellucid[tracing]'`.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import cast

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event as SdkEvent
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceFlags
from opentelemetry.trace import SpanKind as SdkKind

from pellucid_server.settings.tracing import TracingConfig
from pellucid_server.tracing.context import parse
from pellucid_server.tracing.span import Span, SpanKind

_log = logging.getLogger(__name__)

_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_KINDS = {SpanKind.SERVER: SdkKind.SERVER, SpanKind.INTERNAL: SdkKind.INTERNAL}
_MOST_BATCH = 512
_COMPLAINT_SECONDS = 60.0
_GIVING_UP_SECONDS = 3.0
"""Most time that dropping what is left takes; mostly it is milliseconds."""

# What they have to say at each failure is said here, once a minute.
_LOGGERS = ("opentelemetry.exporter.otlp.proto.grpc.exporter", "opentelemetry.sdk._shared_internal")


class Exporter:
    """Queues spans and has them sent; a collector that is away costs the spans that the queue does not hold.

    Parameters
    ----------
    on_drop
        Called with the number of spans that were dropped, from any thread, but from one at a time.
    """

    def __init__(self, config: TracingConfig, on_drop: Callable[[int], None]) -> None:
        for name in _LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._sender = _Sender(config, on_drop)
        self._most = config.queue_spans
        self._processor = BatchSpanProcessor(
            self._sender,
            max_queue_size=config.queue_spans,
            schedule_delay_millis=config.delay_seconds * 1e3,
            max_export_batch_size=min(_MOST_BATCH, config.queue_spans),
        )

    def __call__(self, spans: Sequence[Span]) -> None:
        """Queue spans; the processor drops the oldest where there are too many."""
        for span in spans:
            if self._sender.waiting >= self._most:
                self._sender.dropped_queued()
            self._sender.queued()
            self._processor.on_end(cast(ReadableSpan, _Waiting(span)))

    def close(self, patience_seconds: float) -> None:
        """Send what is queued, for so long at most. Blocks."""
        closing = threading.Thread(target=self._processor.shutdown, name="close traces", daemon=True)
        closing.start()
        closing.join(patience_seconds)
        # Ends a wait for the next try, and lets what is left be dropped.
        self._sender.shutdown()
        closing.join(_GIVING_UP_SECONDS)


class _Waiting:
    """A span in the queue. It is made into OpenTelemetry's, which takes longest, when it is sent, on another thread.

    The processor asks for no more than the context of what it queues, and there for the flag.
    """

    __slots__ = ("span",)

    context = SpanContext(1, 1, False, _SAMPLED)

    def __init__(self, span: Span) -> None:
        self.span = span


class _Sender(SpanExporter):  # type: ignore[misc,unused-ignore]  # untyped where the extra is not installed
    """Counts what was sent and what was not."""

    def __init__(self, config: TracingConfig, on_drop: Callable[[int], None]) -> None:
        self._exporter = OTLPSpanExporter(config.endpoint, timeout=config.timeout_seconds)
        self._endpoint = config.endpoint
        self._resource = Resource.create({"service.name": config.service_name, "service.version": version("pellucid")})
        self._scope = InstrumentationScope("pellucid_server", version("pellucid"))
        self._on_drop = on_drop
        self._lock = threading.Lock()
        self._complained = -_COMPLAINT_SECONDS
        self._closed = False
        self.waiting = 0
        """Spans in the processor's queue."""

    def queued(self) -> None:
        """Count a span that enters the queue."""
        with self._lock:
            self.waiting += 1

    def dropped_queued(self) -> None:
        """Count a span that leaves a full queue for the next to enter."""
        with self._lock:
            self.waiting -= 1
            self._on_drop(1)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans that have left the queue."""
        with self._lock:
            self.waiting -= len(spans)
        result = SpanExportResult.FAILURE if self._closed else self._send(spans)
        if result is not SpanExportResult.SUCCESS:
            with self._lock:
                self._on_drop(len(spans))
            self._complain()
        return result

    def shutdown(self) -> None:
        """Send no more, and give up what is being sent."""
        if not self._closed:
            self._closed = True
            self._exporter.shutdown()

    def _send(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._exporter.export([self._made(cast(_Waiting, each).span) for each in spans])

    def _complain(self) -> None:
        now = time.monotonic()
        if now - self._complained >= _COMPLAINT_SECONDS:
            self._complained = now
            _log.warning("spans could not be sent to %s (tracing.endpoint) and were dropped", self._endpoint)

    def _made(self, span: Span) -> ReadableSpan:
        parent = None
        if span.parent_id:
            parent = _context(span.trace_id, span.parent_id, remote=span.remote_parent)
        return ReadableSpan(
            span.name,
            _context(span.trace_id, span.span_id),
            parent,
            self._resource,
            dict(span.attributes),
            [SdkEvent(each.name, dict(each.attributes), each.time_ns) for each in span.events],
            _links(span.links),
            _KINDS[span.kind],
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
            start_time=span.began_ns,
            end_time=span.ended_ns,
            instrumentation_scope=self._scope,
        )


def _context(trace_id: str, span_id: str, *, remote: bool = False) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), remote, _SAMPLED)


def _links(headers: Sequence[str]) -> list[Link]:
    found = [context for header in headers if (context := parse(header)) is not None]
    return [Link(_context(context.trace_id, context.span_id)) for context in found]
