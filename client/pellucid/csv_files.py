"""Tables from CSV files: a header of column names, commas, UTF-8; cells are read as the model's columns say.

Nothing is guessed. A file with another separator, another encoding or a cell that is empty or does not parse is
refused with its line and column.
"""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pellucid.catalogue import Column
from pellucid.cells import column_order, column_values, missing, parsed_category, parsed_number
from pellucid.checks import shortened
from pellucid.errors import InvalidRequestError, invalid
from pellucid.frames import Frame

_MOST_BYTES = 256 * 1024 * 1024
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "<na>", "nat", "-", "?"})
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def is_csv(given: Any) -> bool:
    """Tell whether a path or its text ends in `.csv`."""
    return str(given).lower().endswith(".csv")


def read_csv(columns: Sequence[Column], path: Path, where: str) -> Frame:
    """Read a file.

    Raises
    ------
    InvalidRequestError
        It cannot be read, is no such file, or has other columns or values than the model's.
    """
    lines, rows = _rows(path, where)
    if not rows:
        raise invalid(where, f"is {shortened(str(path))}, which is empty; it must have a header and rows")
    header, cells = rows[0], rows[1:]
    _check_separator(header, columns, where)
    order = column_order(header, columns, f"{where}: line 1", hint=_hint(header))
    if not cells:
        raise invalid(where, "has a header and no rows; give at least one row")
    for line, row in zip(lines[1:], cells, strict=True):
        if len(row) != len(header):
            what = "is empty" if not row else f"has {len(row)} cells, and the header has {len(header)}"
            raise invalid(f"{where}: line {line}", f"{what}; each line must have a cell for each column")

    def place(row: int, name: str) -> str:
        return f"{where}: line {lines[row + 1]}, column {name!r}"

    found = []
    for column, at in zip(columns, order, strict=True):
        texts = [row[at] for row in cells]
        read = _category if column.categories else _number
        values = [read(column, text, place(row, column.name)) for row, text in enumerate(texts)]
        found.append(column_values(column, values, place))
    return Frame(tuple(column.name for column in columns), tuple(found))


def _rows(path: Path, where: str) -> tuple[list[int], list[list[str]]]:
    """Return the rows with the number of the line that each ends on; empty lines at the end are left out."""
    lines: list[int] = []
    rows: list[list[str]] = []
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise invalid(where, f"has {size:,} bytes; at most {_MOST_BYTES:,} are read: send fewer rows at once")
        # The signature is dropped with which some programs begin a file in UTF-8.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                lines.append(reader.line_num)
                rows.append(row)
    except csv.Error as error:
        what = "has a quoted cell that does not end, or text behind its closing quote; quotes inside are doubled"
        raise invalid(f"{where}: line {max(1, reader.line_num)}", what) from error
    except UnicodeError as error:
        raise invalid(where, f"is {shortened(str(path))}, which is no text in UTF-8; save it as UTF-8") from error
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidRequestError):
            raise
        absent = isinstance(error, FileNotFoundError | ValueError)
        reason = "there is no such file" if absent else "the file cannot be read"
        raise invalid(where, f"is {shortened(str(path))}, but {reason}; give the path of a CSV file") from error
    while rows and not rows[-1]:
        rows.pop()
        lines.pop()
    return lines, rows


def _check_separator(header: Sequence[str], columns: Sequence[Column], where: str) -> None:
    if len(header) > 1 or (columns and list(header) == [columns[0].name]):
        return
    for separator, name in _SEPARATORS.items():
        if any(separator in cell for cell in header):
            raise invalid(f"{where}: line 1", f"seems to be separated by {name}; the cells must be separated by commas")


def _hint(header: Sequence[str]) -> str:
    if "" in header:
        return "; a column without a name is often an index: pandas leaves it out with to_csv(..., index=False)"
    if header and all(parsed_number(cell) is not None for cell in header):
        return "; line 1 must be the header, with the columns' names"
    return ""


def _number(column: Column, text: str, where: str) -> float:
    number = parsed_number(text)
    if number is None and text.strip().lower() in _MISSING:
        raise missing(where, text)
    if number is None:
        raise invalid(where, f"is {shortened(text)}; it must be a number, such as 14.1 or 1e-3")
    if math.isinf(number):
        raise invalid(where, f"is {shortened(text)}, which is beyond the range of numbers")
    return number


def _category(column: Column, text: str, where: str) -> str:
    if text not in column.categories and text.strip() == "":
        raise missing(where, text)
    return parsed_category(column, text)
