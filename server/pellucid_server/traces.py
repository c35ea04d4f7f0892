"""Exceptions as a log may have them: where and of which type, without their words.

The words of an exception quote values: `KeyError: 'Smith'`, "index 4711 is out of bounds". A value may have come
from a caller, and may be a patient's, so no words are logged but those that the server itself vouches for.
"""

import logging
import os
import traceback
from types import TracebackType

from pellucid_server.errors import PellucidError

_CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\nDuring handling of the above exception, another exception occurred:\n\n"

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class DiscreetFormatter(logging.Formatter):
    """Writes records as the standard library does, but exceptions without their words."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the line, and a traceback if there is one."""
        # Another handler may have kept the full text there, which the standard library would take.
        record.exc_text = None
        try:
            return super().format(record)
        finally:
            record.exc_text = None

    def formatException(self, ei: ExcInfo) -> str:  # noqa: N802 - logging's name
        """Write a traceback."""
        return trace(ei[1]) if ei[1] is not None else "no exception"


def trace(error: BaseException) -> str:
    """Return the tracebacks of an error and of its causes, as Python writes them, without what the errors say.

    Two kinds keep their words: errors of the system, which have those of their number, and errors with an attribute
    `log_text`, by which the server says that the text holds nothing of a caller's.
    """
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        frames = traceback.format_tb(current.__traceback__)
        head = ["Traceback (most recent call last):\n"] if frames else []
        parts.append("".join([*head, *frames, _line(current)]))
        if current.__cause__ is not None:
            parts.append(_CAUSE)
            current = current.__cause__
        elif current.__context__ is not None and not current.__suppress_context__:
            parts.append(_CONTEXT)
            current = current.__context__
        else:
            current = None
    if len(parts) % 2 == 0:
        # The chain closed on itself: nothing follows the last joint.
        parts.pop()
    return "".join(reversed(parts)).rstrip("\n")


def _line(error: BaseException) -> str:
    words = _words(error)
    if isinstance(error, BaseExceptionGroup):
        words = ", ".join(type(each).__name__ for each in error.exceptions)
    return f"{_name(type(error))}{': ' if words else ''}{words}\n"


def _words(error: BaseException) -> str:
    text = getattr(error, "log_text", "")
    if isinstance(text, str) and text:
        return text
    if isinstance(error, PellucidError) and not error.quotes_request:
        return error.message
    if isinstance(error, OSError) and isinstance(error.errno, int):
        return os.strerror(error.errno)
    return ""


def _name(kind: type[BaseException]) -> str:
    bare = kind.__module__ in ("builtins", "__main__")
    return kind.__qualname__ if bare else f"{kind.__module__}.{kind.__qualname__}"
