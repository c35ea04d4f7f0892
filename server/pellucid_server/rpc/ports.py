"""The ports that are listened on: gRPC's settings for their connections, and the port of the health check alone."""

import grpc
from grpc_health.v1 import health_pb2_grpc

from pellucid_server.settings.sections import ServerConfig

_MOST_STREAMS = 1024
"""Calls of one connection at a time; a client holds further ones back by itself."""

# Clients ping a server that keeps them waiting: ours each 15 s, no library more often than each 10 s. By its
# default a server closes connections that ping twice within 5 minutes without other traffic.
_LEAST_PING_MS = 9_000

# A caller whose machine is gone without a word is found out, and its work stopped, after these two.
_KEEPALIVE_MS = 60_000
_KEEPALIVE_PATIENCE_MS = 20_000

_MOST_HEALTH_BYTES = 4096
"""A health check has a name of 128 characters at most. Its port is open to everyone: nothing large is read there."""


class StartError(Exception):
    """The server cannot start; the message tells the operator why."""


def listen_on(server: grpc.aio.Server, address: str, credentials: grpc.ServerCredentials | None, setting: str) -> int:
    """Open a port; without credentials it is plain. `setting` is the one that names it.

    Raises
    ------
    StartError
        The port cannot be had.
    """
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise StartError(f"Cannot listen on {address}; is another server there? {setting} sets the port.") from error


def channel_options(config: ServerConfig) -> list[tuple[str, int]]:
    """Return gRPC's options for the server's side of its connections."""
    options = [
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        # Two servers on one port would share its connections at random.
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", _MOST_STREAMS),
        ("grpc.http2.min_ping_interval_without_data_ms", _LEAST_PING_MS),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_PATIENCE_MS),
        # Without this one, which is 60 s by itself, the one above has no effect.
        ("grpc.http2.ping_timeout_ms", _KEEPALIVE_PATIENCE_MS),
        ("grpc.keepalive_permit_without_calls", 0),
    ]
    if config.connection_age_seconds:
        options.append(("grpc.max_connection_age_ms", _milliseconds(config.connection_age_seconds)))
        options.append(("grpc.max_connection_age_grace_ms", _milliseconds(config.connection_grace_seconds)))
    return options


def _milliseconds(seconds: float) -> int:
    """Return a time as gRPC takes it: whole, at least 1, and below the number that means never."""
    return min(max(1, round(seconds * 1000)), (1 << 31) - 2)


async def serve_health(config: ServerConfig, servicer: health_pb2_grpc.HealthServicer) -> tuple[grpc.aio.Server, int]:
    """Serve the health check alone, without TLS; return the server and its port.

    Raises
    ------
    StartError
        The port cannot be had.
    """
    options = {**dict(channel_options(config)), "grpc.max_receive_message_length": _MOST_HEALTH_BYTES}
    server = grpc.aio.server(options=list(options.items()))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = listen_on(server, f"{config.host}:{config.health_port}", None, "server.health_port")
    await server.start()
    return server, port
