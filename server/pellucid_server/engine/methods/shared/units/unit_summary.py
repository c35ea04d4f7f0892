"""What the units of a layer do over rows, summed up as rows come: bounded in memory, mergeable, saved with a state."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.probes import ProbeLayer
from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.methods.shared.units.layer_values import PositionClass
from pellucid_server.engine.statistics.class_means import ClassMeans
from pellucid_server.engine.statistics.covariance import Covariance
from pellucid_server.engine.statistics.moments import Moments
from pellucid_server.engine.statistics.ranges import Ranges
from pellucid_server.engine.statistics.sample import Sample
from pellucid_server.engine.statistics.statistic import Statistic, nested, within
from pellucid_server.engine.statistics.top_examples import TopExamples

Floats = npt.NDArray[np.float64]
Values = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Settings:
    """How a layer is summed up.

    Attributes
    ----------
    positions
        The classes of its positions.
    left_out
        The name of the class that counts only for itself; empty for none.
    top
        How many rows with the highest values are kept for each unit.
    samples
        Of how many values of each unit medians are taken.
    most_classes
        How many labels may have means of their own.
    covariance
        Whether covariances of units are kept.
    seed
        Seed of the sample.
    """

    positions: tuple[PositionClass, ...]
    left_out: str = ""
    top: int = 5
    samples: int = 2048
    most_classes: int = 1024
    covariance: bool = True
    seed: int = 0


class UnitSummary:
    """Statistics of the units of one layer.

    A unit's *response* to a row is the mean of its values there, with negative values as 0: rates of firing are what
    sparseness and selectivity are defined for. Covariances are of means with their signs.
    """

    def __init__(self, layer: ProbeLayer, settings: Settings) -> None:
        units = len(layer.units)
        self.settings = settings
        self._kept = [each for each in settings.positions if each.name != settings.left_out]
        self._indices = np.sort(np.concatenate([each.indices for each in self._kept]))
        self._positions = sum(len(each.indices) for each in settings.positions)
        self.moments = {each.name: Moments(units) for each in settings.positions}
        self.ranges = {each.name: Ranges(units) for each in settings.positions}
        self.responses = Moments(units)
        self.population = Moments(1)
        self.classes = ClassMeans(units, settings.most_classes)
        self.highest = TopExamples(units, settings.top)
        self.sample = Sample(units, settings.samples, settings.seed)
        self.covariance = Covariance(units) if settings.covariance else None

    def update(self, values: Values, numbers: npt.NDArray[np.int64], labels: Sequence[str]) -> None:
        """Take rows in: their values, (rows, units, positions), their numbers, and their labels if they have any."""
        self._take_statistics(values)
        kept = values if len(self._indices) == self._positions else values[:, :, self._indices]
        self._take_responses(kept, labels)
        self._take_highest(kept, numbers)
        self._take_sample(kept, numbers)

    def state(self) -> Arrays:
        """Return all of it."""
        return {key: array for name, each in self._parts().items() for key, array in nested(name, each.state()).items()}

    @classmethod
    def from_state(cls, layer: ProbeLayer, settings: Settings, state: Arrays) -> "UnitSummary":
        """Make one again of what `state` returned."""
        found = cls(layer, settings)
        for each in settings.positions:
            found.moments[each.name] = Moments.from_state(within(f"moments {each.name}", state))
            found.ranges[each.name] = Ranges.from_state(within(f"ranges {each.name}", state))
        found.responses = Moments.from_state(within("responses", state))
        found.population = Moments.from_state(within("population", state))
        found.classes = ClassMeans.from_state(within("classes", state))
        found.highest = TopExamples.from_state(within("highest", state))
        found.sample = Sample.from_state(within("sample", state))
        if found.covariance is not None:
            found.covariance = Covariance.from_state(within("covariance", state))
        return found

    def whole(self) -> tuple[Moments, Ranges]:
        """Return the statistics over all positions but those that are left out."""
        moments, ranges = Moments(len(self.responses.mean)), Ranges(len(self.responses.mean))
        for each in self._kept:
            moments.merge(self.moments[each.name])
            ranges.merge(self.ranges[each.name])
        return moments, ranges

    @property
    def classless(self) -> str:
        """Why there are no means of classes; empty if there are."""
        classes, rows = len(self.classes.classes), int(self.classes.counts.sum())
        if classes < 2:
            return "the rows have fewer than two labels"
        if self.classes.overfull:
            return f"the rows have more than {classes} labels"
        if rows < 2 * classes:
            return f"{rows} rows have {classes} labels, which are no classes"
        return ""

    @property
    def top(self) -> int:
        """How many rows `highest` has for each unit."""
        return int((self.highest.rows[:1] >= 0).sum())

    @property
    def place_of(self) -> npt.NDArray[np.int64]:
        """The positions that count, by the places that `highest` has, (places,)."""
        return self._indices

    def _parts(self) -> Mapping[str, Statistic]:
        found: dict[str, Statistic] = {f"moments {name}": each for name, each in self.moments.items()}
        found |= {f"ranges {name}": each for name, each in self.ranges.items()}
        found |= {"responses": self.responses, "population": self.population, "classes": self.classes}
        found |= {"highest": self.highest, "sample": self.sample}
        return found if self.covariance is None else {**found, "covariance": self.covariance}

    def _take_statistics(self, values: Values) -> None:
        """Sum up over rows first: each position by itself, and then each class of them, which copies no values."""
        rows = len(values)
        mean = values.mean(0, dtype=np.float64)
        centred = values - mean
        deviations = np.einsum("rup,rup->up", centred, centred)
        least, most, positive = values.min(0), values.max(0), np.count_nonzero(np.greater(values, 0), axis=0)
        for each in self.settings.positions:
            at = each.indices
            means = mean[:, at]
            middle = means.mean(1)
            between = rows * np.square(means - middle[:, None]).sum(1)
            self.moments[each.name].join(rows * len(at), middle, deviations[:, at].sum(1) + between)
            self.ranges[each.name].join(least[:, at].min(1), most[:, at].max(1), positive[:, at].sum(1))

    def _take_responses(self, values: Values, labels: Sequence[str]) -> None:
        rates = np.maximum(values, 0).mean(2, dtype=np.float64)
        self.responses.update(rates.T)
        sparse = sparseness(rates.mean(1), rates.var(1), rates.shape[1])
        self.population.update(sparse[None, np.isfinite(sparse)])
        if labels:
            self.classes.update(labels, rates)
        if self.covariance is not None:
            self.covariance.update(values.mean(2, dtype=np.float64))

    def _take_highest(self, values: Values, numbers: npt.NDArray[np.int64]) -> None:
        if not self.settings.top:
            return
        places = values.argmax(2)
        highest = np.take_along_axis(values, places[:, :, None], 2)[:, :, 0]
        self.highest.update(highest.T.astype(np.float32), numbers, places.T)

    def _take_sample(self, values: Values, numbers: npt.NDArray[np.int64]) -> None:
        positions = values.shape[2]
        keys = (numbers[:, None] * positions + np.arange(positions)).reshape(-1)
        chosen = self.sample.admitted(keys)
        self.sample.update(keys[chosen], values[chosen // positions, :, chosen % positions])


def sparseness(mean: Floats, variance: Floats, count: int) -> Floats:
    """Return Vinje and Gallant's sparseness of `count` rates by their mean and variance; NaN where all are 0.

    It is (1 - mean(r)² / mean(r²)) / (1 - 1/n), in [0, 1]: 0 if all are equal, 1 if all but one are 0. The numerator is
    computed as variance / (variance + mean²), which does not cancel.

    Source: Vinje and Gallant, "Sparse coding and decorrelation in primary visual cortex during natural vision",
    Science 287, 2000.
    """
    # By the mean, so that tiny rates do not vanish and huge ones do not overflow when squared.
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.where(mean > 0, (np.sqrt(variance) / mean) ** 2, np.nan)
        found = spread / (1 + spread)
    if count < 2:
        return np.full_like(mean, np.nan)
    return np.asarray(np.clip(found / (1 - 1 / count), 0, 1))
