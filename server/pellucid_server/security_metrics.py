"""What Prometheus reads of TLS, of files that cannot be used, and of quotas."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from pellucid_server.access.certificates import Certificates


class SecurityCollector(Collector):
    """When certificates expire, and which files have changed and cannot be used.

    Parameters
    ----------
    certificates
        Returns those in force; None is no TLS.
    stale
        Returns for "tls" and "access", where there are such files, whether they are others than those in force.
    """

    def __init__(
        self, certificates: Callable[[], Certificates | None], stale: Callable[[], Mapping[str, bool]]
    ) -> None:
        self._certificates = certificates
        self._stale = stale

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Read both."""
        expiry = GaugeMetricFamily(
            "pellucid_tls_certificate_expiry_seconds",
            "When a certificate in use expires, in seconds since 1970.",
            labels=["use"],
        )
        found = self._certificates()
        if found is not None:
            expiry.add_metric(["server"], found.chain_expires)
            if found.client_ca_expires is not None:
                expiry.add_metric(["client_ca"], found.client_ca_expires)
        stale = GaugeMetricFamily(
            "pellucid_files_stale",
            "1 where files have changed and cannot be used, so that earlier ones are in force.",
            labels=["files"],
        )
        for name, value in self._stale().items():
            stale.add_metric([name], float(value))
        return expiry, stale


def quota_counter(registry: CollectorRegistry) -> Callable[[str, str], None]:
    """Register the counter of requests beyond quotas; return what counts one, by identity and quota."""
    counter = Counter(
        "pellucid_quota_refusals", "Requests beyond their identity's quota.", ("identity", "quota"), registry=registry
    )
    return lambda identity, quota: counter.labels(identity, quota).inc()
