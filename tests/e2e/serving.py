"""Starts the server as users do, in a process of its own, and tells what it does."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
import nursery
from pellucid.v1 import explanation_service_pb2_grpc, model_service_pb2_grpc

LONG_SECONDS = 120.0
"""How long something may take on a crowded machine."""
CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass(frozen=True)
class Server:
    """A running server."""

    process: "subprocess.Popen[bytes] | nursery.Child"
    address: str
    metrics_address: str
    log: Path
    channel: grpc.Channel
    admin_address: str = ""

    @property
    def explanations(self) -> explanation_service_pb2_grpc.ExplanationServiceStub:
        return explanation_service_pb2_grpc.ExplanationServiceStub(self.channel)

    @property
    def models(self) -> model_service_pb2_grpc.ModelServiceStub:
        return model_service_pb2_grpc.ModelServiceStub(self.channel)

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=LONG_SECONDS) as page:
            text: str = page.read().decode()
        return text

    def busy(self) -> bool:
        """Whether the worker has a request."""
        return "pellucid_requests_pending 0.0" not in self.metrics()

    def lines(self, *words: str) -> list[str]:
        """Return the log's lines that hold all of `words`."""
        return [line for line in self.log.read_text().splitlines() if all(word in line for word in words)]

    def worker_pid(self) -> int:
        """Return the id of the worker's process."""
        (worker,) = children(self.process.pid, "pellucid-worker")
        return worker

    def terminate(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(2 * LONG_SECONDS)


def children(pid: int, name: str) -> set[int]:
    """Return the children of a process that have a name, as `ps` shows it."""
    found = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            # It may have ended since it was listed.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if Path(f"/proc/{child}/comm").read_text() == f"{name}\n":
                    found.add(int(child))
    return found


def wait_until(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Look at `condition` until it holds; another process offers nothing to wait on."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"after {seconds:g} s it is still not so that {what}")
        time.sleep(0.02)


@contextlib.contextmanager
def serve(
    models: Path,
    folder: Path,
    settings: Mapping[str, str] | None = None,
    *,
    as_users_do: bool = False,
    worker: str = "pellucid_server.worker",
) -> Iterator[Server]:
    """Run a server on free ports; `folder` gets its log.

    Parameters
    ----------
    settings
        Environment variables for it, such as `PELLUCID_POOL__HANG_SECONDS`.
    as_users_do
        Run `python -m pellucid_server`, which imports everything anew.
    worker
        A module that the workers of another server import.
    """
    ready, log = folder / "ready.json", folder / "server.log"
    arguments = ["--models", str(models), "--port", "0", "--metrics-port", "0"]
    arguments += ["--health-port", "0", "--ready-file", str(ready)]
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PELLUCID_WORKER__THREADS": "1", **(settings or {})}
    process: subprocess.Popen[bytes] | nursery.Child
    with log.open("wb") as output:
        if as_users_do:
            command = [sys.executable, "-m", "pellucid_server", *arguments]
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        else:
            process = nursery.fork("server", [worker, *arguments], environment, [], output.fileno())
    try:
        wait_until(
            lambda: ready.exists() or process.poll() is not None, seconds=2 * LONG_SECONDS, what="the server is ready"
        )
        if not ready.exists():
            raise RuntimeError(f"the server ended with exit code {process.returncode}:\n{log.read_text()}")
        ports = json.loads(ready.read_text())
        address = f"127.0.0.1:{ports['port']}"
        with grpc.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            metrics, admin = (f"127.0.0.1:{ports[name]}" for name in ("metrics_port", "admin_port"))
            yield Server(process, address, metrics, log, channel, admin)
    finally:
        process.kill()
        process.wait()
