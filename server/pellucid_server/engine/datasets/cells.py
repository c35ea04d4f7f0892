"""Cells of data sets as numbers."""

import re
from typing import Any

_NUMBER = re.compile(r"[ \t]*[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|inf|infinity)[ \t]*", re.ASCII | re.IGNORECASE)


def as_number(cell: Any) -> float:
    """Return the number that a cell has; a text must be one in decimal ASCII digits, as "-1.5e3".

    What is no finite number, as "nan", is returned as it is, for callers to refuse.

    Raises
    ------
    ValueError
        It has none.
    """
    if isinstance(cell, bytes) or (isinstance(cell, str) and not _NUMBER.fullmatch(cell)):
        raise ValueError("no number")
    try:
        return float(cell)
    except (TypeError, OverflowError) as error:
        raise ValueError("no number") from error
