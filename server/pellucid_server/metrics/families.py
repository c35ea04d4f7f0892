"""Histograms and counters that cost a fraction of a microsecond.

prometheus_client's own take a lock for each number and look at each bucket: a request's six histograms would take
10 us. Each of these is written to by one thread at a time and read by those that serve the page. In CPython a read of
a list or a number is whole, so that a page is at most one observation ahead in one of them.
"""

import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from pellucid_server.metrics.later import Later


class Histogram:
    """The observations under one set of labels.

    Parameters
    ----------
    bounds
        The upper bound of each bucket, in rising order; beyond the last there is one more.
    """

    __slots__ = ("_bounds", "counts", "exemplars", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Observations in each bucket, not cumulative."""
        self.total = 0.0
        """Their sum."""
        self.exemplars: dict[int, tuple[str, float, float]] = {}
        """By bucket, the trace, the value and the Unix time of the last observation that had a trace."""

    def observe(self, value: float, trace_id: str = "") -> None:
        """Note a value, which must be a number; with the id of a trace, as an example of its bucket as well."""
        place = bisect_left(self._bounds, value)
        self.counts[place] += 1
        self.total += value
        if trace_id:
            self.exemplars[place] = (trace_id, value, time.time())

    def add(self, counts: Iterable[int], total: float) -> None:
        """Note observations that were counted elsewhere with the same bounds."""
        for place, count in enumerate(counts):
            self.counts[place] += count
        self.total += total


class Counter:
    """The count under one set of labels."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Add to it; `amount` must not be below 0."""
        self.value += amount


class Histograms(Collector):
    """A histogram for each set of labels.

    Parameters
    ----------
    bounds
        As for `Histogram`.
    later
        What may still have records for it; they are done before it is read.
    """

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        *,
        bounds: Sequence[float],
        registry: CollectorRegistry,
        later: Later,
    ) -> None:
        self._later = later
        self._name = name
        self._text = text
        self._labels = tuple(labels)
        self._bounds = tuple(bounds)
        self._bound_names = (*map(floatToGoString, self._bounds), "+Inf")
        self._children: dict[tuple[str, ...], Histogram] = {}
        registry.register(self)

    def labels(self, *values: str) -> Histogram:
        """Return the histogram under a set of labels, which is on the page from then on."""
        found = self._children.get(values)
        if found is None:
            found = self._children[_checked(values, self._labels)] = Histogram(self._bounds)
        return found

    def describe(self) -> Iterable[HistogramMetricFamily]:
        """Name the family, for the registry."""
        return (HistogramMetricFamily(self._name, self._text, labels=self._labels),)

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Return the histograms as they are now."""
        self._later.settle()
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, child in list(self._children.items()):
            counts, total, exemplars = child.counts.copy(), child.total, child.exemplars.copy()
            buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
            below = 0
            for place, (name, count) in enumerate(zip(self._bound_names, counts, strict=True)):
                below += count
                found = exemplars.get(place)
                if found is None:
                    buckets.append((name, below))
                else:
                    buckets.append((name, below, Exemplar({"trace_id": found[0]}, found[1], found[2])))
            family.add_metric(values, buckets, total)
        return (family,)


class Counters(Collector):
    """A counter for each set of labels; one without labels is there from the start."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], *, registry: CollectorRegistry, later: Later
    ) -> None:
        self._later = later
        self._name = name
        self._text = text
        self._labels = tuple(labels)
        self._children: dict[tuple[str, ...], Counter] = {}
        if not labels:
            self.labels()
        registry.register(self)

    def labels(self, *values: str) -> Counter:
        """Return the counter under a set of labels, which is on the page from then on."""
        found = self._children.get(values)
        if found is None:
            found = self._children[_checked(values, self._labels)] = Counter()
        return found

    def describe(self) -> Iterable[CounterMetricFamily]:
        """Name the family, for the registry."""
        return (CounterMetricFamily(self._name, self._text, labels=self._labels),)

    def collect(self) -> Iterable[CounterMetricFamily]:
        """Return the counters as they are now."""
        self._later.settle()
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, child in list(self._children.items()):
            family.add_metric(values, child.value)
        return (family,)


def _checked(values: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    if len(values) != len(names):
        raise ValueError(f"labels {names} were given {len(values)} values")
    return values
