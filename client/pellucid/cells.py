"""Values of a table's columns, as a caller has them, turned into numbers and categories.

Every value is either understood without doubt or refused. A numeric column takes numbers, no texts that look like
some; a categorical one takes its categories, or the whole number that one of them is written as.
"""

import difflib
import math
import numbers
import re
from collections.abc import Callable, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

import numpy as np

from pellucid.catalogue import Column
from pellucid.checks import checked_text, shortened
from pellucid.errors import InvalidRequestError, invalid

Place = Callable[[int, str], str]
"""Names a cell in messages, by the number of its row and the name of its column."""

_EXACT = 1 << 53
_MOST_NAMES = 100
_MOST_NEAR = 20
_PAIRS = (("true", "false"), ("True", "False"), ("TRUE", "FALSE"))
_DIGITS = ("1", "0")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def column_values(column: Column, values: Sequence[Any], place: Place) -> list[float] | list[str]:
    """Return a column's values, each a number, or each one of the column's categories.

    Raises
    ------
    InvalidRequestError
        One is missing, or is of another kind than the column.
    """
    if column.categories:
        return _categories(column, values, place)
    quick = _plain_numbers(values)
    return quick if quick is not None else [_number(each, place(row, column.name)) for row, each in enumerate(values)]


def parsed_number(text: str) -> float | None:
    """Return the number that a text is, infinite beyond the range of float; None if it is none, not even NaN."""
    stripped = text.strip()
    return float(stripped) if _NUMBER.fullmatch(stripped) else None


def parsed_category(column: Column, text: str) -> str:
    """Return the category that a text of a file stands for: also 2.0 for "2"; other texts as they are."""
    number = None if text in column.categories else parsed_number(text)
    return text if number is None else of_number(column.categories, number) or text


def column_order(names: Sequence[Any], columns: Sequence[Column], where: str, *, hint: str = "") -> list[int]:
    """Return for each of the model's columns its place among `names`.

    Parameters
    ----------
    hint
        Ends the message where columns are missing or unknown.

    Raises
    ------
    InvalidRequestError
        A name is no text or comes twice, or there are other columns than the model's.
    """
    known = [column.name for column in columns]
    for name in names:
        if not isinstance(name, str):
            what = f"has the column {_name(name)}, which is of type {type(name).__name__} and no text"
            raise invalid(where, f"{what}; columns are matched by name, and the model's are: {listed(known)}")
        checked_text(name, f"a column of {where}")
    places = {str(name): place for place, name in enumerate(names)}
    if len(places) < len(names):
        twice = [name for name in places if sum(other == name for other in names) > 1]
        raise invalid(where, f"has more than one column of the name {listed(twice)}; each column must come once")
    if places.keys() != set(known):
        raise _wrong_columns(list(places), known, where, hint)
    return [places[name] for name in known]


def listed(names: Sequence[Any]) -> str:
    """Return names in quotes, the first hundred of many."""
    shown = ", ".join(_name(name) for name in names[:_MOST_NAMES])
    return f"{shown} and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else shown


def missing(where: str, value: Any) -> InvalidRequestError:
    """Make the error for a cell without a value."""
    empty = isinstance(value, str) and not value.strip()
    what = "empty" if empty else f"missing ({_shown(value)})"
    return invalid(where, f"is {what}; the model takes no missing values: fill it in, or leave the row out")


def _name(name: Any) -> str:
    text = repr(name)
    return text if len(text) <= 80 else text[:80] + "…"


def _wrong_columns(names: list[str], known: list[str], where: str, hint: str) -> InvalidRequestError:
    lacking = [name for name in known if name not in set(names)]
    unknown = [name for name in names if name not in set(known)]
    wrong = []
    if lacking:
        wrong.append(f"lacks the column{'s' if len(lacking) > 1 else ''} {listed(lacking)}")
    if unknown:
        near = {name: _nearest(name, lacking) for name in unknown[:_MOST_NEAR]}
        meant = ", ".join(f"{_name(name)} for {_name(found)}" for name, found in near.items() if found)
        also = f" (perhaps {meant})" if meant else ""
        wrong.append(f"has {listed(unknown)}, which the model does not take{also}")
    return invalid(where, f"{' and '.join(wrong)}; its columns are: {listed(known)}{hint}")


def _nearest(name: str, known: Sequence[str]) -> str | None:
    """Return the name that was probably meant, or None."""
    folded = {_folded(each): each for each in known}
    found = difflib.get_close_matches(_folded(name), list(folded), 1, 0.8)
    return folded[found[0]] if found else None


def _folded(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").replace(".", " ").split())


def _plain_numbers(values: Sequence[Any]) -> list[float] | None:
    """Return values that are all numbers of Python's and none of them NaN; None if they are not."""
    if not set(map(type, values)) <= {float, int}:
        return None
    try:
        found = [float(value) for value in values]
    except OverflowError:
        return None
    return None if any(map(math.isnan, found)) else found


def _number(value: Any, where: str) -> float:
    value = _scalar(value)
    if _is_missing(value):
        raise missing(where, value)
    if isinstance(value, bool | np.bool_):
        return float(value)
    if isinstance(value, numbers.Real | Decimal | np.integer | np.floating):
        return _float(value)
    right = "the column is numeric"
    if isinstance(value, str):
        number = parsed_number(value)
        advice = f"give the number {number:g}, not a text" if number is not None else "it takes numbers"
        raise invalid(where, f"is the text {shortened(value)}, but {right}: {advice}")
    if _is_date(value):
        advice = "give the number that the model was trained on, such as a count of days"
        raise invalid(where, f"is a date or a time ({_shown(value)}), but {right}: {advice}")
    raise invalid(where, f"is {shortened(value)}; it must be a number, as {right}")


def _float(value: Any) -> float:
    """Return a number; one beyond the range of float is infinite, which the server refuses in its own words."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _categories(column: Column, values: Sequence[Any], place: Place) -> list[str]:
    known: dict[Any, str] = {category: category for category in column.categories}
    found: list[str] = []
    for row, value in enumerate(values):
        # A column has few different values, and texts are most of them.
        category = known.get(value) if type(value) is str else None
        found.append(_category(column, value, place(row, column.name)) if category is None else category)
    return found


def _category(column: Column, given: Any, where: str) -> str:
    value = _scalar(given)
    if _is_missing(value):
        raise missing(where, value)
    if isinstance(value, str):
        text = checked_text(value, where)
        if text in column.categories:
            return text
    elif isinstance(value, bool | np.bool_):
        text = _of_flag(column.categories, bool(value))
    elif isinstance(value, numbers.Real | Decimal | np.integer | np.floating):
        text = of_number(column.categories, value)
    else:
        text = ""
    if text in column.categories:
        return text
    near = _nearest(value, column.categories) if isinstance(value, str) else None
    meant = f" (perhaps {near!r})" if near else ""
    raise invalid(where, f"is {_shown(value)}, no category of the column{meant}; it takes: {listed(column.categories)}")


def of_number(categories: Sequence[str], value: Any) -> str:
    """Return the category that is written as the whole number `value`, if no other is the same number; else nothing."""
    number = _float(value)
    if not math.isfinite(number) or number != value or not number.is_integer() or abs(number) >= _EXACT:
        return ""
    text = str(int(number))
    same = [category for category in categories if parsed_number(category) == number]
    return text if same == [text] else ""


def _of_flag(categories: Sequence[str], flag: bool) -> str:
    """Return the category that means a flag: of two words, or of 1 and 0 where there are no other categories."""
    pairs = [pair for pair in _PAIRS if set(pair) <= set(categories)]
    if set(_DIGITS) == set(categories):
        pairs.append(_DIGITS)
    return pairs[0][not flag] if len(pairs) == 1 else ""


def _scalar(value: Any) -> Any:
    """Return what an array without axes holds; anything else as it is."""
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _is_missing(value: Any) -> bool:
    # By their names, as pandas need not be there: its NA answers no comparison with yes or no.
    if value is None or value is np.ma.masked or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, float | np.floating):
        return math.isnan(value)
    if isinstance(value, Decimal):
        return value.is_nan()
    return isinstance(value, np.datetime64 | np.timedelta64) and bool(np.isnat(value))


def _is_date(value: Any) -> bool:
    return isinstance(value, date | time | timedelta | np.datetime64 | np.timedelta64)


def _shown(value: Any) -> str:
    """Return what a value looks like, of more types than `shortened` writes."""
    if _is_date(value) or isinstance(value, Decimal) or type(value).__name__ in ("NAType", "NaTType"):
        return str(value)[:60]
    return shortened(value)
