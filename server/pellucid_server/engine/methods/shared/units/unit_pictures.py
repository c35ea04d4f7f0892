"""Pictures of what units do: crops of the rows that activate them most, and feature maps."""

from collections.abc import Iterator, Mapping

import numpy as np

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.probes import ProbeLayer, ProbeQuestion, ProbeSet
from pellucid_server.engine.evaluations.capture import Capture
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.methods.shared.drawings import crop, grid, map_grid, picture, png
from pellucid_server.engine.methods.shared.units.layer_values import (
    MAP_AXES,
    by_position,
    position_axes,
    position_shape,
)
from pellucid_server.engine.methods.shared.units.unit_summary import UnitSummary
from pellucid_server.vocabulary.findings import Findings, Picture

PICTURES = "pictures"
"""The kind of probe sets whose rows are pictures."""

_PICTURES_AT_ONCE = 64
_MOST_MAPS = 256
"""Units whose maps are drawn."""
_MAP_PIXELS = 32
"""Side of a small map; a larger one is drawn as it is."""


class PictureBudget:
    """Counts the bytes of pictures, and says when they are too many."""

    def __init__(self, most: int) -> None:
        self.exceeded = False
        """Whether a picture was left out."""
        self._left = most

    @property
    def open(self) -> bool:
        """Whether more may come."""
        return not self.exceeded

    def take(self, name: str, made: Picture) -> Iterator[Findings]:
        """Give the picture if it fits."""
        if self.exceeded or len(made.data) > self._left:
            self.exceeded = True
            return
        self._left -= len(made.data)
        yield Findings(pictures={name: made})


def unit_sheets(
    layer: ProbeLayer,
    summary: UnitSummary,
    probe: ProbeSet,
    names: Mapping[int, str],
    units: int,
    side: int,
    budget: PictureBudget,
) -> Iterator[Findings]:
    """Draw, for the first units that are ever above 0, crops of the rows that activate them most.

    A crop is around the position with the highest value: its share of the map's height and width is that of the
    picture's. A layer without positions has whole pictures. `names` is what rows are called.
    """
    count = summary.top
    if probe.kind != PICTURES or not count:
        return
    shape = position_shape(layer) if position_axes(layer) == MAP_AXES else ()
    alive = np.flatnonzero(summary.highest.values[:, 0] > 0)[:units]
    # Units often have rows in common, and a set is read through for some rows as for one.
    together = max(1, _PICTURES_AT_ONCE // count)
    for first in range(0, len(alive), together):
        if not budget.open:
            return
        some = alive[first : first + together]
        numbers = np.unique(summary.highest.rows[some, :count]).tolist()
        shown = dict(zip(numbers, probe.pictures(numbers), strict=True))
        for index in some.tolist():
            rows = summary.highest.rows[index, :count].tolist()
            places = summary.place_of[summary.highest.positions[index, :count]].tolist()
            crops = [crop(shown[row], shape, place, side) for row, place in zip(rows, places, strict=True)]
            unit, listed = int(layer.units[index]), ", ".join(names[row] for row in rows)
            text = f"What activates unit {unit} of {layer.name} most, highest first: {listed}."
            yield from budget.take(f"{layer.name}/unit {unit}", picture(png(grid(crops, len(crops))), text))


def feature_maps(
    handle: Handle, question: ProbeQuestion, probe: ProbeSet, rows: int, colours: str, budget: PictureBudget
) -> Iterator[Findings]:
    """Draw the maps of each layer that has some, for the first rows: a square of units, each in a scale of its own."""
    drawn = [each for each in question.layers if position_axes(each) == MAP_AXES and each.layer.positions > 1]
    names: set[str] = set()
    for number in range(min(rows, probe.count) if drawn else 0):
        taken = Rows(probe.rows([number]))
        arrays = handle.ask(Capture(taken, tuple(each.name for each in drawn))).arrays
        (name,) = probe.names([number])
        name += f" (row {number})" if name in names else ""
        names.add(name)
        for each in drawn:
            if not budget.open:
                return
            values = by_position(each, arrays[each.name])[0, :_MOST_MAPS].reshape(-1, *position_shape(each))
            units = f"units {each.units[0]} to {each.units[len(values) - 1]}"
            text = (
                f"What {units} of {each.name} make of {name}, row by row of the square; each from its least value to "
                f"its greatest in the colours of {colours}."
            )
            data = handle.compute(map_grid, values, colours, _MAP_PIXELS)
            yield from budget.take(f"{each.name}/maps of {name}", picture(data, text))
