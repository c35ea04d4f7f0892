"""The job service: long requests that the server does by itself, with answers that it stores."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from functools import partial
from typing import Protocol

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from pellucid.v1 import job_service_pb2

from pellucid_server.config import Config
from pellucid_server.errors import InvalidRequestError, UnsupportedError
from pellucid_server.jobs.failures import no_job, stopping
from pellucid_server.jobs.job import Job
from pellucid_server.jobs.jobs import Jobs
from pellucid_server.jobs.keys import Asked
from pellucid_server.jobs.records import DONE
from pellucid_server.rpc import ablation, dissection
from pellucid_server.rpc.arrival import Call
from pellucid_server.rpc.aside import Aside
from pellucid_server.rpc.boundary import Boundary
from pellucid_server.rpc.codec import refuse
from pellucid_server.rpc.findings import findings_message
from pellucid_server.rpc.handlers import GuardedHandlers
from pellucid_server.rpc.job_messages import STATES, job_message, read_part
from pellucid_server.rpc.job_requests import check_known, check_readable, is_admin, is_owner, may_know, wish_of
from pellucid_server.rpc.large_fields import LargeFields
from pellucid_server.settings.jobs import JobsConfig
from pellucid_server.settings.sections import ClassConfig, LimitsConfig
from pellucid_server.vocabulary.messages import Hello

JOB_SERVICE: ServiceDescriptor = job_service_pb2.DESCRIPTOR.services_by_name["JobService"]

_LEAST_SECONDS = 0.2
"""Time between two messages to one who watches."""

_USUAL_PAGE, _MOST_PAGE = 100, 1000
_WORDS = {number: word for word, number in STATES.items()}


class Served(Protocol):
    """What the handlers need of the pool."""

    @property
    def hello(self) -> Hello | None:
        """What the workers serve."""
        ...


class JobService:
    """Submits, shows, ends and hands out jobs.

    Parameters
    ----------
    jobs
        The jobs; None on a server without a folder for them.
    aside
        Reads large requests.
    """

    def __init__(
        self,
        jobs: Jobs | None,
        served: Served,
        config: JobsConfig,
        limits: LimitsConfig,
        classes: Mapping[str, ClassConfig],
        aside: Aside,
    ) -> None:
        self._with_folder = jobs
        self._served = served
        self._config = config
        self._limits = limits
        self._classes = classes
        self._aside = aside

    async def SubmitJob(  # noqa: N802 - the schema's name
        self, request: job_service_pb2.SubmitJobRequest, call: Call
    ) -> job_service_pb2.SubmitJobResponse:
        """Have a request done, or join the job that does it."""
        jobs = self._jobs
        read = partial(_asked, request, self._limits, call.take_large_fields())
        del request
        asked = await self._aside.run(read) if call.large else read()
        del read
        wished = partial(wish_of, jobs, asked, call, self._served.hello, self._classes)
        wish = await self._aside.run(wished) if call.large else wished()
        job, joined = await jobs.submit(wish)
        return job_service_pb2.SubmitJobResponse(job=self._message(job, call), joined=joined)

    async def ListJobs(  # noqa: N802 - the schema's name
        self, request: job_service_pb2.ListJobsRequest, call: Call
    ) -> job_service_pb2.ListJobsResponse:
        """List the jobs that the caller may know of."""
        size = _page_size(request)
        found = list(_after(_matching(self._jobs.all(), request, call), request.page_token))
        page = found[:size]
        more = f"{page[-1].record.created!r}/{page[-1].id}" if len(found) > size else ""
        return job_service_pb2.ListJobsResponse(jobs=[self._message(each, call) for each in page], next_page_token=more)

    async def GetJob(  # noqa: N802 - the schema's name
        self, request: job_service_pb2.GetJobRequest, call: Call
    ) -> job_service_pb2.GetJobResponse:
        """Describe a job."""
        return job_service_pb2.GetJobResponse(job=self._message(self._find(request.id, call), call))

    async def WatchJob(  # noqa: N802 - the schema's name
        self, request: job_service_pb2.WatchJobRequest, call: Call
    ) -> AsyncGenerator[job_service_pb2.WatchJobResponse, None]:
        """Describe a job whenever something changes."""
        job, seen = self._find(request.id, call), 0
        check_readable(job.record, call)
        while True:
            version, sent = job.version, time.monotonic()
            preview = None if job.preview is None or job.previews == seen else findings_message(job.preview)
            seen = job.previews
            yield job_service_pb2.WatchJobResponse(job=self._message(job, call), preview=preview)
            if job.record.over:
                return
            await job.changed(version)
            await asyncio.sleep(max(0.0, sent + _LEAST_SECONDS - time.monotonic()))
            if job.removed:
                raise no_job(job.id)
            if self._jobs.stopping and not job.record.over:
                raise stopping()

    async def CancelJob(  # noqa: N802 - the schema's name
        self, request: job_service_pb2.CancelJobRequest, call: Call
    ) -> job_service_pb2.CancelJobResponse:
        """End a job's work."""
        job = self._own(request.id, call)
        await self._jobs.cancel(job)
        return job_service_pb2.CancelJobResponse(job=self._message(job, call))

    async def DeleteJob(  # noqa: N802 - the schema's name
        self, request: job_service_pb2.DeleteJobRequest, call: Call
    ) -> job_service_pb2.DeleteJobResponse:
        """Remove a job and all that belongs to it."""
        await self._jobs.remove(self._own(request.id, call))
        return job_service_pb2.DeleteJobResponse()

    async def FetchJob(  # noqa: N802 - the schema's name
        self, request: job_service_pb2.FetchJobRequest, call: Call
    ) -> AsyncGenerator[job_service_pb2.FetchJobResponse, None]:
        """Send the answer of a job that is done."""
        job = self._find(request.id, call)
        check_readable(job.record, call)
        record = job.record
        if record.state != DONE:
            then = "submit it again." if record.over else "WatchJob says when it is done."
            text = f"The job {job.id} is {record.state}, and has no answer to send; {then}"
            raise UnsupportedError(text, subject=f"jobs/{job.id}")
        if not 0 <= request.first_part <= record.parts:
            refuse("first_part", f"is {request.first_part}; the answer has {record.parts} parts, numbered from 0")
        call.answered_by, call.method = record.model, record.method
        async for number, part in self._jobs.parts(job, request.first_part, read_part):
            call.large_reply = part.large
            yield job_service_pb2.FetchJobResponse(findings=part.findings, part=number)

    @property
    def _jobs(self) -> Jobs:
        if self._with_folder is None:
            text = "This server has no folder for jobs, and takes none; the setting jobs.folder names one."
            raise UnsupportedError(text, subject="jobs")
        return self._with_folder

    def _find(self, name: str, call: Call) -> Job:
        if not name:
            refuse("id", "is empty; SubmitJob and ListJobs give it")
        job = self._jobs.find(name)
        check_known(job.record, call)
        return job

    def _own(self, name: str, call: Call) -> Job:
        """Return a job that the caller may end: one that is shared is its owner's all the same."""
        job = self._find(name, call)
        if not is_owner(job.record, call):
            raise no_job(name)
        return job

    def _message(self, job: Job, call: Call) -> job_service_pb2.Job:
        return job_message(job, self._config, request_id=call.request_id, show_owner=is_admin(call))


def _asked(request: job_service_pb2.SubmitJobRequest, limits: LimitsConfig, large: LargeFields) -> Asked:
    """Read the request that a job is to do; errors name fields by their path from the outer one."""
    which = request.WhichOneof("request")
    if which is None:
        refuse("request", "is not set; set dissect or ablate")
    try:
        if which == "dissect":
            return dissection.dissect_request(request.dissect, limits, large)
        return ablation.ablate_request(request.ablate, limits, large)
    except InvalidRequestError as error:
        if "field" not in error.metadata:
            raise
        metadata = {**error.metadata, "field": f"{which}.{error.metadata['field']}"}
        raise InvalidRequestError(f"{which}.{error.message}", **metadata) from error


def _matching(jobs: Iterable[Job], request: job_service_pb2.ListJobsRequest, call: Call) -> Iterable[Job]:
    states = set()
    for number, state in enumerate(request.states):
        if state not in _WORDS:
            refuse(f"states[{number}]", f"is {state}; it must be one of the states of a job")
        states.add(_WORDS[state])
    return (
        job
        for job in jobs
        if may_know(job.record, call)
        and request.of_model in ("", job.record.model.name)
        and (not states or job.record.state in states)
    )


def _page_size(request: job_service_pb2.ListJobsRequest) -> int:
    if not 0 <= request.page_size <= _MOST_PAGE:
        refuse("page_size", f"is {request.page_size}; it must be in [1, {_MOST_PAGE}], or 0 for {_USUAL_PAGE}")
    return request.page_size or _USUAL_PAGE


def _after(jobs: Iterable[Job], token: str) -> Iterable[Job]:
    """Return the jobs behind the one that a page ended with, which may be gone."""
    if not token:
        return jobs
    created, _, last = token.partition("/")
    try:
        place = (float(created), last)
    except ValueError:
        refuse("page_token", "is not the next_page_token of a page")
    return (job for job in jobs if (job.record.created, job.id) < place)


def add_job_service(
    server: "grpc.aio.Server",
    jobs: Jobs | None,
    served: Served,
    config: Config,
    boundary: Boundary,
) -> None:
    """Put the job service on `server`, every handler behind `boundary`."""
    service = JobService(jobs, served, config.jobs, config.limits, config.classes, boundary.aside)
    server.add_generic_rpc_handlers((GuardedHandlers(JOB_SERVICE, service, boundary),))
