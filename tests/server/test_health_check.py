"""The command that a container's health check runs."""

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from pellucid_server.health_check import local_address, main
from pellucid_server.settings.sections import ServerConfig

STATES = health_pb2.HealthCheckResponse


@pytest.fixture
def served() -> Iterator[tuple[int, health.HealthServicer]]:
    """The port of a server with nothing but health checks, and what sets its states."""
    server, states = grpc.server(ThreadPoolExecutor(1)), health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(states, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port, states
    server.stop(None).wait()


@pytest.fixture
def settings(served: tuple[int, health.HealthServicer], tmp_path: Path) -> list[str]:
    """Arguments that name a settings file with the server's port."""
    file = tmp_path / "pellucid.toml"
    file.write_text(f'[server]\nhost = "0.0.0.0"\nhealth_port = {served[0]}\n')
    return ["--config", str(file)]


def test_a_server_that_serves_is_healthy(
    served: tuple[int, health.HealthServicer], settings: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    served[1].set("", STATES.SERVING)

    assert main(settings) == 0
    assert capfd.readouterr() == ("", "")


def test_a_server_that_does_not_serve_is_not_healthy(
    served: tuple[int, health.HealthServicer], settings: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    served[1].set("", STATES.NOT_SERVING)

    assert main(settings) == 1
    assert capfd.readouterr().err == f"pellucid-health: 127.0.0.1:{served[0]} is NOT_SERVING.\n"


def test_one_model_can_be_asked_for(served: tuple[int, health.HealthServicer], settings: list[str]) -> None:
    served[1].set("", STATES.SERVING)
    served[1].set("broken", STATES.NOT_SERVING)

    assert main([*settings, "--model", "broken"]) == 1
    assert main([*settings, "--model", "unknown"]) == 1


def test_where_nothing_listens_is_not_healthy(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"

        assert main(["--address", address]) == 1

    assert capfd.readouterr().err == f"pellucid-health: {address} answered UNAVAILABLE.\n"


def test_a_server_that_does_not_answer_in_time_is_not_healthy(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"

        assert main(["--address", address, "--timeout", "0.2"]) == 1

    assert capfd.readouterr().err == f"pellucid-health: {address} answered DEADLINE_EXCEEDED.\n"


def test_wrong_settings_are_another_status_than_a_server_that_is_not_healthy(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(tmp_path / "none.toml")]) == 2
    assert "cannot be read" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("host", "reached"), [("0.0.0.0", "127.0.0.1"), ("[::]", "[::1]"), ("10.1.2.3", "10.1.2.3"), ("a.b", "a.b")]
)
def test_a_server_is_asked_where_it_listens(host: str, reached: str) -> None:
    health_port = getattr(ServerConfig(), "health_port", -1)
    port = health_port if health_port > 0 else 50051

    assert local_address(ServerConfig(host=host)) == f"{reached}:{port}"
