"""Every error a caller can see. The class is the cause, and the cause fixes the gRPC code.

PellucidError                 INTERNAL             a bug; the caller reads only "internal error"
├── InvalidRequestError       INVALID_ARGUMENT     can never succeed as sent
├── NotFoundError             NOT_FOUND            a name in the request is unknown
├── UnsupportedError          FAILED_PRECONDITION  this model cannot do this
├── UnauthenticatedError      UNAUTHENTICATED      nothing proves who calls
├── PermissionDeniedError     PERMISSION_DENIED    who calls may not do this
├── QuotaExceededError        RESOURCE_EXHAUSTED   who calls has used up what it may; retry later
├── OverloadedError           RESOURCE_EXHAUSTED   the queue is full; retry later
├── UnavailableError          UNAVAILABLE          draining, or the worker was lost; retry
├── TimedOutError             DEADLINE_EXCEEDED    stopped because its deadline passed
├── CancelledError            CANCELLED            stopped because the caller left
├── FatalRequestError         INTERNAL             it ended two worker processes; do not send it again
└── UnimplementedError        UNIMPLEMENTED        this server does not have that RPC yet

An error is a message and string metadata only, so that it survives the way from the worker.

The message of a caller's mistake quotes what was sent, so it is for the caller alone. The log has the reason and the
field in its place: what a caller sends may be a patient's.
"""

from typing import ClassVar


class PellucidError(Exception):
    """Base of the errors that reach callers."""

    reason: ClassVar[str] = "INTERNAL"
    """Stable word for programs, in ErrorInfo.reason; docs/errors.md has a section for each."""

    quotes_request: ClassVar[bool] = True
    """Whether the message may quote what the caller sent, so that no log may have it. Only classes whose every
    message is of the server's own words say that theirs does not."""

    def __init__(self, message: str, /, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = metadata
        self.timing: object = None
        """Where the time of a request went that ended so on a worker, a `requests.RequestTiming`."""


class InvalidRequestError(PellucidError):
    """The request can never succeed as it was sent. Metadata: `field`, the path of the field at fault."""

    reason = "INVALID_REQUEST"


class NotFoundError(PellucidError):
    """A name in the request is unknown. Metadata: `resource_type` ("model", "method") and `resource_name`."""

    reason = "NOT_FOUND"


class UnsupportedError(PellucidError):
    """The model cannot do what is asked. Metadata: `subject`, what stands in the way.

    Of a model that could not be loaded, `state` is "broken" too.
    """

    reason = "UNSUPPORTED"


class UnauthenticatedError(PellucidError):
    """Nothing proves who calls.

    Metadata: `credential`, what was there instead: "none", "certificate", "malformed token" or "unknown token".
    """

    reason = "UNAUTHENTICATED"


class PermissionDeniedError(PellucidError):
    """Who calls may not do this. Metadata: `identity`, `role`, the one that it lacks, and `model`."""

    reason = "PERMISSION_DENIED"


class QuotaExceededError(PellucidError):
    """Who calls has used up its quota. Metadata: `identity`, `quota`, the setting's name, and `retry_after_seconds`."""

    reason = "QUOTA_EXCEEDED"
    quotes_request = False


class OverloadedError(PellucidError):
    """The queue is full, one row does not fit the device, or there is no room to store a job.

    Metadata: `retry_after_seconds`, if a wait helps; `store` is "jobs" for the last of these.
    """

    reason = "OVERLOADED"
    quotes_request = False


class UnavailableError(PellucidError):
    """No worker could finish the work; trying again is right. Metadata: `retry_after_seconds`."""

    reason = "UNAVAILABLE"
    quotes_request = False


class TimedOutError(PellucidError):
    """The deadline passed, or cannot be met.

    Metadata: `stage`, where the work then was ("queued", "running"), or "refused" if it was not begun, because
    `needed_seconds` at least were more than were left.
    """

    reason = "TIMED_OUT"
    quotes_request = False


class CancelledError(PellucidError):
    """The caller left. Metadata: `stage`."""

    reason = "CANCELLED"
    quotes_request = False


class FatalRequestError(PellucidError):
    """Two worker processes ended while they worked on this request; it is not tried again."""

    reason = "FATAL_REQUEST"
    quotes_request = False


class UnimplementedError(PellucidError):
    """The RPC is named in the schema and not there yet."""

    reason = "UNIMPLEMENTED"
    quotes_request = False


def broken_model(name: str, version: int, reason: str) -> UnsupportedError:
    """Make the error for a request to a model that could not be loaded; version 0 stands for all of its versions."""
    where = f"{name}/{version}" if version else name
    text = f"The model {where} is not served, as it could not be loaded: {reason}"
    return UnsupportedError(text, subject=f"models/{where}", state="broken")


def error_classes() -> tuple[type[PellucidError], ...]:
    """Return every class of the tree, the base first."""
    return (PellucidError, *PellucidError.__subclasses__())


def error_from_wire(reason: str, message: str, metadata: dict[str, str]) -> PellucidError:
    """Rebuild an error from what crossed a process boundary; an unknown reason is a bug's."""
    kind = next((kind for kind in error_classes() if kind.reason == reason), PellucidError)
    return kind(message, **metadata)
