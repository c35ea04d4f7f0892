"""Jobs as a server describes them. Preview: they may change."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from pellucid.errors import PellucidError, from_status, unreadable
from pellucid.findings import Findings
from pellucid.findings_messages import read_findings
from pellucid.receipts import ModelKey, enum_word, plain, read_model_key
from pellucid.v1 import job_service_pb2

JobState = Literal["queued", "running", "done", "failed", "cancelled"]
"""What a job is at."""

STATES: tuple[JobState, ...] = ("queued", "running", "done", "failed", "cancelled")

_ENDED = frozenset(("done", "failed", "cancelled"))


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far a job is.

    Attributes
    ----------
    share
        Share of the work done, in [0, 1].
    rows_done, rows
        Rows looked at, or steps done, of all; 0 where the method counts none, or their number is not known.
    rows_per_second
        Recently; 0 while that is not known.
    seconds_left
        About; None while that is not known.
    """

    share: float = 0.0
    rows_done: int = 0
    rows: int = 0
    rows_per_second: float = 0.0
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A job on a server, as it was when the server said so.

    Attributes
    ----------
    id
        A random text, which names it.
    state
        "queued", "running", "done", "failed" or "cancelled".
    rpc, method
        The call whose request it does, "Dissect" or "Ablate", and the request's method.
    model
        The model version that it runs on, with its digest.
    dataset
        The request's data set; empty without.
    failure
        Why it failed; None for others.
    created, started, ended, expires
        When it was submitted, when the work began and ended, and when the server removes it; None for what is not so.
    parts, size_bytes
        Parts of its answer that are stored, and the bytes that it takes on the server.
    resumed
        How often it went on after a worker or the server was lost.
    shared
        Whether other identities read its answer too.
    owner
        The identity that it belongs to, for administrators; empty for others.
    preview
        The estimate so far, for those who watch; None if there is no new one.
    """

    id: str
    state: JobState
    rpc: str
    method: str
    model: ModelKey
    dataset: str = ""
    progress: JobProgress = JobProgress()
    failure: PellucidError | None = field(default=None, metadata={"plain": False})
    created: datetime | None = field(default=None, metadata={"plain": False})
    started: datetime | None = field(default=None, metadata={"plain": False})
    ended: datetime | None = field(default=None, metadata={"plain": False})
    expires: datetime | None = field(default=None, metadata={"plain": False})
    parts: int = 0
    size_bytes: int = 0
    resumed: int = 0
    shared: bool = False
    owner: str = ""
    preview: Findings | None = field(default=None, metadata={"plain": False})

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state in _ENDED

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, texts and numbers; times are in ISO 8601, in UTC."""
        found: dict[str, Any] = plain(self)
        for name in ("created", "started", "ended", "expires"):
            time: datetime | None = getattr(self, name)
            found[name] = None if time is None else time.isoformat(timespec="milliseconds")
        found["failure"] = (
            None if self.failure is None else {"code": self.failure.code.name, "message": str(self.failure)}
        )
        return found


def read_job(message: job_service_pb2.Job, preview: Findings | None = None) -> Job:
    """Read a job off a message.

    Raises
    ------
    PellucidError
        It is in a state that this client does not know.
    """
    state = enum_word(job_service_pb2.JobState, message.state, "JOB_STATE_")
    if state not in STATES:
        raise unreadable()
    progress, status = message.progress, message.status
    return Job(
        id=message.id,
        state=state,
        rpc=message.rpc,
        method=message.method,
        model=read_model_key(message.model),
        dataset=message.dataset,
        progress=JobProgress(
            progress.share,
            progress.rows_done,
            progress.rows,
            progress.rows_per_second,
            progress.seconds_left if progress.HasField("seconds_left") else None,
        ),
        failure=from_status(status.code, status.message, status.details) if message.HasField("status") else None,
        created=_time(message, "created_at"),
        started=_time(message, "started_at"),
        ended=_time(message, "ended_at"),
        expires=_time(message, "expires_at"),
        parts=message.parts,
        size_bytes=message.size_bytes,
        resumed=message.resumed,
        shared=message.shared,
        owner=message.owner,
        preview=preview,
    )


def read_change(message: job_service_pb2.WatchJobResponse) -> Job:
    """Read a job off what one who watches it is sent; raises as `read_job` does."""
    preview = read_findings(message.preview) if message.HasField("preview") else None
    return read_job(message.job, preview)


def _time(message: job_service_pb2.Job, name: str) -> datetime | None:
    found: datetime | None = getattr(message, name).ToDatetime(UTC) if message.HasField(name) else None
    return found
