"""Health checks beside Predicts of 58 MB, and the memory that these take in the front.

Each caller and the prober, which asks the health service every 5 ms, is a process of its own. Each case is measured
with requests that are answered, and with ones that are refused once they are decoded, as they name a class that
there is not: these show the front without what it does to reach its worker.
"""

import argparse
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pellucid.tensors import to_tensor
from pellucid.v1 import explanation_pb2, explanation_service_pb2, input_pb2

from benchmarks import load, servers

MODEL, ROWS, ROW_SHAPE = "means", 96, (3, 224, 224)
AIMS = {0: (None, None), 1: (0.1, None), 8: (0.2, 500)}
"""By callers: the slowest health check in seconds, and the front's memory in MB."""

_PROBE_SECONDS = 0.005
_QUIET_SECONDS = 2.0
_PATIENCE_SECONDS = 300.0

_processes = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Figures:
    """What one case showed."""

    callers: int
    codes: tuple[str, ...]
    """How the requests ended."""
    seconds: float
    """From the start to the last request's end."""
    slowest: float
    """The slowest health check, in seconds."""
    median: float
    """The median of the health checks, in seconds."""
    peak_mb: float
    """The most resident memory of the front, in MB."""

    def line(self, case: str) -> str:
        """Say it all in a line."""
        ended = ", ".join(f"{self.codes.count(code)} {code}" for code in sorted(set(self.codes))) or "none"
        seconds, megabytes = AIMS[self.callers]
        aims = [] if seconds is None else [f"at most {seconds * 1e3:.0f} ms"]
        aims += [] if megabytes is None else [f"{megabytes} MB"]
        return (
            f"{case}, {self.callers} at once ({ended}) in {self.seconds:.1f} s: slowest health check "
            f"{self.slowest * 1e3:.0f} ms, median {self.median * 1e3:.1f} ms; peak of the front {self.peak_mb:.0f} MB"
            + (f" (aim: {', '.join(aims)})" if aims else "")
        )


def measure(server: servers.Running, callers: int, *, priority: str = "") -> Figures:
    """Let so many callers send one large request each, in a class, at the same time."""
    start = _processes.Barrier(callers + 2)
    stop = _processes.Event()
    codes: Queue[str] = _processes.Queue()
    probes: Queue[list[float]] = _processes.Queue()
    address = server.address
    workers = [_processes.Process(target=_call, args=(address, priority, start, codes)) for _ in range(callers)]
    workers.append(_processes.Process(target=_probe, args=(address, start, stop, probes)))
    for worker in workers:
        worker.start()
    start.wait(_PATIENCE_SECONDS)
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")
    began = time.perf_counter()
    ended = tuple(codes.get(timeout=_PATIENCE_SECONDS) for _ in range(callers))
    seconds = time.perf_counter() - began
    time.sleep(0.2 if callers else _QUIET_SECONDS)
    stop.set()
    times = probes.get(timeout=_PATIENCE_SECONDS)
    for worker in workers:
        worker.join(_PATIENCE_SECONDS)
    return Figures(callers, ended, seconds, max(times), statistics.median(times), resident_mb(server.pid, "VmHWM"))


def resident_mb(pid: int, field: str = "VmRSS") -> float:
    """Return the resident memory of a process, or with VmHWM its peak."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6


def _call(address: str, priority: str, start: Barrier, codes: "Queue[str]") -> None:
    rows = np.random.default_rng(0).random((ROWS, *ROW_SHAPE), np.float32)
    inputs = {"image": input_pb2.Input(tensor=to_tensor(rows))}
    request = explanation_service_pb2.PredictRequest(model=explanation_pb2.ModelSpec(name=MODEL), inputs=inputs)
    body = request.SerializeToString()
    metadata = [("x-pellucid-priority", priority)] if priority else []
    with grpc.insecure_channel(address, options=load.OPTIONS) as channel:
        grpc.channel_ready_future(channel).result(_PATIENCE_SECONDS)
        start.wait(_PATIENCE_SECONDS)
        try:
            channel.unary_unary(load.PREDICT)(body, timeout=_PATIENCE_SECONDS, metadata=metadata)
            codes.put("OK")
        except grpc.RpcError as error:
            codes.put(error.code().name)


def _probe(address: str, start: Barrier, stop: Event, probes: "Queue[list[float]]") -> None:
    times = []
    with grpc.insecure_channel(address) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        check(health_pb2.HealthCheckRequest(), wait_for_ready=True)
        start.wait(_PATIENCE_SECONDS)
        while not stop.is_set():
            began = time.perf_counter()
            check(health_pb2.HealthCheckRequest(), timeout=_PATIENCE_SECONDS)
            times.append(time.perf_counter() - began)
            time.sleep(_PROBE_SECONDS)
    probes.put(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="threads of the worker; 0 for all cores")
    parser.add_argument("--callers", type=int, nargs="*", default=list(AIMS), choices=AIMS)
    arguments = parser.parse_args()
    load.print_command(__spec__)
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own, as each caller would import torch with this module.
        subprocess.run([sys.executable, "-m", "benchmarks.networks", folder, MODEL], check=True)
        with servers.running(Path(folder), threads=arguments.threads) as server:
            print(f"front before: {resident_mb(server.pid):.0f} MB")
            for _ in range(arguments.rounds):
                for callers in arguments.callers:
                    print(measure(server, callers, priority="no-such").line("refused once decoded"))
                    print(measure(server, callers).line("answered"))
            time.sleep(12)
            print(f"front 12 s after: {resident_mb(server.pid):.0f} MB")


if __name__ == "__main__":
    main()
