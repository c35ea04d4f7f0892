"""The store from the event loop: every call waits its turn on one thread."""

import asyncio
import errno
import logging
import sqlite3
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from pellucid_server.errors import UnavailableError
from pellucid_server.jobs.failures import no_room
from pellucid_server.jobs.store import Store

Made = TypeVar("Made")

_log = logging.getLogger(__name__)

_TEXT = "The disk that the server stores jobs on is full."
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class Writing:
    """Does what is asked of the store, in order, on a thread of its own."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._thread = ThreadPoolExecutor(1, "jobs")

    async def run(self, function: Callable[[Store], Made]) -> Made:
        """Return what `function` returns; one that has begun goes to its end, even if its caller is cancelled.

        Raises
        ------
        OverloadedError
            The disk is full.
        UnavailableError
            The folder cannot be read or written for another reason, which is logged.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function, self.store)
        except OSError as error:
            if error.errno in _FULL:
                raise no_room(_TEXT) from error
            raise _unusable() from error
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise no_room(_TEXT) from error
            raise _unusable() from error

    async def parts(
        self, job: str, numbers: range, read: Callable[[bytes], Made]
    ) -> AsyncGenerator[tuple[int, Made], None]:
        """Yield stored parts of a job's answer with their numbers, as `read` makes them on the thread.

        Raises
        ------
        DamageError
            One cannot be read.
        """
        for number in numbers:
            yield number, await self.run(partial(_read_part, job, number, read))

    async def close(self) -> None:
        """Close the store, after all that was asked for."""
        await self.run(Store.close)
        self._thread.shutdown(wait=False)


def _unusable() -> UnavailableError:
    """Log the error that is being handled, which may name paths, and return what callers read in its place."""
    _log.exception("the folder of jobs cannot be used")
    text = "The server cannot read or write its folder of jobs now; its log says why. Try again later."
    return UnavailableError(text, retry_after_seconds="5.000")


def _read_part(job: str, number: int, read: Callable[[bytes], Made], store: Store) -> Made:
    return read(store.part(job, number))
