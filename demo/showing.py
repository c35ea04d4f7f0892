"""How the demo shows what it does."""

import contextlib
from collections.abc import Iterator

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

console = Console(highlight=False, soft_wrap=True)


class DemoError(Exception):
    """The demo did not show what it should."""


def seconds_text(seconds: float) -> str:
    """Write a time with its unit."""
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say what is waited for, and on a terminal for how long already."""
    if not console.is_terminal:
        console.print(f"  {what}...")
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(what, total=None)
        yield
