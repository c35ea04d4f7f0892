"""Large messages are decoded and encoded on a thread of their own, so that the event loop goes on meanwhile."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Made = TypeVar("Made")
Given = TypeVar("Given")


class Aside:
    """One thread beside the event loop: several would hold more copies at once, and share one interpreter anyway."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "aside")

    async def run(self, function: Callable[[], Made]) -> Made:
        """Return what `function` returns, called on the thread.

        A call that has begun is not stopped by cancelling: it ends by itself, and what it returns is dropped.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def close(self) -> None:
        """Take no more calls."""
        self._thread.shutdown(wait=False)
