"""`Dissect` by a job: callers who ask the same follow one, and a stored answer is sent again."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from functools import partial

from pellucid.v1 import explanation_service_pb2, findings_pb2

from pellucid_server.errors import CancelledError, PellucidError, TimedOutError
from pellucid_server.jobs.failures import error_of, stopping
from pellucid_server.jobs.job import Job
from pellucid_server.jobs.jobs import Jobs
from pellucid_server.jobs.records import DONE, RUNNING
from pellucid_server.rpc.arrival import Call
from pellucid_server.rpc.aside import Aside
from pellucid_server.rpc.findings import findings_message
from pellucid_server.rpc.job_messages import job_progress, read_part
from pellucid_server.rpc.job_requests import wish_of
from pellucid_server.settings.sections import ClassConfig
from pellucid_server.vocabulary.messages import Hello
from pellucid_server.vocabulary.requests import DissectRequest

_LEAST_SECONDS = 0.1
"""Time between two reports of progress to one caller."""

Response = explanation_service_pb2.DissectResponse


class FollowedJobs:
    """Answers calls of `Dissect` by jobs.

    Parameters
    ----------
    classes
        The classes of requests.
    aside
        Finds the keys of large requests.
    """

    def __init__(self, jobs: Jobs, classes: Mapping[str, ClassConfig], aside: Aside) -> None:
        self._jobs = jobs
        self._classes = classes
        self._aside = aside

    async def answer(self, asked: DissectRequest, call: Call, hello: Hello | None) -> AsyncGenerator[Response, None]:
        """Yield the answer to a request: what is stored of it, and then what comes.

        Raises
        ------
        TimedOutError
            The call's deadline passed.
        PellucidError
            The job failed so, or was cancelled.
        """
        wished = partial(wish_of, self._jobs, asked, call, hello, self._classes)
        wish = await self._aside.run(wished) if call.large else wished()
        async with self._jobs.followed(wish) as job:
            call.answered_by, call.priority = job.record.model, job.record.priority
            number, seen, reported = 0, job.previews, 0.0
            while True:
                version, record, now = job.version, job.record, time.monotonic()
                if job.preview is not None and job.previews != seen:
                    yield _response(job, findings_message(job.preview), preview=True)
                elif not record.over and now - reported >= _LEAST_SECONDS:
                    reported = now
                    yield Response(progress=job_progress(job))
                seen = job.previews
                async for place, part in self._jobs.parts(job, number, read_part):
                    number, call.large_reply = place + 1, part.large
                    yield _response(job, part.findings, part=place)
                if record.state == DONE:
                    return
                self._check(job)
                await _change(job, version, call)

    def _check(self, job: Job) -> None:
        """Raise what ends the wait for a job that has no more to come."""
        record = job.record
        if job.removed:
            raise CancelledError("The job that does this request was deleted; ask again.", stage=RUNNING)
        if record.failure is not None:
            raise error_of(record.failure)
        if record.over and record.state != DONE:
            raise CancelledError("The job that does this request was cancelled; ask again.", stage=RUNNING)
        if self._jobs.stopping and job.task is None and not record.over:
            raise stopping()


def _response(job: Job, found: findings_pb2.Findings, *, part: int = 0, preview: bool = False) -> Response:
    return Response(progress=job_progress(job), findings=found, part=part, preview=preview)


async def _change(job: Job, version: int, call: Call) -> None:
    """Wait until something has changed, but not beyond the deadline."""
    try:
        async with asyncio.timeout(call.remaining_seconds):
            await job.changed(version)
    except TimeoutError as error:
        raise _late(job) from error


def _late(job: Job) -> PellucidError:
    stage = "running" if job.record.state == RUNNING else "queued"
    text = "The deadline passed before the answer was ready; a request that is submitted as a job needs none."
    return TimedOutError(text, stage=stage)
