"""Shows the jobs that there are, and records how they end."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pellucid_server.metrics.collectors import Metrics


class JobsCollector(Collector):
    """The jobs by state, and the bytes that they take; each function may return None where the server takes no jobs."""

    def __init__(self, counts: Callable[[], Mapping[str, int] | None], size_bytes: Callable[[], int]) -> None:
        self._counts = counts
        self._size_bytes = size_bytes

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Count the jobs; nothing on a server without a folder for them."""
        counts = self._counts()
        if counts is None:
            return ()
        states = GaugeMetricFamily("pellucid_jobs", "Jobs by state.", labels=["state"])
        for state, count in counts.items():
            states.add_metric([state], count)
        size = GaugeMetricFamily("pellucid_jobs_bytes", "Bytes of all jobs in the server's folder.")
        size.add_metric([], self._size_bytes())
        return states, size


class JobRecorder:
    """Records how jobs end.

    Parameters
    ----------
    outcomes
        How they can; each is on the page from the start.
    """

    def __init__(self, metrics: Metrics, outcomes: Iterable[str]) -> None:
        self._metrics = metrics
        for each in outcomes:
            metrics.jobs_ended.labels(each)

    def ended(self, outcome: str, seconds: float | None) -> None:
        """Count a job that has ended, `seconds` after its work began; None if it never did."""
        self._metrics.jobs_ended.labels(outcome).inc()
        if seconds is not None:
            self._metrics.job_seconds.labels(outcome).observe(seconds)
