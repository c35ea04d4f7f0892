"""What a report's page shows, as plain values for its script."""

import base64
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from pellucid.dictionaries import DICTIONARY, Dictionary
from pellucid.dissections import Dissection
from pellucid.findings import Column, NamedArray, Picture, Table

_MOST_ELEMENTS = 200_000
"""Elements of an array that the page draws, at most."""
_MOST_BEST = 5
"""Concepts that a unit's card lists."""
_SHOWN = ("image/png", "image/jpeg", "image/webp", "image/gif")
"""Types of pictures that the page shows. Others could be more than pictures."""
_DIGITS = 6


def report_data(
    dissection: Dissection, before: Dictionary | None = None, allowed: Collection[str] | None = None
) -> dict[str, Any]:
    """Return tables by columns, arrays as flat lists with their axes, pictures as `data:` addresses.

    Numbers have six significant digits. What is missing, and NaN, is None. Arrays above 200,000 elements are named
    without their values. With `before` and `allowed`, as for `Dissection.to_html`, there are a comparison and an audit.

    Raises
    ------
    LookupError
        It is to be compared or audited, and has no dictionary.
    """
    tables = {name: _table(each) for name, each in dissection.tables.items()}
    arrays = {name: _array(each) for name, each in dissection.arrays.items()}
    data: dict[str, Any] = {
        "method": dissection.method,
        "tables": tables,
        "arrays": arrays,
        "pictures": {name: _picture(each) for name, each in dissection.pictures.items()},
    }
    if DICTIONARY in dissection.tables:
        # The cards list the best concepts of a unit in place of the whole array.
        data["best"] = _best_concepts(dissection.arrays)
        data["arrays"] = {name: each for name, each in arrays.items() if not _is_overlap(dissection.arrays[name])}
    if before is not None:
        data["comparison"] = before.compare(dissection.dictionary).to_dict()
    if allowed is not None:
        data["audit"] = [each.to_dict() for each in dissection.dictionary.audit(allowed)]
    return data


def _table(table: Table) -> dict[str, Any]:
    return {"text": table.text, "rows": len(table), "columns": [_column(each) for each in table.columns.values()]}


def _column(column: Column) -> dict[str, Any]:
    kinds = {"f": "number", "i": "number", "u": "number", "b": "flag"}
    return {
        "name": column.name,
        "unit": column.unit,
        "text": column.text,
        "kind": kinds.get(column.values.dtype.kind, "text"),
        "values": _plain(column.values.tolist()),
    }


def _array(array: NamedArray) -> dict[str, Any]:
    axes = [
        {
            "name": axis.name,
            "unit": axis.unit,
            "length": length,
            "labels": list(axis.labels),
            "coordinates": None if axis.coordinates is None else _plain(axis.coordinates.tolist()),
        }
        for axis, length in zip(array.axes, array.values.shape, strict=True)
    ]
    values = _plain(array.values.ravel().tolist()) if array.values.size <= _MOST_ELEMENTS else None
    return {"text": array.text, "unit": array.unit, "axes": axes, "values": values}


def _picture(picture: Picture) -> dict[str, Any]:
    encoded = base64.b64encode(picture.data).decode()
    address = f"data:{picture.media_type};base64,{encoded}" if picture.media_type in _SHOWN else ""
    return {"text": picture.text, "width": picture.width, "height": picture.height, "address": address}


def _plain(values: Iterable[Any]) -> list[Any]:
    return [_rounded(each) if isinstance(each, float) else each for each in values]


def _rounded(value: float) -> float | None:
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None


def _is_overlap(array: NamedArray) -> bool:
    return [axis.name for axis in array.axes] == ["unit", "concept"]


def _best_concepts(arrays: Mapping[str, NamedArray]) -> dict[str, dict[str, list[list[Any]]]]:
    """Return the concepts of the highest IoU, with it, of each unit of each layer."""
    found: dict[str, dict[str, list[list[Any]]]] = defaultdict(dict)
    for name, array in arrays.items():
        if not _is_overlap(array):
            continue
        units, concepts = ([*map(str, _places(array, axis))] for axis in (0, 1))
        values = np.where(np.isnan(array.values), -np.inf, array.values)
        order = np.argsort(-values, axis=1, kind="stable")[:, :_MOST_BEST]
        for unit, row, best in zip(units, values, order, strict=True):
            named = [[concepts[place], _rounded(float(row[place]))] for place in best if row[place] > 0]
            found[name.rpartition("/")[0]][unit] = named
    return dict(found)


def _places(array: NamedArray, axis: int) -> Iterable[Any]:
    places = array.axes[axis].places
    if places is None:
        return range(array.values.shape[axis])
    return places if isinstance(places, tuple) else [int(each) if float(each).is_integer() else each for each in places]
