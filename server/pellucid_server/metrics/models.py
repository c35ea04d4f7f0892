"""Shows what is in the model repository, and records how that changes."""

from collections.abc import Callable, Iterable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pellucid_server.metrics.collectors import Metrics
from pellucid_server.vocabulary.descriptions import BrokenModel
from pellucid_server.vocabulary.messages import Hello
from pellucid_server.vocabulary.requests import ModelKey

OUTCOMES = ("loaded", "failed", "unloaded")
"""What becomes of a model version: it came into service, could not, or left it."""


class ModelsCollector(Collector):
    """What there is in the model repository, as the workers last said; `hello` gives that."""

    def __init__(self, hello: Callable[[], Hello | None]) -> None:
        self._hello = hello

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Count the model versions by state, show those that are served, and name those that are broken."""
        hello = self._hello()
        served, broken = ((), ()) if hello is None else (hello.models, hello.broken)
        count = GaugeMetricFamily("pellucid_models", "Model versions by state.", labels=["state"])
        count.add_metric(["serving"], len(served))
        count.add_metric(["broken"], len(broken))
        info = GaugeMetricFamily(
            "pellucid_model_info", "1 for each model version that is served.", labels=["model", "version", "digest"]
        )
        for model in served:
            info.add_metric([model.key.name, str(model.key.version), model.key.digest], 1)
        named = GaugeMetricFamily(
            "pellucid_model_broken", "1 for each model that could not be loaded.", labels=["model", "version"]
        )
        for each in broken:
            named.add_metric([each.name, str(each.version)], 1)
        return count, info, named


class LoadRecorder:
    """Records changes of what is served, by what the workers say from time to time."""

    def __init__(self, metrics: Metrics) -> None:
        self._loads = metrics.model_loads
        self._served: frozenset[ModelKey] = frozenset()
        self._broken: frozenset[BrokenModel] = frozenset()

    def look(self, hello: Hello | None) -> None:
        """Count what came, what left and what has newly failed since the last look.

        What is said while no worker has been ready yet, None, changes nothing. A version that fails in the same way
        again is not counted again.
        """
        if hello is None:
            return
        served, broken = frozenset(model.key for model in hello.models), frozenset(hello.broken)
        changes: tuple[frozenset[ModelKey | BrokenModel], ...] = (
            served - self._served,
            broken - self._broken,
            self._served - served,
        )
        self._served, self._broken = served, broken
        for outcome, changed in zip(OUTCOMES, changes, strict=True):
            # Each outcome's series is there from the first look on, so that the first event is a rise.
            for name in (*(key.name for key in served), *(each.name for each in broken)):
                self._loads.labels(name, outcome)
            for each in changed:
                self._loads.labels(each.name, outcome).inc()
