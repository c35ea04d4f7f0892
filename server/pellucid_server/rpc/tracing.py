"""What a trace and the log say of a request's end, in names that the server itself serves."""

import grpc

from pellucid_server.errors import PellucidError
from pellucid_server.rpc.arrival import Call
from pellucid_server.tracing.context import parse
from pellucid_server.tracing.request_trace import Outcome
from pellucid_server.vocabulary.results import RequestTiming
from pellucid_server.vocabulary.spans import Attribute

_CALLERS_FAULT = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)
"""Codes that leave a span's status unset, as OpenTelemetry's conventions have it for servers."""


def outcome(
    code: grpc.StatusCode,
    failure: PellucidError | None,
    labels: tuple[str, str, str, str],
    timing: RequestTiming | None,
) -> Outcome:
    """Return how a request ended; `labels` are its method, model, version and class, and empty ones are left out."""
    named = zip(("method", "model", "version", "class"), labels, strict=True)
    attributes: dict[str, Attribute] = {f"pellucid.{name}": label for name, label in named if label}
    if timing is not None:
        attributes |= {"pellucid.rows_forward": timing.rows_forward, "pellucid.rows_backward": timing.rows_backward}
    if failure is not None:
        attributes["pellucid.reason"] = failure.reason
    if code is grpc.StatusCode.OK or code in _CALLERS_FAULT:
        return Outcome(code.name, "", attributes)
    return Outcome(code.name, code.name if failure is None else failure.reason, attributes)


def trace_fields(call: Call) -> dict[str, object]:
    """Return the ids of trace and span for the request's line in the log, empty if it has no trace.

    Where its trace is not recorded, the span is the caller's.
    """
    if call.trace is None and not call.traceparent:
        return {}
    context = call.trace.context if call.trace is not None else parse(call.traceparent)
    return {} if context is None else {"trace_id": context.trace_id, "span_id": context.span_id}
