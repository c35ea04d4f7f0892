"""Where jobs are stored, for how long, and how many are done at once."""

from pathlib import Path

from pydantic import Field

from pellucid_server.settings.section import Section

_GIB = 1 << 30


class JobsConfig(Section):
    """Long requests that the server does by itself and whose answers it stores: Dissect and Ablate."""

    folder: Path | None = None
    """Folder of this server alone for requests, checkpoints and answers; left out, the server takes no jobs."""

    concurrent: int = Field(default=1, ge=1, le=64)
    """Submitted jobs that are done at once, for each worker; others wait."""

    most_waiting: int = Field(default=1000, ge=1)
    """Submitted jobs that have not ended, at most; one more is RESOURCE_EXHAUSTED."""

    keep_seconds: float = Field(default=7 * 86400.0, ge=0, allow_inf_nan=False)
    """Time after its end at which a job is removed with its answer; 0 is never."""

    most_bytes: int = Field(default=10 * _GIB, ge=1 << 20)
    """Most bytes of all jobs: those that ended first are removed for others; a job that then has no room fails."""

    most_jobs: int = Field(default=10_000, ge=1)
    """Most jobs that have ended; beyond it, those that ended first are removed."""

    shared: bool = False
    """Whether identities share jobs: an equal request joins another identity's job, and reads its answer."""
