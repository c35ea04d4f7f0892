"""Ablations and counterfactuals as tables for a terminal."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console

from pellucid.ablations import EFFECTS, OUTCOMES, SUMMARY, Ablation
from pellucid.cli.tables import say, show_receipt, show_table
from pellucid.counterfactuals import Counterfactuals
from pellucid.dissections import Dissection
from pellucid.findings import Table
from pellucid.ranking import UNCHANGED, is_study, rows_of

_LEFT_OUT = ("layer", "unit", "position")
"""Columns of effects that the site's name says too."""


def show_ablation(console: Console, found: Ablation, top: int) -> None:
    """Print the largest effects, the other tables' first rows, what arrays and pictures there are, and the receipt."""
    model = found.model
    say(console, f"{found.method} of {model.name} version {model.version}", style="bold")
    show_partial(console, found)
    for name, table in found.shown_tables.items():
        _show_named(console, name, table, top)
    for each in [*found.arrays.values(), *found.pictures.values()]:
        say(console, repr(each).strip("<>"))
    show_warnings(console, found.warnings)
    show_receipt(console, found.receipt)


def show_counterfactuals(console: Console, found: Counterfactuals) -> None:
    """Print each counterfactual in words, the changes as a table, how far they are, and the receipt."""
    say(console, f"{found.ablation.method} of {found.model.name} version {found.model.version}", style="bold")
    show_partial(console, found.ablation)
    several = len({each.row for each in found}) > 1
    for each in found:
        if several and each.number == 0:
            say(console, f"Row {each.row}", style="bold")
        many = f"{each.number + 1}. " if len(found.of_row(each.row)) > 1 else ""
        say(console, f"{many}{each.sentence}")
        if each.found:
            distance = "" if each.distance is None else f"distance {each.distance:.4g}, "
            minimal = {True: ", every change is needed", False: ", not every change is needed"}
            needed = "" if each.minimal is None else minimal[bool(each.minimal)]
            say(console, f"   {distance}{each.changed or len(each.changes)} changed{needed}", style="dim")
        rows = [[change.column, *change.shown, change.unit] for change in each.changes]
        if rows:
            show_table(console, ["column", "before", "after", "unit"], rows, right=(1, 2))
    show_warnings(console, found.warnings)
    show_receipt(console, found.receipt)


def _show_named(console: Console, name: str, table: Table, top: int) -> None:
    """Print a table's first rows; of a study the accuracy without changes, then the largest differences."""
    largest, shown = name in (EFFECTS, SUMMARY), table
    if is_study(table):
        same = table["change"] == UNCHANGED
        show_rows(console, rows_of(table, np.flatnonzero(same)), top, f"{name} without changes", ("change",))
        largest, shown = True, rows_of(table, np.flatnonzero(~same))
    count = len(shown) if name == OUTCOMES else top
    more = f": {'the largest' if largest else 'the first'} {count} of {len(shown)}" if len(shown) > count else ""
    show_rows(console, shown, count, f"{name}{more}")


def show_rows(console: Console, table: Table, count: int, title: str, without: Sequence[str] = ()) -> None:
    """Print a table's first rows, without columns that say nothing or what the site's name says."""
    names = [name for name in table.columns if not (name in _LEFT_OUT and "site" in table.columns)]
    if "row" in names and len({*table["row"].tolist()}) == 1:
        names.remove("row")
    # A column in which nothing has a value says nothing.
    empty = [name for name in names if len(table) and all(each[name] is None for each in table)]
    names = [name for name in names if name not in without and name not in empty]
    rows = [[cell(each[name]) for name in names] for _, each in zip(range(count), table, strict=False)]
    heads = [head(table, name) for name in names]
    numeric = [place for place, name in enumerate(names) if table.columns[name].values.dtype.kind in "iuf"]
    show_table(console, heads, rows, title=title, right=tuple(numeric))


def show_partial(console: Console, found: Ablation | Dissection) -> None:
    """Say so where the deadline cut an answer short."""
    if found.partial:
        text = f"cut short by the deadline, {found.progress:.0%} done; allow more time for the rest"
        say(console, text, style="yellow")


def show_warnings(console: Console, warnings: Sequence[str]) -> None:
    """Print what a reader should know."""
    for warning in warnings:
        say(console, f"Note: {warning}", style="yellow")


def head(table: Table, name: str) -> str:
    """Return a column's name with its unit."""
    unit = table.columns[name].unit
    return f"{name} ({unit})" if unit else name


def cell(value: Any) -> str:
    """Return a value of a table as it is printed."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.5g}" if isinstance(value, float) else str(value)
