"""Elements of inputs as people call them: by a table's column, or by their index."""

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.question import Feature

Flags = npt.NDArray[np.bool_]

_MOST_NAMED = 5
"""Most columns that a message names."""


def columns_text(names: tuple[str, ...]) -> str:
    """Write the names of some columns, the first few if there are many."""
    listed = ", ".join(map(repr, names[:_MOST_NAMED]))
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"column{'s' if len(names) > 1 else ''} {listed}{more}"


def coded_columns(feature: Feature, elements: Flags | None = None) -> tuple[str, ...]:
    """Return the names of a table's columns of categories; with `elements`, of those that some of them are in."""
    if feature.coded is None:
        return ()
    return _columns(feature, feature.coded if elements is None else feature.coded & elements.reshape(-1))


def elements_text(name: str, feature: Feature, elements: Flags) -> str:
    """Name some elements of an input, (*features): its columns, the whole input, or how many and the first."""
    if feature.groups is not None and feature.columns:
        return f"{columns_text(_columns(feature, elements.reshape(-1)))} of input {name!r}"
    if elements.all():
        return f"input {name!r}"
    first = [int(part) for part in np.unravel_index(int(elements.reshape(-1).argmax()), elements.shape)]
    return f"{int(elements.sum())} of the {elements.size} elements of input {name!r}, the first at index {first},"


def _columns(feature: Feature, elements: Flags) -> tuple[str, ...]:
    if feature.groups is None or not feature.columns:
        return ()
    return tuple(feature.columns[number] for number in np.unique(feature.groups.reshape(-1)[elements.reshape(-1)]))
