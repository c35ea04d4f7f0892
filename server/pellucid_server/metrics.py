"""What the front measures, for Prometheus: one object of collectors on a registry that is passed in.

Labels come from closed sets: RPCs from the schema, models and methods from what the workers serve, codes
from gRPC, classes and devices from the settings. A name that a request brings and nobody serves counts as
"unknown". docs/operating.md has a table of all.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pellucid_server.pool.observer import Observer
from pellucid_server.vocabulary.messages import Hello
from pellucid_server.vocabulary.results import RequestTiming

UNKNOWN = "unknown"
"""The label of a model or method that is not served."""

LOSSES = ("exit", "hang", "start")
"""Why a worker ended: by itself or killed from outside, killed as hung, or before it was ready."""

REFUSALS = ("rows", "bytes", "seconds", "deadline")
"""Why a request was not taken: which bound of its class, or its own deadline."""

_LABELS = ("rpc", "method", "model", "code")
_REQUEST_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0
)  # fmt: skip

Waiting = Mapping[str, tuple[int, int, int]]
"""Requests that wait, their rows and their bytes, by class."""


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
    requests_unread: Counter
    """Requests that ended before they had arrived whole, by RPC: too large, or their caller left."""
    requests_refused: Counter
    """Requests that were not taken, by class and by what stood in the way."""
    rows_evaluated: Counter
    """Rows evaluated by model and kind, "forward" or "backward"."""
    rows_wasted: Counter
    """Those among them of requests whose answer nobody got."""
    requests_pending: Gauge
    """Requests that workers have and have not finished, abandoned ones included."""
    requests_retried: Counter
    """Requests of a lost worker that were sent to a worker again."""
    queue_requests: Gauge
    """Requests that wait for a place on a worker, by class."""
    queue_rows: Gauge
    """Evaluation rows of those requests, by class."""
    queue_bytes: Gauge
    """Bytes of the inputs of those requests, by class."""
    worker_restarts: Counter
    """Starts of a worker process after the first, by device."""
    worker_losses: Counter
    """Ends of a worker process that nobody asked for, by device and cause."""
    model_loads: Counter
    """Versions loaded, not loaded and removed since the server began to serve, by model and outcome."""

    @classmethod
    def on(cls, registry: CollectorRegistry) -> "Metrics":
        """Make the collectors and register them."""

        def seconds(name: str, text: str) -> Histogram:
            return Histogram(name, text, _LABELS, buckets=_REQUEST_BUCKETS, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        return cls(
            request_seconds=seconds("pellucid_request_seconds", "From arrival to the reply's being ready."),
            queue_seconds=seconds("pellucid_queue_seconds", "From arrival to the start of the work on a worker."),
            compute_seconds=seconds("pellucid_compute_seconds", "From the start of the work to its end."),
            requests_in_flight=gauge("pellucid_requests_in_flight", "Requests that are not answered yet."),
            requests_unread=counter("pellucid_requests_unread", "Requests that never arrived whole.", "rpc"),
            requests_refused=counter("pellucid_requests_refused", "Requests that were not taken.", "class", "cause"),
            rows_evaluated=counter("pellucid_rows_evaluated", "Rows evaluated on the devices.", "model", "kind"),
            rows_wasted=counter("pellucid_rows_wasted", "Rows evaluated for answers nobody got.", "model", "kind"),
            requests_pending=gauge("pellucid_requests_pending", "Requests that workers have not finished."),
            requests_retried=counter(
                "pellucid_requests_retried", "Requests that were sent again after a worker was lost."
            ),
            queue_requests=gauge("pellucid_queue_requests", "Requests that wait for a place on a worker.", "class"),
            queue_rows=gauge("pellucid_queue_rows", "Evaluation rows of the requests that wait.", "class"),
            queue_bytes=gauge("pellucid_queue_bytes", "Bytes of the requests that wait.", "class"),
            worker_restarts=counter("pellucid_worker_restarts", "Starts of a worker after the first.", "device"),
            worker_losses=counter("pellucid_worker_losses", "Workers that ended unasked.", "device", "cause"),
            model_loads=counter("pellucid_model_loads", "Model versions that changed.", "model", "outcome"),
        )

    def show_queue(self, classes: Iterable[str], waiting: Callable[[], Waiting]) -> None:
        """Have the queue's gauges read `waiting`, one series for each class."""

        def reader(name: str, place: int) -> Callable[[], float]:
            return lambda: waiting().get(name, (0, 0, 0))[place]

        for name in classes:
            for place, gauge in enumerate((self.queue_requests, self.queue_rows, self.queue_bytes)):
                gauge.labels(name).set_function(reader(name, place))


class RequestRecorder:
    """Records finished requests; looks each set of labels up once, as lookups cost more than the record."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._by_labels: dict[tuple[str, str, str, str], tuple[_Observe, _Observe, _Observe]] = {}
        self._wasted = _Rows(metrics.rows_wasted)

    def record(
        self, rpc: str, *, method: str, model: str, code: str, seconds: float, timing: RequestTiming | None
    ) -> None:
        """Count one finished request; `timing` is None if no worker had it."""
        labels = (rpc, method, model, code)
        request, queue, compute = self._by_labels.get(labels) or self._look_up(labels)
        request(seconds)
        if timing is not None:
            queue(timing.queue_seconds)
            compute(timing.compute_seconds)

    def unread(self, rpc: str) -> None:
        """Count one request that never arrived whole."""
        self._metrics.requests_unread.labels(rpc).inc()

    def wasted(self, model: str, timing: RequestTiming) -> None:
        """Count the rows of a result that was made and reached nobody."""
        self._wasted.add(model, timing)

    def _look_up(self, labels: tuple[str, str, str, str]) -> "tuple[_Observe, _Observe, _Observe]":
        collectors = self._metrics
        found = (
            collectors.request_seconds.labels(*labels).observe,
            collectors.queue_seconds.labels(*labels).observe,
            collectors.compute_seconds.labels(*labels).observe,
        )
        self._by_labels[labels] = found
        return found


class PoolRecorder(Observer):
    """Records what happens in the pool.

    Parameters
    ----------
    devices, classes
        Those there are: each has its series from the start, so that a first event is a rise from 0.
    """

    def __init__(self, metrics: Metrics, *, devices: Iterable[str], classes: Iterable[str]) -> None:
        self._metrics = metrics
        self._evaluated = _Rows(metrics.rows_evaluated)
        self._wasted = _Rows(metrics.rows_wasted)
        for device in devices:
            metrics.worker_restarts.labels(device)
            for cause in LOSSES:
                metrics.worker_losses.labels(device, cause)
        for name in classes:
            for cause in REFUSALS:
                metrics.requests_refused.labels(name, cause)

    def restarted(self, device: str) -> None:
        """Count a start of a worker after its first."""
        self._metrics.worker_restarts.labels(device).inc()

    def lost(self, device: str, cause: str) -> None:
        """Count a worker that ended unasked."""
        self._metrics.worker_losses.labels(device, cause).inc()

    def retried(self) -> None:
        """Count a request that is sent again."""
        self._metrics.requests_retried.inc()

    def worked(self, model: str, timing: RequestTiming, wasted: bool) -> None:
        """Count the rows of a request that a worker is done with."""
        self._evaluated.add(model, timing)
        if wasted:
            self._wasted.add(model, timing)

    def refused(self, priority: str, cause: str) -> None:
        """Count a request that was not taken."""
        self._metrics.requests_refused.labels(priority, cause).inc()

    def model_changed(self, model: str, outcome: str) -> None:
        """Count a version that was loaded, could not be loaded, or was removed."""
        self._metrics.model_loads.labels(model, outcome).inc()


class ModelsCollector(Collector):
    """What there is in the model repository, as the workers last said; `hello` gives that."""

    def __init__(self, hello: Callable[[], Hello | None]) -> None:
        self._hello = hello

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Count the model versions by state, and name those that are broken."""
        hello = self._hello()
        served, broken = (0, ()) if hello is None else (len(hello.models), hello.broken)
        count = GaugeMetricFamily("pellucid_models", "Model versions by state.", labels=["state"])
        count.add_metric(["serving"], served)
        count.add_metric(["broken"], len(broken))
        named = GaugeMetricFamily(
            "pellucid_model_broken", "1 for each model that could not be loaded.", labels=["model", "version"]
        )
        for each in broken:
            named.add_metric([each.name, str(each.version)], 1)
        return count, named


class _Rows:
    """Adds to one of the counters of rows."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._by_model: dict[str, tuple[_Observe, _Observe]] = {}

    def add(self, model: str, timing: RequestTiming) -> None:
        # Only models that are served evaluate rows: the names that become labels are a closed set.
        if timing.rows_forward or timing.rows_backward:
            forward, backward = self._by_model.get(model) or self._look_up(model)
            forward(timing.rows_forward)
            backward(timing.rows_backward)

    def _look_up(self, model: str) -> "tuple[_Observe, _Observe]":
        labelled = self._counter.labels
        self._by_model[model] = (labelled(model, "forward").inc, labelled(model, "backward").inc)
        return self._by_model[model]


_Observe = Callable[[float], None]
