"""Pictures of ablations: bars of effects, maps of layers and positions, curves, rows before and after.

Needs `pellucid[plot]`.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from pellucid.ablations import EFFECTS, SUMMARY, Ablation
from pellucid.counterfactuals import Counterfactual, Counterfactuals
from pellucid.findings import NamedArray, Picture, Table
from pellucid.plots import BLUE, RED, literal
from pellucid.ranking import ranked

_MOST_BARS = 30
_MOST_TICKS = 24
_MOST_SHOWN = 6
"""Counterfactuals that a figure shows."""
_WIDTH = 9.0
_ORDERS = {"most-first": (RED, "the most important first"), "least-first": (BLUE, "the least important first")}
_GREY = "0.45"
_PLACES = ("site", "layer", "unit")


def ablation_figure(ablation: Ablation) -> Figure:
    """Draw what there is: a study, else curves, maps of layers and positions, or bars of effects or their means.

    Raises
    ------
    ValueError
        There is nothing of these.
    """
    curve, effects = ablation.tables.get("curve"), ablation.tables.get(EFFECTS)
    maps = [each for each in ablation.arrays.values() if is_map(each)]
    study = next((each for each in ablation.tables.values() if is_study(each) and len(each)), None)
    if study is not None:
        figure = Figure(figsize=(_WIDTH, 1.6 + 0.3 * min(len(study), _MOST_BARS)), layout="constrained")
        draw_study(figure.subplots(), study)
    elif curve is not None and len(curve):
        figure = Figure(figsize=(_WIDTH, 4.5), layout="constrained")
        draw_curves(figure.subplots(), curve)
    elif maps:
        heights = [1.2 + 0.28 * min(each.values.shape[0], _MOST_TICKS) for each in maps]
        figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
        for axes, each in zip(figure.subplots(len(maps), 1, squeeze=False)[:, 0], maps, strict=True):
            draw_map(axes, each)
    elif effects is not None and len(effects):
        table = ranked(ablation.tables.get(SUMMARY, effects))
        figure = Figure(figsize=(_WIDTH, 1.2 + 0.26 * min(len(table), _MOST_BARS)), layout="constrained")
        draw_effects(figure.subplots(), table)
    else:
        raise ValueError("The answer has no effects, no curve and no map of layers and positions to draw.")
    model = ablation.model
    partial = ", cut short by the deadline" if ablation.partial else ""
    figure.suptitle(literal(f"{ablation.method}, {model.name} version {model.version}{partial}"), fontsize=11)
    return figure


def draw_effects(axes: Axes, effects: Table) -> None:
    """Draw the first effects of a ranked table as bars, the largest on top; whiskers where it has an interval.

    Raises
    ------
    ValueError
        It has no column "effect" with a number in it.
    """
    rows = [each for each in effects if isinstance(each.get("effect"), int | float)][:_MOST_BARS]
    if not rows:
        raise ValueError("The table of effects has no column 'effect' with a number in it.")
    values = np.array([each["effect"] for each in rows], np.float64)
    places = np.arange(len(rows))
    whiskers = _whiskers(rows, values)
    axes.barh(places, values, color=[RED if value > 0 else BLUE for value in values], xerr=whiskers, ecolor=_GREY)
    several = len({each.get("row") for each in effects}) > 1
    axes.set_yticks(places, [literal(_site_name(each, with_row=several)) for each in rows], fontsize=8)
    axes.invert_yaxis()
    _bare(axes)
    axes.axvline(0, color="0.4", linewidth=0.8)
    column = effects.columns["effect"]
    rest = len(effects) - len(rows)
    unit = f" in {column.unit}" if column.unit else ""
    axes.set_xlabel(literal(f"effect{unit}{f'; {rest} smaller ones are not shown' if rest else ''}"), fontsize=9)


def is_map(array: NamedArray) -> bool:
    """Tell whether an array has an axis of layers or sites, and one of positions, or of units of several layers."""
    names = [axis.name for axis in array.axes]
    if len(names) != 2 or names[0] not in ("layer", "site") or 0 in array.values.shape:
        return False
    return names[1] == "position" or (names[1] == "unit" and len(array.values) > 1)


def draw_map(axes: Axes, array: NamedArray) -> None:
    """Draw values by layer, downwards, and position, to the right: red above 0, blue below, grey where none is."""
    values = np.ma.masked_invalid(array.values.astype(np.float64))
    most = float(np.abs(values).max()) if values.count() else 0.0
    axes.set_facecolor("0.85")
    image = axes.imshow(
        values, aspect="auto", cmap="RdBu_r", vmin=-most or -1.0, vmax=most or 1.0, interpolation="none"
    )
    _ticks(axes.yaxis, array.axes[0].places, values.shape[0])
    _ticks(axes.xaxis, array.axes[1].places, values.shape[1])
    axes.set_xlabel(literal(array.axes[1].name), fontsize=9)
    axes.set_title(literal(array.text or array.name), fontsize=9, wrap=True)
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.set_label(literal(array.unit or array.name), fontsize=8)


def draw_curves(axes: Axes, curve: Table) -> None:
    """Draw the score by the share of units that is ablated, a curve for each order, with a band where there is one."""
    rows = list(curve)
    for order in dict.fromkeys(each.get("order") for each in rows):
        points = sorted((each for each in rows if each.get("order") == order), key=lambda each: each["fraction"])
        colour, name = _ORDERS.get(order or "", (_GREY, str(order or "score")))
        share = _numbers(points, "fraction")
        axes.plot(share, _numbers(points, "score"), color=colour, marker=".", label=literal(name))
        low, high = _numbers(points, "low"), _numbers(points, "high")
        if np.isfinite(low).any() and np.isfinite(high).any():
            axes.fill_between(share, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set_xlabel("share that is ablated", fontsize=9)
    unit = curve.columns["score"].unit if "score" in curve.columns else ""
    axes.set_ylabel(literal(f"score in {unit}" if unit else "score"), fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def is_study(table: Table) -> bool:
    """Tell whether a table has a measure of each change and group of rows."""
    return [*table.columns][:4] == ["change", "by", "group", "rows"] and len(table.columns) > 4


def draw_study(axes: Axes, study: Table) -> None:
    """Draw the measure of each group, from top to bottom, a colour for each change, with its interval as a line."""
    measure = [*study.columns][4]
    prefix = "" if "low" in study.columns else f"{measure} "
    rows = list(study)
    groups = list(dict.fromkeys((each["by"], each["group"]) for each in rows))[:_MOST_BARS]
    changes = list(dict.fromkeys(each["change"] for each in rows))
    for number, change in enumerate(changes):
        points = [each for each in rows if each["change"] == change and (each["by"], each["group"]) in groups]
        places = np.array([groups.index((each["by"], each["group"])) for each in points])
        places = places + 0.6 * ((number + 0.5) / len(changes) - 0.5)
        values = _numbers(points, measure)
        lines = axes.plot(values, places, linestyle="none", marker="o", markersize=4, label=literal(change))
        axes.hlines(
            places, _numbers(points, f"{prefix}low"), _numbers(points, f"{prefix}high"), colors=lines[0].get_color()
        )
    names = ["all rows" if by == "all" else f"{by}: {group}" for by, group in groups]
    axes.set_yticks(range(len(names)), [literal(name) for name in names], fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(literal(measure), fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)


def counterfactual_figure(found: Counterfactuals) -> Figure:
    """Draw the changed columns of each counterfactual before and after, or its pictures side by side.

    Raises
    ------
    ValueError
        Nothing was found that can be drawn.
    """
    shown = [each for each in found if each.found and (each.changes or each.pictures)][:_MOST_SHOWN]
    if not shown:
        raise ValueError("No counterfactual was found that has changed columns or pictures to draw.")
    heights = [3.2 if each.pictures else 1.0 + 0.45 * len(each.changes) for each in shown]
    figure = Figure(figsize=(_WIDTH, sum(heights) + 0.4), layout="constrained")
    parts = figure.subfigures(len(shown), 1, height_ratios=heights, squeeze=False)
    for part, each in zip(parts[:, 0], shown, strict=True):
        if each.pictures:
            _draw_pictures(part, each.pictures)
        else:
            draw_changes(part.subplots(), each)
        part.suptitle(literal(f"row {each.row}, number {each.number}: {each.answer}"), fontsize=9)
    model = found.model
    figure.suptitle(literal(f"counterfactuals, {model.name} version {model.version}"), fontsize=11)
    return figure


def draw_changes(axes: Axes, each: Counterfactual) -> None:
    """Draw an arrow for each changed column from its value before, in grey, to that after.

    Columns have units of their own: each arrow runs over the same width, to the right where the value grows.
    """
    for place, change in enumerate(each.changes):
        numbers = isinstance(change.before, int | float) and isinstance(change.after, int | float)
        down = numbers and float(change.after or 0) < float(change.before or 0)
        start, end = (1.0, 0.0) if down else (0.0, 1.0)
        colour = BLUE if down else RED if numbers else _GREY
        axes.annotate("", (end, place), (start, place), arrowprops={"arrowstyle": "->", "color": colour, "lw": 2})
        for at, text, shade in zip((start, end), change.shown, (_GREY, "black"), strict=True):
            side = "right" if at == 0 else "left"
            axes.text(at + (0.03 if at else -0.03), place, literal(text), ha=side, va="center", color=shade)
    names = [f"{change.column}{f' ({change.unit})' if change.unit else ''}" for change in each.changes]
    axes.set_yticks(range(len(names)), [literal(name) for name in names], fontsize=9)
    axes.set_xticks([])
    axes.set_xlim(-0.6, 1.6)
    axes.set_ylim(len(names) - 0.5, -0.5)
    _bare(axes)
    axes.spines["bottom"].set_visible(False)


def _draw_pictures(part: Any, pictures: Mapping[str, Picture]) -> None:
    for axes, (name, picture) in zip(part.subplots(1, len(pictures), squeeze=False)[0], pictures.items(), strict=True):
        axes.imshow(Image.open(io.BytesIO(picture.data)))
        axes.set_axis_off()
        axes.set_title(literal(picture.text or name), fontsize=8, wrap=True)


def _bare(axes: Axes) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _site_name(row: Mapping[str, Any], *, with_row: bool) -> str:
    """Return what was changed, and for which row."""
    name = next((str(row[key]) for key in _PLACES if row.get(key) is not None), "")
    return f"{name} (row {row['row']})" if with_row and row.get("row") is not None else name


def _whiskers(rows: Sequence[Mapping[str, Any]], values: Any) -> Any:
    """Return the distances to the interval's ends, (2, rows); None where no row has an interval."""
    low, high = _numbers(rows, "low"), _numbers(rows, "high")
    if not (np.isfinite(low) & np.isfinite(high)).any():
        return None
    # A bootstrap's interval may lie beside the value itself.
    return np.maximum(0.0, np.nan_to_num(np.stack([values - low, high - values])))


def _numbers(rows: Sequence[Mapping[str, Any]], name: str) -> Any:
    """Return a column's numbers as float64, (rows), NaN where there is none."""
    values = [each.get(name) for each in rows]
    return np.array([float(each) if isinstance(each, int | float) else math.nan for each in values])


def _ticks(axis: Any, places: Any, length: int) -> None:
    """Label an axis; only each n-th of many."""
    step = -(-length // _MOST_TICKS)
    names = [_value(each) for each in places] if places is not None else [str(place) for place in range(length)]
    axis.set_ticks(range(0, length, step), [literal(name) for name in names[::step]], fontsize=8)


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float | np.number) else str(value)
