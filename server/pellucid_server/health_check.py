"""The `pellucid-health` command: asks the server of this machine whether it serves; a container's health check.

It reads the same settings as the server, so that it asks the port that the server listens on: the one for health alone,
which is never encrypted, or without that the one for all calls.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pellucid_server.config import ConfigError, load
from pellucid_server.settings.sections import ServerConfig

_HEALTHY, _UNHEALTHY, _NOT_CONFIGURED = 0, 1, 2

_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "::": "[::1]"}  # noqa: S104 - what it means, not a choice
"""Where a server that listens on every address is reached from its own machine."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask once.

    Returns
    -------
    int
        The exit status: 0 if the server, or the model, is SERVING, 1 if not, and 2 for wrong settings. Where it is not
        0, standard error has the reason.
    """
    options = _parser().parse_args(arguments)
    try:
        address = options.address or local_address(load(options.config).server)
    except ConfigError as error:
        return _complain(str(error), _NOT_CONFIGURED)
    problem = ask(address, options.model, options.timeout)
    return _complain(problem, _UNHEALTHY) if problem else _HEALTHY


def local_address(server: ServerConfig) -> str:
    """Return where a server with these settings answers health checks that come from its own machine."""
    port = server.health_port if server.health_port > 0 else server.port
    return f"{_EVERY_ADDRESS.get(server.host, server.host)}:{port}"


def ask(address: str, model: str, timeout_seconds: float) -> str:
    """Return why the server at an address, or one model of it, is not SERVING; empty if it is."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=model)
        try:
            status = stub.Check(request, timeout=timeout_seconds, wait_for_ready=False).status
        except grpc.RpcError as error:
            return f"{address} answered {error.code().name}."
    if status == health_pb2.HealthCheckResponse.SERVING:
        return ""
    return f"{address} is {health_pb2.HealthCheckResponse.ServingStatus.Name(status)}."


def _complain(problem: str, status: int) -> int:
    sys.stderr.write(f"pellucid-health: {problem}\n")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pellucid-health", description="Exit with 0 if the server of this machine is SERVING, else with 1."
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="the server's settings (or PELLUCID_CONFIG)")
    parser.add_argument("--address", metavar="HOST:PORT", help="where to ask, in place of what the settings say")
    parser.add_argument("--model", default="", help="ask for this model; left out, for the whole server")
    parser.add_argument("--timeout", type=float, default=3.0, metavar="SECONDS", help="how long to wait (default: 3)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
