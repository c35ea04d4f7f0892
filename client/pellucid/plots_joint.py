"""Pictures of all changes at once: what is measured, and the highest outcomes, before and after."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pellucid.ablations import JOINT, OUTCOMES, Ablation
from pellucid.plot_parts import WIDTH, bare, column, measured
from pellucid.plots import BLUE, literal

_MOST_ROWS = 30
_MOST_SHOWN = 4
"""Rows whose outcomes are drawn."""
_BEFORE = "0.6"


def joint_figure(ablation: Ablation) -> Figure:
    """Draw the metric of each row before and after all changes, and the highest outcomes of the first rows."""
    joint = list(ablation.tables[JOINT])
    outcomes = ablation.tables.get(OUTCOMES)
    by_row: dict[Any, list[dict[str, Any]]] = {}
    for each in outcomes or ():
        by_row.setdefault(each.get("row"), []).append(each)
    shown = [*by_row.items()][:_MOST_SHOWN]
    heights = [1.2 + 0.45 * min(len(joint), _MOST_ROWS), *(0.7 + 0.4 * len(each) for _, each in shown)]
    figure = Figure(figsize=(WIDTH, 0.4 + sum(heights)), layout="constrained")
    panels = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    names = [f"row {each.get('row', place)}" for place, each in enumerate(joint)]
    rest = f"; {len(joint) - _MOST_ROWS} more rows are not shown" if len(joint) > _MOST_ROWS else ""
    draw_before_after(panels[0], joint[:_MOST_ROWS], names, f"{measured(ablation) or 'metric'}{rest}")
    for axes, (row, lines) in zip(panels[1:], shown, strict=True):
        draw_before_after(axes, lines, [_outcome(each) for each in lines], f"row {row}: the highest before and after")
    panels[0].legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def draw_before_after(axes: Axes, rows: list[dict[str, Any]], names: list[str], label: str) -> None:
    """Draw two bars for each row: before in grey, after in blue."""
    places = np.arange(len(rows))
    axes.barh(places - 0.2, column(rows, "before"), height=0.38, color=_BEFORE, label="before")
    axes.barh(places + 0.2, column(rows, "after"), height=0.38, color=BLUE, label="after all changes")
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.set_yticks(places, [literal(name) for name in names], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(literal(label), fontsize=9)
    bare(axes)


def _outcome(row: Mapping[str, Any]) -> str:
    return str(row.get("label") or row.get("index", ""))
