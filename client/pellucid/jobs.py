"""Jobs: long requests that a server does by itself, with answers that it stores. Preview: it may change."""

import contextlib
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

from pellucid import job_calls
from pellucid.errors import PellucidError, TimedOutError, unreadable
from pellucid.findings import Findings
from pellucid.job_calls import CALL_SECONDS, ENDLESS_SECONDS, FETCH_SECONDS, WATCH_SECONDS, FetchedParts, JobRequest
from pellucid.job_records import Job, JobProgress, JobState, read_change
from pellucid.progress import ProgressOption, read_progress
from pellucid.retries import Tries

if TYPE_CHECKING:
    from pellucid.client import Client

__all__ = ["Job", "JobProgress", "JobRequest", "JobState", "Jobs"]


class Jobs:
    """A client's calls about jobs: `client.jobs`. A job is named by its id, or by itself."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def submit(self, request: JobRequest, *, priority: str | None = None, timeout: float | None = None) -> Job:
        """Have a request done, whether its caller stays or not; the same request joins the job that is there.

        Parameters
        ----------
        request
            A `DissectRequest` or an `AblateRequest` of the schema.
        priority
            The class of the work; None for "bulk".
        timeout
            Deadline of this call in seconds; None for 30. The job has none.

        Raises
        ------
        UnsupportedError
            The server takes no jobs, or the model cannot do it.
        PellucidError
            The request is wrong, or too many jobs wait.
        """
        return self._client._run(job_calls.submit(request), timeout, CALL_SECONDS, priority)

    def list(
        self, *, model: str = "", states: Sequence[JobState] = (), timeout: float | None = None
    ) -> tuple[Job, ...]:
        """List the jobs that the caller may know of, the newest first: of a model alone, or in some states."""
        return self._client._run(job_calls.listed(model, states), timeout, CALL_SECONDS)

    def get(self, job: str | Job, *, timeout: float | None = None) -> Job:
        """Describe a job.

        Raises
        ------
        NotFoundError
            There is none of that id, or it is another's.
        """
        return self._client._run(job_calls.get(job), timeout, CALL_SECONDS)

    def watch(self, job: str | Job, *, timeout: float | None = None) -> Generator[Job, None, None]:
        """Yield a job as it is now and whenever something changes, until it has ended.

        A connection that is lost, and a server that is started again, are waited for.

        Parameters
        ----------
        timeout
            How long to watch, in seconds; None for as long as it takes.

        Raises
        ------
        TimedOutError
            It has not ended within the timeout.
        NotFoundError
            There is none of that id, or it is another's, or it is deleted meanwhile.
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
                with contextlib.closing(replies):
                    for reply in replies:
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
            client._pause(pause)

    def wait(self, job: str | Job, *, progress: ProgressOption = False, timeout: float | None = None) -> Job:
        """Wait until a job is done, and return it.

        Parameters
        ----------
        progress
            True for a bar on a terminal, or a function of the share done and the seconds left.
        timeout
            How long to wait, in seconds; None for as long as it takes.

        Raises
        ------
        PellucidError
            What the job failed with; `CancelledError` if it was cancelled; or as `watch` raises.
        """
        shown = read_progress(progress, "job")
        try:
            with contextlib.closing(self.watch(job, timeout=timeout)) as changes:
                for found in changes:
                    job_calls.show(shown, found)
            return job_calls.outcome(found)
        finally:
            shown.close()

    def cancel(self, job: str | Job, *, timeout: float | None = None) -> Job:
        """End a job's work, and return the job as it is then; one that has ended stays as it is."""
        return self._client._run(job_calls.cancel(job), timeout, CALL_SECONDS)

    def delete(self, job: str | Job, *, timeout: float | None = None) -> None:
        """Remove a job, and all that belongs to it, from the server; one that runs is cancelled first."""
        self._client._run(job_calls.delete(job), timeout, CALL_SECONDS)

    def fetch(self, job: str | Job, *, timeout: float | None = None) -> Findings:
        """Return the answer of a job that is done: all its parts put together.

        Raises
        ------
        UnsupportedError
            It is not done.
        NotFoundError
            There is none of that id, or it is another's.
        PermissionDeniedError
            The caller may not ask that of the model any more.
        """
        client, parts = self._client, FetchedParts(job)
        seconds = client._settings.seconds(timeout, FETCH_SECONDS)
        deadline, tries = client._now() + seconds, Tries(client._settings.retries)
        metadata: Any = client._settings.call_metadata(None)
        while True:
            call = parts.call()
            try:
                replies = client._stream(call.path, call.serialized(), metadata, deadline, seconds)
                with contextlib.closing(replies):
                    for reply in replies:
                        parts.add(call.parsed(reply))
                return parts.findings()
            except PellucidError as error:
                pause = tries.pause_seconds(error, deadline - client._now())
            client._pause(pause)
