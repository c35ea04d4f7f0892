"""What a request that is answered in parts has come to, as it comes: parts, and how far it is between them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable

from pellucid.v1 import dissection_pb2

from pellucid_server.jobs.pace import Pace
from pellucid_server.rpc.dissection import progress_message
from pellucid_server.vocabulary.messages import Part, Progress


class Rate:
    """How fast a request goes, as callers read it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._pace = Pace(clock)

    def message(self, progress: Progress) -> dissection_pb2.Progress:
        """Note a report and return what a caller reads of it."""
        pace = self._pace
        pace.note(progress)
        return progress_message(progress, rows_per_second=pace.rows_per_second, seconds_left=pace.seconds_left)


class Reports:
    """The last report of a request's progress."""

    def __init__(self) -> None:
        self.last = Progress(0, 0.0)
        self.changed = asyncio.Event()

    def take(self, progress: Progress) -> None:
        """Note a report."""
        self.last = progress
        self.changed.set()


async def followed(parts: AsyncGenerator[Part, None], reports: Reports) -> AsyncGenerator[Part | Progress, None]:
    """Yield the parts, and the reports that come between them; closing it closes the parts."""
    async with contextlib.aclosing(parts):
        due = asyncio.ensure_future(anext(parts, None))
        try:
            while True:
                change = asyncio.ensure_future(reports.changed.wait())
                try:
                    await asyncio.wait({due, change}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    change.cancel()
                if due.done():
                    part = due.result()
                    if part is None:
                        return
                    yield part
                    due = asyncio.ensure_future(anext(parts, None))
                else:
                    reports.changed.clear()
                    yield reports.last
        finally:
            due.cancel()
            await asyncio.gather(due, return_exceptions=True)
