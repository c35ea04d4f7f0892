"""A CUDA device: integrated gradients with 50 steps and predictions, the service against a bare loop of torch.

The loop is written by hand around the author's own module: float32, everything on the device, the chunk that is
fastest for it. Loop and service take turns; the median of the rounds' ratios is reported. What follows says where the
time of a chunk goes, and whether the bits of a row depend on the batch that it is in.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import torch
from pellucid.tensors import to_tensor
from pellucid.v1 import explanation_pb2, explanation_service_pb2, input_pb2
from pellucid_server.engine.asking.question import Target
from pellucid_server.engine.asking.recipe import SCORES
from pellucid_server.engine.device import accelerator as devices
from pellucid_server.engine.evaluations.gradient import Gradient
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.models.exported.archive import load_program
from pellucid_server.engine.models.graph.graph import Graph
from torch import nn

from benchmarks import load, networks, servers

STEPS = 50
CLASS = 282
CHUNKS = (5, 10, 25, 50)
BATCHES = (1, 2, 3, 4, 7, 8, 16, 32, 50)

Figure = dict[str, Any]


class Loop:
    """Integrated gradients and predictions with nothing around them."""

    def __init__(self, module: nn.Module, row: np.ndarray, device: str) -> None:
        self._module = module.to(device)
        for parameter in module.parameters():
            parameter.requires_grad_(False)
        self._device = device
        self._row = row
        nodes, weights = np.polynomial.legendre.leggauss(STEPS)
        self._nodes = torch.from_numpy(((nodes + 1) / 2).astype(np.float32)).to(device)
        self._weights = torch.from_numpy((weights / 2).astype(np.float32)).to(device)
        self.chunk = min(CHUNKS, key=lambda chunk: min(self.explain_seconds(chunk) for _ in range(3)))

    def explain_seconds(self, chunk: int = 0) -> float:
        """Return how long one explanation takes, from a row on the host to scores on the host."""
        started, chunk = time.perf_counter(), chunk or self.chunk
        row = torch.from_numpy(self._row).to(self._device)
        total = torch.zeros_like(row)
        for start in range(0, STEPS, chunk):
            some = slice(start, start + chunk)
            rows = (self._nodes[some, None, None, None] * row).requires_grad_(True)
            (gradients,) = torch.autograd.grad(self._module(rows)[:, CLASS].sum(), rows)
            total += torch.einsum("n,nchw->chw", self._weights[some], gradients)[None]
        (total * row).cpu()
        return time.perf_counter() - started

    def predict_seconds(self, count: int) -> float:
        """Return how long one prediction of `count` rows takes, from rows on the host to logits on the host."""
        rows = np.repeat(self._row, count, 0)
        started = time.perf_counter()
        with torch.no_grad():
            self._module(torch.from_numpy(rows).to(self._device)).cpu()
        return time.perf_counter() - started


def main() -> None:
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="of load in each round")
    parser.add_argument("--networks", nargs="+", default=[networks.RESNET, networks.LITE])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    load.print_command(SimpleNamespace(name="benchmarks.gpu"))
    devices.prepare_process(arguments.device)
    devices.prepare_thread(arguments.device)
    figures: list[Figure] = []

    def note(what: str, value: float, unit: str, remark: str = "") -> None:
        figures.append({"what": what, "value": value, "unit": unit, "note": remark})
        print(f"{what}: {value:.4g} {unit} {remark}", flush=True)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(figures, indent=1), "utf-8")

    row = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        for name in arguments.networks:
            networks.write(repository, name)
        loops = {name: Loop(networks.network(name), row, arguments.device) for name in arguments.networks}
        settings = {"PELLUCID_POOL__DEVICES": arguments.device}
        with servers.running(repository, threads=0, settings=settings) as service:
            for name in arguments.networks:
                _compare(note, name, loops[name], service.address, row, arguments.rounds, arguments.seconds)
        for name in arguments.networks:
            _take_apart(note, name, repository / name / "1" / "model.pt2", row, arguments.device)


def _compare(
    note: Callable[..., None], name: str, loop: Loop, address: str, row: np.ndarray, rounds: int, seconds: float
) -> None:
    note(f"{name}: best chunk of the loop", loop.chunk, "rows", f"of {CHUNKS}")
    explain, predict = _explain(name, row), _predict(name, row)
    with grpc.insecure_channel(address, options=load.OPTIONS) as channel:
        attribute, forecast = channel.unary_unary(load.ATTRIBUTE), channel.unary_unary(load.PREDICT)
        for _ in range(10):
            attribute(explain, timeout=300, wait_for_ready=True)
            forecast(predict, timeout=300)
        for callers in (1, 4):
            _rounds(
                note,
                f"{name}: integrated gradients, {callers} caller(s)",
                lambda: 1 / statistics.median(loop.explain_seconds() for _ in range(10)),
                lambda callers=callers: _rate(attribute, explain, callers, seconds),
                rounds,
            )
            if callers == 1:
                _note_reply(note, name, attribute(explain, timeout=300))
        for callers in (1, 16):
            _rounds(
                note,
                f"{name}: predict, {callers} caller(s)",
                lambda callers=callers: callers / statistics.median(loop.predict_seconds(callers) for _ in range(20)),
                lambda callers=callers: _rate(forecast, predict, callers, seconds),
                rounds,
            )


def _note_reply(note: Callable[..., None], name: str, body: bytes) -> None:
    """Say what a reply says of its own time and batches."""
    reply = explanation_service_pb2.AttributeResponse.FromString(body)
    shapes = reply.explanation.attributions[0].receipt.work.batch_shapes
    listed = ", ".join(" ".join(str(shape).split()) for shape in shapes)
    note(f"{name}: integrated gradients, its own time", 1000 * reply.timing.compute_seconds, "ms", listed)


def _rounds(
    note: Callable[..., None], what: str, bare: Callable[[], float], served: Callable[[], float], rounds: int
) -> None:
    ratios, bare_rates, served_rates = [], [], []
    for _ in range(rounds):
        before, rate = bare(), served()
        # Before and after, because the machine's speed drifts.
        between = 2 / (1 / before + 1 / bare())
        ratios.append(rate / between)
        bare_rates.append(between)
        served_rates.append(rate)
    note(f"{what}: service", statistics.median(served_rates), "1/s")
    note(f"{what}: loop", statistics.median(bare_rates), "1/s")
    note(f"{what}: ratio", statistics.median(ratios), "", f"rounds {min(ratios):.3f} to {max(ratios):.3f}")


def _rate(call: Any, body: bytes, callers: int, seconds: float) -> float:
    ended = time.perf_counter() + seconds

    def caller() -> int:
        for answered in itertools.count(1):
            call(body, timeout=300)
            if time.perf_counter() >= ended:
                return answered
        raise AssertionError

    started = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        answered = sum(pool.map(lambda _: caller(), range(callers)))
    return answered / (time.perf_counter() - started)


def _take_apart(note: Callable[..., None], name: str, path: Path, row: np.ndarray, device: str) -> None:
    """Say where the time of a chunk of 50 rows goes, and whether bits depend on the batch."""
    graph = Graph.from_program(load_program(path), device=device)
    target = Target(graph.outputs[0].name, ((CLASS, 1.0),))
    nodes = np.linspace(0.01, 1, STEPS, dtype=np.float32)[:, None, None, None]
    rows = np.ascontiguousarray(nodes * row)

    def program(chosen: np.ndarray) -> dict[str, np.ndarray]:
        ask = Gradient(Rows({"image": chosen}), target)
        model = SimpleNamespace(graph=graph, graph_for=lambda *layers: graph)
        kernel = ask.kernel(model, device)  # type: ignore[arg-type]
        batch = ask.recipe.stage(device).rows(0, len(chosen))
        results = kernel(batch, [(ask, len(chosen))])  # type: ignore[arg-type]
        return {key: devices.to_host(values) for key, values in results.items()}

    tensor = torch.from_numpy(rows)
    there = tensor.to(device)

    def on_device() -> None:
        leaf = there.detach().requires_grad_(True)
        torch.autograd.grad(graph({"image": leaf})[target.output][:, CLASS].sum(), leaf)

    parts: dict[str, Callable[[], Any]] = {
        "the engine's program, from arrays to arrays": lambda: program(rows),
        "the graph forward and backward": on_device,
        "to the device": lambda: tensor.to(device),
        "to the host": there.cpu,
        "rows of the path": lambda: nodes * row,
        "weighted sum of gradients in float64": lambda: np.einsum("n,nchw->chw", nodes[:, 0, 0, 0].astype(float), rows),
    }
    if devices.is_cuda(device):
        pinned = tensor.pin_memory()
        parts["to the device, pinned"] = lambda: pinned.to(device, non_blocking=True)
        parts["into pinned memory"] = lambda: pinned.copy_(tensor)
        parts["to the host, pinned"] = lambda: pinned.copy_(there, non_blocking=True)
    for what, part in parts.items():
        note(f"{name}: 50 rows, {what}", 1000 * _median_seconds(part, device), "ms")
    with torch.no_grad():
        one = {"image": there[:1]}
        note(f"{name}: the graph forward, one row", 1000 * _median_seconds(lambda: graph(one), device), "ms")
    _compare_bits(note, name, program, rows)


def _median_seconds(part: Callable[[], Any], device: str) -> float:
    found = []
    for _ in range(13 if devices.is_cuda(device) else 4):
        started = time.perf_counter()
        part()
        if devices.is_cuda(device):
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return statistics.median(found[len(found) // 4 :])


def _compare_bits(note: Callable[..., None], name: str, program: Callable[[Any], Any], rows: Any) -> None:
    """Compare the last row's gradient and score in batches of several sizes, and at other places of one batch."""

    def last(count: int, *, place: int = -1) -> tuple[Any, Any]:
        chosen = [STEPS - count + index for index in range(count)]
        chosen[place], chosen[-1] = chosen[-1], chosen[place]
        found = program(rows[chosen])
        return found["image"][place], found[SCORES][place]

    alone = last(1)
    for count in BATCHES[1:]:
        gradient, score = last(count)
        distance = float(np.abs(gradient - alone[0]).max() / np.abs(alone[0]).max())
        remark = f"score {abs(float(score) / float(alone[1]) - 1):.2g}"
        note(f"{name}: a row in a batch of {count}, against alone", distance, "of the largest", remark)
    for count in (8, 32, 50):
        first = last(count)
        same = all(np.array_equal(last(count, place=place)[0], first[0]) for place in (0, count // 2, -1))
        note(f"{name}: equal bits at any place in a batch of {count}", float(same), "")


def _explain(name: str, row: np.ndarray) -> bytes:
    spec = explanation_pb2.ExplanationSpec(method="integrated-gradients")
    spec.parameters["steps"].integer = STEPS
    spec.target.outcome.index.append(CLASS)
    spec.baseline.kind = explanation_pb2.BASELINE_KIND_ZEROS
    request = explanation_service_pb2.AttributeRequest(
        model=explanation_pb2.ModelSpec(name=name), inputs=_inputs(row), explanation=spec
    )
    return bytes(request.SerializeToString())


def _predict(name: str, row: np.ndarray) -> bytes:
    model = explanation_pb2.ModelSpec(name=name)
    return bytes(explanation_service_pb2.PredictRequest(model=model, inputs=_inputs(row)).SerializeToString())


def _inputs(row: np.ndarray) -> dict[str, input_pb2.Input]:
    return {"image": input_pb2.Input(tensor=to_tensor(row))}


if __name__ == "__main__":
    main()
