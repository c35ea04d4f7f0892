"""A table of a TOML file whose keys are taken one by one, so that nothing in it is misread or overlooked."""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

_T = TypeVar("_T")


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
        return ManifestError(f"{self.path}: {self._prefix}{key} {what}.")

    def wrong(self, key: str, right: str) -> ManifestError:
        """Make the error that shows a key's value and says what would be `right` ("must be a text")."""
        shown = repr(self._content[key]) if key in self._content else "missing"
        return self.error(key, f"is {shown if len(shown) <= 80 else shown[:77] + '...'}; it {right}")

    def has(self, key: str) -> bool:
        """Return whether the key is there."""
        return key in self._content

    def take(self, key: str, fits: Callable[[Any], bool], right: str) -> Any:
        """Take a key that must be there, with a value that `fits`; `right` describes one ("a text")."""
        self._taken.append(key)
        if key not in self._content or not fits(self._content[key]):
            raise self.wrong(key, f"must be {right}")
        return self._content[key]

    def text(self, key: str, *, required: bool = False) -> str:
        """Take a text; absent it is empty, and required it may not be."""
        if required:
            return str(self.take(key, _is_filled_text, "a text, not empty"))
        return self._optional(key, lambda value: isinstance(value, str), "a text", "")

    def flag(self, key: str) -> bool:
        """Take a yes or no; absent it is no."""
        return self._optional(key, lambda value: isinstance(value, bool), "true or false", False)

    def count(self, key: str, default: int | None) -> int:
        """Take a whole number of at least 1; it must be there if the default is None."""
        right = "a whole number of at least 1"
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
        return tuple(self._optional(key, _is_texts, 'a list of texts, not empty, such as ["low", "high"]', ()))

    def file(self, key: str) -> str:
        """Take the name of a file below this one's folder, "/" between its parts; absent it is empty."""
        name = self.text(key)
        if not name:
            return ""
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts or "\\" in name or not name.isprintable():
            raise self.wrong(key, f"must be the name of a file in the folder of {self.path.name}")
        if not self.path.parent.joinpath(name).is_file():
            raise self.wrong(key, f"must be the name of a file in {self.path.parent}, and there is none of that name")
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
        advice = f"did you mean {close[0]}?" if close else f"known are: {', '.join(dict.fromkeys(self._taken))}"
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
    """Return whether a value is a whole number of at least 1."""
    return type(value) is int and value >= 1


def is_number(value: object) -> bool:
    """Return whether a value is a finite number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_numbers(value: object) -> bool:
    """Return whether a value is a list of finite numbers, at least one."""
    return isinstance(value, list) and bool(value) and all(is_number(entry) for entry in value)


def _is_filled_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_filled_text(entry) for entry in value)


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(entry, dict) for entry in value)
