"""The servers that are compared: Pellucid as users start it, and a bare gRPC echo."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import grpc

# Threads that spin while they wait would take the cores from whatever is measured beside them.
ENVIRONMENT = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}


@contextlib.contextmanager
def pellucid(models: Path, *, threads: int) -> Iterator[str]:
    """Run the real server on `models`; yields its address."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.json"
        command = [sys.executable, "-m", "pellucid_server", "--models", str(models), "--port", "0"]
        command += ["--metrics-port", "0", "--ready-file", str(ready)]
        settings = {"PELLUCID_WORKER__THREADS": str(threads), "PELLUCID_LOGGING__LEVEL": "warning"}
        process = subprocess.Popen(command, env={**ENVIRONMENT, **settings})
        try:
            yield f"127.0.0.1:{_wait_for(ready, process)['port']}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


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
