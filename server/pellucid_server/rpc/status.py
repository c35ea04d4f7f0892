"""Errors turned into gRPC statuses: the one table from class to code, and the details of each."""

from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from pellucid.v1 import explanation_service_pb2

from pellucid_server.errors import (
    CancelledError,
    FatalRequestError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    PellucidError,
    PermissionDeniedError,
    QuotaExceededError,
    TimedOutError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
    UnsupportedError,
)

DOMAIN = "pellucid"
"""The domain of every ErrorInfo."""

_CODES = {
    PellucidError: grpc.StatusCode.INTERNAL,
    InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    UnsupportedError: grpc.StatusCode.FAILED_PRECONDITION,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    QuotaExceededError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    TimedOutError: grpc.StatusCode.DEADLINE_EXCEEDED,
    CancelledError: grpc.StatusCode.CANCELLED,
    FatalRequestError: grpc.StatusCode.INTERNAL,
    UnimplementedError: grpc.StatusCode.UNIMPLEMENTED,
}

# A status travels in headers, three times over, once percent-encoded; clients take 8 KiB of headers.
_MESSAGE_BYTES = 800
_VALUE_BYTES = 200


@dataclass(frozen=True, slots=True)
class CallStatus:
    """A status, ready for `context.abort`."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


def code_of(error: PellucidError) -> grpc.StatusCode:
    """Return the gRPC code of an error: that of its class, or of the nearest base that has one."""
    return _CODES[_kind(error)]


def is_bug(error: PellucidError) -> bool:
    """Tell whether an error is of no known cause: what it says is for the log alone."""
    return _kind(error) is PellucidError


def to_status(error: PellucidError, request_id: str) -> CallStatus:
    """Return what the caller of a failed call reads."""
    code, message = code_of(error), _message(error)
    rich = status_pb2.Status(code=_number(code), message=message, details=_details(error, message, request_id))
    trailing: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", rich.SerializeToString())]
    seconds = _retry_seconds(error)
    if seconds is not None:
        trailing.append(("grpc-retry-pushback-ms", str(round(seconds * 1000))))
    elif code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        # Less than 0 tells gRPC's own retries that none will help.
        trailing.append(("grpc-retry-pushback-ms", "-1"))
    return CallStatus(code, message, tuple(trailing))


def to_message(error: PellucidError, request_id: str) -> explanation_service_pb2.Status:
    """Return the status of one explanation that failed beside a prediction that did not."""
    message = _message(error)
    return explanation_service_pb2.Status(
        code=_number(code_of(error)), message=message, details=_details(error, message, request_id)
    )


def _kind(error: PellucidError) -> type[PellucidError]:
    return next(kind for kind in type(error).__mro__ if kind in _CODES)


def _message(error: PellucidError) -> str:
    return "internal error" if is_bug(error) else _cut(error.message, _MESSAGE_BYTES)


def _number(code: grpc.StatusCode) -> int:
    number: int = code.value[0]
    return number


def _cut(text: str, most_bytes: int) -> str:
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= most_bytes:
        return encoded.decode()
    return encoded[: most_bytes - 3].decode("utf-8", "ignore") + "…"


def _details(error: PellucidError, message: str, request_id: str) -> list[any_pb2.Any]:
    metadata = {} if is_bug(error) else {name: _cut(value, _VALUE_BYTES) for name, value in error.metadata.items()}
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata),
        error_details_pb2.RequestInfo(request_id=request_id),
    ]
    specific = _specific(error, message, metadata)
    if specific is not None:
        details.append(specific)
    return [_packed(detail) for detail in details]


def _specific(error: PellucidError, message: str, metadata: dict[str, str]) -> Any:
    """Return the detail that an error of this class has beside those that all have, or None."""
    match error:
        case InvalidRequestError():
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=metadata.get("field", ""), description=message
            )
            return error_details_pb2.BadRequest(field_violations=[violation])
        case NotFoundError():
            return error_details_pb2.ResourceInfo(
                resource_type=metadata.get("resource_type", ""),
                resource_name=metadata.get("resource_name", ""),
                description=message,
            )
        case UnsupportedError():
            unmet = error_details_pb2.PreconditionFailure.Violation(
                type=error.reason, subject=metadata.get("subject", ""), description=message
            )
            return error_details_pb2.PreconditionFailure(violations=[unmet])
    seconds = _retry_seconds(error)
    if seconds is None:
        return None
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(round(seconds * 1e9))
    return error_details_pb2.RetryInfo(retry_delay=delay)


def _retry_seconds(error: PellucidError) -> float | None:
    if (
        not isinstance(error, OverloadedError | QuotaExceededError | UnavailableError)
        or "retry_after_seconds" not in error.metadata
    ):
        return None
    return float(error.metadata["retry_after_seconds"])


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
