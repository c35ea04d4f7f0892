"""Every error that a call can raise. The server's reason decides the class; without one, the gRPC code does.

PellucidError                 INTERNAL, and what no other class stands for
├── InvalidRequestError       INVALID_ARGUMENT     can never succeed as sent; a ValueError
├── NotFoundError             NOT_FOUND            a name in the request is unknown; a LookupError
├── UnsupportedError          FAILED_PRECONDITION  this model cannot do this
├── UnauthenticatedError      UNAUTHENTICATED      the server does not know who calls
├── PermissionDeniedError     PERMISSION_DENIED    who calls may not do this; a PermissionError
├── QuotaExceededError        RESOURCE_EXHAUSTED   who calls has used up what it may; retry later
├── OverloadedError           RESOURCE_EXHAUSTED   the queue is full; retry later
├── MessageTooLargeError      RESOURCE_EXHAUSTED   the request or the reply is above a limit
├── UnavailableError          UNAVAILABLE          no connection, draining, or the worker was lost; retry
├── TimedOutError             DEADLINE_EXCEEDED    the deadline passed; a TimeoutError
├── CancelledError            CANCELLED            the call was cancelled, or the client is closed
├── FatalRequestError         INTERNAL             it ended two worker processes; do not send it again
└── UnimplementedError        UNIMPLEMENTED        this server does not have that RPC
"""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

DOMAIN = "pellucid"
"""The domain of the server's ErrorInfo."""


class PellucidError(Exception):
    """Base of all errors of calls; by itself, a bug of the server's.

    Attributes
    ----------
    message
        What is wrong, and what would be right.
    code
        The gRPC code.
    reason
        A stable word for programs; the server's documentation of errors has a section for each.
    metadata
        The facts, as text.
    violations
        Fields of the request at fault, and what would be right for each.
    retry_after_seconds
        After how long a retry makes sense; None if the server did not say.
    retriable
        Whether the same call may well succeed later. The client has then tried again already, unless it was
        told not to or there was no time for it.
    request_id
        The id that the server's log has; empty if the server never answered.
    """

    default_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    default_reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        /,
        *,
        code: grpc.StatusCode | None = None,
        metadata: Mapping[str, str] = MappingProxyType({}),
        violations: Mapping[str, str] = MappingProxyType({}),
        retry_after_seconds: float | None = None,
        retriable: bool | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.reason = self.default_reason
        self.metadata = dict(metadata)
        self.violations = dict(violations)
        self.retry_after_seconds = retry_after_seconds
        self.retriable = self._worth_retrying() if retriable is None else retriable
        self.request_id = request_id

    def _worth_retrying(self) -> bool:
        """Tell by the code: for load, only a server that names a time means that waiting helps."""
        if self.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return self.retry_after_seconds is not None
        return self.code is grpc.StatusCode.UNAVAILABLE

    def __str__(self) -> str:
        if self.request_id and self.code is grpc.StatusCode.INTERNAL:
            return f"{self.message} (request {self.request_id})"
        return self.message


class InvalidRequestError(PellucidError, ValueError):
    """The request can never succeed as it is; raised without a call where the client itself can tell."""

    default_code = grpc.StatusCode.INVALID_ARGUMENT
    default_reason = "INVALID_REQUEST"


class NotFoundError(PellucidError, LookupError):
    """A model, a version or a method is unknown."""

    default_code = grpc.StatusCode.NOT_FOUND
    default_reason = "NOT_FOUND"


class UnsupportedError(PellucidError):
    """The model cannot do what is asked."""

    default_code = grpc.StatusCode.FAILED_PRECONDITION
    default_reason = "UNSUPPORTED"


class UnauthenticatedError(PellucidError):
    """The server asks who calls, and nothing proves that: no token or certificate, or one that it does not know."""

    default_code = grpc.StatusCode.UNAUTHENTICATED
    default_reason = "UNAUTHENTICATED"


class PermissionDeniedError(PellucidError, PermissionError):
    """The caller may not do this: `metadata` has the `identity`, the `role` that it lacks, and the `model`."""

    default_code = grpc.StatusCode.PERMISSION_DENIED
    default_reason = "PERMISSION_DENIED"


class QuotaExceededError(PellucidError):
    """The caller has used up what it may ask for, until `retry_after_seconds` have passed."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_reason = "QUOTA_EXCEEDED"


class OverloadedError(PellucidError):
    """The queue is full (then `retry_after_seconds` is set), or one row does not fit the device."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_reason = "OVERLOADED"


class MessageTooLargeError(PellucidError):
    """The request or the reply has more bytes than the server or the client takes."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_reason = "MESSAGE_TOO_LARGE"


class UnavailableError(PellucidError):
    """There is no connection, or the server could not finish the work; trying again is right."""

    default_code = grpc.StatusCode.UNAVAILABLE
    default_reason = "UNAVAILABLE"


class TimedOutError(PellucidError, TimeoutError):
    """The deadline passed, or cannot be met.

    `metadata["stage"]`, if the server answered, says where the work then was: "queued", "running", or "refused",
    at once, as it takes `metadata["needed_seconds"]` at least. Where earlier tries were refused and the last
    one had no answer, it has what the refusal had.
    """

    default_code = grpc.StatusCode.DEADLINE_EXCEEDED
    default_reason = "TIMED_OUT"


class CancelledError(PellucidError):
    """The call was cancelled at the server or on the way there (then `retriable` is set), or its client is closed."""

    default_code = grpc.StatusCode.CANCELLED
    default_reason = "CANCELLED"


class FatalRequestError(PellucidError):
    """Two worker processes of the server ended while they worked on this request; do not send it again."""

    default_code = grpc.StatusCode.INTERNAL
    default_reason = "FATAL_REQUEST"


class UnimplementedError(PellucidError):
    """The server does not have that RPC."""

    default_code = grpc.StatusCode.UNIMPLEMENTED
    default_reason = "UNIMPLEMENTED"


_CLASSES: tuple[type[PellucidError], ...] = (PellucidError, *PellucidError.__subclasses__())
_BY_REASON = {kind.default_reason: kind for kind in _CLASSES}
# gRPC's own refusals of large messages carry no details, the server's refusals of load always do.
_WITH_DETAILS = (OverloadedError, QuotaExceededError, FatalRequestError)
_BY_CODE = {kind.default_code: kind for kind in _CLASSES if kind not in _WITH_DETAILS}
_CODES = {code.value[0]: code for code in grpc.StatusCode}

_ID_KEY = "x-request-id"
_PUSHBACK_KEY = "grpc-retry-pushback-ms"
_MILLISECONDS = re.compile(r"[0-9]{1,12}")


def invalid(field: str, what: str) -> InvalidRequestError:
    """Make the error for a field that the client itself sees to be wrong; `what` goes on from its name."""
    text = f"{field} {what}."
    return InvalidRequestError(text, metadata={"field": field}, violations={field: text})


def broken(name: str, version: int, reason: str) -> UnsupportedError:
    """Make the error for a model that the server could not load, as the server itself makes it."""
    where = f"{name}/{version}" if version else name
    text = f"The model {where} is not served, as it could not be loaded: {reason}"
    subject = f"models/{where}"
    return UnsupportedError(text, metadata={"subject": subject, "state": "broken"}, violations={subject: text})


def closed() -> CancelledError:
    """Make the error for a call of a client that is closed."""
    return CancelledError("The client is closed; make another one to call again.")


def unreadable() -> PellucidError:
    """Make the error for a reply that is none of the schema's."""
    return PellucidError("The reply cannot be read; is that a Pellucid server, of a version near the client's?")


def refused_until_deadline(timed_out: TimedOutError, refusal: PellucidError) -> TimedOutError:
    """Make the error for a call whose deadline passed during a try after ones that were refused."""
    return TimedOutError(
        f"{timed_out.message} An earlier try was refused: {refusal.message}",
        metadata={**refusal.metadata, **timed_out.metadata},
        retry_after_seconds=refusal.retry_after_seconds,
        request_id=refusal.request_id,
    )


def from_rpc_error(error: grpc.RpcError, *, address: str, timeout: float | None) -> PellucidError:
    """Return the typed error for a failed call.

    Parameters
    ----------
    address
        Where the call went; named where the server never answered.
    timeout
        The call's deadline in seconds, for the message; None if it had none.
    """
    call: Any = error
    code, text = call.code(), call.details() or ""
    # Pair by pair: by their `keys`, from which dict() would go, the metadata of older grpc.aio cannot be looked up.
    trailing = dict(tuple(call.trailing_metadata() or ()))
    found: dict[str, Any] = {"request_id": _text(trailing.get(_ID_KEY))} | _pushback(trailing.get(_PUSHBACK_KEY))
    try:
        status = rpc_status.from_call(call)
    except (ValueError, DecodeError):
        # The details contradict the status or cannot be read: the status alone stands.
        status = None
    if status is not None and status.details:
        return _typed(code.value[0], status.message, status.details, found)
    if code is grpc.StatusCode.CANCELLED:
        # Not this client: a server that stops cancels calls that are still on their way to it.
        found = {"retriable": True} | found
    untrusted = _untrusted(text, address) if code is grpc.StatusCode.UNAVAILABLE else ""
    if untrusted:
        return UnavailableError(untrusted, metadata={"transport": text}, retriable=False)
    asked_to_wait = code is grpc.StatusCode.RESOURCE_EXHAUSTED and "retry_after_seconds" in found
    kind = OverloadedError if asked_to_wait else _BY_CODE.get(code, PellucidError)
    words = "The server is overloaded." if asked_to_wait else _own_words(code, text, address, timeout)
    return kind(words, code=code, metadata={"transport": text}, **found)


def from_status(code: int, message: str, details: Iterable[AnyMessage]) -> PellucidError:
    """Return the typed error for a status: the number of its gRPC code, its message and its details."""
    return _typed(code, message, details, {})


def _typed(code: int, message: str, details: Iterable[AnyMessage], known: Mapping[str, Any]) -> PellucidError:
    """Return the typed error for a status; its details go before what is `known` from elsewhere."""
    found = dict(known)
    reason = ""
    for detail in details:
        for kind, read in _DETAILS.items():
            if detail.Is(kind.DESCRIPTOR):
                unpacked = kind()
                detail.Unpack(unpacked)
                found |= read(unpacked)
                if isinstance(unpacked, error_details_pb2.ErrorInfo) and unpacked.domain == DOMAIN:
                    reason = unpacked.reason
    if "retry_after_seconds" in known:
        found["retry_after_seconds"] = max(found["retry_after_seconds"], known["retry_after_seconds"])
    status_code = _CODES.get(code, grpc.StatusCode.UNKNOWN)
    kind = _BY_REASON.get(reason) or _BY_CODE.get(status_code, PellucidError)
    return kind(message, code=status_code, **found)


def _pushback(value: Any) -> dict[str, Any]:
    """Read gRPC's trailer for retries: milliseconds to wait, or that there must be no retry (also if unreadable)."""
    if value is None:
        return {}
    if _MILLISECONDS.fullmatch(_text(value)):
        return {"retry_after_seconds": int(value) / 1000}
    return {"retriable": False}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


_DETAILS: Mapping[type[Any], Any] = {
    error_details_pb2.ErrorInfo: lambda detail: {"metadata": dict(detail.metadata)},
    error_details_pb2.RequestInfo: lambda detail: {"request_id": detail.request_id},
    error_details_pb2.RetryInfo: lambda detail: {
        "retry_after_seconds": max(0.0, detail.retry_delay.ToNanoseconds() / 1e9)
    },
    error_details_pb2.BadRequest: lambda detail: {
        "violations": {each.field: each.description for each in detail.field_violations}
    },
    error_details_pb2.PreconditionFailure: lambda detail: {
        "violations": {each.subject: each.description for each in detail.violations}
    },
}


def _untrusted(text: str, address: str) -> str:
    """Say why TLS made no connection, or nothing if that is not what failed."""
    if "certificate has expired" in text:
        return f"The certificate of {address} has expired."
    if "Hostname Verification" in text:
        return f"The certificate of {address} is not for that name; is that the address that was meant?"
    # Another authority of the same name is noticed by its signature.
    if "CERTIFICATE_VERIFY_FAILED" in text or "certificate signature failure" in text:
        return f"The certificate of {address} comes from no authority that is trusted; root_certificates names others."
    if "WRONG_VERSION_NUMBER" in text:
        return f"{address} does not speak TLS."
    if "ls handshake failed" in text:
        return f"TLS made no connection to {address}; are the certificates of both sides in order?"
    return ""


def _shut_out(text: str) -> bool:
    """Tell whether a server took a connection and closed it at once."""
    return "failed to connect" in text and "Socket closed" in text


def _own_words(code: grpc.StatusCode, text: str, address: str, timeout: float | None) -> str:
    """Say what a status without details means: gRPC's own text is for its developers."""
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            hint = ", and does it ask for TLS or a client's certificate" if _shut_out(text) else ""
            return f"No connection to {address}, or it was lost; is a server running there{hint}?"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            within = "in time" if timeout is None else f"within {timeout:g} s"
            return (
                f"No answer from {address} {within}; is a server running there? If so, allow more time or ask for less."
            )
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return (
                f"A message is larger than the server or this client takes ({text}); "
                "send fewer rows, or files in place of arrays."
            )
        case grpc.StatusCode.UNIMPLEMENTED:
            return f"The server at {address} does not have this call."
        case grpc.StatusCode.CANCELLED:
            return f"The call was cancelled at {address}, or on the way there; is the server stopping?"
    return text or f"The call failed with {code.name}."
