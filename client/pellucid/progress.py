"""How far a call is: to a function of the caller's, or as a bar on a terminal's standard error."""

import importlib
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from pellucid.checks import shortened
from pellucid.errors import invalid

ProgressFunction = Callable[[float, float | None], object]
"""Takes the share of the work done, in [0, 1], and the seconds left, or None while they are unknown."""

ProgressOption = bool | ProgressFunction
"""True for a bar, False for nothing, or a function that is called with each report."""

_STEPS = 20
"""Lines that a log gets of one call at most, but for the first."""


class Progress:
    """Passes on the share that is done, with an estimate of the time that is left.

    Parameters
    ----------
    show
        Takes both.
    end
        Called at the end.
    clock
        Returns seconds.
    count
        Takes what is counted, in words, before `show` takes the share.
    """

    def __init__(
        self,
        show: ProgressFunction = lambda share, seconds_left: None,
        end: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        count: Callable[[str], object] = lambda counted: None,
    ) -> None:
        self._show, self._end, self._clock, self._count = show, end, clock, count
        self._first: tuple[float, float] | None = None
        self._complete = False

    def restart(self) -> None:
        """Begin again, as the call is made again."""
        self._first, self._complete = None, False

    def report(self, share: float, *, seconds_left: float | None = None, counted: str = "") -> None:
        """Show a share and the seconds left; the whole of it only once.

        Parameters
        ----------
        share
            Of the work, done, in [0, 1].
        seconds_left
            As the server says; None for an estimate by the pace since the first report.
        counted
            What has been counted, such as "120 of 1,000 rows, 35 a second"; empty for nothing.
        """
        if self._complete and share >= 1:
            return
        self._complete = share >= 1
        now = self._clock()
        if self._first is None:
            self._first = (share, now)
        first, since = self._first
        done = share - first
        left = 0.0 if share >= 1 else (1 - share) * (now - since) / done if done > 0 else None
        self._count(counted)
        self._show(share, left if seconds_left is None or share >= 1 else seconds_left)

    def close(self) -> None:
        """End the showing."""
        self._end()


def read_progress(given: Any, what: str) -> Progress:
    """Make what a caller asked for: nothing, a bar named `what`, or calls of a function.

    The bar needs a terminal on standard error; without one nothing is shown.

    Raises
    ------
    InvalidRequestError
        It is neither True, False nor a function.
    """
    if callable(given):
        return Progress(given)
    if not isinstance(given, bool):
        raise invalid("progress", f"is {shortened(given)}; it must be True, False or a function")
    if not given or sys.stderr is None or not sys.stderr.isatty():
        return Progress()
    return _bar(what) if find_spec("rich") is not None else _line(what)


def line_by_line(what: str) -> ProgressFunction:
    """Return a function that writes a line on standard error for each twentieth of the work, for logs."""
    shown = -1

    def show(share: float, left: float | None) -> None:
        nonlocal shown
        step = int(share * _STEPS)
        if step == shown:
            return
        shown = step
        sys.stderr.write(f"{what}: {share:.0%} done{f', {_left(left)}' if left else ''}\n")
        sys.stderr.flush()

    return show


def _bar(what: str) -> Progress:
    """Draw a bar with rich, which removes it at the end."""
    progress: Any = importlib.import_module("rich.progress")
    console: Any = importlib.import_module("rich.console")
    bar = progress.Progress(
        "{task.description}",
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        "{task.fields[counted]}",
        "{task.fields[left]}",
        console=console.Console(stderr=True),
        transient=True,
    )
    task = bar.add_task(what, total=1.0, left="", counted="")

    def show(share: float, left: float | None) -> None:
        # It starts once; a call that never reports has no bar, and no thread that draws it.
        bar.start()
        bar.update(task, completed=share, left=_left(left))

    return Progress(show, bar.stop, count=lambda counted: bar.update(task, counted=counted))


def _line(what: str) -> Progress:
    """Write one line again and again, and remove it at the end."""
    said, width = "", 0

    def count(counted: str) -> None:
        nonlocal said
        said = counted

    def show(share: float, left: float | None) -> None:
        nonlocal width
        line = f"{what} {share:4.0%} {said and f'{said}, '}{_left(left)}"
        sys.stderr.write(f"\r{line:<{width}}")
        sys.stderr.flush()
        width = max(width, len(line))

    def end() -> None:
        sys.stderr.write("\r" + " " * width + "\r")
        sys.stderr.flush()

    return Progress(show, end, count=count)


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s left" if minutes else f"{rest} s left"
