"""What callers read of jobs that end otherwise than done, or are not there."""

from pellucid_server.errors import NotFoundError, OverloadedError, PellucidError, UnavailableError, error_from_wire
from pellucid_server.vocabulary.results import Failure


def failure_of(error: PellucidError) -> Failure:
    """Return an error as it is stored."""
    return Failure(error.reason, error.message, dict(error.metadata))


def error_of(failure: Failure) -> PellucidError:
    """Return the error that was stored."""
    return error_from_wire(failure.reason, failure.message, dict(failure.metadata))


def no_job(job: str) -> NotFoundError:
    """Return what callers read of a job that is not there, or not theirs."""
    return NotFoundError(f"No job {job!r}.", resource_type="job", resource_name=job)


def no_room(text: str) -> OverloadedError:
    """Return what a job ends with that there is no room for."""
    return OverloadedError(f"{text} Delete jobs that are not needed, or ask the operator for more room.", store="jobs")


def stopping() -> UnavailableError:
    """Return what those read who wait for a job that the server will go on with once it is started again."""
    text = "The server is shutting down; the job goes on when it is started again."
    return UnavailableError(text, retry_after_seconds="0.500")


def lost_files() -> UnavailableError:
    """Return what those read who ask for a job whose files are damaged, or were removed by others than the server."""
    return UnavailableError("Some of the job's files in the server's folder are gone or damaged; submit it again.")
