"""What is known of a request before it is read: its id, its deadline, who asks and in which class."""

import secrets
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import grpc

from pellucid_server.access.policy import ANONYMOUS, Identity
from pellucid_server.errors import InvalidRequestError, PellucidError
from pellucid_server.rpc.large_fields import NONE, LargeFields
from pellucid_server.settings.sections import ServerConfig
from pellucid_server.tracing import context as tracing
from pellucid_server.tracing.request_trace import RequestTrace
from pellucid_server.vocabulary.requests import ModelKey
from pellucid_server.vocabulary.results import RequestTiming

ID_KEY = "x-request-id"
"""Metadata key of the request's id, both ways."""

_ID_LENGTH = 64
_CALLER_LENGTH = 128

# A deadline's last part is kept for the reply's way back, so that what the server says arrives. gRPC rounds a
# deadline up on its way, by as much as 1 % (30 s were seen as 30.1), so the share must be above that.
_RESERVE_SECONDS = 0.05
_RESERVE_SHARE = 0.012
_MOST_RESERVE_SHARE = 0.1
# A deadline that is further off is none: gRPC's own limit, 99999999 hours, is more than a lock can wait for.
_LONGEST_SECONDS = 365 * 86400.0

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(slots=True)
class Call:
    """One request on its way through the server."""

    rpc: str
    request_id: str
    arrived: float
    """When, on `time.monotonic()`'s clock."""
    deadline_seconds: float | None
    """How long after its arrival the answer must be ready; None is no deadline."""
    identity: Identity | None = None
    """Who calls, where the server asks for a proof of that."""
    admitted: bool = False
    """Whether it counts among the requests of its identity that run."""
    caller: str = ""
    """On whose behalf: its identity, else what the caller's metadata says, else the address that the call came from."""
    priority: str = ""
    """Its class: what the caller's metadata says; a handler that runs a request fills it in where that is nothing."""
    model: str = ""
    """The model that the caller named."""
    version: int = 0
    """The version that the caller named."""
    answered_by: ModelKey | None = None
    """The model version that made its answer, once there is one."""
    method: str = ""
    """The method that the caller named."""
    received_bytes: int = 0
    """Bytes of its request."""
    sent_bytes: int = 0
    """Bytes of its replies."""
    timing: RequestTiming | None = None
    """Where a worker's time went; a handler sets it with the result in its hands."""
    large: bool = False
    """Whether its request is large: then it is decoded off the event loop."""
    large_fields: LargeFields = NONE
    """What was taken out of its request, until the request is read."""
    large_reply: bool = False
    """Whether its reply is: a handler that makes one sets it."""
    traceparent: str = ""
    """The trace context that the caller sent, as it was sent; empty if there is none, or more than one."""
    trace: RequestTrace | None = None
    """Its trace, if it is recorded."""
    ended: bool = False
    """Whether its outcome stands."""
    given_up: PellucidError | None = None
    """What its caller is told in place of an answer that the server has no time left for."""

    def take_large_fields(self) -> LargeFields:
        """Return what was taken out of its request, and keep it no longer."""
        taken, self.large_fields = self.large_fields, NONE
        return taken

    @property
    def elapsed_seconds(self) -> float:
        """Time since the arrival."""
        return time.monotonic() - self.arrived

    @property
    def remaining_seconds(self) -> float | None:
        """Time until the answer must be ready, below 0 when it is past; None is no deadline."""
        return None if self.deadline_seconds is None else self.deadline_seconds - self.elapsed_seconds


@dataclass(frozen=True, slots=True)
class CallerKeys:
    """The metadata keys by which a call says who asks and in which class."""

    caller: str = ServerConfig().caller_key
    priority: str = ServerConfig().priority_key

    def read(self, call: Call, context: Context) -> None:
        """Set the call's caller and class.

        Raises
        ------
        InvalidRequestError
            A value holds other characters than printable ones of ASCII.
        """
        metadata = context.invocation_metadata() or ()
        named, host = _text(self.caller, metadata)[:_CALLER_LENGTH], host_of(context.peer())
        call.caller = named or host if call.identity is None else caller_of(call.identity, named, host)
        call.priority = _text(self.priority, metadata)

    @property
    def names(self) -> frozenset[str]:
        """The keys themselves."""
        return frozenset({self.caller, self.priority})

    def named(self, error: PellucidError) -> PellucidError:
        """Return an error about the class with the metadata's key in place of "priority"; others as they are."""
        if not isinstance(error, InvalidRequestError) or error.metadata.get("field") != "priority":
            return error
        return InvalidRequestError(error.message, **{**error.metadata, "field": _field(self.priority)})


def caller_of(identity: Identity, named: str, host: str) -> str:
    """Return the caller that a call counts for in fairness: its identity, and the name that it gives if it may.

    Calls without proof share one identity; each address that they come from is a caller.
    """
    if identity.name == ANONYMOUS:
        return f"{ANONYMOUS}:{host}"
    return f"{identity.name}/{named}" if identity.names_callers and named else identity.name


def arrival(rpc: str, context: Context) -> Call:
    """Return a call that arrives now."""
    remaining: float | None = context.time_remaining()
    if remaining is not None and remaining > _LONGEST_SECONDS:
        remaining = None
    if remaining is not None:
        remaining -= min(_RESERVE_SECONDS + _RESERVE_SHARE * remaining, _MOST_RESERVE_SHARE * remaining)
    request_id, traceparent = _named(context.invocation_metadata() or ())
    return Call(rpc, request_id, time.monotonic(), remaining, traceparent=traceparent)


def _named(metadata: Any) -> tuple[str, str]:
    """Return the request's id and the caller's trace context, which may be empty.

    The id is the caller's own, if it is one that a log and a header can hold, or a new one.
    """
    request_id, parents = "", []
    for key, value in metadata:
        if key == ID_KEY and not request_id and _is_id(value):
            request_id = value
        elif key == tracing.KEY:
            parents.append(value)
    # Of two, neither can be trusted.
    traceparent = parents[0] if len(parents) == 1 and isinstance(parents[0], str) else ""
    return request_id or secrets.token_hex(8), traceparent


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _ID_LENGTH and _plain(value)


def _text(key: str, metadata: Any) -> str:
    """Return the first value under `key`, or nothing."""
    for found, value in metadata:
        if found == key:
            if not isinstance(value, str) or not _plain(value):
                text = f"The metadata {key!r} is {value!r}; it may hold printable characters of ASCII alone."
                raise InvalidRequestError(text, field=_field(key))
            return value
    return ""


def _field(key: str) -> str:
    return f'metadata["{key}"]'


def _plain(value: str) -> bool:
    return value.isascii() and value.isprintable()


def host_of(peer: str) -> str:
    """Return the address of gRPC's name for a peer, such as "ipv4:10.0.0.7:40312", or nothing if it has none."""
    scheme, _, address = peer.partition(":")
    return unquote(address).rpartition(":")[0].strip("[]") if scheme in {"ipv4", "ipv6"} else ""
