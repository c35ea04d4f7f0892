"""Pictures of effects: bars of sites, lines over the strength of a change, interactions. Needs `pellucid[plot]`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from pellucid.findings import Table
from pellucid.plot_parts import GREY, bare, colours, column, draw_heat, ticks, whiskers
from pellucid.plots import BLUE, RED, literal
from pellucid.ranking import ranked

MOST_BARS = 30
_MOST_SITES = 40
"""Sites whose interactions are drawn."""
_PLACES = ("site", "layer", "unit")
_PARTS = ("effect", "direct", "indirect")
_PART_COLOURS = ("0.6", RED, BLUE)
_PART_NAMES = ("total", "by the direct path", "by all others")

Rows = Sequence[Mapping[str, Any]]


def bar_rows(table: Table) -> list[dict[str, Any]]:
    """Return the rows to draw as bars: the largest first, or layers in the network's order."""
    name = _drawn(table)
    rows = [each for each in ranked(table) if isinstance(each.get(name), int | float)]
    # Without a score ranked has ordered them already; a stable sort leaves equal ones as they are.
    rows.sort(key=lambda each: -abs(each[name]))
    kept = rows[:MOST_BARS]
    if not is_layer_sweep(table):
        return kept
    places = {site: place for place, site in enumerate(table["site"].tolist())}
    return sorted(kept, key=lambda each: places[each["site"]])


def is_layer_sweep(table: Table) -> bool:
    """Tell whether each line is of a whole layer, each of another one."""
    if not {"site", "layer"} <= {*table.columns} or len(table) < 2:
        return False
    whole = all(each.get("unit") is None and each.get("position") is None for each in table)
    return whole and len({*table["layer"].tolist()}) == len({*table["site"].tolist()}) == len(table)


def bars_height(table: Table) -> float:
    """Return the height in inches that the bars of a table take."""
    each = 0.5 if _has_parts(table) else 0.26
    return 1.2 + each * min(len(table), MOST_BARS)


def draw_effects(axes: Axes, effects: Table, what: str = "") -> None:
    """Draw effects, or the scores of patches, as bars; whiskers where there are intervals.

    Parameters
    ----------
    what
        What was measured, for the axis.

    Raises
    ------
    ValueError
        The table has no column "effect" with a number in it.
    """
    rows, name = bar_rows(effects), _drawn(effects)
    if not rows:
        raise ValueError("The table of effects has no column 'effect' with a number in it.")
    places = np.arange(len(rows))
    if _has_parts(effects):
        _draw_parts(axes, rows)
    else:
        values, prefix = column(rows, name), "" if name == "effect" else f"{name} "
        ends = whiskers(values, column(rows, f"{prefix}low"), column(rows, f"{prefix}high"))
        axes.barh(places, values, color=colours(values), xerr=ends, ecolor=GREY)
    axes.set_yticks(places, [literal(each) for each in _names(rows, effects)], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    bare(axes)
    axes.axvline(0, color="0.4", linewidth=0.8)
    if name == "score":
        axes.axvline(1, color="0.4", linewidth=0.8, linestyle="--")
    axes.set_xlabel(literal(_label(effects, name, what, len(effects) - len(rows))), fontsize=9)


def has_strengths(effects: Table) -> bool:
    """Tell whether some site has a kind of change in several strengths."""
    return bool(_strengths(effects))


def draw_strengths(axes: Axes, effects: Table, what: str) -> None:
    """Draw what is measured over the value of a change, a line for each site and kind, means over the rows."""
    for (site, kind), rows in _strengths(effects).items():
        values = sorted({each["value"] for each in rows})
        after = [np.mean(column([each for each in rows if each["value"] == value], "after")) for value in values]
        axes.plot(values, after, marker=".", label=literal(f"{kind} {site}"))
    before = float(np.mean(column(list(effects), "before")))
    axes.axhline(before, color="0.4", linestyle="--", linewidth=0.8, label="unchanged")
    axes.set_xlabel("value of the change", fontsize=9)
    axes.set_ylabel(literal(what or "after"), fontsize=9)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)


def without_strengths(table: Table, effects: Table) -> list[int]:
    """Return the places of a table's lines, effects or their means, that `draw_strengths` of the effects leaves out."""
    drawn = _strengths(effects)
    return [place for place, each in enumerate(table) if (each.get("site"), each.get("intervention")) not in drawn]


def draw_interactions(axes: Axes, interactions: Table) -> None:
    """Draw the interaction of each pair of sites, the mean over the rows; of many sites, those that have the most."""
    pairs: dict[tuple[str, str], list[float]] = {}
    for each in interactions:
        if each["interaction"] is not None:
            pairs.setdefault((each["site"], each["other site"]), []).append(each["interaction"])
    means = {pair: float(np.mean(values)) for pair, values in pairs.items()}
    sites = list(dict.fromkeys(site for pair in means for site in pair))
    most = {site: max(abs(value) for pair, value in means.items() if site in pair) for site in sites}
    kept = sorted(sorted(sites, key=lambda site: -most[site])[:_MOST_SITES], key=sites.index)
    values = np.full((len(kept), len(kept)), np.nan)
    for (one, other), value in means.items():
        if one in kept and other in kept:
            a, b = kept.index(one), kept.index(other)
            values[a, b] = values[b, a] = value
    draw_heat(axes, values, "interaction")
    ticks(axes.yaxis, kept, len(kept))
    ticks(axes.xaxis, kept, len(kept), rotation=90)
    rest = len(sites) - len(kept)
    more = f"; {rest} sites with smaller ones are not shown" if rest else ""
    axes.set_title(f"interactions: the effect of both less the sum of their effects{more}", fontsize=9)


def _draw_parts(axes: Axes, rows: Rows) -> None:
    for number, (name, colour, said) in enumerate(zip(_PARTS, _PART_COLOURS, _PART_NAMES, strict=True)):
        places, values = np.arange(len(rows)) + 0.27 * (number - 1), column(rows, name)
        prefix = "" if name == "effect" else f"{name} "
        ends = whiskers(values, column(rows, f"{prefix}low"), column(rows, f"{prefix}high"))
        axes.barh(places, values, height=0.25, color=colour, label=said, xerr=ends, ecolor=GREY)
    axes.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)


def _has_parts(table: Table) -> bool:
    return {*_PARTS} <= {*table.columns}


def _drawn(table: Table) -> str:
    """Return the column that is the result: the score of patches, else the effect."""
    scored = "score" in table.columns and any(isinstance(each["score"], int | float) for each in table)
    return "score" if scored else "effect"


def _label(effects: Table, name: str, what: str, rest: int) -> str:
    if name == "score":
        said = "score: 0 as the unpatched run, 1 as the run that the values are of"
    else:
        unit = effects.columns["effect"].unit
        said = f"effect{f' in {unit}' if unit else ''}{f': {what} without the change, less with it' if what else ''}"
    return f"{said}{f'; {rest} smaller ones are not shown' if rest else ''}"


def _names(rows: Rows, effects: Table) -> list[str]:
    """Return what was changed, with the kind and the value where a site has several, and the row if there are some."""
    kinds: dict[tuple[Any, Any], set[Any]] = {}
    for each in effects:
        key = each.get("row"), each.get("site")
        kinds.setdefault(key, set()).add((each.get("intervention"), each.get("value")))
    several_kinds = any(len(each) > 1 for each in kinds.values())
    several_rows = len({each.get("row") for each in effects}) > 1
    return [_name(each, with_kind=several_kinds, with_row=several_rows) for each in rows]


def _name(row: Mapping[str, Any], *, with_kind: bool, with_row: bool) -> str:
    name = next((str(row[key]) for key in _PLACES if row.get(key) is not None), "")
    if with_kind and row.get("intervention") is not None:
        value = row.get("value")
        name += f", {row['intervention']}{f' {value:g}' if isinstance(value, int | float) else ''}"
    return f"{name} (row {row['row']})" if with_row and row.get("row") is not None else name


def _strengths(effects: Table) -> dict[tuple[Any, Any], list[dict[str, Any]]]:
    """Return the lines by site and kind of change, of those with several values."""
    found: dict[tuple[Any, Any], list[dict[str, Any]]] = {}
    if not {"value", "site", "intervention", "after"} <= {*effects.columns}:
        return {}
    for each in effects:
        if isinstance(each["value"], int | float):
            found.setdefault((each["site"], each["intervention"]), []).append(each)
    return {key: rows for key, rows in found.items() if len({each["value"] for each in rows}) > 1}
