"""Processor time that an explanation takes outside the network, for each row that the network is run on.

The network is the mean of each channel of a 3 x 224 x 224 row. The worker's and the front's processor time, of all
their threads, is read before and after a number of explanations; what the bare graph takes for as many rows, forward
and, for gradients, backward, in chunks of the size that the worker used, is taken away.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pellucid.tensors import to_tensor
from pellucid.v1 import explanation_pb2, explanation_service_pb2, input_pb2
from pellucid_server.engine.models.exported.archive import load_program
from pellucid_server.engine.models.graph.graph import Graph

from benchmarks import load, networks, servers

MODEL = networks.PICTURE_MEANS
ROW_SHAPE = (3, 224, 224)
AIMS = {"integrated-gradients": 0.1, "smoothgrad": 0.1, "kernel-shap": 0.03}
"""Milliseconds a row."""

_ROWS = {"integrated-gradients": (100, 500), "smoothgrad": (100, 500), "kernel-shap": (500, 2500)}
"""Few and many rows: the difference is the rows' own, without what each request costs."""

_EXPLANATIONS = 6


def processor_seconds(pid: int) -> float:
    """Return the processor time of all threads that a process has."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


def bare_seconds(graph: Graph, rows: int, *, backward: bool) -> float:
    """Return the processor time of the bare graph for each row, in batches of `rows`."""
    batch = torch.randn(rows, *ROW_SHAPE)
    name, output = graph.inputs[0].name, graph.outputs[0].name

    def run() -> None:
        if not backward:
            with torch.inference_mode():
                graph({name: batch})
            return
        leaf = batch.detach().requires_grad_(True)
        torch.autograd.grad(graph({name: leaf})[output][:, 0].sum(), leaf)

    return _median_seconds(run) / rows


def _median_seconds(run: Callable[[], None]) -> float:
    times = []
    for _ in range(20):
        started = time.process_time()
        run()
        times.append(time.process_time() - started)
    return statistics.median(times)


def _request(method: str, rows: int) -> bytes:
    spec = explanation_pb2.ExplanationSpec(method=method, seed=1)
    spec.target.outcome.index.append(0)
    if method == "kernel-shap":
        spec.parameters["regions"].text = "grid"
        spec.parameters["segments"].integer = 49
    spec.parameters["steps" if method == "integrated-gradients" else "samples"].integer = rows
    if method != "smoothgrad":
        spec.baseline.kind = explanation_pb2.BASELINE_KIND_ZEROS
    row = np.random.default_rng(0).normal(size=(1, *ROW_SHAPE)).astype(np.float32)
    inputs = {"image": input_pb2.Input(tensor=to_tensor(row))}
    model = explanation_pb2.ModelSpec(name=MODEL)
    request = explanation_service_pb2.AttributeRequest(model=model, inputs=inputs, explanation=spec)
    return bytes(request.SerializeToString())


@dataclass(frozen=True)
class Spent:
    """What explanations took."""

    seconds: float
    """Processor time of each, in the worker and the front."""
    rows: int
    """Rows that the network was run on for each."""
    batch: int
    """Rows of most of its batches."""


def spend(server: servers.Running, method: str, rows: int) -> Spent:
    """Explain a few times, one after the other."""
    body = _request(method, rows)
    reply = explanation_service_pb2.AttributeResponse.FromString(load.once(server.address, load.ATTRIBUTE, body))
    work = reply.explanation.attributions[0].receipt.work
    processes = [server.pid, *server.workers()]
    before = sum(map(processor_seconds, processes))
    for _ in range(_EXPLANATIONS):
        load.once(server.address, load.ATTRIBUTE, body)
    seconds = (sum(map(processor_seconds, processes)) - before) / _EXPLANATIONS
    batch = max(work.batch_shapes, key=lambda shape: shape.rows * shape.batches).rows
    return Spent(seconds, work.rows_forward if method == "kernel-shap" else work.rows_backward, batch)


def measure(server: servers.Running, graph: Graph, method: str) -> tuple[float, float, float]:
    """Return the milliseconds of a row outside the network and in it, and those of a request beside its rows."""
    few, many = (spend(server, method, rows) for rows in _ROWS[method])
    row = (many.seconds - few.seconds) / (many.rows - few.rows)
    bare = bare_seconds(graph, many.batch, backward=method != "kernel-shap")
    return (row - bare) * 1e3, bare * 1e3, (few.seconds - few.rows * row) * 1e3


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", nargs="*", default=list(AIMS), choices=AIMS)
    arguments = parser.parse_args()
    load.print_command(__spec__)
    torch.set_num_threads(1)
    print(f"load of the machine before: {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "benchmarks.networks", folder, MODEL], check=True)
        graph = Graph.from_program(load_program(Path(folder) / MODEL / "1" / "model.pt2"))
        with servers.running(Path(folder), threads=1) as server:
            for method in arguments.methods:
                found = [measure(server, graph, method) for _ in range(arguments.rounds)]
                outside, bare, request = (statistics.median(each) for each in zip(*found, strict=True))
                rounds = sorted(each for each, _, _ in found)
                print(
                    f"{method}: {outside:.3f} ms a row outside the network ({rounds[0]:.3f} to {rounds[-1]:.3f}, "
                    f"aim {AIMS[method]}), network {bare:.3f}, a request beside its rows {request:.0f}"
                )


if __name__ == "__main__":
    main()
