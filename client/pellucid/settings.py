"""What a client is told once, checked: read by both clients."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from pellucid import tracing
from pellucid.checks import (
    checked_flag,
    checked_mapping,
    checked_number,
    checked_printable,
    checked_text,
    checked_whole,
    shortened,
)
from pellucid.errors import invalid
from pellucid.retries import MOST_RETRIES, RetryPolicy
from pellucid.security import TOKEN_KEY, Pem, Token, check_secret, read_credentials, read_token

CALLER_KEY = "x-pellucid-caller"
"""Metadata key by which a server tells callers apart, unless its settings name another."""

PRIORITY_KEY = "x-pellucid-priority"
"""Metadata key by which a call names its class, unless the server's settings name another."""

_MOST_CALLER = 128
_MOST_PRIORITY = 64
_MOST_ADDRESS = 1024
_MOST_SECONDS = 1e8
_KEY = re.compile(r"(?!grpc-)[0-9a-z_.-]+")
_INT_OPTION = 1 << 31

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """How a client makes its calls.

    Attributes
    ----------
    address
        "host:port".
    timeout
        Deadline of every call in seconds; None for each call's own default.
    metadata
        Sent with every call.
    wait_for_ready
        Whether a call waits for a connection.
    retries
        Which failed calls are made again.
    token
        Who calls; None for a caller who does not say.
    """

    address: str
    timeout: float | None
    metadata: Metadata
    wait_for_ready: bool
    retries: RetryPolicy
    token: Token | None = None

    def seconds(self, timeout: float | None, default: float) -> float:
        """Return a call's deadline: its own, else the client's, else the default.

        Raises
        ------
        InvalidRequestError
            Its own is no time.
        """
        return next(each for each in (_seconds(timeout), self.timeout, default) if each is not None)

    def call_metadata(self, priority: str | None) -> Metadata:
        """Return what is sent with a call that begins now: with its trace, unless the client's metadata has one.

        A `priority` of its own goes before the client's.

        Raises
        ------
        InvalidRequestError
            The priority cannot be sent, or the token's file cannot be read.
        """
        trace = tracing.current()
        if priority is None and self.token is None and not trace:
            return self.metadata
        own: dict[str, str | bytes] = {tracing.TRACE_KEY: trace} if trace else {}
        sent = own | dict(self.metadata)
        if priority is not None:
            sent[PRIORITY_KEY] = _priority(priority)
        if self.token is not None:
            sent |= dict([self.token.header()])
        return tuple(sent.items())


def read_settings(
    address: str,
    *,
    timeout: float | None,
    metadata: Mapping[str, str | bytes] | None,
    caller: str | None,
    priority: str | None,
    wait_for_ready: bool,
    retries: int | None,
    token: str | Path | None = None,
) -> Settings:
    """Check what a client is told.

    Raises
    ------
    InvalidRequestError
        A value is of another type, or cannot be sent.
    """
    sent = _metadata({} if metadata is None else metadata)
    if token is not None and TOKEN_KEY in sent:
        raise invalid("token", f"is given beside metadata[{TOKEN_KEY!r}]; give one or the other")
    if caller is not None:
        sent[CALLER_KEY] = checked_printable(caller, "caller", most=_MOST_CALLER)
    if priority is not None:
        sent[PRIORITY_KEY] = _priority(priority)
    waiting = checked_flag(wait_for_ready, "wait_for_ready")
    limit = None if retries is None else checked_whole(retries, "retries", 0, MOST_RETRIES)
    return Settings(
        address=checked_printable(address, "address", most=_MOST_ADDRESS),
        timeout=_seconds(timeout),
        metadata=tuple(sent.items()),
        wait_for_ready=waiting,
        retries=RetryPolicy(limit, persistent=waiting),
        token=read_token(token),
    )


def channel_credentials(
    settings: Settings,
    credentials: grpc.ChannelCredentials | None,
    *,
    tls: bool | None,
    root_certificates: Pem | None,
    client_certificate: Pem | None,
    client_key: Pem | None,
    allow_plain_token: bool,
) -> grpc.ChannelCredentials | None:
    """Return the credentials of a client's channel, or None for a plain one.

    Raises
    ------
    InvalidRequestError
        They contradict one another, a file cannot be read, or a token would be sent in the clear.
    """
    found = read_credentials(
        credentials=credentials,
        tls=tls,
        root_certificates=root_certificates,
        client_certificate=client_certificate,
        client_key=client_key,
    )
    secret = settings.token is not None or TOKEN_KEY in dict(settings.metadata)
    check_secret(settings.address, secret=secret, encrypted=found is not None, allowed=allow_plain_token)
    return found


def check_channel(credentials: Any, options: Any) -> None:
    """Check what a channel is made of.

    Raises
    ------
    InvalidRequestError
        The credentials are none, or an option is nothing that gRPC takes.
    """
    if credentials is not None and not isinstance(credentials, grpc.ChannelCredentials):
        what = f"is of type {type(credentials).__name__}; grpc.ssl_channel_credentials makes credentials"
        raise invalid("credentials", what)
    given = {} if options is None else options
    for name, value in checked_mapping(given, "options", "values by option").items():
        where = f"options[{name!r}]"
        if isinstance(value, str):
            checked_text(value, where)
        elif not (isinstance(value, bytes) or (isinstance(value, int) and -_INT_OPTION <= value < _INT_OPTION)):
            raise invalid(where, f"is {shortened(value)}; it must be a text or an integer of 32 bits")


def _metadata(given: Any) -> dict[str, str | bytes]:
    return {key: _value(key, value) for key, value in checked_mapping(given, "metadata", "texts by key").items()}


def _value(key: str, value: Any) -> str | bytes:
    """Check an entry of the metadata; what is in it may be secret and is not repeated."""
    where = f"metadata[{key!r}]"
    if not _KEY.fullmatch(key):
        raise invalid(where, 'is no key; it must be of a-z, 0-9, _, . and -, and not begin with "grpc-"')
    if key.endswith("-bin"):
        if not isinstance(value, bytes):
            raise invalid(where, "must be bytes, as its key ends in -bin")
        return value
    if not isinstance(value, str) or not (value.isascii() and value.isprintable()):
        raise invalid(where, "must be a text of printable characters of ASCII")
    return value


def _priority(value: Any) -> str:
    return checked_printable(value, "priority", most=_MOST_PRIORITY)


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    seconds = checked_number(value, "timeout")
    if not 0 < seconds <= _MOST_SECONDS:
        raise invalid("timeout", f"is {shortened(value)}; it must be a number of seconds above 0, at most 1e8")
    return seconds
