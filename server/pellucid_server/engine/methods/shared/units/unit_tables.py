"""Tables of what units do, made of a `UnitSummary`."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.probes import ProbeLayer
from pellucid_server.engine.methods.shared.columns import number_column
from pellucid_server.engine.methods.shared.units.layer_values import position_axes, position_shape
from pellucid_server.engine.methods.shared.units.unit_summary import UnitSummary, sparseness
from pellucid_server.engine.statistics.covariance import participation_ratio
from pellucid_server.vocabulary.findings import Column, Table

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_DOMINATES = 10.0
"""A class of positions is warned of whose norm is so many times that of the others."""


def dead_units(summary: UnitSummary) -> tuple[Flags, tuple[str, ...]]:
    """Return which units are dead, and by which rule: the same for all of several values, or never above 0."""
    moments, ranges = summary.whole()
    silent = ranges.maximum <= 0
    constant = (ranges.minimum == ranges.maximum) & (moments.count > 1)
    why = ["constant" if one else "never above 0" if other else "" for one, other in zip(constant, silent, strict=True)]
    return constant | silent, tuple(why)


def units_table(layer: ProbeLayer, summary: UnitSummary) -> Table:
    """Return a row for each unit: statistics, sparseness, selectivity, and whether it is dead."""
    moments, ranges = summary.whole()
    dead, why = dead_units(summary)
    values = summary.sample.values.astype(np.float64)
    median, low, high = np.median(values, 0), *np.quantile(values, (0.05, 0.95), axis=0)
    rows = len(values)
    error = (
        "" if moments.count <= rows else f", by {rows} random values: its rank is off by some {50 / rows**0.5:.1g} %"
    )
    selectivity, classes = _selectivity(summary)
    columns = {
        "unit": Column(layer.units),
        "mean": Column(moments.mean),
        "deviation": Column(np.sqrt(moments.variance), text="Standard deviation, over the number of values."),
        "median": Column(median, text=f"The median{error}."),
        "mad": Column(np.median(np.abs(values - median), 0), text="Median absolute deviation from the median."),
        "q05": Column(low, text=f"What 5 % of the values are below{error}."),
        "q95": Column(high, text=f"What 95 % of the values are below{error}."),
        "minimum": Column(ranges.minimum),
        "maximum": Column(ranges.maximum),
        "positive": Column(ranges.positive / moments.count, text="Share of values above 0."),
        "sparseness": number_column(
            sparseness(summary.responses.mean, summary.responses.variance, summary.responses.count),
            text="Lifetime sparseness of the responses to rows, from 0, equal to all, to 1, to one row alone.",
        ),
        "dead": Column(dead, text="Whether the unit is constant over all rows and positions, or never above 0."),
        "why": Column(why, text="By which rule it is dead."),
    }
    if selectivity is not None:
        columns["selectivity"] = number_column(
            selectivity, text="(m - rest) / (m + rest): m is the highest of the classes' mean responses."
        )
        columns["class"] = Column(classes, np.isnan(selectivity), text="The class with the highest mean response.")
    return Table(columns, f"The units of {layer.name}.")


def positions_table(layer: ProbeLayer, summary: UnitSummary) -> Table:
    """Return a row for each class of positions and unit."""
    found = summary.settings.positions
    units = len(layer.units)
    moments = [summary.moments[each.name] for each in found]
    ranges = [summary.ranges[each.name] for each in found]
    columns = {
        "positions": Column(tuple(each.name for each in found for _ in range(units))),
        "unit": Column(np.tile(layer.units, len(found))),
        "places": Column(np.repeat([len(each.indices) for each in found], units)),
        "mean": Column(np.concatenate([each.mean for each in moments])),
        "deviation": Column(np.concatenate([np.sqrt(each.variance) for each in moments])),
        "minimum": Column(np.concatenate([each.minimum for each in ranges])),
        "maximum": Column(np.concatenate([each.maximum for each in ranges])),
    }
    return Table(columns, f"The units of {layer.name} at each class of positions.")


def top_table(layer: ProbeLayer, summary: UnitSummary, names: Mapping[int, str]) -> Table:
    """Return the rows that activate each unit most, highest first; `names` is what rows are called."""
    count, units = summary.top, len(layer.units)
    rows = summary.highest.rows[:, :count].reshape(-1)
    places = summary.place_of[summary.highest.positions[:, :count].reshape(-1)]
    columns = {
        "unit": Column(np.repeat(layer.units, count)),
        "rank": Column(np.tile(np.arange(1, count + 1), units)),
        "row": Column(rows),
        "name": Column(tuple(names[row] for row in rows.tolist())),
        "value": Column(summary.highest.values[:, :count].reshape(-1).astype(np.float64)),
    }
    columns |= place_columns(position_axes(layer), position_shape(layer), places)
    return Table(columns, f"The rows in which each unit of {layer.name} is highest at any position; ties by row.")


def place_columns(axes: tuple[str, ...], shape: tuple[int, ...], places: npt.NDArray[np.int64]) -> dict[str, Column]:
    """Return a column for each axis of where places in row-major order are."""
    indices = np.unravel_index(places, shape) if shape else ()
    return {axis: Column(at.astype(np.int64)) for axis, at in zip(axes, indices, strict=True)}


def layers_table(layers: Sequence[tuple[str, UnitSummary]]) -> Table:
    """Return a row for each layer."""
    dead = [int(dead_units(each)[0].sum()) for _, each in layers]
    ratios = [None if each.covariance is None else participation_ratio(each.covariance.matrix) for _, each in layers]
    sparse = [each.population.mean[0] if each.population.count else np.nan for _, each in layers]
    columns = {
        "layer": Column(tuple(name for name, _ in layers)),
        "units": Column(np.array([len(each.responses.mean) for _, each in layers])),
        "dead": Column(np.array(dead), text="Units that are constant or never above 0."),
        "participation_ratio": number_column(
            np.array([np.nan if ratio is None else ratio for ratio in ratios]),
            text="Over how many directions the variance of units' means over positions is spread.",
        ),
        "population_sparseness": number_column(
            np.array(sparse), text="Mean over rows of the sparseness of the responses of all units."
        ),
    }
    return Table(columns, "The layers.")


def dominating(name: str, summary: UnitSummary) -> tuple[str, ...]:
    """Warn of a class of positions whose norm is many times that of the others."""
    norms = {
        each.name: float(np.sqrt((moments.variance + np.square(moments.mean)).mean()))
        for each in summary.settings.positions
        for moments in (summary.moments[each.name],)
    }
    found = []
    for one, norm in norms.items():
        others = max((other for each, other in norms.items() if each != one), default=np.inf)
        if norm > _DOMINATES * others:
            times = f"{norm / others:.3g} times" if others else "infinitely many times"
            left = "they are left out of all else" if summary.settings.left_out == one else "they dominate the whole"
            found.append(
                f"{name}: positions {one!r} have {times} the root mean square of the others; {left}. "
                'See the table of positions, and parameters["without"].'
            )
    return tuple(found)


def _selectivity(summary: UnitSummary) -> tuple[Floats | None, tuple[str, ...]]:
    """Return each unit's selectivity, NaN where it has no response, and its class; None without classes."""
    if summary.classless:
        return None, ()
    classes = summary.classes.classes
    # In the order of names, so that of equal means the first does not depend on which rows come first.
    order = sorted(range(len(classes)), key=classes.__getitem__)
    means = summary.classes.means[order]
    best = means.argmax(0)
    highest = means.max(0)
    rest = (means.sum(0) - highest) / (len(classes) - 1)
    # Rounding of the sum may leave a little less than nothing.
    rest = np.maximum(rest, 0)
    total = highest + rest
    found = np.where(total > 0, (highest - rest) / np.where(total > 0, total, 1), np.nan)
    names = tuple(
        "" if np.isnan(value) else classes[order[number]] for value, number in zip(found, best.tolist(), strict=True)
    )
    return found, names
