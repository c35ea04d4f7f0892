"""What the front measures, for Prometheus: one object of collectors on a registry that is passed in.

Labels come from closed sets: RPCs from the schema, models and methods from what the workers serve, codes
from gRPC. A name that a request brings and nobody serves counts as "unknown".
"""

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from pellucid_server.jobs import JobTiming

UNKNOWN = "unknown"
"""The label of a model or method that is not served."""

_LABELS = ("rpc", "method", "model", "code")
_REQUEST_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Metrics:
    """The collectors."""

    request_seconds: Histogram
    """From arrival to the reply's being ready; its count is the number of requests."""
    queue_seconds: Histogram
    """From arrival to the start of the work on a worker."""
    compute_seconds: Histogram
    """From the start of the work to its end."""
    requests_in_flight: Gauge
    """Requests that have arrived and are not answered."""
    rows_evaluated: Counter
    """Rows evaluated by model and kind, "forward" or "backward"."""
    jobs_pending: Gauge
    """Jobs that workers have and have not finished, abandoned ones included."""
    worker_restarts: Counter
    """Starts of a worker process after the first, by device."""

    @classmethod
    def on(cls, registry: CollectorRegistry) -> "Metrics":
        """Make the collectors and register them."""

        def seconds(name: str, text: str) -> Histogram:
            return Histogram(name, text, _LABELS, buckets=_REQUEST_BUCKETS, registry=registry)

        return cls(
            request_seconds=seconds("pellucid_request_seconds", "From arrival to the reply's being ready."),
            queue_seconds=seconds("pellucid_queue_seconds", "From arrival to the start of the work on a worker."),
            compute_seconds=seconds("pellucid_compute_seconds", "From the start of the work to its end."),
            requests_in_flight=Gauge(
                "pellucid_requests_in_flight", "Requests that are not answered yet.", registry=registry
            ),
            rows_evaluated=Counter(
                "pellucid_rows_evaluated", "Rows evaluated on the devices.", ("model", "kind"), registry=registry
            ),
            jobs_pending=Gauge("pellucid_jobs_pending", "Jobs that workers have not finished.", registry=registry),
            worker_restarts=Counter(
                "pellucid_worker_restarts", "Starts of a worker after the first.", ("device",), registry=registry
            ),
        )


class RequestRecorder:
    """Records finished requests; looks each set of labels up once, as lookups cost more than the record."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._by_labels: dict[tuple[str, str, str, str], tuple[_Observe, _Observe, _Observe]] = {}
        self._by_model: dict[str, tuple[_Observe, _Observe]] = {}

    def record(self, rpc: str, *, method: str, model: str, code: str, seconds: float, timing: JobTiming | None) -> None:
        """Count one finished request; `timing` is None if no worker finished it."""
        labels = (rpc, method, model, code)
        observers = self._by_labels.get(labels) or self._look_up(labels)
        request, queue, compute = observers
        request(seconds)
        if timing is not None:
            queue(timing.queue_seconds)
            compute(timing.compute_seconds)
            forward, backward = self._by_model.get(model) or self._look_up_model(model)
            forward(timing.rows_forward)
            backward(timing.rows_backward)

    def _look_up(self, labels: tuple[str, str, str, str]) -> "tuple[_Observe, _Observe, _Observe]":
        collectors = self._metrics
        found = (
            collectors.request_seconds.labels(*labels).observe,
            collectors.queue_seconds.labels(*labels).observe,
            collectors.compute_seconds.labels(*labels).observe,
        )
        self._by_labels[labels] = found
        return found

    def _look_up_model(self, model: str) -> "tuple[_Observe, _Observe]":
        rows = self._metrics.rows_evaluated
        self._by_model[model] = (rows.labels(model, "forward").inc, rows.labels(model, "backward").inc)
        return self._by_model[model]


_Observe = Callable[[float], None]
