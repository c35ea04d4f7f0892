"""What a counterfactual may do to the columns of a row: the request's rules, held to the model and to the row."""

import difflib
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.counterfactuals import CellColumn
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.descriptions import ColumnInfo
from pellucid_server.vocabulary.requests import ColumnRule

Floats = npt.NDArray[np.float64]

_NUMERIC = ("minimum", "maximum", "only_up", "only_down", "whole")
_MOST_LISTED = 40
_ROUNDING = 1e-6
"""Share of a bound that a value of a float32 tensor may be beyond it and be at it."""

Numbered = tuple[int, ColumnRule]
"""A rule, and its place in the request."""


def rules_by_column(
    rules: tuple[ColumnRule, ...], tables: Mapping[str, tuple[ColumnInfo, ...]]
) -> dict[tuple[str, str], Numbered]:
    """Find the column, by input and name, that each rule is for, and check it against that column.

    A column of one of several tables may be named with its input's name before it, "input.column".

    Raises
    ------
    InvalidRequestError
        There is no such column, or two, or the rule is none for it.
    """
    found: dict[tuple[str, str], Numbered] = {}
    for number, rule in enumerate(rules):
        field = f"columns[{number}]"
        places = [
            (name, info)
            for name, infos in tables.items()
            for info in infos
            if rule.column in (info.name, f"{name}.{info.name}")
        ]
        if not places:
            raise _unknown(rule, tables, f"{field}.column")
        if len(places) > 1:
            listed = ", ".join(f"{name}.{info.name}" for name, info in places)
            text = f"{field}.column is {rule.column!r}, which several inputs have; name one of: {listed}."
            raise InvalidRequestError(text, field=f"{field}.column")
        name, info = places[0]
        _require_fitting(rule, info, field)
        found[name, info.name] = number, rule
    return found


def _unknown(rule: ColumnRule, tables: Mapping[str, tuple[ColumnInfo, ...]], field: str) -> InvalidRequestError:
    names = [info.name for infos in tables.values() for info in infos]
    if not names:
        return InvalidRequestError(
            f"{field} is {rule.column!r}, and the model has no table; leave it out.", field=field
        )
    text = f"{field} is {rule.column!r}, which is no column; {_near(rule.column, names)}."
    return InvalidRequestError(text, field=field)


def _near(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return f"near are: {', '.join(near)}"
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return f"there are: {', '.join(names[:_MOST_LISTED])}{more}"


def _require_fitting(rule: ColumnRule, info: ColumnInfo, field: str) -> None:
    if info.categories:
        given = next((key for key in _NUMERIC if getattr(rule, key) not in (None, False)), None)
        if given is not None:
            text = f"{field}.{given} is set, and {info.name!r} has categories; set categories or fixed."
            raise InvalidRequestError(text, field=f"{field}.{given}")
        unknown = next((each for each in rule.categories if each not in info.categories), None)
        if unknown is not None:
            where = f"{field}.categories"
            text = f"{where} has {unknown!r}, which {info.name!r} does not; {_near(unknown, list(info.categories))}."
            raise InvalidRequestError(text, field=where)
        return
    if rule.categories:
        where = f"{field}.categories"
        text = f"{where} is set, and {info.name!r} is numeric; set minimum and maximum."
        raise InvalidRequestError(text, field=where)
    for key, bound, sign in (("minimum", info.maximum, 1), ("maximum", info.minimum, -1)):
        value = getattr(rule, key)
        if value is not None and bound is not None and sign * (value - bound) > 0:
            side = "above the largest" if sign > 0 else "below the smallest"
            text = f"{field}.{key} is {value:g}, {side} value of {info.name!r} that the model states, {bound:g}."
            raise InvalidRequestError(text, field=f"{field}.{key}")


def cell_column(info: ColumnInfo, numbered: Numbered | None, value: float, row: int) -> CellColumn:
    """Return a column with what may become of its `value`, that of row number `row`.

    Raises
    ------
    InvalidRequestError
        The rule leaves nothing that the row's own value could become, or be if it is fixed.
    """
    if info.categories:
        rule = numbered[1] if numbered else None
        names = rule.categories if rule and rule.categories else info.categories
        allowed = tuple(sorted(info.categories.index(name) for name in names))
        fixed = bool(rule and rule.fixed)
        if fixed and numbered and math.isfinite(value) and int(value) not in allowed:
            text = (
                f"columns[{numbered[0]}].categories leaves {info.categories[int(value)]!r} out, which {info.name!r} of "
                f"row {row} is and stays; name it too, or leave fixed out."
            )
            raise InvalidRequestError(text, field=f"columns[{numbered[0]}].categories")
        return CellColumn(info.name, info.unit, categories=info.categories, allowed=allowed, fixed=fixed)
    low = -math.inf if info.minimum is None else info.minimum
    high = math.inf if info.maximum is None else info.maximum
    if numbered is None:
        return CellColumn(info.name, info.unit, low, high)
    number, rule = numbered
    if rule.fixed:
        _require_kept(rule, value, f"columns[{number}]", row)
    else:
        _require_room(rule, value, f"columns[{number}]", row)
    low = max(low, -math.inf if rule.minimum is None else rule.minimum, value if rule.only_up else -math.inf)
    high = min(high, math.inf if rule.maximum is None else rule.maximum, value if rule.only_down else math.inf)
    return CellColumn(info.name, info.unit, low, high, fixed=rule.fixed, whole=rule.whole)


def _require_kept(rule: ColumnRule, value: float, field: str, row: int) -> None:
    """Refuse bounds that a value which stays as it is breaks."""
    for name, bound, sign in (("minimum", rule.minimum, 1), ("maximum", rule.maximum, -1)):
        if bound is not None and sign * (bound - value) > _ROUNDING * abs(bound):
            text = (
                f"{field}.{name} is {bound:g}, and {rule.column!r} of row {row} is {value:g} and stays as it is; leave "
                f"the {name} out, or fixed."
            )
            raise InvalidRequestError(text, field=f"{field}.{name}")


def _require_room(rule: ColumnRule, value: float, field: str, row: int) -> None:
    if rule.only_up and rule.maximum is not None and rule.maximum < value:
        text = (
            f"{field}.maximum is {rule.maximum:g}, and {rule.column!r} of row {row} is {value:g} and may only become "
            "larger; raise the maximum, leave only_up out, or set fixed."
        )
        raise InvalidRequestError(text, field=f"{field}.maximum")
    if rule.only_down and rule.minimum is not None and rule.minimum > value:
        text = (
            f"{field}.minimum is {rule.minimum:g}, and {rule.column!r} of row {row} is {value:g} and may only become "
            "smaller; lower the minimum, leave only_down out, or set fixed."
        )
        raise InvalidRequestError(text, field=f"{field}.minimum")
    least = -math.inf if rule.minimum is None else rule.minimum
    most = math.inf if rule.maximum is None else rule.maximum
    if rule.whole and math.isfinite(least) and math.isfinite(most) and math.ceil(least) > math.floor(most):
        text = f"{field} has no whole number from {least:g} to {most:g}; widen the bounds, or leave whole out."
        raise InvalidRequestError(text, field=f"{field}.whole")
