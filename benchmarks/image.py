"""Integrated gradients with 50 steps on the ImageNet network: the service against a bare torch loop.

The loop runs the same graph with as many threads as the worker, in chunks of the size that is fastest
for it, with nothing around it. Loop and service take turns; the median of the rounds' ratios is reported.
"""

import argparse
import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from pellucid.tensors import to_tensor
from pellucid.v1 import explanation_pb2, explanation_service_pb2, input_pb2
from pellucid_server.engine.models.exported.archive import load_program
from pellucid_server.engine.models.graph.graph import Graph

from benchmarks import load, servers

MODEL = "efficientnet-lite0"
STEPS = 50
CLASS = 282
CHUNKS = (1, 2, 5, 10, 25, 50)


class Loop:
    """Integrated gradients with nothing around them."""

    def __init__(self, path: Path, row: np.ndarray, *, threads: int) -> None:
        torch.set_num_threads(threads)
        self._graph = Graph.from_program(load_program(path))
        self._row = torch.from_numpy(row)
        nodes, weights = np.polynomial.legendre.leggauss(STEPS)
        self._nodes = torch.from_numpy(((nodes + 1) / 2).astype(np.float32))
        self._weights = torch.from_numpy((weights / 2).astype(np.float32))
        self.chunk = min(CHUNKS, key=lambda chunk: min(self.seconds(chunk) for _ in range(2)))

    def seconds(self, chunk: int) -> float:
        """Return how long one explanation takes in chunks of `chunk` rows."""
        started = time.perf_counter()
        total = torch.zeros_like(self._row)
        for start in range(0, STEPS, chunk):
            some = slice(start, start + chunk)
            rows = (self._nodes[some, None, None, None] * self._row).requires_grad_(True)
            score = self._graph({self._graph.inputs[0].name: rows})[self._graph.outputs[0].name][:, CLASS].sum()
            (gradients,) = torch.autograd.grad(score, rows)
            total += torch.einsum("n,nchw->chw", self._weights[some], gradients)[None]
        _ = total * self._row
        return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="the demo model repository")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 1) - 1), help="of worker and loop")
    arguments = parser.parse_args()
    row = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    loop = Loop(arguments.models / MODEL / "1" / "model.pt2", row, threads=arguments.threads)
    print(f"bare loop: best chunk {loop.chunk} of {CHUNKS}, {arguments.threads} thread(s)")
    with servers.pellucid(arguments.models, threads=arguments.threads) as address:
        body = _body(row)
        load.once(address, load.ATTRIBUTE, body)
        for callers in (1, 4):
            _measure(loop, address, body, callers, arguments.rounds)


def _body(row: np.ndarray) -> bytes:
    spec = explanation_pb2.ExplanationSpec(method="integrated-gradients")
    spec.parameters["steps"].integer = STEPS
    spec.target.outcome.index.append(CLASS)
    spec.baseline.kind = explanation_pb2.BASELINE_KIND_ZEROS
    request = explanation_service_pb2.AttributeRequest(
        model=explanation_pb2.ModelSpec(name=MODEL),
        inputs={"image": input_pb2.Input(tensor=to_tensor(row))},
        explanation=spec,
    )
    return bytes(request.SerializeToString())


def _measure(loop: Loop, address: str, body: bytes, callers: int, rounds: int) -> None:
    ratios, bare_rates, served_rates = [], [], []
    for _ in range(rounds):
        before = loop.seconds(loop.chunk)
        started = time.perf_counter()
        with ThreadPoolExecutor(callers) as pool:
            list(pool.map(lambda _: load.once(address, load.ATTRIBUTE, body), range(callers)))
        served = callers / (time.perf_counter() - started)
        # Before and after, because the machine's speed drifts.
        bare = 2 / (before + loop.seconds(loop.chunk))
        ratios.append(served / bare)
        bare_rates.append(bare)
        served_rates.append(served)
    print(
        f"{callers} caller(s): {statistics.median(served_rates):.3f}/s, loop {statistics.median(bare_rates):.3f}/s, "
        f"ratio {statistics.median(ratios):.3f} (rounds {min(ratios):.3f} to {max(ratios):.3f}; aim 0.90)"
    )


if __name__ == "__main__":
    main()
