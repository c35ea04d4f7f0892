"""Records requests as the boundary ends them: how long they took, and what their calls looked like to gRPC."""

from collections.abc import Callable

from pellucid_server.metrics.collectors import Metrics
from pellucid_server.metrics.explanations import ExplanationRecorder
from pellucid_server.metrics.families import Counter
from pellucid_server.metrics.labels import ServedLabels
from pellucid_server.metrics.later import Note
from pellucid_server.metrics.workers import RowRecorder
from pellucid_server.vocabulary.findings import Findings
from pellucid_server.vocabulary.messages import Hello
from pellucid_server.vocabulary.requests import ModelKey
from pellucid_server.vocabulary.results import RequestTiming, Result

_Observe = Callable[[float, str], None]
_Labels = tuple[str, str, str, str, str]

_LOST = "CANCELLED"
"""The status of a call whose request never arrived whole: mostly the caller left, and gRPC does not say otherwise."""


class RequestRecorder:
    """Records finished requests; looks each set of labels up once, as lookups cost more than the record."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._put, self._tidy = metrics.later.put, metrics.later.tidy
        self._started: dict[str, Counter] = {}
        self._served: Callable[[], Hello | None] = lambda: None
        self._hello: Hello | None = None
        self._labels = ServedLabels(None)
        self._record_note, self._unread_note, self._wasted_note = self._record, self._unread, self._waste
        self._calls: dict[str, str] = {}
        self._by_labels: dict[_Labels, tuple[_Observe, ...]] = {}
        self._wasted = RowRecorder(metrics.rows_wasted)
        self._explanations = ExplanationRecorder(metrics)

    def name_call(self, rpc: str, call: str) -> None:
        """Set gRPC's full name of an RPC, such as "pellucid.v1.ExplanationService/Predict"."""
        self._calls[rpc] = call

    def follow(self, served: Callable[[], Hello | None]) -> None:
        """Take the names that may be labels from what `served` gives, callable from any thread."""
        self._served = served

    def started(self, rpc: str) -> None:
        """Count a call that begins."""
        counter = self._started.get(rpc)
        if counter is None:
            counter = self._started[rpc] = self._metrics.call_started.labels(self._calls.get(rpc, rpc))
        counter.value += 1.0

    def record(
        self,
        rpc: str,
        code: str,
        method: str,
        model: str,
        version: int,
        *,
        seconds: float,
        answered_by: ModelKey | None = None,
        timing: RequestTiming | None = None,
        received_bytes: int = 0,
        sent_bytes: int = 0,
        trace_id: str = "",
    ) -> None:
        """Count one finished request.

        Parameters
        ----------
        method, model, version
            Those that the caller named, "" and 0 for none.
        answered_by
            The model version that made its answer, if there is one: it may be served no more.
        timing
            None if no worker had it.
        received_bytes, sent_bytes
            Bytes of its messages.
        trace_id
            Of the trace that it belongs to, which becomes the example of its buckets; empty for none.
        """
        self._put(
            (
                self._record_note,
                rpc,
                code,
                method,
                model,
                version,
                answered_by,
                seconds,
                timing,
                received_bytes,
                sent_bytes,
                trace_id,
            )
        )
        self._tidy()

    def unread(self, rpc: str, *, seconds: float) -> None:
        """Count one request that never arrived whole."""
        self._put((self._unread_note, rpc, seconds))
        self._tidy()

    def wasted(self, model: str, timing: RequestTiming) -> None:
        """Count the rows of a result of that model, which was made and reached no caller."""
        self._put((self._wasted_note, model, timing))

    def answered(self, answer: Result | Findings) -> None:
        """Record how good the explanations of an answer are, if it has some."""
        self._explanations.record(answer)

    def _record(self, note: Note) -> None:
        (
            _,
            rpc,
            code,
            asked_method,
            asked_model,
            asked_version,
            answered_by,
            seconds,
            timing,
            received_bytes,
            sent_bytes,
            trace_id,
        ) = note
        method, model, version = self._names().labels(asked_method, asked_model, asked_version, answered_by)
        labels = (rpc, method, model, version, code)
        request, queue, compute, call, received, sent = self._by_labels.get(labels) or self._look_up(labels)
        request(seconds, trace_id)
        call(seconds, trace_id)
        received(received_bytes, "")
        sent(sent_bytes, "")
        if timing is not None:
            queue(timing.queue_seconds, trace_id)
            compute(timing.compute_seconds, trace_id)

    def _names(self) -> ServedLabels:
        hello = self._served()
        if hello is not None and hello is not self._hello:
            self._hello, self._labels = hello, ServedLabels(hello)
        return self._labels

    def _unread(self, note: Note) -> None:
        _, rpc, seconds = note
        self._metrics.requests_unread.labels(rpc).inc()
        self._metrics.call_seconds.labels(self._calls.get(rpc) or rpc, _LOST).observe(seconds)

    def _waste(self, note: Note) -> None:
        _, model, timing = note
        self._wasted.add(model, timing)

    def _look_up(self, labels: _Labels) -> tuple[_Observe, ...]:
        collectors, rpc, code = self._metrics, labels[0], labels[-1]
        call = self._calls.get(rpc, rpc)
        requests = (collectors.request_seconds, collectors.queue_seconds, collectors.compute_seconds)
        calls = (collectors.call_seconds, collectors.call_received_bytes, collectors.call_sent_bytes)
        found = (
            *(each.labels(*labels).observe for each in requests),
            *(each.labels(call, code).observe for each in calls),
        )
        self._by_labels[labels] = found
        return found
