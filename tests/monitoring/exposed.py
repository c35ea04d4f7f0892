"""What the server's own page has, by its collectors: each series with its labels, and the edges of buckets."""

import contextlib
import dataclasses
from types import SimpleNamespace

from pellucid_server.metrics import JobsCollector, Metrics, ModelsCollector, WorkersCollector
from pellucid_server.security_metrics import SecurityCollector, quota_counter
from prometheus_client import CollectorRegistry


def _registry() -> CollectorRegistry:
    """Return all collectors, each with one series."""
    registry = CollectorRegistry()
    metrics = Metrics.on(registry)
    for field in dataclasses.fields(metrics):
        collector = getattr(metrics, field.name)
        if not hasattr(collector, "labels"):
            continue
        for count in range(1, 8):
            # Only the right number of labels is taken.
            with contextlib.suppress(ValueError):
                collector.labels(*["x"] * count)
    model = SimpleNamespace(key=SimpleNamespace(name="x", version=1, digest="x"))
    hello = SimpleNamespace(models=(model,), broken=(SimpleNamespace(name="x", version=1),))
    registry.register(ModelsCollector(lambda: hello))  # type: ignore[arg-type, return-value]
    worker = SimpleNamespace(device="x", number=0, ready=True, memory_bytes=1)
    registry.register(WorkersCollector(lambda: (worker,)))
    registry.register(JobsCollector(lambda: {"x": 1}, lambda: 1))
    certificates = SimpleNamespace(chain_expires=1.0, client_ca_expires=1.0)
    registry.register(SecurityCollector(lambda: certificates, lambda: {"tls": False}))  # type: ignore[arg-type, return-value]
    quota_counter(registry)("x", "x")
    return registry


def series() -> dict[str, frozenset[str]]:
    """Return the labels of each series by its name."""
    found: dict[str, frozenset[str]] = {}
    for family in _registry().collect():
        for sample in family.samples:
            found[sample.name] = frozenset(sample.labels)
    return found


def edges() -> dict[str, tuple[str, ...]]:
    """Return the finite edges of each histogram's buckets, as the page has them, in rising order."""
    return {
        family.name: tuple(
            sample.labels["le"]
            for sample in family.samples
            if sample.name.endswith("_bucket") and sample.labels["le"] != "+Inf"
        )
        for family in _registry().collect()
        if family.type == "histogram"
    }
