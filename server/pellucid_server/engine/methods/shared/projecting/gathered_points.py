"""What is kept of the points of layers as rows come: a sample of each, its labels, and covariances."""

import json
from collections.abc import Mapping

from pellucid_server.engine.methods.shared.projecting.reductions import Numbers, Reduction, Vectors
from pellucid_server.engine.statistics.covariance import Covariance
from pellucid_server.engine.statistics.sample import Sample
from pellucid_server.engine.statistics.statistic import nested, within
from pellucid_server.vocabulary.findings import State

MOST_COVARIANCES = 2048
"""Columns of which covariances are kept."""

MOST_PRODUCTS = 1 << 24
"""Covariances of all layers together: 128 MiB, half of it in a state."""

_LABELS_PER_POINT = 4
"""Labels that are kept for a while for each point that may be."""


class GatheredPoints:
    """The points of some layers, by the layer's name; bounded in memory, saved with a state.

    Parameters
    ----------
    most
        How many points of a layer are kept, a random sample by the seed.
    covariances
        Whether covariances over all points are added up, of the first layers that have few enough columns.
    state
        Where to go on from; None at the start.
    """

    def __init__(
        self, reductions: Mapping[str, Reduction], most: int, seed: int, *, covariances: bool, state: State | None
    ) -> None:
        self.done = 0
        """Rows so far."""
        self.labels: dict[int, str] = {}
        """The labels of the rows of points that are kept."""
        self.samples: dict[str, Sample] = {}
        self.covariances: dict[str, Covariance] = {}
        self._reductions, self._most = reductions, most
        left = MOST_PRODUCTS if covariances else 0
        for name, reduction in reductions.items():
            exact = reduction.width <= MOST_COVARIANCES and reduction.width**2 <= left
            left -= reduction.width**2 if exact else 0
            if state is None:
                self.samples[name] = Sample(reduction.width, most, seed)
                if exact:
                    self.covariances[name] = Covariance(reduction.width)
                continue
            self.samples[name] = Sample.from_state(within(f"{name}/sample", state.arrays))
            if exact:
                self.covariances[name] = Covariance.from_state(within(f"{name}/covariance", state.arrays))
        if state is not None:
            self.done = int(state.values["rows"])
            self.labels = {int(number): label for number, label in json.loads(str(state.values["labels"])).items()}

    def update(self, name: str, points: Vectors, numbers: Numbers) -> None:
        """Take a layer's points of some rows in."""
        sample, keys = self.samples[name], self._reductions[name].keys(numbers)
        chosen = sample.admitted(keys)
        sample.update(keys[chosen], points[chosen])
        if name in self.covariances:
            self.covariances[name].update(points)

    def count(self, numbers: Numbers, labels: tuple[str, ...]) -> None:
        """Note rows that all layers have had, and the labels of those of which points are kept."""
        self.done += len(numbers)
        if labels:
            self.labels.update(zip(numbers.tolist(), labels, strict=True))
            if len(self.labels) > _LABELS_PER_POINT * self._most * len(self.samples):
                self._forget()

    def state(self) -> State:
        """Return all of it."""
        self._forget()
        arrays: dict[str, Vectors] = {}
        for name, sample in self.samples.items():
            arrays |= nested(f"{name}/sample", sample.state())
        for name, covariance in self.covariances.items():
            arrays |= nested(f"{name}/covariance", covariance.state())
        return State(arrays, {"rows": self.done, "labels": json.dumps(self.labels)})

    def _forget(self) -> None:
        """Keep the labels alone of rows of which points are kept."""
        kept = {row for name, each in self.samples.items() for row in self._rows(name, each)}
        self.labels = {number: label for number, label in self.labels.items() if number in kept}

    def _rows(self, name: str, sample: Sample) -> list[int]:
        found: list[int] = self._reductions[name].rows(sample.keys).tolist()
        return found
