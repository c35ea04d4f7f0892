"""Work that takes long, such as going over a file, in steps between which a request can be given up."""

import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any, TypeVar

Made = TypeVar("Made")
Run = Callable[[Callable[[], Any]], Any]
"""Calls a function, perhaps on another thread, and returns what it returns."""

Ahead = Callable[[Generator[Made, None, None]], Iterator[Made]]
"""Gives what a generator gives, perhaps made ahead."""

STEP_SECONDS = 0.1
"""After which a step ends, once it has what it is at."""


def here(step: Callable[[], Any]) -> Any:
    """Run a step at once."""
    return step()


def when_taken(made: Generator[Made, None, None]) -> Iterator[Made]:
    """Give what a generator gives as it is taken."""
    return made


def in_steps(work: Generator[None, None, Made], run: Run) -> Made:
    """Do work that yields where it may be interrupted, and return what it returns."""
    advance: Callable[[], tuple[Made] | None] = partial(_advance, work)
    while (done := run(advance)) is None:
        pass
    made: Made = done[0]
    return made


def _advance(work: Generator[None, None, Made]) -> tuple[Made] | None:
    end = time.monotonic() + STEP_SECONDS
    try:
        next(work)
        while time.monotonic() < end:
            next(work)
    except StopIteration as stop:
        return (stop.value,)
    return None


def drained(work: Generator[None, None, Made]) -> Made:
    """Do work at once, and return what it returns."""
    return in_steps(work, here)


def collected(found: Iterator[Made]) -> Generator[None, None, list[Made]]:
    """Make a list, item by item."""
    kept = []
    for each in found:
        kept.append(each)
        yield
    return kept
