"""What each call of the job service sends and how its replies are read, without input or output."""

from collections.abc import Sequence
from typing import Any

from pellucid.ablation_calls import Gathering
from pellucid.calls import Call, Flow
from pellucid.checks import checked_list, checked_text, shortened
from pellucid.errors import CancelledError, TimedOutError, invalid, unreadable
from pellucid.findings import Findings
from pellucid.findings_messages import read_findings
from pellucid.job_records import STATES, Job, JobState, read_job
from pellucid.progress import Progress
from pellucid.v1 import explanation_service_pb2, job_service_pb2

JobRequest = explanation_service_pb2.DissectRequest | explanation_service_pb2.AblateRequest
"""What a job can do."""

CALL_SECONDS = 30.0
"""Deadline of a call about a job, unless the caller sets another."""

FETCH_SECONDS = 120.0
"""Deadline of fetching an answer, unless the caller sets another."""

WATCH_SECONDS = 300.0
"""Length of one call of those that watch: servers end calls on connections of an age."""

ENDLESS_SECONDS = 10 * 365 * 86400.0
"""How long is watched without a deadline."""

_PATH = "/pellucid.v1.JobService/"
_PAGE = 1000
_NUMBERS = {
    "queued": job_service_pb2.JOB_STATE_QUEUED,
    "running": job_service_pb2.JOB_STATE_RUNNING,
    "done": job_service_pb2.JOB_STATE_DONE,
    "failed": job_service_pb2.JOB_STATE_FAILED,
    "cancelled": job_service_pb2.JOB_STATE_CANCELLED,
}


def submit(request: Any) -> Flow[Job]:
    """Have a request done."""
    match request:
        case explanation_service_pb2.DissectRequest():
            asked = job_service_pb2.SubmitJobRequest(dissect=request)
        case explanation_service_pb2.AblateRequest():
            asked = job_service_pb2.SubmitJobRequest(ablate=request)
        case _:
            raise invalid("request", f"is {shortened(request)}; it must be a DissectRequest or an AblateRequest")
    reply = yield Call(_PATH + "SubmitJob", asked, job_service_pb2.SubmitJobResponse.FromString)
    return read_job(reply.job)


def listed(model: str, states: Sequence[JobState]) -> Flow[tuple[Job, ...]]:
    """List jobs, page by page."""
    wanted = checked_list(states, "states", "jobs' states")
    for number, each in enumerate(wanted):
        if each not in _NUMBERS:
            raise invalid(f"states[{number}]", f"is {shortened(each)}; it must be one of {', '.join(STATES)}")
    request = job_service_pb2.ListJobsRequest(
        of_model=checked_text(model, "model"), states=[_NUMBERS[each] for each in wanted], page_size=_PAGE
    )
    found = list[Job]()
    while True:
        reply = yield Call(_PATH + "ListJobs", request, job_service_pb2.ListJobsResponse.FromString)
        found += (read_job(each) for each in reply.jobs)
        if not reply.next_page_token:
            return tuple(found)
        request.page_token = reply.next_page_token


def get(job: str | Job) -> Flow[Job]:
    """Describe a job."""
    request = job_service_pb2.GetJobRequest(id=job_id(job))
    return read_job((yield Call(_PATH + "GetJob", request, job_service_pb2.GetJobResponse.FromString)).job)


def cancel(job: str | Job) -> Flow[Job]:
    """End a job's work."""
    request = job_service_pb2.CancelJobRequest(id=job_id(job))
    return read_job((yield Call(_PATH + "CancelJob", request, job_service_pb2.CancelJobResponse.FromString)).job)


def delete(job: str | Job) -> Flow[None]:
    """Remove a job."""
    request = job_service_pb2.DeleteJobRequest(id=job_id(job))
    yield Call(_PATH + "DeleteJob", request, job_service_pb2.DeleteJobResponse.FromString)


def watch(job: str | Job) -> Call:
    """Return the call that watches a job."""
    request = job_service_pb2.WatchJobRequest(id=job_id(job))
    return Call(_PATH + "WatchJob", request, job_service_pb2.WatchJobResponse.FromString)


class FetchedParts:
    """The parts of a stored answer, as far as they have come: a call that breaks off is made again for the rest."""

    def __init__(self, job: str | Job) -> None:
        self._id = job_id(job)
        self._gathering = Gathering()

    def call(self) -> Call:
        """Return the call for the parts that are lacking."""
        request = job_service_pb2.FetchJobRequest(id=self._id, first_part=len(self._gathering.parts))
        return Call(_PATH + "FetchJob", request, job_service_pb2.FetchJobResponse.FromString)

    def add(self, message: job_service_pb2.FetchJobResponse) -> None:
        """Take a part.

        Raises
        ------
        PellucidError
            It is not the next one, or cannot be read.
        """
        if message.part != len(self._gathering.parts):
            raise unreadable()
        self._gathering.add(read_findings(message.findings))

    def findings(self) -> Findings:
        """Return all parts as one.

        Raises
        ------
        PellucidError
            The last part, which has the receipt, is not there, or parts do not fit together.
        """
        found = self._gathering.findings()
        if found.receipt is None:
            raise unreadable()
        return found


def job_id(job: Any) -> str:
    """Return a job's id, given that or the job."""
    return job.id if isinstance(job, Job) else checked_text(job, "job")


def show(progress: Progress, job: Job) -> None:
    """Show how far a job is."""
    progress.report(job.progress.share)


def unended(job: Job, seconds: float | None) -> TimedOutError:
    """Return what is raised where a job has not ended while it was watched."""
    within = "" if seconds is None else f" within {seconds:g} s"
    done = f"it is {job.state}, {job.progress.share:.0%} done"
    return TimedOutError(f"The job {job.id} has not ended{within}; {done}, and goes on. Watch it again later.")


def outcome(job: Job) -> Job:
    """Return a job that is done.

    Raises
    ------
    PellucidError
        It failed so, or was cancelled.
    """
    if job.failure is not None:
        raise job.failure
    if job.state != "done":
        raise CancelledError(f"The job {job.id} was cancelled.")
    return job
