"""How both clients connect: channel options, and the standard health service."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pellucid.calls import MOST_MESSAGE_BYTES
from pellucid.security import is_loopback

WATCH_HEALTH = "/grpc.health.v1.Health/Watch"
"""The standard health service's stream of a server's states."""

WHOLE_SERVER = b""
"""A HealthCheckRequest for the server as a whole: its only field is empty, and so is the message."""

_SERVING = b"\x08\x01"
"""A HealthCheckResponse with field 1, `status`, at SERVING."""

_OPTIONS = MappingProxyType(
    {
        # Only of calls that never left the machine: without a policy gRPC does no others, see `pellucid.retries`.
        "grpc.enable_retries": 1,
        "grpc.max_send_message_length": MOST_MESSAGE_BYTES,
        "grpc.max_receive_message_length": MOST_MESSAGE_BYTES,
        # A server that vanishes without a word is noticed within 30 s while a call waits; without one, servers refuse
        # pings. In gRPC 1.85 the keepalive's own timeout has no effect where that of all pings, 60 s unless it is set,
        # is longer.
        "grpc.keepalive_time_ms": 15_000,
        "grpc.keepalive_timeout_ms": 15_000,
        "grpc.http2.ping_timeout_ms": 15_000,
        "grpc.keepalive_permit_without_calls": 0,
        # A server that is just starting is found within seconds; the default waits up to two minutes.
        "grpc.initial_reconnect_backoff_ms": 250,
        "grpc.min_reconnect_backoff_ms": 1_000,
        "grpc.max_reconnect_backoff_ms": 2_000,
    }
)


def channel_options(address: str, given: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    """Return the options of a channel to `address`; `given` ones go first."""
    options = dict(_OPTIONS)
    if is_loopback(address):
        # gRPC takes even these through a proxy that the environment names.
        options["grpc.enable_http_proxy"] = 0
    return list((options | dict(given or {})).items())


def serving(reply: bytes) -> bool:
    """Tell from a health service's reply whether the server takes work."""
    return reply.startswith(_SERVING)
