"""What callers hand over, checked before it reaches a library that would answer in its own words."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pellucid.errors import invalid


def checked_text(value: Any, where: str) -> str:
    """Return a text that can be sent.

    Raises
    ------
    InvalidRequestError
        It is no text, or holds half of a surrogate pair, which UTF-8 does not have.
    """
    if not isinstance(value, str):
        raise invalid(where, f"is of type {type(value).__name__}; it must be a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise invalid(where, f"is {value!a}; half of a surrogate pair is no character") from error
    return str(value)


def checked_printable(value: Any, where: str, *, most: int) -> str:
    """Return a text of 1 to `most` printable characters of ASCII, without spaces at its ends.

    Raises
    ------
    InvalidRequestError
        It is none.
    """
    text = checked_text(value, where)
    if not (text.isascii() and text.isprintable() and 0 < len(text) <= most and text == text.strip()):
        shown = f"{text[:40]!a}{'…' if len(text) > 40 else ''}"
        what = f"it must have 1 to {most} printable characters of ASCII, and no space at its ends"
        raise invalid(where, f"is {shown}; {what}")
    return text


def checked_whole(value: Any, where: str, least: int, most: int) -> int:
    """Return a whole number in [least, most].

    Raises
    ------
    InvalidRequestError
        It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        raise invalid(where, f"is {shortened(value)}; it must be a whole number in [{least}, {most}]")
    return int(value)


def checked_number(value: Any, where: str) -> float:
    """Return a number; one beyond the range of float is infinite, which the server refuses in its own words.

    Raises
    ------
    InvalidRequestError
        It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise invalid(where, f"is {shortened(value)}; it must be a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def checked_flag(value: Any, where: str) -> bool:
    """Return a yes or no.

    Raises
    ------
    InvalidRequestError
        It is neither.
    """
    if not isinstance(value, bool | np.bool_):
        raise invalid(where, f"is {shortened(value)}; it must be True or False")
    return bool(value)


def checked_list(value: Any, where: str, what: str) -> Sequence[Any]:
    """Return a list or a tuple; a text, which is a sequence too, is nearly always a mistake.

    Raises
    ------
    InvalidRequestError
        It is neither; `what` says of what it must be a list.
    """
    if not isinstance(value, list | tuple):
        raise invalid(where, f"is {shortened(value)}; it must be a list of {what}")
    return value


def checked_mapping(value: Any, where: str, what: str) -> Mapping[str, Any]:
    """Return a mapping whose keys are texts.

    Raises
    ------
    InvalidRequestError
        It is none; `what` says from what to what it must map.
    """
    if not isinstance(value, Mapping):
        raise invalid(where, f"is of type {type(value).__name__}; it must be a dict of {what}")
    for key in value:
        checked_text(key, f"a key of {where}")
    return value


def shortened(value: Any) -> str:
    """Return what a value looks like, in a message: the start of a long one, the type of what is no plain value."""
    if isinstance(value, np.generic):
        # NumPy writes the type of a number around it.
        value = value.item()
    if value is None or isinstance(value, bool | float | str | np.generic):
        text = ascii(value)
    elif isinstance(value, int):
        # Python refuses to write whole numbers of some thousand digits.
        text = ascii(value) if value.bit_length() < 256 else f"a whole number of {value.bit_length()} bits"
    else:
        return f"of type {type(value).__name__}"
    return text if len(text) <= 60 else text[:60] + "…"
