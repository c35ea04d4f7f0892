"""A job in the server's memory: its present state, and the callers that wait for changes."""

import asyncio
from dataclasses import replace
from typing import Any

from pellucid_server.jobs.pace import Pace
from pellucid_server.jobs.records import JobRecord
from pellucid_server.vocabulary.findings import Findings
from pellucid_server.vocabulary.messages import Progress


class Job:
    """One job."""

    def __init__(self, record: JobRecord) -> None:
        self.pace = Pace()
        """How fast it goes."""
        self.preview: Findings | None = None
        """The estimate so far; None if there is none, or it has ended."""
        self.previews = 0
        """How many there were."""
        self.followers = 0
        """Callers that wait for its answer."""
        self.version = 0
        """Rises with each change."""
        self.removed = False
        """Whether it is gone from the server."""
        self.halted = False
        """Whether no more is to be done for it."""
        self.task: asyncio.Task[None] | None = None
        """Its work, while it is being done."""
        self.stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the job is on the disk, or could not be written."""
        self._record = record
        self._changed = asyncio.Event()

    @property
    def record(self) -> JobRecord:
        """What is known of it."""
        return self._record

    @property
    def id(self) -> str:
        """Its id."""
        return self._record.id

    @property
    def idle(self) -> bool:
        """Whether its work could begin."""
        return self.task is None and self.stored.done() and not (self.halted or self._record.over)

    def change(self, **facts: Any) -> JobRecord:
        """Note what has changed, and wake those who wait for that; return what is known then."""
        self._record = replace(self._record, **facts)
        if self._record.over:
            self.preview = None
        self.wake()
        return self._record

    def report(self, progress: Progress) -> None:
        """Take a report of its progress; the share never becomes less while the server runs."""
        known = self._record
        share, rows_done = max(progress.share, known.share), max(progress.rows_done, known.rows_done)
        rows = max(progress.rows, known.rows)
        self.pace.note(Progress(0, share, rows_done, rows))
        self.change(share=share, rows_done=rows_done, rows=rows)

    def show(self, preview: Findings) -> None:
        """Take an estimate so far."""
        self.preview = preview
        self.previews += 1
        self.wake()

    def wake(self) -> None:
        """Have those who wait look again."""
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self, version: int) -> None:
        """Wait until it is at another version than this one."""
        while self.version == version:
            await self._changed.wait()
