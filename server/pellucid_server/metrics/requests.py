"""Records requests as the boundary ends them: how long they took, and what their calls looked like to gRPC."""

from collections.abc import Callable

from pellucid_server.metrics.collectors import Metrics
from pellucid_server.metrics.explanations import ExplanationRecorder
from pellucid_server.metrics.workers import RowRecorder
from pellucid_server.vocabulary.findings import Findings
from pellucid_server.vocabulary.results import RequestTiming, Result

_Observe = Callable[[float, str], None]
_Labels = tuple[str, str, str, str, str]

_LOST = "CANCELLED"
"""The status of a call whose request never arrived whole: mostly the caller left, and gRPC does not say otherwise."""


class RequestRecorder:
    """Records finished requests; looks each set of labels up once, as lookups cost more than the record."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._calls: dict[str, str] = {}
        self._started: dict[str, Callable[[], None]] = {}
        self._by_labels: dict[_Labels, tuple[_Observe, ...]] = {}
        self._wasted = RowRecorder(metrics.rows_wasted)
        self._explanations = ExplanationRecorder(metrics)

    def name_call(self, rpc: str, call: str) -> None:
        """Set gRPC's full name of an RPC, such as "pellucid.v1.ExplanationService/Predict"."""
        self._calls[rpc] = call
        self._started[rpc] = self._metrics.call_started.labels(call).inc

    def started(self, rpc: str) -> None:
        """Count a call that begins."""
        found = self._started.get(rpc)
        if found is None:
            self.name_call(rpc, rpc)
            found = self._started[rpc]
        found()

    def record(
        self,
        rpc: str,
        *,
        method: str,
        model: str,
        version: str,
        code: str,
        seconds: float,
        timing: RequestTiming | None,
        received_bytes: int = 0,
        sent_bytes: int = 0,
        trace_id: str = "",
    ) -> None:
        """Count one finished request.

        Parameters
        ----------
        timing
            None if no worker had it.
        received_bytes, sent_bytes
            Bytes of its messages.
        trace_id
            Of the trace that it belongs to, which becomes the example of its buckets; empty for none.
        """
        labels = (rpc, method, model, version, code)
        request, queue, compute, call, received, sent = self._by_labels.get(labels) or self._look_up(labels)
        request(seconds, trace_id)
        call(seconds, trace_id)
        received(received_bytes, "")
        sent(sent_bytes, "")
        if timing is not None:
            queue(timing.queue_seconds, trace_id)
            compute(timing.compute_seconds, trace_id)

    def unread(self, rpc: str, *, seconds: float) -> None:
        """Count one request that never arrived whole."""
        self._metrics.requests_unread.labels(rpc).inc()
        self._metrics.call_seconds.labels(self._calls.get(rpc, rpc), _LOST).observe(seconds)

    def wasted(self, model: str, timing: RequestTiming) -> None:
        """Count the rows of a result that was made and reached nobody."""
        self._wasted.add(model, timing)

    def answered(self, answer: Result | Findings) -> None:
        """Record how good the explanations of an answer are, if it has some."""
        self._explanations.record(answer)

    def _look_up(self, labels: _Labels) -> tuple[_Observe, ...]:
        collectors, status = self._metrics, (self._calls.get(labels[0], labels[0]), labels[-1])
        requests = (collectors.request_seconds, collectors.queue_seconds, collectors.compute_seconds)
        calls = (collectors.call_seconds, collectors.call_received_bytes, collectors.call_sent_bytes)
        found = (
            *(each.labels(*labels).observe for each in requests),
            *(each.labels(*status).observe for each in calls),
        )
        self._by_labels[labels] = found
        return found
