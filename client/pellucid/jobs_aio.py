"""Jobs by the asyncio client."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from pellucid import job_calls
from pellucid.errors import PellucidError, TimedOutError, unreadable
from pellucid.findings import Findings
from pellucid.job_calls import CALL_SECONDS, ENDLESS_SECONDS, FETCH_SECONDS, WATCH_SECONDS, FetchedParts, JobRequest
from pellucid.job_records import Job, JobState, read_change
from pellucid.progress import ProgressOption, read_progress
from pellucid.retries import Tries

if TYPE_CHECKING:
    from pellucid.aio import AsyncClient


class AsyncJobs:
    """`pellucid.jobs.Jobs` for asyncio."""

    def __init__(self, client: "AsyncClient") -> None:
        self._client = client

    async def submit(self, request: JobRequest, *, priority: str | None = None, timeout: float | None = None) -> Job:
        """Have a request done; see `Jobs.submit`."""
        return await self._client._run(job_calls.submit(request), timeout, CALL_SECONDS, priority)

    async def list(
        self, *, model: str = "", states: Sequence[JobState] = (), timeout: float | None = None
    ) -> tuple[Job, ...]:
        """List jobs; see `Jobs.list`."""
        return await self._client._run(job_calls.listed(model, states), timeout, CALL_SECONDS)

    async def get(self, job: str | Job, *, timeout: float | None = None) -> Job:
        """Describe a job; see `Jobs.get`."""
        return await self._client._run(job_calls.get(job), timeout, CALL_SECONDS)

    async def watch(self, job: str | Job, *, timeout: float | None = None) -> AsyncGenerator[Job, None]:
        """Yield a job whenever something changes, until it has ended; see `Jobs.watch`.

        Put `contextlib.aclosing` around an iterator that is left early.
        """
        client, call = self._client, job_calls.watch(job)
        body, tries = call.serialized(), Tries(client._settings.retries)
        found: Job | None = None
        deadline = client._now() + (ENDLESS_SECONDS if timeout is None else client._settings.seconds(timeout, 0.0))
        while True:
            left = deadline - client._now()
            seconds = min(left, WATCH_SECONDS)
            try:
                metadata = client._settings.call_metadata(None)
                replies = client._stream(call.path, body, metadata, client._now() + seconds, seconds)
                async with aclosing(replies):
                    async for reply in replies:
                        tries = Tries(client._settings.retries)
                        found = read_change(call.parsed(reply))
                        yield found
                        if found.over:
                            return
                raise unreadable()
            except TimedOutError as error:
                if left > WATCH_SECONDS:
                    continue
                if found is None:
                    raise
                raise job_calls.unended(found, timeout) from error
            except PellucidError as error:
                pause = tries.pause_seconds(error, left)
            await client._pause(pause)

    async def wait(self, job: str | Job, *, progress: ProgressOption = False, timeout: float | None = None) -> Job:
        """Wait until a job is done; see `Jobs.wait`."""
        shown = read_progress(progress, "job")
        try:
            async with aclosing(self.watch(job, timeout=timeout)) as changes:
                async for found in changes:
                    job_calls.show(shown, found)
            return job_calls.outcome(found)
        finally:
            shown.close()

    async def cancel(self, job: str | Job, *, timeout: float | None = None) -> Job:
        """End a job's work; see `Jobs.cancel`."""
        return await self._client._run(job_calls.cancel(job), timeout, CALL_SECONDS)

    async def delete(self, job: str | Job, *, timeout: float | None = None) -> None:
        """Remove a job; see `Jobs.delete`."""
        await self._client._run(job_calls.delete(job), timeout, CALL_SECONDS)

    async def fetch(self, job: str | Job, *, timeout: float | None = None) -> Findings:
        """Return the answer of a job that is done; see `Jobs.fetch`."""
        client, parts = self._client, FetchedParts(job)
        seconds = client._settings.seconds(timeout, FETCH_SECONDS)
        deadline, tries = client._now() + seconds, Tries(client._settings.retries)
        metadata: Any = client._settings.call_metadata(None)
        while True:
            call = parts.call()
            try:
                replies = client._stream(call.path, call.serialized(), metadata, deadline, seconds)
                async with aclosing(replies):
                    async for reply in replies:
                        parts.add(call.parsed(reply))
                return parts.findings()
            except PellucidError as error:
                pause = tries.pause_seconds(error, deadline - client._now())
            await client._pause(pause)
