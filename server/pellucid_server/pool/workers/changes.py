"""What a worker was asked of its models and has not answered yet."""

import asyncio
from typing import Any, TypeVar

from pellucid_server.vocabulary.changes import Prepared
from pellucid_server.vocabulary.messages import Hello

T = TypeVar("T")


class WorkerLostError(Exception):
    """The worker was lost before it answered."""


class Awaited:
    """Answers of one worker that are waited for, by change."""

    def __init__(self) -> None:
        self._prepared: dict[int, asyncio.Future[Prepared]] = {}
        self._adopted: dict[int, asyncio.Future[Hello]] = {}

    async def prepared(self, change: int) -> Prepared:
        """Wait until a version is ready or known to be broken.

        Raises
        ------
        WorkerLostError
            The worker was lost.
        """
        return await _answer(self._prepared, change)

    async def adopted(self, change: int) -> Hello:
        """Wait until the worker serves what it was asked to; return what it says then. Raises as `prepared` does."""
        return await _answer(self._adopted, change)

    def take(self, answer: Prepared) -> None:
        """Hand over what came of a `Prepare`."""
        _hand_over(self._prepared, answer.change, answer)

    def take_hello(self, change: int, hello: Hello) -> None:
        """Hand over what came of an `Adopt`."""
        _hand_over(self._adopted, change, hello)

    def lose(self) -> None:
        """End all waits: the worker is lost."""
        every: tuple[asyncio.Future[Any], ...] = (*self._prepared.values(), *self._adopted.values())
        for waiting in every:
            if not waiting.done():
                waiting.set_exception(WorkerLostError())


async def _answer(waiting: dict[int, "asyncio.Future[T]"], change: int) -> T:
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    waiting[change] = future
    try:
        return await future
    finally:
        del waiting[change]


def _hand_over(waiting: dict[int, "asyncio.Future[T]"], change: int, answer: T) -> None:
    future = waiting.get(change)
    # Nobody waits any more for one that took too long.
    if future is not None and not future.done():
        future.set_result(answer)
