"""Pictures of tuning curves: polar plots over orientation, lines over the rest. Needs `pellucid[plot]`."""

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pellucid.findings import Findings, NamedArray
from pellucid.plot_parts import MOST_TICKS, WIDTH, draw_heat
from pellucid.plots import BLUE, RED, literal
from pellucid.tensors import Array

MOST_UNITS = 6
"""Units that are drawn where none are named."""
_MOST_COLUMNS = 12
"""Columns of a table that are drawn."""
_MOST_ACROSS = 3
_MOST_LABELS = 5

_ORIENTATION = "orientation"
_LINES = ("spatial-frequency", "phase", "contrast", "size", "colour")
_CURVES = (_ORIENTATION, *_LINES, "position")
_COLUMN = "/column/"
_LOGARITHMIC = ("spatial-frequency", "size")


def plot_tuning(findings: Findings, layer: str | None = None, units: Sequence[int] | None = None) -> Figure:
    """Draw the tuning curves of some units of a layer.

    For gratings each unit has a row: a polar plot over the orientation of the stripes, drawn all the way around as
    stripes turned by 180 degrees are the same, and a panel for each other curve. For tables each column has a panel,
    with a line for each unit.

    Parameters
    ----------
    layer
        The layer; None for the first that there is.
    units
        The units, by their numbers in the layer; None for the six that are most selective for orientation, or, of
        tables, the first six.

    Raises
    ------
    ValueError
        There are no tuning curves, or none of this layer or unit.
    """
    layers = tuned_layers(findings)
    if not layers:
        raise ValueError("There are no tuning curves among the findings; ask for the method tuning-curve.")
    layer = layers[0] if layer is None else layer
    if layer not in layers:
        raise ValueError(f"There are no tuning curves of {layer!r}; there are of: {', '.join(layers)}.")
    curves = _curves(findings, layer)
    known = np.asarray(next(iter(curves.values())).axes[0].coordinates).astype(int).tolist()
    chosen = _most_selective(findings, layer, known) if units is None else [int(unit) for unit in units]
    for unit in chosen:
        if unit not in known:
            raise ValueError(f"There are no tuning curves of unit {unit} of {layer!r}; units: {_listed(known)}.")
    places = {unit: known.index(unit) for unit in chosen}
    figure = (
        _of_columns(curves, places) if _ORIENTATION not in curves else _of_gratings(findings, layer, curves, places)
    )
    rest = len(known) - len(places)
    more = f"; {rest} more units are not shown" if rest else ""
    figure.suptitle(literal(f"tuning curves of {layer}{more}"), fontsize=11)
    return figure


def tuned_layers(findings: Findings) -> list[str]:
    """Return the layers that there are tuning curves of."""
    found = [name.removesuffix(f"/{_ORIENTATION}") for name in findings.arrays if name.endswith(f"/{_ORIENTATION}")]
    found += [name.partition(_COLUMN)[0] for name in findings.arrays if _COLUMN in name]
    return list(dict.fromkeys(found))


def draw_polar(axes: Any, orientations: Array, responses: Array, preferred: float | None = None) -> None:
    """Draw a curve over orientations in [0, 180) degrees as a closed line around a circle; below 0 counts as 0.

    Parameters
    ----------
    axes
        Polar axes.
    preferred
        The preferred orientation in degrees, drawn as a line across; None for none.
    """
    around = np.deg2rad(np.concatenate([orientations, orientations + 180.0, orientations[:1] + 360.0]))
    values = np.maximum(np.concatenate([responses, responses, responses[:1]]), 0.0)
    axes.plot(around, values, color=BLUE)
    axes.fill(around, values, color=BLUE, alpha=0.15)
    most = float(values.max()) or 1.0
    if preferred is not None:
        angle = np.deg2rad(preferred)
        axes.plot([angle, angle + np.pi], [most, most], color=RED, linewidth=1.0)
    axes.set_ylim(0, most * 1.05)
    axes.set_xticks(np.deg2rad(np.arange(0, 360, 45)))
    axes.set_yticks([most / 2, most], ["", ""])
    axes.tick_params(labelsize=7, pad=0)


def draw_line(axes: Axes, curve: NamedArray, places: Mapping[int, int], name: str) -> None:
    """Draw a curve over its second axis, a line for each unit; over categories, points.

    Parameters
    ----------
    places
        Where each unit, by its number, is in the curve.
    name
        The curve's name, "contrast" or a column's.
    """
    axis = curve.axes[1]
    coordinates = axis.coordinates
    across = np.arange(curve.values.shape[1]) if coordinates is None else np.asarray(coordinates)
    marker, line = ("o", "") if coordinates is None else (".", "-")
    colour = BLUE if len(places) == 1 else None
    for unit, place in places.items():
        axes.plot(across, curve.values[place], marker=marker, linestyle=line, color=colour, label=f"unit {unit}")
    if name == "colour":
        _draw_hues(axes, across, curve.values[list(places.values())])
    if coordinates is None:
        step = -(-len(across) // MOST_TICKS)
        axes.set_xticks(across[::step], [literal(each) for each in axis.labels[::step]], fontsize=7, rotation=90)
    if name in _LOGARITHMIC and (across > 0).all():
        axes.set_xscale("log", base=2)
        ticks = across[:: -(-len(across) // _MOST_LABELS)]
        axes.set_xticks(ticks, [f"{each:.2g}" for each in ticks])
        axes.minorticks_off()
    axes.axhline(0, color="0.7", linewidth=0.6)
    unit_text = f" ({axis.unit})" if axis.unit else ""
    axes.set_xlabel(literal(f"{axis.name}{unit_text}"), fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_hues(axes: Axes, hues: Array, values: Array) -> None:
    """Mark each hue in its own colour."""
    colours = [colorsys.hsv_to_rgb(hue / 360.0, 0.9, 0.85) for hue in hues]
    for curve in values:
        axes.scatter(hues, curve, c=colours, s=26, zorder=3)


def _curves(findings: Findings, layer: str) -> dict[str, NamedArray]:
    """Return the curves of a layer by name, in the order in which they are drawn."""
    named = {name: findings.arrays.get(f"{layer}/{name}") for name in _CURVES}
    found = {name: each for name, each in named.items() if each is not None}
    columns = f"{layer}{_COLUMN}"
    return found or {
        name.removeprefix(columns): each for name, each in findings.arrays.items() if name.startswith(columns)
    }


def _preferences(findings: Findings, layer: str) -> dict[int, dict[str, Any]]:
    """Return the lines of a layer's units."""
    table = findings.tables.get("preferences")
    lines = () if table is None else table
    return {int(each["unit"]): each for each in lines if each.get("layer") == layer}


def _most_selective(findings: Findings, layer: str, known: list[int]) -> list[int]:
    lines = _preferences(findings, layer)
    indices = {unit: line["OSI"] for unit, line in lines.items() if line.get("OSI") is not None}
    # A stable sort leaves units without an index, and those of tables, in their order.
    return sorted(known, key=lambda unit: -float(indices.get(unit, -1.0)))[:MOST_UNITS]


def _of_gratings(findings: Findings, layer: str, curves: Mapping[str, NamedArray], places: Mapping[int, int]) -> Figure:
    lines = _preferences(findings, layer)
    figure = Figure(figsize=(max(WIDTH, 2.2 * len(curves)), 0.6 + 2.1 * len(places)), layout="constrained")
    grid = figure.add_gridspec(len(places), len(curves))
    for row, (unit, place) in enumerate(places.items()):
        for number, (name, curve) in enumerate(curves.items()):
            where = grid[row, number]
            axes = figure.add_subplot(where, projection="polar" if name == _ORIENTATION else None)
            line = lines.get(unit, {})
            if name == _ORIENTATION:
                draw_polar(axes, np.asarray(curve.axes[1].coordinates), curve.values[place], line.get("orientation"))
                axes.set_title(literal(_caption(unit, line)), fontsize=8)
            elif np.isnan(curve.values[place]).all():
                _draw_nothing(axes, name)
            elif name == "position":
                draw_heat(axes, curve.values[place], "position")
                axes.set_xticks([])
                axes.set_yticks([])
            else:
                draw_line(axes, curve, {unit: place}, name)
    return figure


def _caption(unit: int, line: Mapping[str, Any]) -> str:
    index, preferred = line.get("OSI"), line.get("orientation")
    facts = [] if preferred is None else [f"{preferred:.0f}°"]
    facts += [] if index is None else [f"OSI {index:.2f}"]
    return f"unit {unit}\n{', '.join(facts) or 'no preference'}"


def _draw_nothing(axes: Axes, name: str) -> None:
    axes.text(0.5, 0.5, "no response", ha="center", va="center", color="0.5", fontsize=8, transform=axes.transAxes)
    axes.set_xlabel(name, fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["top", "right"]].set_visible(False)


def _of_columns(curves: Mapping[str, NamedArray], places: Mapping[int, int]) -> Figure:
    shown = [*curves.items()][:_MOST_COLUMNS]
    across = min(_MOST_ACROSS, len(shown))
    down = -(-len(shown) // across)
    figure = Figure(figsize=(WIDTH, 0.8 + 2.3 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes, (name, curve) in zip(panels, shown, strict=False):
        draw_line(axes, curve, places, name)
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    panels[0].legend(fontsize=7, frameon=False)
    if len(curves) > len(shown):
        figure.supxlabel(f"{len(curves) - len(shown)} more columns are not shown", fontsize=8)
    return figure


def _listed(known: list[int]) -> str:
    return f"{known[0]} to {known[-1]}" if known == [*range(known[0], known[-1] + 1)] else ", ".join(map(str, known))
