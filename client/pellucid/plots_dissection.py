"""Pictures of dissections: categories, curves, points, pictures, statistics of units. Needs `pellucid[plot]`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pellucid.dictionaries import DICTIONARY, Dictionary
from pellucid.dissections import Dissection
from pellucid.findings import Axis, NamedArray, Picture
from pellucid.pictures import open_picture
from pellucid.plot_parts import WIDTH, draw_heat, ticks
from pellucid.plots import literal
from pellucid.plots_tuning import plot_tuning, tuned_layers

_PALETTE = ("#d9822b", "#3a78b8", "#8a5fb0", "#2b8a57", "#c04a6b", "#81701a", "#2f8ea3", "#9a5a3c", "#5c6bc0")
_CATEGORIES = ("color", "texture", "shape", "part", "object", "scene", "material", "position", "pattern")
_BLUE = "#3a78b8"
_OTHER = "#9aa0a6"
_REST = "#e3e0d8"
_COLUMNS = 4
_NARROW = 3.0
"""Percent that a part of a bar must have for its number."""
_MOST_PICTURES = 24
_MOST_LABELS = len(_PALETTE)
_MOST_CURVES = 10
_COORDINATES = "coordinates"
_NOTHING = "The answer has no dictionary, curves, points, pictures or statistics of units to draw."


def dissection_figure(dissection: Dissection) -> Figure:
    """Draw what the method found, as far as it is there.

    Raises
    ------
    ValueError
        There is nothing to draw.
    """
    first = _BY_METHOD.get(dissection.method)
    drawings = dict.fromkeys([*([] if first is None else [first]), *_DRAWINGS])
    figure = next((found for found in (draw(dissection) for draw in drawings) if found is not None), None)
    if figure is None:
        raise ValueError(_NOTHING)
    model = "" if dissection.model is None else f", {dissection.model.name} version {dissection.model.version}"
    so_far = "" if dissection.receipt is not None and not dissection.partial else f", {dissection.progress:.0%} done"
    figure.suptitle(literal(f"{dissection.method}{model}{so_far}"), fontsize=10)
    return figure


def _dictionary_figure(dissection: Dissection) -> Figure | None:
    """Draw how many units of each layer detect a concept, by category, and the concepts that most units detect."""
    if DICTIONARY not in dissection.tables or not len(dissection.tables[DICTIONARY]):
        return None
    found = dissection.dictionary
    concepts = _commonest(found)
    heights = [1.2 + 0.4 * len(found.layers), *([1.2 + 0.24 * len(concepts)] if concepts else [])]
    figure = Figure(figsize=(WIDTH, 0.4 + sum(heights)), layout="constrained")
    panels = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    colours = _category_colours(found)
    draw_categories(panels[0], found, colours)
    if concepts:
        draw_concepts(panels[1], concepts, colours)
    return figure


def _category_colours(found: Dictionary) -> dict[str, str]:
    """Return the categories, common ones in a fixed order and always of the same colour."""
    there = found.counts()
    known = [each for each in _CATEGORIES if each in there]
    free = [colour for each, colour in zip(_CATEGORIES, _PALETTE, strict=True) if each not in there]
    others = [each for each in there if each not in _CATEGORIES]
    own = {each: _PALETTE[_CATEGORIES.index(each)] for each in known}
    return own | {each: free[place] if place < len(free) else _OTHER for place, each in enumerate(others)}


def draw_categories(axes: Axes, found: Dictionary, colours: Mapping[str, str]) -> None:
    """Draw a bar for each layer: the share of its units that detect a concept, by category, and their number."""
    for place, layer in enumerate(found.layers):
        counts, share = found.counts(layer), 100 / len(found.layer(layer))
        start = 0.0
        for category, colour in colours.items():
            width = counts.get(category, 0) * share
            axes.barh(place, width, left=start, color=colour, edgecolor="white", linewidth=0.8)
            if width > _NARROW:
                said = str(counts[category])
                axes.text(start + width / 2, place, said, ha="center", va="center", color="white", fontsize=8)
            start += width
        axes.barh(place, 100 - start, left=start, color=_REST, edgecolor="white", linewidth=0.8)
    axes.set_yticks(range(len(found.layers)), [literal(each) for each in found.layers], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("% of the layer's units; grey ones detect no concept", fontsize=9)
    names = [*(category or "no category" for category in colours)]
    handles = [axes.barh(0, 0, color=colour) for colour in colours.values()]
    if handles:
        labels = [_listed(name) for name in names]
        legend: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 6, "frameon": False}
        axes.legend(handles, labels, fontsize=8, **legend)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def draw_concepts(axes: Axes, concepts: Sequence[tuple[str, str, int]], colours: Mapping[str, str]) -> None:
    """Draw how many units detect each concept."""
    counts = [count for _, _, count in concepts]
    axes.barh(range(len(concepts)), counts, color=[colours[category] for _, category, _ in concepts])
    axes.set_yticks(range(len(concepts)), [literal(name) for name, _, _ in concepts], fontsize=8)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("units that detect it", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _commonest(found: Dictionary) -> list[tuple[str, str, int]]:
    """Return the concepts of the most detectors, with category and number."""
    counts: dict[tuple[str, str], int] = {}
    for each in found.detectors:
        key = (each.concept or "", each.category or "")
        counts[key] = counts.get(key, 0) + 1
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:_MOST_PICTURES]
    return [(name, category, count) for (name, category), count in ordered]


def _points_figure(dissection: Dissection) -> Figure | None:
    """Draw the rows of a projection of each layer, coloured by their labels."""
    arrays = [each for each in dissection.arrays.values() if _is_points(each)]
    if not arrays:
        return None
    rows = dissection.tables.get("rows")
    labels = [] if rows is None or "label" not in rows.columns else [each or "" for each in rows["label"]]
    figure = Figure(figsize=(WIDTH, 0.5 + 5.5 * len(arrays)), layout="constrained")
    for axes, each in zip(figure.subplots(len(arrays), 1, squeeze=False)[:, 0], arrays, strict=True):
        draw_points(axes, each, labels if len(labels) == len(each.values) else [""] * len(each.values))
    return figure


def draw_points(axes: Axes, array: NamedArray, labels: Sequence[str]) -> None:
    """Draw the first two components of each row; the commonest labels have colours of their own."""
    values, named = np.asarray(array.values, np.float64), np.array(labels)
    counts = {label: int((named == label).sum()) for label in dict.fromkeys(labels)}
    common = sorted((each for each in counts if each), key=lambda each: -counts[each])[:_MOST_LABELS]
    others = ~np.isin(named, common)
    if others.any():
        name = "others" if common else None
        axes.scatter(values[others, 0], values[others, 1], s=12, color=_OTHER, alpha=0.7, label=name)
    for place, label in enumerate(common):
        own = values[named == label]
        axes.scatter(own[:, 0], own[:, 1], s=12, color=_colour(place), alpha=0.8, label=_listed(label))
    if common:
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_xlabel(literal(_component(array.axes[1], 0)), fontsize=9)
    axes.set_ylabel(literal(_component(array.axes[1], 1)), fontsize=9)
    axes.set_title(literal(array.name), fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)


def _pictures_figure(dissection: Dissection) -> Figure | None:
    """Draw the pictures side by side, above the trajectory that led to them where there is one."""
    pictures = list(dissection.pictures.values())[:_MOST_PICTURES]
    lines = [each for each in dissection.arrays.values() if _is_trajectory(each)]
    if not pictures and not lines:
        return None
    rows = -(-len(pictures) // _COLUMNS)
    height = 0.5 + 2.4 * rows + 3.0 * len(lines)
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    grid = figure.add_gridspec(rows + len(lines), _COLUMNS, height_ratios=[2.4] * rows + [3.0] * len(lines))
    for place, each in enumerate(pictures):
        _draw_picture(figure.add_subplot(grid[place // _COLUMNS, place % _COLUMNS]), each)
    for place, line in enumerate(lines):
        draw_trajectory(figure.add_subplot(grid[rows + place, :]), line)
    return figure


def draw_trajectory(axes: Axes, array: NamedArray) -> None:
    """Draw how objectives rose, a curve for each."""
    axis = array.axes[1]
    places = np.arange(array.values.shape[1]) if axis.coordinates is None else axis.coordinates
    for row in range(min(len(array.values), _MOST_CURVES)):
        axes.plot(places, array.values[row], color=_colour(row), label=_listed(_place(array.axes[0], row)))
    axes.set_xlabel(literal(axis.name), fontsize=9)
    axes.set_ylabel(literal(array.unit or array.name), fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_picture(axes: Axes, picture: Picture) -> None:
    axes.imshow(np.asarray(open_picture(picture.data)))
    axes.set_title(literal(picture.name), fontsize=7)
    axes.set_axis_off()


def _units_figure(dissection: Dissection) -> Figure | None:
    """Draw the mean of each unit with its deviation, from the lowest to the highest, for each layer."""
    tables = [each for each in dissection.tables.values() if "mean" in each.columns and "unit" in each.columns]
    # A line for each unit over everything; by class of position it would be drawn twice.
    tables = [each for each in tables if len({*each["unit"].tolist()}) == len(each) and "positions" not in each.columns]
    tables = [each for each in tables if len(each)]
    if not tables:
        return None
    figure = Figure(figsize=(WIDTH, 0.5 + 2.6 * len(tables)), layout="constrained")
    for axes, table in zip(figure.subplots(len(tables), 1, squeeze=False)[:, 0], tables, strict=True):
        means = np.asarray(table["mean"], np.float64)
        order = np.argsort(means, kind="stable")
        axes.plot(means[order], color=_BLUE, marker="." if len(means) < 50 else "")
        if "deviation" in table.columns:
            spread = np.nan_to_num(np.asarray(table["deviation"], np.float64))[order]
            low, high = means[order] - spread, means[order] + spread
            axes.fill_between(range(len(means)), low, high, color=_BLUE, alpha=0.2)
        ticks(axes.xaxis, table["unit"][order], len(order))
        axes.set_xlabel("unit, by its mean", fontsize=9)
        axes.set_ylabel("mean ± deviation", fontsize=9)
        axes.set_title(literal(table.name), fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _maps_figure(dissection: Dissection) -> Figure | None:
    """Draw arrays of two axes as colours."""
    arrays = [each for each in dissection.arrays.values() if each.values.ndim == 2 and each.values.size][:_COLUMNS]
    if not arrays:
        return None
    figure = Figure(figsize=(WIDTH, 0.5 + 3.0 * len(arrays)), layout="constrained")
    for axes, each in zip(figure.subplots(len(arrays), 1, squeeze=False)[:, 0], arrays, strict=True):
        draw_heat(axes, each.values, each.unit or each.name)
        ticks(axes.yaxis, each.axes[0].places, each.values.shape[0])
        ticks(axes.xaxis, each.axes[1].places, each.values.shape[1], rotation=30)
        axes.set_title(literal(each.name), fontsize=9)
    return figure


def _tuning_figure(dissection: Dissection) -> Figure | None:
    """Draw the tuning curves of some units of the first layer that has any."""
    return plot_tuning(dissection.findings) if tuned_layers(dissection.findings) else None


_Drawing = Callable[[Dissection], Figure | None]

_DRAWINGS: tuple[_Drawing, ...] = (
    _dictionary_figure,
    _points_figure,
    _tuning_figure,
    _pictures_figure,
    _units_figure,
    _maps_figure,
)


_BY_METHOD: Mapping[str, _Drawing] = {
    "network-dissection": _dictionary_figure,
    "activations": _units_figure,
    "tuning-curve": _tuning_figure,
    "activation-maximization": _pictures_figure,
    "feature-visualization": _pictures_figure,
    "projection": _points_figure,
}
"""What is drawn first; what an answer lacks is passed over."""


def _is_points(array: NamedArray) -> bool:
    names = [axis.name for axis in array.axes]
    return names == ["row", "component"] and array.values.shape[1] > 1 and len(array.values) > 0


def _component(axis: Axis, place: int) -> str:
    name = _place(axis, place)
    return f"{axis.name} {name}" if name.isdigit() else name


def _place(axis: Axis, place: int) -> str:
    if axis.labels:
        return axis.labels[place]
    return str(place) if axis.coordinates is None else f"{axis.coordinates[place]:g}"


def _listed(name: str) -> str:
    """Return a name for a legend; without the space, matplotlib would leave out one that begins with "_"."""
    return f" {literal(name)}"


def _colour(place: int) -> str:
    return _PALETTE[place] if place < len(_PALETTE) else _OTHER


def _is_trajectory(array: NamedArray) -> bool:
    return [axis.name for axis in array.axes] == ["objective", "step"] and array.values.size > 0
