"""A table of a TOML file whose keys are taken one by one, so that nothing in it is misread or overlooked."""

import difflib
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pellucid_server.model_files.plain_files import UnfitFileError, check_file

_T = TypeVar("_T")

MOST_COUNT = (1 << 31) - 1
"""The largest count that is taken."""

MOST_CHARACTERS = 1024
"""Characters of a name, a label, a category or a unit."""

MOST_TEXTS = 1 << 18
"""Labels or categories; the largest vocabularies have so many."""

SHOWABLE = "must be without control characters, such as tabs and ends of lines"
_MOST_KEY_CHARACTERS = 120
_DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that turn the direction in which all that follows is shown."""


class ManifestError(Exception):
    """A `model.toml` that cannot be served; the message names the file, the key, the value and what would be right."""


class Table:
    """A table of the file at `path`; `prefix` is what comes before its keys ("inputs[0].").

    Each method takes one key: it checks the value, or gives the default where the key is absent, and
    raises `ManifestError` where the value is wrong. `finish` refuses the keys that nobody took.
    """

    def __init__(self, path: Path, prefix: str, content: Mapping[str, Any]) -> None:
        self.path = path
        self._prefix = prefix
        self._content = content
        self._taken: list[str] = []

    def error(self, key: str, what: str) -> ManifestError:
        """Make the error that says `what` of a key ("is missing")."""
        shown = key if key.isprintable() else ascii(key)
        return ManifestError(f"{self.path}: {self._prefix}{shown[:_MOST_KEY_CHARACTERS]} {what}.")

    def wrong(self, key: str, right: str) -> ManifestError:
        """Make the error that shows a key's value and says what would be `right` ("must be a text")."""
        shown = _written(self._content[key]) if key in self._content else "missing"
        return self.error(key, f"is {shown if len(shown) <= 80 else shown[:77] + '...'}; it {right}")

    def has(self, key: str) -> bool:
        """Return whether the key is there."""
        return key in self._content

    def is_table(self, key: str) -> bool:
        """Return whether the key is there with a table."""
        return isinstance(self._content.get(key), dict)

    def take(self, key: str, fits: Callable[[Any], bool], right: str) -> Any:
        """Take a key that must be there, with a value that `fits`; `right` describes one ("a text")."""
        self._taken.append(key)
        if key not in self._content or not fits(self._content[key]):
            raise self.wrong(key, f"must be {right}")
        return self._content[key]

    def text(self, key: str, *, required: bool = False, most: int = MOST_CHARACTERS) -> str:
        """Take a text of up to `most` characters; absent it is empty, and required it may not be."""
        if required:
            text = str(self.take(key, lambda value: _is_text(value, most) and value != "", f"{_text(most)}, not empty"))
            if unshowable([text]) is not None:
                raise self.wrong(key, SHOWABLE)
            return text
        return self._optional(key, lambda value: _is_text(value, most), _text(most), "")

    def flag(self, key: str) -> bool:
        """Take a yes or no; absent it is no."""
        return self._optional(key, lambda value: isinstance(value, bool), "true or false", False)

    def count(self, key: str, default: int | None) -> int:
        """Take a whole number of at least 1; it must be there if the default is None."""
        right = f"a whole number of at least 1, and at most {MOST_COUNT}"
        if default is None:
            return int(self.take(key, is_count, right))
        return self._optional(key, is_count, right, default)

    def number(self, key: str, default: _T) -> float | _T:
        """Take a finite number."""
        value = self._optional(key, is_number, "a finite number", default)
        return float(value) if isinstance(value, int) else value

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        """Take one of some words."""
        return self._optional(key, lambda value: value in choices, f"one of: {', '.join(choices)}", default)

    def texts(self, key: str) -> tuple[str, ...]:
        """Take a list of texts; absent it is empty, and there it may not be."""
        right = (
            f"a list of up to {MOST_TEXTS} texts, not empty and of up to {MOST_CHARACTERS} characters, such as "
            '["low", "high"]'
        )
        texts: tuple[str, ...] = tuple(self._optional(key, is_texts, right, ()))
        number = unshowable(texts)
        if number is not None:
            raise self.error(f"{key}[{number}]", f"is {ascii(texts[number])[:80]}; it {SHOWABLE}")
        return texts

    def file(self, key: str, *, owner: str = "model") -> str:
        """Take the name of a file below this one's folder, `owner`'s, "/" between its parts; absent it is empty."""
        name = self.text(key)
        if not name:
            return ""
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts or "\\" in name or not name.isprintable():
            raise self.wrong(key, f"must be the name of a file in the folder of {self.path.name}")
        path = self.path.parent.joinpath(name)
        if not path.exists():
            raise self.wrong(key, f"must be the name of a file in {self.path.parent}, and there is none of that name")
        try:
            check_file(path, self.path.parent, owner=owner)
        except UnfitFileError as error:
            raise ManifestError(f"{self.path}: {self._prefix}{key}: {error}") from error
        return str(relative)

    def table(self, key: str) -> "Table":
        """Take a table; absent it is empty."""
        content: dict[str, Any] = self._optional(key, lambda value: isinstance(value, dict), f"a table, [{key}]", {})
        return Table(self.path, f"{self._prefix}{key}.", content)

    def tables(self, key: str) -> "list[Table]":
        """Take an array of tables; absent it is empty."""
        entries: list[dict[str, Any]] = self._optional(key, _is_tables, f"tables, each headed [[...{key}]]", [])
        return [Table(self.path, f"{self._prefix}{key}[{index}].", entry) for index, entry in enumerate(entries)]

    def finish(self, *, hint: str = "") -> None:
        """Refuse the keys that were not taken; `hint` says what else could be meant."""
        unknown = next((key for key in self._content if key not in self._taken), None)
        if unknown is None:
            return
        close = difflib.get_close_matches(unknown, self._taken, n=1)
        advice = f"perhaps {close[0]} was meant" if close else f"known are: {', '.join(dict.fromkeys(self._taken))}"
        raise self.error(unknown, f"is not a key that belongs here; {hint or advice}")

    def require_distinct(self, key: str, names: Sequence[str]) -> None:
        """Refuse a name that is there twice."""
        seen: set[str] = set()
        for name in names:
            if name in seen:
                raise self.error(key, f"has {name!r} twice; each must be there once")
            seen.add(name)

    def _optional(self, key: str, fits: Callable[[Any], bool], right: str, default: _T) -> _T:
        self._taken.append(key)
        return self.take(key, fits, right) if key in self._content else default


def is_count(value: object) -> bool:
    """Return whether a value is a whole number from 1 to what fits 31 bits."""
    return type(value) is int and 1 <= value <= MOST_COUNT


def is_number(value: object) -> bool:
    """Return whether a value is a finite number; true and false are none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        # A whole number of hundreds of digits.
        return False


def is_numbers(value: object) -> bool:
    """Return whether a value is a list of finite numbers, at least one."""
    return isinstance(value, list) and bool(value) and all(is_number(entry) for entry in value)


def is_texts(value: object) -> bool:
    """Return whether a value is a list of texts, at least one and not too many, none empty or too long."""
    return (
        isinstance(value, list)
        and 0 < len(value) <= MOST_TEXTS
        and all(_is_text(entry, MOST_CHARACTERS) and entry for entry in value)
    )


def unshowable(texts: Sequence[str]) -> int | None:
    """Return the place of the first text that holds a control character, such as a tab or the end of a line."""
    odd = (place for place, text in enumerate(texts) if not text.isprintable())
    return next((place for place in odd if any(map(_controls, texts[place]))), None)


def _controls(character: str) -> bool:
    # Joiners and wide spaces do not print either, and are a part of words in many languages.
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _DIRECTIONS


def _is_text(value: object, most: int) -> bool:
    return isinstance(value, str) and len(value) <= most


def _text(most: int) -> str:
    return f"a text of up to {most} characters"


def _written(value: object) -> str:
    """Write a value down; numbers of thousands of digits and lists nested too deep cannot be."""
    try:
        return repr(value)
    except (ValueError, RecursionError):
        return "too long to be shown"


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)
