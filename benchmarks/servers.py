"""The servers that are compared: Pellucid as users start it, and a bare gRPC echo."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

# Threads that spin while they wait would take the cores from whatever is measured beside them.
ENVIRONMENT = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True)
class Running:
    """A running Pellucid."""

    address: str
    metrics_address: str
    pid: int
    log: Path
    admin_address: str = ""

    def pending(self) -> int:
        """Return how many requests the workers have."""
        # A connection for each page, as the page's server keeps none.
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=10) as page:
            (found,) = re.findall(rb"^pellucid_requests_pending (\S+)$", page.read(), re.MULTILINE)
        return int(float(found))

    def workers(self) -> list[int]:
        """Return the ids of the worker processes."""
        children = Path(f"/proc/{self.pid}/task").glob("*/children")
        found = [int(pid) for path in children for pid in path.read_text().split()]
        return [pid for pid in found if Path(f"/proc/{pid}/comm").read_text() == "pellucid-worker\n"]


@contextlib.contextmanager
def running(models: Path, *, threads: int, settings: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Run the real server on `models`, with more settings by environment variables."""
    with tempfile.TemporaryDirectory() as folder:
        ready, log = Path(folder) / "ready.json", Path(folder) / "server.log"
        command = [sys.executable, "-m", "pellucid_server", "--models", str(models), "--port", "0"]
        command += ["--metrics-port", "0", "--health-port", "-1", "--ready-file", str(ready)]
        common = {"PELLUCID_WORKER__THREADS": str(threads), "PELLUCID_LOGGING__LEVEL": "warning"}
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env={**ENVIRONMENT, **common, **(settings or {})}, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            ports = _wait_for(ready, process)
            address, metrics = f"127.0.0.1:{ports['port']}", f"127.0.0.1:{ports['metrics_port']}"
            yield Running(address, metrics, process.pid, log, f"127.0.0.1:{ports['admin_port']}")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@contextlib.contextmanager
def pellucid(models: Path, *, threads: int) -> Iterator[str]:
    """Run the real server on `models`; yields its address."""
    with running(models, threads=threads) as found:
        yield found.address


@contextlib.contextmanager
def echo(reply_bytes: int) -> Iterator[str]:
    """Run a bare grpc.aio server that answers every call with `reply_bytes` bytes; yields its address."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.json"
        command = [sys.executable, "-m", "benchmarks.servers", str(reply_bytes), str(ready)]
        process = subprocess.Popen(command, env=ENVIRONMENT)
        try:
            yield f"127.0.0.1:{_wait_for(ready, process)['port']}"
        finally:
            process.kill()
            process.wait()


def _wait_for(ready: Path, process: "subprocess.Popen[bytes]") -> dict[str, int]:
    while not ready.exists():
        if process.poll() is not None:
            raise SystemExit(f"the server ended with exit code {process.returncode}")
        time.sleep(0.05)
    found: dict[str, int] = json.loads(ready.read_text())
    return found


async def _serve_echo(reply_bytes: int, ready: Path) -> None:
    reply = bytes(reply_bytes)

    async def answer(request: bytes, context: object) -> bytes:
        return reply

    handler = grpc.unary_unary_rpc_method_handler(answer)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Echo", {"Call": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    partial = ready.with_suffix(".partial")
    partial.write_text(json.dumps({"port": port}))
    partial.rename(ready)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(_serve_echo(int(sys.argv[1]), Path(sys.argv[2])))


@contextlib.contextmanager
def least(model: Path, *, threads: int) -> Iterator[str]:
    """Run the least server that predicts (`benchmarks.least_server`) on an ONNX file, and yield its address."""
    command = [sys.executable, "-m", "benchmarks.least_server", str(model), str(threads)]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
