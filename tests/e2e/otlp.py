"""A collector of spans in the test's own process: what any exporter of OTLP over gRPC can send to."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
from e2e.serving import LONG_SECONDS
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

SERVER = trace_pb2.Span.SPAN_KIND_SERVER
ERROR = trace_pb2.Status.STATUS_CODE_ERROR

QUICK = {"PELLUCID_TRACING__DELAY_SECONDS": "0.05"}
"""Settings with which spans are sent at once."""


def value(message: Any) -> Any:
    return getattr(message, message.WhichOneof("value"))


@dataclass(frozen=True)
class Span:
    """A span as it arrived, and the resource that it is of."""

    raw: trace_pb2.Span
    resource: dict[str, Any]

    @property
    def name(self) -> str:
        return self.raw.name

    @property
    def trace_id(self) -> str:
        return self.raw.trace_id.hex()

    @property
    def id(self) -> str:
        return self.raw.span_id.hex()

    @property
    def parent(self) -> str:
        return self.raw.parent_span_id.hex()

    @property
    def attributes(self) -> dict[str, Any]:
        return {each.key: value(each.value) for each in self.raw.attributes}

    @property
    def links(self) -> set[tuple[str, str]]:
        return {(each.trace_id.hex(), each.span_id.hex()) for each in self.raw.links}

    @property
    def error(self) -> str:
        """Why it failed, as its status says; empty if that is unset."""
        return self.raw.status.message if self.raw.status.code == ERROR else ""

    @property
    def times(self) -> tuple[int, int]:
        return self.raw.start_time_unix_nano, self.raw.end_time_unix_nano


@dataclass
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it is sent."""

    spans: list[Span] = field(default_factory=list)
    address: str = ""
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def Export(self, request: Any, context: Any) -> Any:
        with self.arrived:
            for resource in request.resource_spans:
                facts = {each.key: value(each.value) for each in resource.resource.attributes}
                self.spans += [Span(span, facts) for scope in resource.scope_spans for span in scope.spans]
            self.arrived.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    def of(self, trace_id: str) -> list[Span]:
        return [span for span in self.spans if span.trace_id == trace_id]

    def wait(self, trace_id: str, enough: Callable[[list[Span]], bool]) -> list[Span]:
        """Wait until the spans of a trace are `enough`, and return them."""
        with self.arrived:
            if not self.arrived.wait_for(lambda: enough(self.of(trace_id)), LONG_SECONDS):
                raise TimeoutError(f"all that came of {trace_id} is {[span.name for span in self.of(trace_id)]}")
            return self.of(trace_id)

    def ended(self, trace_id: str) -> list[Span]:
        """Wait for a request's own span, with which all others come that there are by then."""
        return self.wait(trace_id, lambda spans: any(span.raw.kind == SERVER for span in spans))


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector on a free port."""
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    collector.address = f"http://127.0.0.1:{port}"
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()
