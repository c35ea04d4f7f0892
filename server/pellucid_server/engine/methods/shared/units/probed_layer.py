"""What network dissection adds up for one layer: thresholds first, and then where units and concepts meet."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.probes import ProbeLayer, ProbeSet, RowMasks
from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.methods.shared.units.kept_maps import GridMasks, KeptBatch, UnitMaps
from pellucid_server.engine.methods.shared.units.upsampling import Masks, Upsampling, areas
from pellucid_server.engine.statistics.overlap import Overlap
from pellucid_server.engine.statistics.quantiles import UpperTail
from pellucid_server.engine.statistics.statistic import nested, within
from pellucid_server.engine.statistics.top_examples import TopExamples
from pellucid_server.errors import InvalidRequestError, UnsupportedError

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

RAW, UPSAMPLED = "raw", "upsampled"

_TAIL_BYTES = 16 << 20
"""Bytes of the largest values of a layer's units, about, above which their ranks are a sketch's."""
_LEAST_TAIL = 512
_PIECE_VALUES = 1 << 22
"""Upsampled values that are looked at at once, about."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How masks are made; see the parameters of network dissection.

    `groups` has the group of each concept, (concepts,): see `Overlap`. With `annotated`, a group is a category, and a
    picture is in those of its concepts; else every picture is in group 0, the only one.
    """

    quantile: float
    threshold_space: str
    upsampling: str
    top: int
    groups: Indices
    annotated: bool
    seed: int

    def groups_of(self, concepts: Indices) -> Indices:
        """Return the groups of a picture that has these concepts."""
        return np.unique(self.groups[concepts]) if self.annotated else np.zeros(1, np.int64)


def map_shape(layer: ProbeLayer) -> tuple[int, int]:
    """Return height and width of a unit's map; (1, 1) for a unit without positions.

    Raises
    ------
    UnsupportedError
        Its positions are not those of a picture.
    """
    shape = tuple(length for axis, length in enumerate(layer.layer.shape) if axis != layer.layer.unit_axis)
    if math.prod(shape) == 1:
        return 1, 1
    if len(shape) == 2:
        return shape[0], shape[1]
    text = (
        f"The value of {layer.name} is {list(layer.layer.shape)} for a row: its units have no positions in a picture. "
        "Name layers of feature maps (units, height, width), or of units without positions."
    )
    raise UnsupportedError(text, subject=f"layers/{layer.name}")


class ProbedLayer:
    """One layer's units over the rows of a probe.

    Parameters
    ----------
    grid
        Height and width of the grid that masks are compared on. Units without positions are compared picture by
        picture: a concept that is anywhere in it is in it.
    """

    def __init__(self, layer: ProbeLayer, grid: tuple[int, int], rules: Rules, rows: int) -> None:
        self.name, self.units, self._axis = layer.name, layer.units, layer.layer.unit_axis
        shape = map_shape(layer)
        self.whole = shape == (1, 1)
        """Whether units have no positions."""
        self.upsampling = Upsampling(shape, (1, 1) if self.whole else grid, rules.upsampling)
        self._rules = rules
        self.values_per_row = self.upsampling.positions
        if rules.threshold_space == UPSAMPLED:
            self.values_per_row = math.prod(self.upsampling.grid)
        self.values = rows * self.values_per_row
        """Values of each unit that its threshold is a quantile of."""
        rank = self.rank_of(self.values)
        count = len(self.units)
        capacity = max(_LEAST_TAIL, _TAIL_BYTES // (4 * count))
        if 2 * rank > capacity:
            # A sketch has several levels.
            capacity = max(_LEAST_TAIL, capacity // 4)
        self.tail = UpperTail(count, rank, capacity=capacity, seed=rules.seed)
        self.top = TopExamples(count, rules.top)
        self.lowest, self.highest = np.full(count, np.inf, np.float32), np.full(count, -np.inf, np.float32)
        self.settled = False
        """Whether all rows were looked at, and thresholds are known."""
        self.thresholds = np.full(count, np.inf, np.float32)
        """(units,)"""
        self.above = np.zeros(count, np.int64)
        """How many of `values` lie above the thresholds, (units,)."""
        self.rank_error = 0
        self.overlap = Overlap(count, rules.groups)

    def rank_of(self, values: int) -> int:
        """Return the rank of the threshold from the top: at most the share `quantile` of so many values is above it."""
        # The product may be off by its last bits.
        return math.floor(self._rules.quantile * values * (1 + 1e-12)) + 1

    def look(self, values: npt.NDArray[np.generic], numbers: Indices) -> UnitMaps:
        """Take the layer's values in, (rows, *shape), and return the maps that may be above their thresholds.

        Raises
        ------
        InvalidRequestError
            A value is NaN or infinite.
        """
        maps = self._by_unit(values)
        positions = maps.argmax(2)
        maxima = np.take_along_axis(maps, positions[:, :, None], axis=2)[:, :, 0]
        lowest = maps.reshape(len(maps), -1).min(1)
        if not (np.isfinite(maxima).all() and np.isfinite(lowest).all()):
            unit, row = np.argwhere(~np.isfinite(maps).all(2))[0]
            text = (
                f"Unit {self.units[unit]} of {self.name} is NaN or infinite in row {numbers[row]} of the probe; no "
                "threshold can be found over such values."
            )
            raise InvalidRequestError(text, field="probe")
        self.lowest, self.highest = np.minimum(self.lowest, lowest), np.maximum(self.highest, maxima.max(1))
        self.top.update(maxima, numbers, positions)
        if self._rules.threshold_space == RAW or self.whole:
            self.tail.update(maps.reshape(len(maps), -1))
        else:
            self._take_upsampled(maps, maxima)
        row, unit = np.nonzero((maxima > self.tail.floor[:, None]).T)
        return UnitMaps(row, unit, maps[unit, row])

    def maps(self, values: npt.NDArray[np.generic]) -> UnitMaps:
        """Return the maps of a layer's value, (rows, *shape), that are above their thresholds."""
        maps = self._by_unit(values)
        row, unit = np.nonzero((maps.max(2) > self.thresholds[:, None]).T)
        return UnitMaps(row, unit, maps[unit, row])

    def by_row(self, values: npt.NDArray[np.generic]) -> Floats:
        """Return the maps of a layer's value, (rows, *shape), as (rows, units, positions)."""
        return np.moveaxis(self._by_unit(values), 0, 1)

    def lit(self, maps: Floats, unit: int) -> npt.NDArray[np.bool_]:
        """Return where some maps of a unit, (maps, positions), are above its threshold, on the grid."""
        masks = self._masks(maps, np.repeat(self.thresholds[unit], len(maps)))
        return self.upsampling.unpacked(masks, len(maps))

    def _masks(self, maps: Floats, thresholds: Floats) -> Masks:
        return self.upsampling.masks(maps, thresholds, of_upsampled=self._rules.threshold_space == UPSAMPLED)

    def _by_unit(self, values: npt.NDArray[np.generic]) -> Floats:
        """Return a layer's value, (rows, *shape), as (units, rows, positions)."""
        by_unit = np.moveaxis(values, 1 + self._axis, 0) if values.ndim > 1 else values[None]
        picked = by_unit if len(by_unit) == len(self.units) else by_unit[self.units]
        return np.ascontiguousarray(picked, np.float32).reshape(len(self.units), len(values), -1)

    def _take_upsampled(self, maps: Floats, maxima: Floats) -> None:
        step = max(1, _PIECE_VALUES // self.values_per_row)
        for row in range(maps.shape[1]):
            high = np.flatnonzero(maxima[:, row] > self.tail.floor)
            for first in range(0, len(high), step):
                units = high[first : first + step]
                of, found = self.upsampling.values(maps[units, row], self.tail.floor[units])
                above = found > self.tail.floor[units[of]][:, None]
                self.tail.take(np.repeat(units[of], above.sum(1)), found[above])

    def settle(self) -> None:
        """Find the thresholds: all rows were looked at."""
        self.thresholds, self.settled = self.tail.value(), True
        self.above, self.rank_error = self.tail.above(self.thresholds), self.tail.rank_error

    def thresholds_so_far(self, rows: int) -> Floats:
        """Return what the thresholds would be if the rows looked at, so many, were all."""
        return self.tail.value(min(self.tail.rank, self.rank_of(rows * self.values_per_row)))

    def meet(self, maps: UnitMaps, masks: Sequence[GridMasks], thresholds: Floats, overlap: Overlap) -> None:
        """Add up where units and concepts meet in each of some rows."""
        for row, concepts in enumerate(masks):
            found = maps.of_row(row).above(thresholds)
            on_grid = concepts.masks
            if self.whole:
                on_grid = on_grid.any((1, 2)).reshape(-1, 1, 1)
            lit = self._masks(found.values, thresholds[found.units])
            on, unit_areas, both = areas(lit, self.upsampling.packed(on_grid))
            overlap.update(
                math.prod(self.upsampling.grid),
                self._rules.groups_of(concepts.concepts),
                found.units[on],
                unit_areas,
                concepts.concepts,
                on_grid.sum((1, 2)),
                both,
            )

    def so_far(self, batches: Sequence[KeptBatch], rows: int) -> "ProbedLayer":
        """Return the layer as it would be if these rows, of `rows` looked at, were all."""
        found = object.__new__(ProbedLayer)
        found.__dict__.update(self.__dict__)
        found.thresholds = self.thresholds_so_far(rows)
        found.above, found.values = self.tail.above(found.thresholds), rows * self.values_per_row
        found.overlap = Overlap(len(self.units), self._rules.groups)
        for batch in batches:
            self.meet(batch.layers[self.name], batch.masks, found.thresholds, found.overlap)
        return found

    def state(self) -> Arrays:
        """Return all of it."""
        found: Arrays = {"lowest": self.lowest, "highest": self.highest, **nested("top", self.top.state())}
        if not self.settled:
            return {**found, **nested("tail", self.tail.state())}
        settled: Arrays = {"thresholds": self.thresholds, "above": self.above, "rank_error": np.array(self.rank_error)}
        return {**found, **settled, **nested("overlap", self.overlap.state())}

    def restore(self, state: Arrays) -> Self:
        """Take over what `state` returned."""
        self.lowest, self.highest = (state[name].astype(np.float32) for name in ("lowest", "highest"))
        self.top = TopExamples.from_state(within("top", state))
        if "thresholds" not in state:
            self.tail = UpperTail.from_state(within("tail", state))
            return self
        self.thresholds, self.above = state["thresholds"].astype(np.float32), state["above"].astype(np.int64)
        self.rank_error, self.settled = int(state["rank_error"]), True
        self.overlap = Overlap.from_state(within("overlap", state))
        return self


def on_grid(masks: RowMasks, grid: tuple[int, int]) -> GridMasks:
    """Return a row's masks on a grid: each of its pixels has the value of the mask's pixel that its centre lies in."""
    height, width = masks.masks.shape[1:]
    rows, columns = (
        np.minimum(((np.arange(few) + 0.5) * many / few).astype(np.int64), many - 1)
        for few, many in zip(grid, (height, width), strict=True)
    )
    return GridMasks.of(masks.concepts, masks.masks[:, rows[:, None], columns[None, :]])


def grid_of(probe: ProbeSet, longest: int) -> tuple[int, int]:
    """Return height and width of the grid: the picture's shape, with at most so many pixels on its longer side."""
    sizes = (each.masks.shape[1:] for batch in probe.batches(1, masks=True) for each in batch.masks)
    height, width = next((size for size in sizes if min(size)), (1, 1))
    if not longest or longest >= max(height, width):
        return int(height), int(width)
    scale = longest / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))
