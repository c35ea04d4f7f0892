"""Pictures: the service against the best that the whole machine can do, for two networks.

Integrated gradients with 50 steps run against a loop that is written by hand: batch norms folded into the convolutions,
everything channels-last, all cores, and the chunk size that is fastest for it. `Predict` runs against bare ONNX Runtime
on all cores. Service and rival take turns; the medians of the rounds' ratios are reported.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from pellucid.tensors import to_tensor
from pellucid.v1 import explanation_pb2, explanation_service_pb2, input_pb2
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from benchmarks import load, networks, servers

STEPS = 50
CLASS = 282
CHUNKS = (2, 5, 10, 17, 25, 50)
SECONDS = 4.0


class Loop:
    """Integrated gradients with nothing around them."""

    def __init__(self, module: nn.Module, row: np.ndarray) -> None:
        self._module = fused(module.eval()).to(memory_format=torch.channels_last)
        for parameter in self._module.parameters():
            parameter.requires_grad_(False)
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
            rows = self._nodes[some, None, None, None] * self._row
            rows = rows.contiguous(memory_format=torch.channels_last).requires_grad_(True)
            (gradients,) = torch.autograd.grad(self._module(rows)[:, CLASS].sum(), rows)
            total += torch.einsum("n,nchw->chw", self._weights[some], gradients)[None]
        _ = total * self._row
        return time.perf_counter() - started


def fused(module: nn.Module) -> nn.Module:
    """Fold each batch norm into the convolution that was called just before it."""
    calls: list[tuple[str, nn.Module]] = []
    kinds = (nn.Conv2d, nn.BatchNorm2d)
    hooks = [
        each.register_forward_hook(lambda called, *_, name=name: calls.append((name, called)))
        for name, each in module.named_modules()
        if isinstance(each, kinds)
    ]
    with torch.no_grad():
        module(torch.zeros(1, 3, 224, 224))
    for hook in hooks:
        hook.remove()
    for (before, convolution), (after, norm) in itertools.pairwise(calls):
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            module.set_submodule(before, fuse_conv_bn_eval(convolution, norm))
            module.set_submodule(after, nn.Identity())
    return module


class Bare:
    """Predictions by ONNX Runtime on all cores, with nothing around them."""

    def __init__(self, path: Path, row: np.ndarray, *, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._row = row

    def rate(self, callers: int, seconds: float) -> float:
        """Return the rows a second of as many callers, whose rows run together, or each by itself if that is faster."""
        return max(self._rate(rows, seconds / 2) for rows in {1, callers})

    def _rate(self, rows: int, seconds: float) -> float:
        feed = {self._session.get_inputs()[0].name: np.repeat(self._row, rows, axis=0)}
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            self._session.run(None, feed)
            done += rows
        return done / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=[networks.RESNET, networks.LITE])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="of service, loop and runtime"
    )
    arguments = parser.parse_args()
    load.print_command(__spec__)
    row = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    torch.set_num_threads(arguments.threads)
    for name in arguments.networks:
        with tempfile.TemporaryDirectory() as folder:
            networks.write(Path(folder), name, onnx=True)
            loop = Loop(networks.network(name), row)
            bare = Bare(Path(folder) / name / "1" / "model.onnx", row, threads=arguments.threads)
            print(f"{name}: {arguments.threads} thread(s), the loop's best chunk is {loop.chunk} of {CHUNKS}")
            model = Path(folder) / name / "1" / "model.onnx"
            with (
                servers.pellucid(Path(folder), threads=arguments.threads) as address,
                servers.least(model, threads=arguments.threads) as least,
            ):
                _measure(address, least, name, row, loop, bare, arguments.rounds)


def _measure(address: str, least: str, name: str, row: np.ndarray, loop: Loop, bare: Bare, rounds: int) -> None:
    explain, predict = _attribute_body(name, row), _predict_body(name, row)
    # The service finds its own best chunk meanwhile.
    for _ in range(3):
        load.once(address, load.ATTRIBUTE, explain)
    for callers, aim in ((1, 0.90), (4, 0.90)):

        def served(callers: int = callers) -> float:
            started = time.perf_counter()
            with ThreadPoolExecutor(callers) as pool:
                list(pool.map(lambda _: load.once(address, load.ATTRIBUTE, explain), range(callers)))
            return callers / (time.perf_counter() - started)

        _report(f"integrated gradients, {callers} caller(s)", served, lambda: 1 / loop.seconds(loop.chunk), rounds, aim)
    for callers, aim in ((1, 0.75), (16, 0.85)):

        def served(callers: int = callers) -> float:
            return load.requests_per_second(address, load.PREDICT, predict, callers=callers, seconds=SECONDS)

        def least_served(callers: int = callers) -> float:
            return load.requests_per_second(least, load.PREDICT, predict, callers=callers, seconds=SECONDS)

        def rival(callers: int = callers) -> float:
            return bare.rate(callers, SECONDS)

        _report(f"predict, {callers} caller(s)", served, rival, rounds, aim)
        _report(f"predict by the least server, {callers} caller(s)", least_served, rival, rounds, None)


def _report(what: str, served: Callable[[], float], bare: Callable[[], float], rounds: int, aim: float | None) -> None:
    ratios, mine, rivals = [], [], []
    for _ in range(rounds):
        before = bare()
        mine.append(served())
        # Before and after, because the machine's speed drifts.
        rivals.append((before + bare()) / 2)
        ratios.append(mine[-1] / rivals[-1])
    print(
        f"  {what}: {statistics.median(mine):.3f}/s, rival {statistics.median(rivals):.3f}/s, ratio "
        f"{statistics.median(ratios):.3f} (rounds {min(ratios):.3f} to {max(ratios):.3f}; aim {aim or 'none'})",
        flush=True,
    )


def _tensor(row: np.ndarray) -> dict[str, input_pb2.Input]:
    return {"image": input_pb2.Input(tensor=to_tensor(row))}


def _attribute_body(name: str, row: np.ndarray) -> bytes:
    spec = explanation_pb2.ExplanationSpec(method="integrated-gradients")
    spec.parameters["steps"].integer = STEPS
    spec.target.outcome.index.append(CLASS)
    spec.baseline.kind = explanation_pb2.BASELINE_KIND_ZEROS
    model = explanation_pb2.ModelSpec(name=name)
    request = explanation_service_pb2.AttributeRequest(model=model, inputs=_tensor(row), explanation=spec)
    return bytes(request.SerializeToString())


def _predict_body(name: str, row: np.ndarray) -> bytes:
    model = explanation_pb2.ModelSpec(name=name)
    return bytes(explanation_service_pb2.PredictRequest(model=model, inputs=_tensor(row)).SerializeToString())


if __name__ == "__main__":
    main()
