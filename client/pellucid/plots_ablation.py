"""Pictures of ablations: bars of effects, maps of layers and positions, curves, studies, joint changes.

Needs `pellucid[plot]`.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pellucid.ablations import EFFECTS, JOINT, SUMMARY, Ablation
from pellucid.catalogue import Model
from pellucid.findings import NamedArray, Table
from pellucid.plot_parts import GREY, MOST_TICKS, WIDTH, colours, column, draw_heat, measured, ticks, title
from pellucid.plots import BLUE, RED, literal
from pellucid.plots_effects import (
    bars_height,
    draw_effects,
    draw_interactions,
    draw_strengths,
    has_strengths,
    without_strengths,
)
from pellucid.plots_joint import joint_figure
from pellucid.plots_studies import study_figure
from pellucid.ranking import rows_of

_ORDERS = {"most-first": (RED, "the most important first"), "least-first": (BLUE, "the least important first")}
_GRID_WIDTH = 5.5
_INTERACTIONS = "interactions"
_NOTHING = "The answer has no effects, study, curve, joint change or map of layers and positions to draw."


def ablation_figure(ablation: Ablation) -> Figure:
    """Draw what there is: a study, else joint changes, curves, maps of layers and positions, or effects.

    Raises
    ------
    ValueError
        There is nothing of these.
    """
    figure = _figure(ablation)
    figure.suptitle(title(ablation), fontsize=10)
    return figure


def _figure(ablation: Ablation) -> Figure:
    curve, effects, joint = (ablation.tables.get(name) for name in ("curve", EFFECTS, JOINT))
    maps = [each for each in ablation.arrays.values() if is_map(each)]
    if ablation.study is not None and len(ablation.study):
        return study_figure(ablation.study)
    if joint is not None and len(joint):
        return joint_figure(ablation)
    if curve is not None and len(curve):
        figure = Figure(figsize=(WIDTH, 4.5), layout="constrained")
        draw_curves(figure.subplots(), curve, measured(ablation))
        return figure
    if maps:
        return _maps_figure(maps, ablation.described)
    if effects is not None and len(effects):
        return _effects_figure(ablation, effects)
    raise ValueError(_NOTHING)


def _effects_figure(ablation: Ablation, effects: Table) -> Figure:
    """Draw lines over the strength of changes, bars of the rest or of the means, and interactions."""
    what = measured(ablation)
    strengths, interactions = has_strengths(effects), ablation.tables.get(_INTERACTIONS)
    means = ablation.tables.get(SUMMARY, effects)
    bars = rows_of(means, np.array(without_strengths(means, effects), int)) if strengths else means
    pairs = interactions is not None and len(interactions)
    heights = [*([3.6] if strengths else []), *([bars_height(bars)] if len(bars) else []), *([5.5] if pairs else [])]
    figure = Figure(figsize=(WIDTH, 0.4 + sum(heights)), layout="constrained")
    panels = iter(figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    if strengths:
        draw_strengths(next(panels), effects, what)
    if len(bars):
        draw_effects(next(panels), bars, what)
    if interactions is not None and pairs:
        draw_interactions(next(panels), interactions)
    return figure


def _maps_figure(maps: list[NamedArray], model: Model | None) -> Figure:
    """Draw maps of several layers; the positions of one layer where they are, or as bars in their order."""
    grids = [_grid(each, model) for each in maps]
    heights = [
        3.4 if len(each.values) == 1 else max(2.6, 1.4 + 0.28 * min(len(each.values), MOST_TICKS)) for each in maps
    ]
    width = _GRID_WIDTH if all(grids) else WIDTH
    figure = Figure(figsize=(width, 0.4 + sum(heights)), layout="constrained")
    panels = figure.subplots(len(maps), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, each, grid in zip(panels, maps, grids, strict=True):
        if len(each.values) > 1:
            draw_map(axes, each)
        elif grid is not None:
            draw_grid(axes, each, grid)
        else:
            draw_positions(axes, each)
    return figure


def is_map(array: NamedArray) -> bool:
    """Tell whether an array has an axis of layers or sites, and one of positions, or of units of several layers."""
    names = [axis.name for axis in array.axes]
    if len(names) != 2 or names[0] not in ("layer", "site") or 0 in array.values.shape:
        return False
    return names[1] == "position" or (names[1] == "unit" and len(array.values) > 1)


def draw_map(axes: Axes, array: NamedArray) -> None:
    """Draw values by layer, downwards, and position, to the right: red above 0, blue below, grey where none is."""
    draw_heat(axes, array.values, array.unit or array.name)
    ticks(axes.yaxis, array.axes[0].places, array.values.shape[0])
    ticks(axes.xaxis, array.axes[1].places, array.values.shape[1])
    axes.set_xlabel(literal(array.axes[1].name), fontsize=9)
    axes.set_title(literal(array.text or array.name), fontsize=9, wrap=True)


def draw_grid(axes: Axes, array: NamedArray, shape: tuple[int, int]) -> None:
    """Draw the positions of one layer where they are: (height, width)."""
    draw_heat(axes, array.values.reshape(shape), array.unit or array.name)
    axes.set_aspect("equal")
    ticks(axes.yaxis, None, shape[0])
    ticks(axes.xaxis, None, shape[1])
    axes.set_title(literal(_layer(array)), fontsize=9)


def draw_positions(axes: Axes, array: NamedArray) -> None:
    """Draw the positions of one layer as bars, from the first to the last."""
    values = np.asarray(array.values[0], np.float64)
    axes.bar(np.arange(len(values)), np.nan_to_num(values), color=colours(values))
    axes.axhline(0, color="0.4", linewidth=0.8)
    ticks(axes.xaxis, array.axes[1].places, len(values))
    axes.set_xlabel(literal(array.axes[1].name), fontsize=9)
    axes.set_ylabel(literal(array.unit or array.name), fontsize=9)
    axes.set_title(literal(_layer(array)), fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def draw_curves(axes: Axes, curve: Table, what: str = "") -> None:
    """Draw the score by the share of units that is ablated, a curve for each order, with a band where there is one."""
    rows = list(curve)
    for order in dict.fromkeys(each.get("order") for each in rows):
        points = sorted((each for each in rows if each.get("order") == order), key=lambda each: each["fraction"])
        colour, name = _ORDERS.get(order or "", (GREY, str(order or "score")))
        share = column(points, "fraction")
        axes.plot(share, column(points, "score"), color=colour, marker=".", label=literal(name))
        low, high = column(points, "low"), column(points, "high")
        if np.isfinite(low).any() and np.isfinite(high).any():
            axes.fill_between(share, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel("share that is ablated", fontsize=9)
    unit = curve.columns["score"].unit if "score" in curve.columns else ""
    axes.set_ylabel(literal(f"{what or 'score'}{f' in {unit}' if unit else ''}"), fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _layer(array: NamedArray) -> str:
    return str(array.axes[0].labels[0]) if array.axes[0].labels else array.name


def _grid(array: NamedArray, model: Model | None) -> tuple[int, int] | None:
    """Return height and width of the one layer whose positions, all of them, an array has; None if it has no such."""
    places: Any = array.axes[1].places
    if model is None or len(array.values) != 1 or array.axes[1].name != "position" or places is None:
        return None
    shape = next((each.shape for each in model.layers if each.name == _layer(array)), ())
    if len(shape) != 3 or min(shape) < 1:
        return None
    # Units are the first axis of a feature map.
    height, width = shape[1:]
    whole = len(places) == height * width and np.array_equal(np.asarray(places), np.arange(height * width))
    return (height, width) if whole else None
