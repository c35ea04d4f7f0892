"""Dissections as tables for a terminal."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from pellucid.cli.ablation_tables import cell, head, show_partial, show_rows, show_warnings
from pellucid.cli.tables import say, show_receipt, show_table
from pellucid.dictionaries import DICTIONARY, Dictionary, Entry
from pellucid.dissections import Dissection
from pellucid.findings import Table

_SHOWN = (DICTIONARY, "concepts")
"""Tables of a dictionary that are printed."""
_HEADS = ("layer", "unit", "concept", "category", "IoU", "chance", "runner-up", "its IoU")
_RIGHT = (1, 4, 5, 7)
_MOST_PICTURES = 5
_MOST_LETTERS = 40
"""Of a column's width; longer texts are broken."""


def show_dissection(console: Console, found: Dissection, top: int) -> None:
    """Print the dictionary, or the tables' first rows, what arrays and pictures there are, and the receipt."""
    model = found.model
    named = "" if model is None else f" of {model.name} version {model.version}"
    say(console, f"{found.method}{named}", style="bold")
    show_partial(console, found)
    dissected = DICTIONARY in found.tables
    if dissected:
        _show_dictionary(console, found.dictionary, top)
    others = [name for name in found.tables if dissected and name not in _SHOWN]
    for name, table in found.tables.items():
        if name != DICTIONARY and name not in others:
            _show_first(console, name, table, top)
    if others:
        say(console, f"Further tables: {', '.join(others)}; --json and --html have them", style="dim")
    for each in found.arrays.values():
        say(console, repr(each).strip("<>"))
    pictures = list(found.pictures.values())
    for picture in pictures[:_MOST_PICTURES]:
        say(console, repr(picture).strip("<>"))
    if len(pictures) > _MOST_PICTURES:
        say(console, f"and {len(pictures) - _MOST_PICTURES:,} more pictures; --html shows them", style="dim")
    show_warnings(console, found.warnings)
    if found.receipt is not None:
        show_receipt(console, found.receipt)


def show_checks(
    console: Console, found: Dissection, top: int, before: Dictionary | None, allowed: Sequence[str] | None
) -> None:
    """Print which units changed since another version, and which detect what is not allowed."""
    if DICTIONARY not in found.tables:
        if before is not None or allowed is not None:
            say(console, f"{found.method} makes no dictionary to compare or audit.", style="yellow")
        return
    if before is not None:
        change = before.compare(found.dictionary)
        counts = f"{len(change.changed):,}; the same: {change.same:,}"
        say(console, f"units that detect something else than before: {counts}", style="bold")
        for label, concepts in (("new concepts", change.appeared), ("vanished concepts", change.vanished)):
            if concepts:
                say(console, f"{label}: {', '.join(concepts)}")
        changes = [[each.layer, str(each.unit), each.before or "", each.after or ""] for each in change.changed[:top]]
        if changes:
            show_table(console, ["layer", "unit", "before", "after"], changes, right=(1,))
    if allowed is not None:
        units = found.dictionary.audit(allowed)
        say(console, f"units that detect what is not allowed: {len(units):,}", style="bold")
        if units:
            show_table(console, _HEADS, [_row(each) for each in units[:top]], right=_RIGHT)


def _show_first(console: Console, name: str, table: Table, top: int) -> None:
    """Print a table's first rows, and of its columns as many as the terminal has room for."""
    rows = [*itertools.islice(table, top)]
    shown: list[str] = []
    room = console.width
    for each in table.columns.values():
        # A head is broken between its words.
        cells = [*head(table, each.name).split(), *(cell(row[each.name]) for row in rows)]
        room -= min(max(map(len, cells)), _MOST_LETTERS) + 1
        if room < 0 and shown:
            break
        shown.append(each.name)
    lacking = len(table.columns) - len(shown)
    more = [f"the first {top} of {len(table):,}"] if len(table) > top else []
    more += [f"{lacking} more columns; --json and --html have them"] if lacking else []
    columns = {each: table.columns[each] for each in shown}
    show_rows(console, replace(table, columns=columns), top, f"{name}{': ' if more else ''}{', '.join(more)}")


def _show_dictionary(console: Console, found: Dictionary, top: int) -> None:
    detectors = found.detectors
    concepts = len({each.concept for each in detectors})
    text = (
        f"{len(detectors):,} of {len(found):,} units detect one of {concepts:,} concepts; {len(found.dead):,} are dead"
    )
    say(console, text)
    categories = [*found.counts()]
    if categories:
        rows = [
            [layer, *_by_category(found, layer, categories), str(len(found.layer(layer)))] for layer in found.layers
        ]
        heads = ["layer", *(category or "no category" for category in categories), "units"]
        show_table(console, heads, rows, title="detectors by category", right=tuple(range(1, len(heads))))
    best = sorted(found, key=lambda each: (each.detected is None, -(each.iou or 0.0)))
    more = f": the best {top} of {len(found):,}" if len(found) > top else ""
    show_table(console, _HEADS, [_row(each) for each in best[:top]], title=f"dictionary{more}", right=_RIGHT)


def _by_category(found: Dictionary, layer: str, categories: list[str]) -> list[str]:
    counts = found.counts(layer)
    return [str(counts.get(category, 0)) for category in categories]


def _row(each: Entry) -> list[str]:
    concept = each.concept or ("dead" if each.dead else "")
    named = concept if each.detected is not None or not each.concept else f"({concept})"
    numbers = ["" if value is None else f"{value:.3f}" for value in (each.iou, each.iou_chance, each.runner_up_iou)]
    return [
        each.layer,
        str(each.unit),
        named,
        each.category or "",
        numbers[0],
        numbers[1],
        each.runner_up or "",
        numbers[2],
    ]
