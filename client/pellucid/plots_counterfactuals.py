"""Pictures of counterfactuals: columns on their ranges, or pictures before and after. Needs `pellucid[plot]`."""

import io
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from pellucid.counterfactuals import Change, Counterfactual, Counterfactuals
from pellucid.plot_parts import GREY, WIDTH, title
from pellucid.plots import BLUE, RED, literal

_MOST_SHOWN = 6
"""Counterfactuals that a figure shows."""
_MOST_CHANGES = 15
_MIDDLE = 128

Range = tuple[float, float]


def counterfactual_figure(found: Counterfactuals) -> Figure:
    """Draw the changed columns of each counterfactual, or its pictures; where there is none, of the closest.

    Raises
    ------
    ValueError
        There are no changed columns or pictures.
    """
    drawable = [each for each in found if each.changes or each.pictures]
    shown = ([each for each in drawable if each.found] or drawable)[:_MOST_SHOWN]
    if not shown:
        raise ValueError("There is no counterfactual, and no candidate, with changed columns or pictures to draw.")
    heights = [3.4 if each.pictures else 0.9 + 0.32 * min(len(each.changes), _MOST_CHANGES) for each in shown]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.6), layout="constrained")
    ranges = _ranges(found)
    if any(each.pictures for each in shown):
        parts = figure.subfigures(len(shown), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, each in zip(parts, shown, strict=True):
            if each.pictures:
                _draw_pictures(part, each)
            else:
                draw_changes(part.subplots(), each, ranges)
            part.suptitle(literal(heading(found, each)), fontsize=9)
    else:
        # In one grid, so that the panels are aligned.
        panels = figure.subplots(len(shown), 1, height_ratios=heights, squeeze=False)[:, 0]
        for axes, each in zip(panels, shown, strict=True):
            draw_changes(axes, each, ranges)
            axes.set_title(literal(heading(found, each)), fontsize=9)
    wanted = next((f"; wanted: {each.wanted}" for each in found if each.wanted), "")
    figure.suptitle(f"{title(found.ablation)}{literal(wanted)}", fontsize=10)
    return figure


def heading(found: Counterfactuals, each: Counterfactual) -> str:
    """Return what a counterfactual is one of: "row 0, number 1: malignant → benign", or the output's values."""
    target = found.receipt.target
    output = target.output if target is not None and target.output else "score"
    many = f", number {each.number + 1}" if len(found.of_row(each.row)) > 1 else ""
    same = "" if each.found else ", not found; the closest candidate"
    if each.prediction_after:
        before = f"{each.prediction_before} → " if each.prediction_before else ""
        said = f"{before}{each.prediction_after}"
        if each.prediction_before == each.prediction_after:
            said = f"still {each.prediction_after}"
        return f"row {each.row}{many}{same}: {said}"
    if each.score_before is None or each.score_after is None:
        return f"row {each.row}{many}{same}"
    return f"row {each.row}{many}{same}: {output} {each.score_before:.4g} → {each.score_after:.4g}"


def draw_changes(axes: Axes, each: Counterfactual, ranges: Mapping[str, Range]) -> None:
    """Draw an arrow for each changed column from its value before to that after, on the column's range.

    The width of the panel is the range of the column in training, or from 0 to the larger of both values where the
    model does not state one: an arrow is as long as the change is large.

    Parameters
    ----------
    ranges
        Minimum and maximum in training by column.
    """
    changes = each.changes[:_MOST_CHANGES]
    for place, change in enumerate(changes):
        axes.axhline(place, color="0.9", linewidth=4, zorder=0, solid_capstyle="butt", xmin=0.0, xmax=1.0)
        before, after = change.shown
        axes.text(1.02, place, literal(f"{before} → {after}"), va="center", fontsize=8, transform=_beside(axes))
        ends = _ends(change, ranges.get(change.column))
        if ends is None:
            continue
        colour = RED if ends[1] > ends[0] else BLUE
        axes.plot(ends[:1], [place], marker="o", color=GREY, markersize=5)
        arrow = {"arrowstyle": "-|>", "color": colour, "lw": 1.8, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (ends[1], place), (ends[0], place), arrowprops=arrow)
    names = [f"{change.column}{f' ({change.unit})' if change.unit else ''}" for change in changes]
    axes.set_yticks(range(len(names)), [literal(name) for name in names], fontsize=8)
    known = [end for change in changes for end in _ends(change, ranges.get(change.column)) or ()]
    axes.set_xlim(min([0.0, *known]) - 0.02, max([1.0, *known]) + 0.02)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xticks([0, 1], ["least", "most"], fontsize=8)
    rest = len(each.changes) - len(changes)
    more = f"; {rest} smaller changes are not shown" if rest else ""
    axes.set_xlabel(f"the column's range{more}", fontsize=8)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)


def _beside(axes: Axes) -> Any:
    """Return a transform of which x is a share of the axes' width, and y a place on the axis."""
    return axes.get_yaxis_transform()


def _ends(change: Change, known: Range | None) -> Range | None:
    """Return before and after as shares of a column's range; None for texts."""
    before, after = change.before, change.after
    if not isinstance(before, int | float) or not isinstance(after, int | float):
        return None
    low, high = known or (min(0.0, before, after), max(0.0, before, after))
    # Halved first: the width of a range of huge values is beyond floats.
    width = high / 2 - low / 2
    if not (math.isfinite(before) and math.isfinite(after)) or not width > 0:
        return None
    return (before / 2 - low / 2) / width, (after / 2 - low / 2) / width


def _ranges(found: Counterfactuals) -> dict[str, Range]:
    """Return the ranges of columns in training, of those that the model states."""
    model = found.ablation.described
    columns = () if model is None else [column for each in model.inputs for column in each.columns]
    return {
        each.name: (float(each.minimum), float(each.maximum))
        for each in columns
        if each.minimum is not None and each.maximum is not None and each.minimum < each.maximum
    }


def _draw_pictures(part: Any, each: Counterfactual) -> None:
    """Draw each picture before and after, and the difference, amplified; the picture alone where that is not known."""
    for panels, (name, picture) in zip(
        part.subplots(len(each.pictures), 3, squeeze=False), each.pictures.items(), strict=True
    ):
        after = np.asarray(Image.open(io.BytesIO(picture.data)))
        change = each.arrays.get(name.replace("counterfactual/", "change/", 1))
        shown = _before_after(after, None if change is None else change.values)
        for axes in panels:
            axes.set_axis_off()
        for axes, (said, pixels) in zip(panels, shown.items(), strict=False):
            axes.imshow(pixels, cmap="gray" if pixels.ndim == 2 else None, vmin=0, vmax=255)
            axes.set_title(literal(said if len(shown) > 1 else picture.text or name), fontsize=8, wrap=True)


def _before_after(after: Any, change: Any) -> dict[str, Any]:
    """Return pictures by what they are; of the part that the model sees where a picture has a margin around it."""
    if change is None or change.ndim != 3:
        return {"after": after}
    moved = np.moveaxis(np.asarray(change, np.float64), 0, -1)
    height, width = moved.shape[:2]
    top, left = (after.shape[0] - height) // 2, (after.shape[1] - width) // 2
    if top < 0 or left < 0:
        return {"after": after}
    seen = after[top : top + height, left : left + width]
    if seen.ndim == 2:
        moved = moved[..., 0]
    if seen.shape != moved.shape:
        return {"after": after}
    most = float(np.abs(moved).max())
    times = max(1.0, (_MIDDLE - 1) / most) if most else 1.0
    return {
        "before": _levels(seen - moved),
        "after": seen,
        f"difference, {times:.3g} times": _levels(_MIDDLE + times * moved),
    }


def _levels(values: Any) -> Any:
    return np.clip(np.round(values), 0, 255).astype(np.uint8)
