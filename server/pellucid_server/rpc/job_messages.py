"""Jobs turned into the messages of the job service."""

from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp
from pellucid.v1 import dissection_pb2, findings_pb2, job_service_pb2

from pellucid_server.jobs.expiry import expires_at
from pellucid_server.jobs.failures import error_of
from pellucid_server.jobs.job import Job
from pellucid_server.jobs.records import CANCELLED, DONE, FAILED, QUEUED, RUNNING
from pellucid_server.rpc import status
from pellucid_server.rpc.dissection import progress_message
from pellucid_server.rpc.replies import model_spec
from pellucid_server.rpc.room import LARGE_BYTES
from pellucid_server.settings.jobs import JobsConfig
from pellucid_server.vocabulary.messages import Progress

STATES = {
    QUEUED: job_service_pb2.JOB_STATE_QUEUED,
    RUNNING: job_service_pb2.JOB_STATE_RUNNING,
    DONE: job_service_pb2.JOB_STATE_DONE,
    FAILED: job_service_pb2.JOB_STATE_FAILED,
    CANCELLED: job_service_pb2.JOB_STATE_CANCELLED,
}
"""The states of a job, and the schema's."""


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part of a stored answer; `large` is whether it takes long to write."""

    findings: findings_pb2.Findings
    large: bool


def read_part(data: bytes) -> StoredPart:
    """Read a stored part."""
    return StoredPart(findings_pb2.Findings.FromString(data), len(data) > LARGE_BYTES)


def job_message(job: Job, config: JobsConfig, *, request_id: str, show_owner: bool = False) -> job_service_pb2.Job:
    """Write what is known of a job; `request_id` is of the call that asks."""
    record = job.record
    message = job_service_pb2.Job(
        id=record.id,
        state=STATES[record.state],
        rpc=record.verb,
        method=record.method,
        model=model_spec(record.model),
        dataset=record.dataset,
        progress=job_progress(job),
        created_at=_time(record.created),
        started_at=_time(record.started),
        ended_at=_time(record.ended),
        expires_at=_time(expires_at(record, config)),
        parts=record.parts,
        size_bytes=record.size_bytes,
        resumed=record.resumed,
        shared=record.shared,
        owner=record.owner if show_owner else "",
    )
    failure = record.failure
    if failure is not None:
        message.status.CopyFrom(status.to_message(error_of(failure), request_id))
    return message


def job_progress(job: Job) -> dissection_pb2.Progress:
    """Write how far a job is."""
    record, pace = job.record, job.pace
    running = record.state == RUNNING
    return progress_message(
        Progress(0, record.share, record.rows_done, record.rows),
        rows_per_second=pace.rows_per_second if running else 0.0,
        seconds_left=pace.seconds_left if running else None,
    )


def _time(seconds: float | None) -> Timestamp | None:
    if seconds is None:
        return None
    found = Timestamp()
    found.FromMicroseconds(round(seconds * 1e6))
    return found
