"""The server under test: started as users start it, asked for its metrics, watched, and stopped."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from soak import calling, processes

START_SECONDS = 180.0
GRACE_SECONDS = 20.0

_SETTINGS = {
    "PELLUCID_LOGGING__FORMAT": "json",
    "PELLUCID_SERVER__GRACE_SECONDS": str(GRACE_SECONDS),
    # Connections age within the run.
    "PELLUCID_SERVER__CONNECTION_AGE_SECONDS": "60",
    "PELLUCID_WORKER__THREADS": "1",
    # Few places and a short queue, so that requests wait and some are refused.
    "PELLUCID_WORKER__CONCURRENT_REQUESTS": "4",
    "PELLUCID_CLASSES__BULK__QUEUE_ROWS": "400",
    # A worker killed every 20 s is no worker that fails at every start.
    "PELLUCID_POOL__RESTART_MAX_SECONDS": "2",
    "OMP_WAIT_POLICY": "PASSIVE",
}


@dataclass(frozen=True)
class Server:
    """A running server."""

    process: "subprocess.Popen[bytes]"
    address: str
    metrics_address: str
    log: Path

    def metrics(self) -> str:
        """Return the metrics page."""
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=30) as page:
            text: str = page.read().decode()
        return text

    def terminate(self) -> "Ending":
        """Send SIGTERM, and tell how the server ended."""
        below = processes.descendants(self.process.pid)
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            status: int | None = self.process.wait(GRACE_SECONDS + 30)
        except subprocess.TimeoutExpired:
            status = None
        seconds = time.monotonic() - started
        return Ending(status, seconds, tuple(pid for pid in below if processes.alive(pid)))


@dataclass(frozen=True)
class Ending:
    """How the server ended."""

    status: int | None
    """The exit status; None if it was still there."""
    seconds: float
    """From SIGTERM to its end."""
    left: tuple[int, ...]
    """Processes below it that were still there."""


@contextlib.contextmanager
def serve(models: Path, folder: Path, *, workers: int) -> Iterator[Server]:
    """Run the server on free ports; `folder` gets its log."""
    ready, log = folder / "ready.json", folder / "server.log"
    command = [sys.executable, "-m", "pellucid_server", "--models", str(models), "--port", "0"]
    command += ["--metrics-port", "0", "--health-port", "-1", "--ready-file", str(ready)]
    settings = {**_SETTINGS, "PELLUCID_POOL__DEVICES": ",".join(["cpu"] * workers)}
    with log.open("wb") as output:
        process = subprocess.Popen(command, env={**os.environ, **settings}, stdout=output, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + START_SECONDS
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"The server did not start; its log is\n{log.read_text('utf-8', 'replace')}")
            time.sleep(0.05)
        ports = json.loads(ready.read_text())
        yield Server(process, f"127.0.0.1:{ports['port']}", f"127.0.0.1:{ports['metrics_port']}", log)
    finally:
        process.kill()
        process.wait()


class HealthWatch:
    """Follows the health service's stream on a thread: when the server served and when not."""

    def __init__(self, address: str) -> None:
        self.changes: list[tuple[float, bool]] = []
        """When, on `time.monotonic()`'s clock, and whether it served from then on."""
        self._closed = False
        self._channel = grpc.insecure_channel(address, options=calling.OPTIONS)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def outages(self, *, until: float) -> list[tuple[float, float]]:
        """Return when the server did not serve, each from and to."""
        times = [*self.changes, (until, True)]
        return [(begin, end) for (begin, served), (end, _) in pairwise(times) if not served]

    def close(self) -> None:
        """Follow no more."""
        self._closed = True
        self._channel.close()
        self._thread.join()

    def _run(self) -> None:
        watch = health_pb2_grpc.HealthStub(self._channel).Watch
        while not self._closed:
            # An aged connection ends the stream, and a new one follows.
            with contextlib.suppress(grpc.RpcError, ValueError):
                for reply in watch(health_pb2.HealthCheckRequest(), wait_for_ready=True):
                    serving = reply.status == health_pb2.HealthCheckResponse.SERVING
                    if not self.changes or self.changes[-1][1] != serving:
                        self.changes.append((time.monotonic(), serving))
