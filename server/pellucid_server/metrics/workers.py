"""Records what happens in the pool and on the devices, and shows the workers."""

from collections.abc import Callable, Iterable
from typing import Protocol

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pellucid_server.metrics.collectors import Metrics
from pellucid_server.metrics.families import Counters
from pellucid_server.metrics.later import Note
from pellucid_server.pool.observer import REFUSALS, Observer
from pellucid_server.vocabulary.messages import Heartbeat
from pellucid_server.vocabulary.results import RequestTiming

LOSSES = ("exit", "hang", "start")
"""Why a worker ended: by itself or killed from outside, killed as hung, or before it was ready."""


class PoolRecorder(Observer):
    """Records what happens in the pool.

    Parameters
    ----------
    devices, classes
        Those there are: each has its series from the start, so that a first event is a rise from 0. A worker goes by
        its place among the devices.
    """

    def __init__(self, metrics: Metrics, *, devices: Iterable[str], classes: Iterable[str]) -> None:
        self._metrics = metrics
        self._put, self._note = metrics.later.put, self._add_rows
        self._evaluated = RowRecorder(metrics.rows_evaluated)
        self._wasted = RowRecorder(metrics.rows_wasted)
        for number, device in enumerate(devices):
            metrics.worker_restarts.labels(device)
            metrics.device_busy_seconds.labels(device, str(number))
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
        self._metrics.requests_retried.labels().inc()

    def worked(self, model: str, timing: RequestTiming, wasted: bool) -> None:
        """Count the rows of a request that a worker is done with."""
        self._put((self._note, model, timing, wasted))

    def refused(self, priority: str, cause: str) -> None:
        """Count a request that was not taken."""
        self._metrics.requests_refused.labels(priority, cause).inc()

    def beat(self, device: str, worker: int, beat: Heartbeat) -> None:
        """Count the batches of a device since the worker's last heartbeat."""
        self._metrics.device_busy_seconds.labels(device, str(worker)).inc(beat.busy_seconds)
        for each in beat.batches:
            self._metrics.batch_rows.labels(device, each.kind).add(each.counts, each.rows)

    def _add_rows(self, note: Note) -> None:
        _, model, timing, wasted = note
        self._evaluated.add(model, timing)
        if wasted:
            self._wasted.add(model, timing)


class RowRecorder:
    """Adds to one of the counters of rows."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._by_labels: dict[tuple[str, str], Callable[[float], None]] = {}

    def add(self, model: str, timing: RequestTiming) -> None:
        """Add the rows of a request to a model, which is served if it evaluated any: the labels are a closed set."""
        for kind, rows in timing.rows:
            labels = (model, kind)
            found = self._by_labels.get(labels)
            if found is None:
                found = self._by_labels[labels] = self._counters.labels(*labels).inc
            found(rows)


class Worker(Protocol):
    """What is shown of a worker."""

    device: str
    number: int
    ready: bool
    memory_bytes: int


class WorkersCollector(Collector):
    """Which workers are up, and their memory; `workers` gives those there are."""

    def __init__(self, workers: Callable[[], Iterable[Worker]]) -> None:
        self._workers = workers

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Show each worker, and of those that are up the memory as their last heartbeat said."""
        labels = ["device", "worker"]
        up = GaugeMetricFamily("pellucid_worker_up", "1 for a worker that takes requests, else 0.", labels=labels)
        memory = GaugeMetricFamily(
            "pellucid_worker_memory_bytes", "Resident memory of a worker's process.", labels=labels
        )
        for worker in self._workers():
            values = [worker.device, str(worker.number)]
            ready, memory_bytes = worker.ready, worker.memory_bytes
            up.add_metric(values, float(ready))
            if ready and memory_bytes:
                memory.add_metric(values, memory_bytes)
        return up, memory
