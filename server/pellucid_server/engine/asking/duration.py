"""About how long a function runs that a method hands to `Handle.compute`: it decides in which process."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def takes(seconds: Callable[..., float]) -> Callable[[Function], Function]:
    """Declare about how long the decorated function runs, in seconds, as a function of its arguments.

    An estimate within a factor of two is good enough. It is made on the thread that runs every request's Python,
    before the arguments are checked, and so it must be quick and must not fail.
    """

    def declare(function: Function) -> Function:
        function.likely_seconds = seconds  # type: ignore[attr-defined]
        return function

    return declare


def likely_seconds(function: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    """Return about how long a call takes, in seconds; infinity for a function that declares nothing."""
    declared: Callable[..., float] | None = getattr(function, "likely_seconds", None)
    return math.inf if declared is None else declared(*arguments)
