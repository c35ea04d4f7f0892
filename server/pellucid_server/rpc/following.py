"""What a request that is answered in parts has come to, as it comes: parts, and how far it is between them."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable

from pellucid.v1 import dissection_pb2

from pellucid_server.rpc.dissection import progress_message
from pellucid_server.vocabulary.messages import Part, Progress

_WINDOW_SECONDS = 30.0
"""The time over which a rate is taken."""


class Rate:
    """How fast a request goes, from its last reports."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reports: deque[tuple[float, Progress]] = deque()

    def message(self, progress: Progress) -> dissection_pb2.Progress:
        """Note a report and return what a caller reads of it."""
        now = self._clock()
        self._reports.append((now, progress))
        while len(self._reports) > 2 and now - self._reports[0][0] > _WINDOW_SECONDS:
            self._reports.popleft()
        then, before = self._reports[0]
        seconds, share = now - then, progress.share - before.share
        rows_per_second = (progress.rows_done - before.rows_done) / seconds if seconds > 0 else 0.0
        left = (1 - progress.share) * seconds / share if share > 0 and seconds > 0 else None
        return progress_message(progress, rows_per_second=max(rows_per_second, 0.0), seconds_left=left)


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
