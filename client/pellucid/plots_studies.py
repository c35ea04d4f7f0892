"""Pictures of studies of data sets: what each change does to all rows, and to each group. Needs `pellucid[plot]`."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pellucid.findings import Table
from pellucid.plot_parts import GREY, WIDTH, bare, draw_heat, ticks, whiskers
from pellucid.plots import BLUE, RED, literal
from pellucid.ranking import difference_column, measure_of, numbers, rows_of, unchanged_rows, with_differences
from pellucid.ranking import worst_first as worst

_MOST_CHANGES = 15
_MOST_GROUPS = 24


def study_figure(study: Table) -> Figure:
    """Draw the worst changes: their differences over all rows with intervals, and beside them those of each group.

    Raises
    ------
    ValueError
        The study has no change, or no difference that is known.
    """
    study = with_differences(study)
    changes = _changes(study)
    if not changes:
        raise ValueError("The study has no change whose difference from the unchanged model is known.")
    known = [place for place in _groups(study) if place[0] != "all"]
    groups = known[:_MOST_GROUPS]
    height = 1.6 + 0.3 * len(changes[:_MOST_CHANGES]) + (1.0 if groups else 0.0)
    figure = Figure(figsize=(WIDTH + 0.35 * len(groups), height), layout="constrained")
    shares = [3, 1 + 0.25 * len(groups)] if groups else [1]
    axes = figure.subplots(1, len(shares), sharey=True, squeeze=False, width_ratios=shares)[0]
    draw_differences(axes[0], study, changes[:_MOST_CHANGES], len(changes) - len(changes[:_MOST_CHANGES]))
    if groups:
        draw_groups(axes[1], study, changes[:_MOST_CHANGES], groups)
        rest = len(known) - len(groups)
        axes[1].set_title(f"groups{f'; {rest} more are not shown' if rest else ''}", fontsize=9)
    return figure


def draw_differences(axes: Axes, study: Table, changes: list[str], rest: int) -> None:
    """Draw the differences over all rows with their intervals, the worst on top."""
    name = difference_column(study)
    table = rows_of(study, np.flatnonzero(study["by"] == _whole(study)))
    at = {change: place for place, change in enumerate(table["change"].tolist())}
    found = rows_of(table, np.array([at[change] for change in changes]))
    values = numbers(found, name)
    ends = whiskers(values, numbers(found, f"{name} low"), numbers(found, f"{name} high"))
    harm = -values if measure_of(study) == "accuracy" else values
    places = np.arange(len(changes))
    axes.errorbar(values, places, xerr=ends, fmt="none", ecolor=GREY)
    axes.scatter(values, places, c=[RED if each > 0 else BLUE if each < 0 else GREY for each in harm], s=24, zorder=3)
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.set_yticks(places, [literal(change) for change in changes], fontsize=8)
    axes.set_ylim(len(changes) - 0.5, -0.5)
    bare(axes)
    unchanged = unchanged_rows(table)
    measure = measure_of(study)
    before = f" of {numbers(unchanged, measure)[0]:.4g}" if len(unchanged) else ""
    unit = study.columns[measure].unit
    more = f"\n{rest} changes that do less harm are not shown" if rest else ""
    axes.set_xlabel(
        literal(f"difference from the {measure}{before}{f' {unit}' if unit else ''} without changes{more}"), fontsize=9
    )
    axes.set_title("all rows", fontsize=9)


def draw_groups(axes: Axes, study: Table, changes: list[str], groups: list[tuple[str, str]]) -> None:
    """Draw the differences of each group as a map of changes and groups."""
    values = np.full((len(changes), len(groups)), np.nan)
    differences = numbers(study, difference_column(study))
    for change, by, group, value in zip(study["change"], study["by"], study["group"], differences, strict=True):
        if change in changes and (by, group) in groups:
            values[changes.index(change), groups.index((by, group))] = value
    # Red is a loss: accuracy that falls, or an error that rises.
    sign = -1.0 if measure_of(study) == "accuracy" else 1.0
    draw_heat(axes, sign * values, "loss of accuracy" if sign < 0 else f"rise of the {measure_of(study)}")
    ticks(axes.xaxis, [f"{by}: {group}" for by, group in groups], len(groups), rotation=90)
    axes.tick_params(axis="y", length=0, labelleft=False)


def _changes(study: Table) -> list[str]:
    """Return the changes with a difference, the worst over all rows first."""
    table = worst(study, _whole(study))
    known = np.isfinite(numbers(table, difference_column(study)))
    return list(dict.fromkeys(rows_of(table, np.flatnonzero(known))["change"].tolist()))


def _whole(study: Table) -> str:
    """Return what stands for all rows; the first way to group where there is no such line."""
    known = study["by"].tolist()
    return "all" if "all" in known else str(known[0]) if known else "all"


def _groups(study: Table) -> list[tuple[str, str]]:
    return list(dict.fromkeys(zip(study["by"].tolist(), study["group"].tolist(), strict=True)))
