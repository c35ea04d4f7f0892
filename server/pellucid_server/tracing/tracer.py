"""Which requests are recorded, and where their spans go."""

from pellucid_server.tracing.context import TraceContext, chosen, new_span_id, new_trace_id, parse
from pellucid_server.tracing.request_trace import Export, RequestTrace


class Tracer:
    """Begins the traces of requests.

    Parameters
    ----------
    sample_ratio
        Share of the requests without a trace context of the caller's that are recorded, in [0, 1].
    export
        Takes finished spans, at once and without blocking.
    """

    def __init__(self, sample_ratio: float, export: Export) -> None:
        self._ratio = sample_ratio
        self._export = export

    def begin(self, traceparent: str, rpc: str, arrived: float) -> RequestTrace | None:
        """Return the trace of a request, or None if it is not recorded; the caller's own context decides first."""
        parent = parse(traceparent) if traceparent else None
        if parent is not None:
            if not parent.sampled:
                return None
            own = TraceContext(parent.trace_id, new_span_id(), True)
            return RequestTrace(own, parent.span_id, rpc, arrived, self._export)
        trace_id = new_trace_id()
        if not chosen(trace_id, self._ratio):
            return None
        return RequestTrace(TraceContext(trace_id, new_span_id(), True), "", rpc, arrived, self._export)
