"""The names, labels and help texts of all metrics that are recorded as things happen."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Gauge

from pellucid_server.metrics.families import Counters, Histograms
from pellucid_server.metrics.later import Later
from pellucid_server.vocabulary.messages import BATCH_BOUNDS

_REQUEST_LABELS = ("rpc", "method", "model", "version", "code")
_REQUEST_BOUNDS = (
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0,
)  # fmt: skip

_JOB_BOUNDS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 86400.0, 7 * 86400.0)

_SHARE_BOUNDS = (1e-6, 1e-5, 1e-4, 1e-3, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
"""Of errors as a share of the score's change: the default tolerances are among them."""

# gRFC A66 gives these bounds; the last three of the times are ours, as explanations may take longer.
_CALL_BOUNDS = (
    0.00001, 0.00005, 0.0001, 0.0003, 0.0006, 0.0008, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.008, 0.01, 0.013,
    0.016, 0.02, 0.025, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 2.0,
    5.0, 10.0, 20.0, 50.0, 100.0, 300.0, 600.0, 1200.0,
)  # fmt: skip
_SIZE_BOUNDS = (0, *(1 << power for power in (10, 11, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32)))

Waiting = Mapping[str, tuple[int, int, int]]
"""Requests that wait, their rows and their bytes, by class."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """The collectors. All but the gauges are each written to by the event loop's thread alone, or through `later`.

    Of spans, the exporter counts those that are dropped, one thread at a time.
    """

    later: Later
    """Takes what is recorded for each request."""
    request_seconds: Histograms
    """From arrival to the reply's being ready; its count is the number of requests."""
    queue_seconds: Histograms
    """From arrival to the start of the work on a worker."""
    compute_seconds: Histograms
    """From the start of the work to its end."""
    requests_in_flight: Gauge
    """Requests that have arrived and are not answered."""
    requests_unread: Counters
    """Requests that ended before they had arrived whole, by RPC: too large, or their caller left."""
    requests_refused: Counters
    """Requests that were not taken, by class and by what stood in the way."""
    requests_pending: Gauge
    """Requests that workers have and have not finished, abandoned ones included."""
    requests_retried: Counters
    """Requests of a lost worker that were sent to a worker again."""
    queue_requests: Gauge
    """Requests that wait for a place on a worker, by class."""
    queue_rows: Gauge
    """Evaluation rows of those requests, by class."""
    queue_bytes: Gauge
    """Bytes of the inputs of those requests, by class."""
    backlog_seconds: Gauge
    """Time until the last of them should have its place, by class."""
    rows_evaluated: Counters
    """Rows evaluated by model and kind of evaluation."""
    rows_wasted: Counters
    """Those among them of requests whose answer nobody got."""
    batch_rows: Histograms
    """Rows of each device batch, by device and kind of evaluation."""
    device_busy_seconds: Counters
    """Time in which a batch was on the device, by device and worker."""
    trace_spans_dropped: Counters
    """Spans of traces that did not reach the collector; the exporter counts them, one thread at a time."""
    worker_restarts: Counters
    """Starts of a worker process after the first, by device."""
    worker_losses: Counters
    """Ends of a worker process that nobody asked for, by device and cause."""
    model_loads: Counters
    """Model versions that came into service, could not be loaded, or left it, by model and outcome."""
    jobs_ended: Counters
    """Jobs that ended, by outcome."""
    job_seconds: Histograms
    """From the start of the work at a job to its end, pauses of the server included."""
    explanations: Counters
    """Explained rows by method, model and whether a tolerance was met."""
    approximation_error: Histograms
    """|Signed gap| of an explanation as a share of the score's change."""
    completeness_gap: Histograms
    """The gaps of an explanation's parts added up, as a share of the score's change."""
    attribution_share_sum: Counters
    """Each column's share of an explanation's absolute scores, added up over explanations."""
    attribution_shares: Counters
    """The explanations in those sums, by model."""
    call_started: Counters
    """Calls that began, by full name of the RPC; this and the next three by gRFC A66."""
    call_seconds: Histograms
    """Their length."""
    call_sent_bytes: Histograms
    """Bytes of a call's replies."""
    call_received_bytes: Histograms
    """Bytes of a call's requests."""

    @classmethod
    def on(cls, registry: CollectorRegistry) -> "Metrics":
        """Make the collectors and register them."""
        later = Later()

        def histogram(name: str, text: str, labels: tuple[str, ...], bounds: tuple[float, ...]) -> Histograms:
            return Histograms(name, text, labels, bounds=bounds, registry=registry, later=later)

        def seconds(name: str, text: str) -> Histograms:
            return histogram(name, text, _REQUEST_LABELS, _REQUEST_BOUNDS)

        def share(name: str, text: str) -> Histograms:
            return histogram(name, text, ("method", "model"), _SHARE_BOUNDS)

        def call(name: str, text: str, bounds: tuple[float, ...]) -> Histograms:
            return histogram(f"grpc_server_call_{name}", text, ("grpc_method", "grpc_status"), bounds)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counters:
            return Counters(name, text, labels, registry=registry, later=later)

        return cls(
            later=later,
            request_seconds=seconds("pellucid_request_seconds", "From arrival to the reply's being ready."),
            queue_seconds=seconds("pellucid_queue_seconds", "From arrival to the start of the work on a worker."),
            compute_seconds=seconds("pellucid_compute_seconds", "From the start of the work to its end."),
            requests_in_flight=gauge("pellucid_requests_in_flight", "Requests that are not answered yet."),
            requests_unread=counter("pellucid_requests_unread", "Requests that never arrived whole.", "rpc"),
            requests_refused=counter("pellucid_requests_refused", "Requests that were not taken.", "class", "cause"),
            requests_pending=gauge("pellucid_requests_pending", "Requests that workers have not finished."),
            requests_retried=counter(
                "pellucid_requests_retried", "Requests that were sent again after a worker was lost."
            ),
            queue_requests=gauge("pellucid_queue_requests", "Requests that wait for a place on a worker.", "class"),
            queue_rows=gauge("pellucid_queue_rows", "Evaluation rows of the requests that wait.", "class"),
            queue_bytes=gauge("pellucid_queue_bytes", "Bytes of the requests that wait.", "class"),
            backlog_seconds=gauge(
                "pellucid_backlog_seconds", "Time until the last request that waits should have a place.", "class"
            ),
            rows_evaluated=counter("pellucid_rows_evaluated", "Rows evaluated on the devices.", "model", "kind"),
            rows_wasted=counter(
                "pellucid_rows_wasted", "Rows evaluated for answers that reached no caller.", "model", "kind"
            ),
            batch_rows=histogram("pellucid_batch_rows", "Rows of a device batch.", ("device", "kind"), BATCH_BOUNDS),
            device_busy_seconds=counter(
                "pellucid_device_busy_seconds", "Time in which a batch was on the device.", "device", "worker"
            ),
            trace_spans_dropped=counter("pellucid_trace_spans_dropped", "Spans that did not reach the collector."),
            worker_restarts=counter("pellucid_worker_restarts", "Starts of a worker after the first.", "device"),
            worker_losses=counter("pellucid_worker_losses", "Workers that ended unasked.", "device", "cause"),
            model_loads=counter(
                "pellucid_model_loads", "Model versions loaded, failed and unloaded.", "model", "outcome"
            ),
            jobs_ended=counter("pellucid_jobs_ended", "Jobs that ended.", "outcome"),
            job_seconds=histogram(
                "pellucid_job_seconds", "From the start of the work at a job to its end.", ("outcome",), _JOB_BOUNDS
            ),
            explanations=counter("pellucid_explanations", "Explained rows.", "method", "model", "tolerance"),
            approximation_error=share(
                "pellucid_approximation_error", "Gap of an explanation as a share of the score's change."
            ),
            completeness_gap=share(
                "pellucid_completeness_gap", "Gaps of an explanation's parts as a share of the score's change."
            ),
            attribution_share_sum=counter(
                "pellucid_attribution_share_sum",
                "Shares of columns in the absolute scores of explanations, added up.",
                "model",
                "column",
            ),
            attribution_shares=counter(
                "pellucid_attribution_shares", "Explanations in pellucid_attribution_share_sum_total.", "model"
            ),
            call_started=counter("grpc_server_call_started", "Calls that began.", "grpc_method"),
            call_seconds=call("duration_seconds", "Length of a call.", _CALL_BOUNDS),
            call_sent_bytes=call(
                "sent_total_compressed_message_size_bytes", "Bytes of a call's reply messages.", _SIZE_BOUNDS
            ),
            call_received_bytes=call(
                "rcvd_total_compressed_message_size_bytes", "Bytes of a call's request messages.", _SIZE_BOUNDS
            ),
        )

    def show_queue(
        self, classes: Iterable[str], waiting: Callable[[], Waiting], backlog: Callable[[str], float]
    ) -> None:
        """Have the queue's gauges read `waiting` and, given a class, `backlog`; one series for each class."""

        def reader(name: str, place: int) -> Callable[[], float]:
            return lambda: waiting().get(name, (0, 0, 0))[place]

        def backlog_reader(name: str) -> Callable[[], float]:
            return lambda: backlog(name)

        for name in classes:
            for place, gauge in enumerate((self.queue_requests, self.queue_rows, self.queue_bytes)):
                gauge.labels(name).set_function(reader(name, place))
            self.backlog_seconds.labels(name).set_function(backlog_reader(name))
