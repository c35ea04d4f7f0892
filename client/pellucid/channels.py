"""How both clients connect: channel options, retries, and the standard health service."""

import json
from types import MappingProxyType
from typing import Any

from pellucid.calls import MOST_MESSAGE_BYTES

WATCH_HEALTH = "/grpc.health.v1.Health/Watch"
"""The standard health service's stream of a server's states."""

WHOLE_SERVER = b""
"""A HealthCheckRequest for the server as a whole: its only field is empty, and so is the message."""

_SERVING = b"\x08\x01"
"""A HealthCheckResponse with field 1, `status`, at SERVING."""

# The default, 256 KiB, is less than one float32 picture: a request above it is never retried, silently.
_RETRY_BUFFER_BYTES = 16 * 1024 * 1024

_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [
                {"service": "pellucid.v1.ExplanationService"},
                {"service": "pellucid.v1.ModelService"},
                {"service": "grpc.health.v1.Health"},
            ],
            # Requests have no effect but their answer: sending one twice is safe.
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.2s",
                "maxBackoff": "5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
            },
        }
    ]
}

_OPTIONS = MappingProxyType(
    {
        "grpc.service_config": json.dumps(_SERVICE_CONFIG),
        "grpc.enable_retries": 1,
        "grpc.per_rpc_retry_buffer_size": _RETRY_BUFFER_BYTES,
        "grpc.max_send_message_length": MOST_MESSAGE_BYTES,
        "grpc.max_receive_message_length": MOST_MESSAGE_BYTES,
        # Only while a call waits, to notice that its server is gone; pings without a call are refused by servers.
        "grpc.keepalive_time_ms": 60_000,
        "grpc.keepalive_timeout_ms": 20_000,
        "grpc.keepalive_permit_without_calls": 0,
        # A server that is just starting is found within seconds; the default waits up to two minutes.
        "grpc.initial_reconnect_backoff_ms": 250,
        "grpc.min_reconnect_backoff_ms": 1_000,
        "grpc.max_reconnect_backoff_ms": 2_000,
    }
)


def channel_options(address: str, given: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the options of a channel to `address`; `given` ones go first."""
    options = dict(_OPTIONS)
    if address.startswith(("localhost:", "127.0.0.1:", "[::1]:")):
        # gRPC takes even these through a proxy that the environment names.
        options["grpc.enable_http_proxy"] = 0
    return list((options | given).items())


def serving(reply: bytes) -> bool:
    """Tell from a health service's reply whether the server takes work."""
    return reply.startswith(_SERVING)
