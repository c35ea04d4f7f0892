"""All jobs of a server: who joins which, which is done next, and how long each is kept."""

import asyncio
import contextlib
import logging
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from pellucid_server.errors import OverloadedError, PellucidError
from pellucid_server.jobs.expiry import expired
from pellucid_server.jobs.failures import failure_of, lost_files, no_job, no_room, stopping
from pellucid_server.jobs.job import Job
from pellucid_server.jobs.keys import Asked, Wish, job_key
from pellucid_server.jobs.records import CANCELLED, DONE, FAILED, QUEUED, STATES, JobRecord
from pellucid_server.jobs.runner import Outside, Runner, Workers
from pellucid_server.jobs.sealed import DamageError
from pellucid_server.jobs.store import Store
from pellucid_server.jobs.turns import due
from pellucid_server.jobs.writing import Writing
from pellucid_server.settings.jobs import JobsConfig
from pellucid_server.settings.sections import INTERACTIVE

Made = TypeVar("Made")

_log = logging.getLogger(__name__)

BULK = "bulk"
"""The class of submitted jobs that name none."""

_LOOK_SECONDS = 60.0
"""How often it is looked whether a job's time is over."""


class Jobs:
    """The jobs; `start` has them done, `stop` interrupts those that were submitted, and `close` ends all work.

    Parameters
    ----------
    store
        Where they are written; this is its owner.
    capacity
        Submitted jobs that are done at once.
    outside
        What their work touches.
    ended
        Called with each job that has ended.
    """

    def __init__(
        self,
        store: Store,
        workers: Workers,
        config: JobsConfig,
        *,
        capacity: int,
        outside: Outside,
        ended: Callable[[JobRecord], None] = lambda record: None,
    ) -> None:
        self._writing = Writing(store)
        self._workers = workers
        self._config = config
        self._capacity = capacity
        self._outside = outside
        self._on_end = ended
        self._jobs: dict[str, Job] = {}
        self._by_key: dict[str, Job] = {}
        self._started = False
        self.stopping = False
        """Whether the server stops: what has not ended goes on at its next start."""
        self._deeds: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None
        store.remove(record.id for record in store.records if not (record.over or record.pinned))
        for record in store.records:
            if record.over or record.pinned:
                job = Job(record if record.over else replace(record, state=QUEUED))
                job.stored.set_result(None)
                self._add(job)

    def start(self) -> None:
        """Have jobs done from now on: the workers are ready."""
        self._started = True
        self._looking = asyncio.create_task(self._look())
        self._fill()

    async def stop(self) -> None:
        """Interrupt the submitted jobs, which go on when the server is started again; take no others."""
        self.stopping = True
        await self._interrupt([job for job in self._jobs.values() if job.record.pinned])
        for job in self._jobs.values():
            job.wake()

    async def close(self) -> None:
        """End all work, and close the store."""
        await self.stop()
        await self._interrupt(list(self._jobs.values()))
        if self._looking is not None:
            self._looking.cancel()
        await asyncio.gather(*self._deeds, return_exceptions=True)
        await self._writing.close()

    def all(self) -> Iterable[Job]:
        """Return all jobs, the newest first."""
        return sorted(self._jobs.values(), key=lambda job: (job.record.created, job.id), reverse=True)

    def counts(self) -> Counter[str]:
        """Return how many jobs are in each state; from any thread."""
        found = Counter(dict.fromkeys(STATES, 0))
        found.update(job.record.state for job in list(self._jobs.values()))
        return found

    @property
    def size_bytes(self) -> int:
        """The bytes of all jobs; from any thread."""
        return sum(job.record.size_bytes for job in list(self._jobs.values()))

    def find(self, job: str) -> Job:
        """Return a job.

        Raises
        ------
        NotFoundError
            There is none of that id.
        """
        if job not in self._jobs:
            raise no_job(job)
        return self._jobs[job]

    def wish(self, request: Asked, *, owner: str, dataset_digest: str = "", priority: str = "") -> Wish:
        """Return a request with its key; see `job_key`. On any thread."""
        key = job_key(request, owner=None if self._config.shared else owner, dataset_digest=dataset_digest)
        return Wish(request, key, owner, dataset_digest, priority)

    async def submit(self, wish: Wish) -> tuple[Job, bool]:
        """Have a request done; return its job once it is on the disk, and whether it was there already.

        Raises
        ------
        OverloadedError
            Too many jobs wait already, or there is no room on the disk.
        UnavailableError
            The server stops.
        """
        found = self._join(wish, pinned=True)
        await asyncio.shield(found[0].stored)
        return found

    @contextlib.asynccontextmanager
    async def followed(self, wish: Wish) -> AsyncGenerator[Job, None]:
        """Have a request done as long as a caller follows it, unless it was submitted; raises as `submit` does."""
        job, _ = self._join(wish, pinned=False)
        job.followers += 1
        try:
            await asyncio.shield(job.stored)
            yield job
        finally:
            job.followers -= 1
            if not job.followers and not job.record.pinned and job.record.state != DONE and not job.removed:
                self._forget(job)
                self._do(self._remove(job))

    async def cancel(self, job: Job) -> None:
        """End a job's work; one that has ended stays as it is."""
        await asyncio.shield(self._do(self._cancel(job)))

    async def remove(self, job: Job) -> None:
        """Remove a job and all that belongs to it."""
        self._forget(job)
        await asyncio.shield(self._do(self._remove(job)))

    async def parts(
        self, job: Job, first: int, read: Callable[[bytes], Made]
    ) -> AsyncGenerator[tuple[int, Made], None]:
        """Yield the parts of a job's answer that are stored now, from a number on, with their numbers.

        Raises
        ------
        NotFoundError
            The job is removed meanwhile.
        UnavailableError
            One cannot be read: the job has no answer any more.
        """
        try:
            async for each in self._writing.parts(job.id, range(first, job.record.parts), read):
                yield each
        except DamageError as error:
            if job.removed:
                raise no_job(job.id) from None
            if job.record.state == DONE and not job.halted:
                _log.exception("the answer of the job %s cannot be read", job.id)
                job.halted = True
                self._unjoin(job)
                self._do(self._end(job, FAILED, lost_files()))
            raise lost_files() from error

    def _join(self, wish: Wish, *, pinned: bool) -> tuple[Job, bool]:
        """Return the job that a request joins, or a new one. Equal requests that come at once find the first."""
        job = self._by_key.get(wish.key)
        if job is None:
            self._check_open(pinned=pinned)
            job = self._new(wish, pinned=pinned)
            self._do(self._create(job, wish.request))
            return job, False
        if pinned and not job.record.pinned:
            job.change(pinned=True)
            self._do(self._pin(job))
        return job, True

    def _check_open(self, *, pinned: bool) -> None:
        if self.stopping:
            raise stopping()
        waiting = sum(not job.record.over for job in self._jobs.values())
        if pinned and waiting >= self._config.most_waiting:
            text = f"{waiting} jobs have not ended, and no more may wait (jobs.most_waiting); try again later."
            raise OverloadedError(text, retry_after_seconds="10.000")

    def _new(self, wish: Wish, *, pinned: bool) -> Job:
        request = wish.request
        record = JobRecord(
            id=secrets.token_hex(16),
            key=wish.key,
            owner=wish.owner,
            verb=type(request).__name__.removesuffix("Request"),
            method=request.method,
            model=request.model,
            created=self._outside.clock(),
            priority=wish.priority or (BULK if pinned else INTERACTIVE),
            shared=self._config.shared,
            pinned=pinned,
            dataset=request.dataset,
            dataset_digest=wish.dataset_digest,
        )
        job = Job(record)
        self._add(job)
        return job

    def _add(self, job: Job) -> None:
        self._jobs[job.id] = job
        if job.record.joinable:
            self._by_key[job.record.key] = job

    async def _create(self, job: Job, request: Asked) -> None:
        """Write a new job, and have it done."""
        try:
            created = await self._writing.run(lambda store: store.create(job.record, request))
        except Exception as error:  # noqa: BLE001 - its callers get the error
            self._forget(job)
            job.stored.set_exception(error)
            # The last caller may have left.
            job.stored.exception()
            with contextlib.suppress(PellucidError):
                await self._writing.run(lambda store: store.drop_files(job.id))
            return
        job.change(size_bytes=created.size_bytes)
        job.stored.set_result(None)
        self._fill()

    async def _pin(self, job: Job) -> None:
        await asyncio.shield(job.stored)
        await self._writing.run(lambda store: store.pin(job.id))

    async def _cancel(self, job: Job) -> None:
        if job.halted:
            # It is being cancelled, or removed, already.
            while not (job.record.over or job.removed):
                await job.changed(job.version)
        elif not job.record.over:
            job.halted = True
            self._unjoin(job)
            await self._interrupt([job])
            if not job.record.over:
                await self._end(job, CANCELLED)

    def _forget(self, job: Job) -> None:
        """Hide a job from all callers, before its files are removed."""
        job.removed = job.halted = True
        self._jobs.pop(job.id, None)
        self._unjoin(job)

    def _unjoin(self, job: Job) -> None:
        if self._by_key.get(job.record.key) is job:
            del self._by_key[job.record.key]

    async def _remove(self, job: Job) -> None:
        await self._interrupt([job])
        await self._writing.run(lambda store: store.remove([job.id]))
        job.wake()

    def _fill(self) -> None:
        """Begin the jobs whose turn it is."""
        if not self._started or self.stopping:
            return
        for job in due(self._jobs.values(), self._capacity):
            job.task = asyncio.create_task(self._work(job))
            job.task.add_done_callback(partial(self._rest, job))

    def _rest(self, job: Job, _: "asyncio.Task[None]") -> None:
        """Let the next have the turn of a job whose work has ended, or was cancelled before its first step."""
        job.task = None
        self._fill()

    async def _work(self, job: Job) -> None:
        try:
            await Runner(job, self._workers, self._writing, self._outside, self._make_room).run()
        except PellucidError as error:
            await self._end(job, FAILED, error)
        except Exception:  # noqa: BLE001 - a bug costs its own job and no other
            _log.exception("the job %s failed", job.id)
            await self._end(job, FAILED, PellucidError(f"a bug in the job {job.id}"))
        else:
            if not job.record.joinable:
                self._by_key = {key: each for key, each in self._by_key.items() if each is not job}
            self._on_end(job.record)
        self._do(self._expire())

    async def _end(self, job: Job, state: str, error: PellucidError | None = None) -> None:
        """End a job without an answer: what was stored of it makes room."""
        failure = None if error is None else failure_of(error)
        facts = {"state": state, "ended": self._outside.clock(), "failure": failure, "parts": 0, "size_bytes": 0}
        ended = replace(job.record, **facts)  # type: ignore[arg-type]
        try:
            await self._writing.run(lambda store: store.drop_files(job.id))
            await self._writing.run(lambda store: store.put(ended))
        except PellucidError:
            # It begins anew after a restart; until then it is known to have ended.
            _log.exception("the end of the job %s could not be stored", job.id)
        self._unjoin(job)
        job.change(**facts)
        self._on_end(job.record)

    async def _interrupt(self, jobs: list[Job]) -> None:
        """Stop the work at jobs; where they stand is stored."""
        tasks = [job.task for job in jobs if job.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self._expire()

    async def _expire(self) -> None:
        """Remove the jobs whose time is over, and those that ended first where there are too many."""
        records = [job.record for job in self._jobs.values()]
        for each in expired(records, self._config, now=self._outside.clock()):
            job = self._jobs.get(each)
            if job is not None:
                await self.remove(job)

    async def _make_room(self) -> None:
        """Remove others for a job that has grown; raise if that is not enough."""
        await self._expire()
        if self.size_bytes > self._config.most_bytes:
            raise no_room(f"The jobs of this server may take {self._config.most_bytes} bytes, and have taken them.")

    def _do(self, deed: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Do something beside the callers, who may leave; return the task."""
        task = asyncio.create_task(deed)
        self._deeds.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._deeds.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a change of a job could not be stored", exc_info=error)
