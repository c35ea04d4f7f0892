"""Does one job: from its last checkpoint on, however often a worker is lost, as long as it gets on."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol

from pellucid_server.errors import FatalRequestError, OverloadedError, PellucidError, UnavailableError, UnsupportedError
from pellucid_server.faults import Faults
from pellucid_server.jobs.job import Job
from pellucid_server.jobs.records import DONE, RUNNING
from pellucid_server.jobs.writing import Writing
from pellucid_server.pool.queue.part_queue import Begun
from pellucid_server.pool.queue.ticket import OnProgress
from pellucid_server.vocabulary.findings import Findings
from pellucid_server.vocabulary.messages import Hello, Part, Progress
from pellucid_server.vocabulary.requests import Request
from pellucid_server.vocabulary.results import RequestTiming

CHECKPOINT_SECONDS = 1.0
"""Least time between two checkpoints that are written."""

MOST_LOSSES = 3
"""Times in a row that the workers may be lost without a checkpoint further on; then the job fails."""

_MOST_PAUSE_SECONDS = 5.0


class Workers(Protocol):
    """What jobs need of the pool."""

    @property
    def hello(self) -> Hello | None:
        """What the workers serve."""
        ...

    def stream(
        self,
        request: Request,
        deadline_seconds: float | None = None,
        *,
        caller: str,
        priority: str,
        on_progress: OnProgress | None = None,
        on_end: Callable[[RequestTiming], None],
        begun: Begun | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> AsyncGenerator[Part, None]:
        """Do one request that is answered in parts."""
        ...


@dataclass(frozen=True, slots=True)
class Outside:
    """What a job's work touches beside the pool and the store.

    Attributes
    ----------
    encode
        Returns the bytes that a part of an answer is stored as; called on the store's thread.
    answered
        Takes each last part, which has the receipt.
    charge
        Takes the owner of a job and what its work took.
    ready
        Waits until workers take requests.
    faults
        Its point "storing".
    clock
        Returns the Unix time.
    """

    encode: Callable[[Findings], bytes]
    answered: Callable[[Findings], None]
    charge: Callable[[str, RequestTiming], None]
    ready: Callable[[], Awaitable[None]]
    faults: Faults
    clock: Callable[[], float] = time.time


class Runner:
    """The work at one job; `run` once.

    Parameters
    ----------
    make_room
        Makes room for what the job has written; raises if there is none.
    """

    def __init__(
        self, job: Job, workers: Workers, writing: Writing, outside: Outside, make_room: Callable[[], Awaitable[None]]
    ) -> None:
        self._make_room = make_room
        self._job = job
        self._workers = workers
        self._writing = writing
        self._outside = outside
        self._standing: Part | None = None
        """Where the job stands: `number` is how many parts of the answer came before."""
        self._written: Part | None = None
        self._written_at = -CHECKPOINT_SECONDS
        self._advanced = False
        self._counted = job.record.resumed
        self._parts = 0
        self._dataset_digest = job.record.dataset_digest

    async def run(self) -> None:
        """Do the job to its end.

        Raises
        ------
        PellucidError
            It cannot be done, or its answer cannot be stored.
        """
        job, losses = self._job, 0
        request = await self._writing.run(lambda store: store.request(job.id))
        self._standing = self._written = await self._writing.run(lambda store: store.checkpoint(job.id))
        begun = job.record.started is not None
        await self._put(
            state=RUNNING,
            started=job.record.started if begun else self._outside.clock(),
            resumed=job.record.resumed + begun,
        )
        self._counted = job.record.resumed
        try:
            while True:
                await self._outside.ready()
                self._check_served()
                self._advanced = False
                try:
                    await self._attempt(request)
                except (UnavailableError, FatalRequestError) as error:
                    losses = 1 if self._advanced else losses + 1
                    if losses >= MOST_LOSSES or (isinstance(error, FatalRequestError) and not self._advanced):
                        raise
                    self._note_loss()
                except OverloadedError as error:
                    # The queue of its class is full: there is no hurry.
                    if "retry_after_seconds" not in error.metadata:
                        raise
                    await asyncio.sleep(min(float(error.metadata["retry_after_seconds"]), _MOST_PAUSE_SECONDS))
                else:
                    break
        finally:
            await self._save_standing()
        self._check_unchanged()
        await self._put(
            state=DONE,
            ended=self._outside.clock(),
            share=1.0,
            parts=self._parts,
            size_bytes=await self._writing.run(lambda store: store.size(job.id)),
            key=job.record.key if self._dataset_digest == job.record.dataset_digest else "",
        )

    async def _attempt(self, request: Request) -> None:
        """Have the workers go on with the request from where it stands, and store what comes."""
        job, standing = self._job, self._standing
        self._parts = 0 if standing is None else standing.number
        begun = None
        if standing is not None:
            checkpoint = standing.body if standing.state is None else standing.state
            begun = Begun(standing.number, checkpoint, standing.digest)
        parts = self._workers.stream(
            request,
            None,
            caller=job.record.owner or "jobs",
            priority=job.record.priority,
            on_progress=job.report,
            on_end=lambda timing: self._outside.charge(job.record.owner, timing),
            begun=begun,
            on_lost=self._note_loss,
        )
        try:
            async with contextlib.aclosing(parts):
                async for part in parts:
                    await self._outside.faults.pass_by("storing", model=job.record.model.name)
                    await self._take(part)
        except PellucidError as error:
            if isinstance(error.timing, RequestTiming):
                self._outside.charge(job.record.owner, error.timing)
            raise

    async def _take(self, part: Part) -> None:
        job = self._job
        if part.preview:
            job.show(part.body)
            return
        if not part.silent:
            number, encode = self._parts, self._outside.encode
            await self._writing.run(lambda store: store.save_part(job.id, number, encode(part.body)))
            self._parts += 1
            if part.body.receipt is None:
                # The last part counts once the job is done: a caller that has read it has the whole answer.
                job.change(parts=max(job.record.parts, self._parts))
            else:
                self._outside.answered(part.body)
                self._dataset_digest = _dataset_digest(part.body) or self._dataset_digest
        if part.checkpoint:
            self._advanced |= part.beyond(self._standing)
            body = part.body if part.state is None else Findings()
            self._standing = replace(part, request_number=0, number=self._parts, body=body)
        job.report(Progress(0, part.share, part.rows_done, part.rows))
        if time.monotonic() - self._written_at >= CHECKPOINT_SECONDS:
            await self._save_standing()
            await self._make_room()

    async def _save_standing(self) -> None:
        """Write where the job stands, if it has got on since that was written."""
        standing, job = self._standing, self._job
        if job.record.resumed != self._counted:
            self._counted = job.record.resumed
            await self._put(resumed=self._counted)
        if standing is None or standing is self._written:
            return
        await self._writing.run(lambda store: store.save_checkpoint(job.id, standing))
        self._written, self._written_at = standing, time.monotonic()
        job.change(size_bytes=await self._writing.run(lambda store: store.size(job.id)))

    def _note_loss(self) -> None:
        """Count that the work is gone on with, by another worker."""
        self._job.change(resumed=self._job.record.resumed + 1)

    def _check_served(self) -> None:
        """Refuse to go on by another model version, or with other data, than the job was begun with."""
        hello, record = self._workers.hello, self._job.record
        if hello is None:
            return
        if all(each.key != record.model for each in hello.models):
            where = f"{record.model.name}/{record.model.version}"
            text = f"The model version {where} that the job began on is no longer served; submit the job again."
            raise UnsupportedError(text, subject=f"models/{where}")
        digests = {each.name: each.digest for each in hello.datasets}
        if self._standing is not None and digests.get(record.dataset) not in (None, "", record.dataset_digest):
            raise self._changed_data()

    def _check_unchanged(self) -> None:
        """Refuse an answer whose parts may be of different data."""
        if self._job.record.resumed and self._dataset_digest != self._job.record.dataset_digest:
            raise self._changed_data()

    def _changed_data(self) -> PellucidError:
        name = self._job.record.dataset
        text = f"The files of the data set {name!r} have changed since the job began; submit the job again."
        return UnsupportedError(text, subject=f"datasets/{name}")

    async def _put(self, **facts: object) -> None:
        """Change what is known of the job, on the disk first."""
        changed = replace(self._job.record, **facts)  # type: ignore[arg-type]
        await self._writing.run(lambda store: store.put(changed))
        self._job.change(**facts)


def _dataset_digest(last: Findings) -> str:
    """Return the digest of the data set that an answer is a function of; empty without one."""
    record = last.dissection or last.ablation
    return "" if record is None else record.dataset_digest
