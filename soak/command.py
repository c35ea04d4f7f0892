"""What every process of callers has: the command line by which it is started, and an end."""

import argparse
import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Callers(Protocol):
    """The callers of one process."""

    async def run(self, stopped: asyncio.Event) -> None:
        """Call until `stopped` is set."""
        ...


def main(description: str | None, make: Callable[[str, Path, str, str], Callers]) -> None:
    """Call as the command line says until standard input ends, as it does with the conductor.

    Parameters
    ----------
    make
        Makes the callers of the server's address, the folder, the process's name and the seed.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("address")
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("seed")
    given = parser.parse_args()
    asyncio.run(_run(make(given.address, given.folder, given.name, given.seed)))


async def _run(callers: Callers) -> None:
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        loop.remove_reader(sys.stdin)
        stopped.set()

    loop.add_reader(sys.stdin, stop)
    await callers.run(stopped)
