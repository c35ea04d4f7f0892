"""Ablations: all channels of a block of EfficientNet-Lite0 for one picture, against whole predictions and rivals.

The service switches every channel of a layer off, one by one, in one request. Against it, in turns on all cores: as
many rows of bare ONNX Runtime, packed in its best batch; captum's LayerFeatureAblation with a mask by channel; and
nnsight, if it is installed, with one channel set to zero in each row of a batch. Then one request with every channel of
every block, against the sum over the blocks of what lies behind each, run by hand in batches of 16 rows.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import captum.attr
import grpc
import numpy as np
import onnxruntime
import torch
from pellucid.tensors import to_tensor
from pellucid.v1 import ablation_pb2, explanation_pb2, explanation_service_pb2, explanation_service_pb2_grpc, input_pb2
from pellucid_server.engine.models.graph.graph import Graph

from benchmarks import load, networks, servers

AIMS = {"_blocks.15": 15.0, "_blocks.10": 2.5}
BATCHES = (1, 4, 8, 16, 32)
RIVAL_ROWS = 16


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    load.print_command(__spec__)
    torch.set_num_threads(arguments.threads)
    row = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    module = networks.network(networks.LITE).eval()
    with tempfile.TemporaryDirectory() as folder:
        networks.write(Path(folder), networks.LITE, onnx=True)
        version = Path(folder) / networks.LITE / "1"
        predicted = Predictions(version / "model.onnx", row, arguments.threads)
        with servers.pellucid(Path(folder), threads=arguments.threads) as address:
            service = Service(address, row)
            for layer, aim in AIMS.items():
                compare(service, predicted, module, row, layer, aim, arguments.rounds)
            sweep(service, module, version / "model.pt2", row)


class Service:
    """Ablations by the service."""

    def __init__(self, address: str, row: np.ndarray) -> None:
        channel = grpc.insecure_channel(address, options=load.OPTIONS)
        self._stub = explanation_service_pb2_grpc.ExplanationServiceStub(channel)
        self._row = row

    def seconds(self, *layers: str) -> tuple[float, int]:
        """Return how long it takes to switch every channel of some layers off, and how many there are."""
        sites = [ablation_pb2.Site(layer=layer, each=ablation_pb2.EACH_UNIT) for layer in layers]
        request = explanation_service_pb2.AblateRequest(
            model=explanation_pb2.ModelSpec(name=networks.LITE),
            inputs={"image": input_pb2.Input(tensor=to_tensor(self._row))},
            method="ablation",
            interventions=[ablation_pb2.Intervention(sites=sites)],
        )
        started = time.perf_counter()
        tables = [part.findings.tables["effects"] for part in self._stub.Ablate(request) if part.findings.tables]
        count = sum(table.columns[0].numbers.shape[0] for table in tables if table.columns)
        return time.perf_counter() - started, count


class Predictions:
    """Rows of bare ONNX Runtime on all cores, in the batch that is fastest for it."""

    def __init__(self, path: Path, row: np.ndarray, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._name = self._session.get_inputs()[0].name
        self._rows = {count: np.repeat(row, count, axis=0) for count in BATCHES}
        self.batch = min(BATCHES, key=lambda batch: self.seconds(32, batch) / 32)

    def seconds(self, rows: int, batch: int = 0) -> float:
        """Return how long so many rows take."""
        batch = batch or self.batch
        started = time.perf_counter()
        for _ in range(-(-rows // batch)):
            self._session.run(None, {self._name: self._rows[batch]})
        return time.perf_counter() - started


def by_captum(module: torch.nn.Module, row: np.ndarray, layer: str) -> float:
    """Return how long captum takes for every channel of a layer."""
    inputs = torch.from_numpy(row)
    target = module.get_submodule(layer)
    with torch.no_grad():
        shape = captum.attr.LayerActivation(module, target).attribute(inputs).shape
        mask = torch.arange(shape[1]).reshape(1, -1, 1, 1).expand(1, *shape[1:])
        started = time.perf_counter()
        captum.attr.LayerFeatureAblation(module, target).attribute(
            inputs, target=0, layer_mask=mask, perturbations_per_eval=RIVAL_ROWS
        )
    return time.perf_counter() - started


def by_nnsight(module: torch.nn.Module, row: np.ndarray, layer: str, channels: int) -> float | None:
    """Return how long nnsight takes, a channel set to zero in each row of a batch; None if it is not installed."""
    try:
        import nnsight  # noqa: PLC0415 - an option
    except ImportError:
        return None
    wrapped: Any = nnsight.NNsight(module)
    started = time.perf_counter()
    for first in range(0, channels, RIVAL_ROWS):
        count = min(RIVAL_ROWS, channels - first)
        rows = torch.from_numpy(np.repeat(row, count, axis=0))
        with torch.no_grad(), wrapped.trace(rows):
            value = wrapped.get(layer).output
            value[torch.arange(count), torch.arange(first, first + count)] = 0
            wrapped.output.save()
    return time.perf_counter() - started


def compare(
    service: Service,
    predicted: Predictions,
    module: torch.nn.Module,
    row: np.ndarray,
    layer: str,
    aim: float,
    rounds: int,
) -> None:
    """Print how many times faster one layer's channels are than as many predictions, and than the rivals."""
    _, channels = service.seconds(layer)
    times: dict[str, list[float]] = {"service": [], "predictions": [], "captum": [], "nnsight": []}
    ways: dict[str, Callable[[], float | None]] = {
        "service": lambda: service.seconds(layer)[0],
        "predictions": lambda: predicted.seconds(channels),
        "captum": lambda: by_captum(module, row, layer),
        "nnsight": lambda: by_nnsight(module, row, layer, channels),
    }
    for number in range(rounds):
        for name, way in ways.items():
            # The rivals take long: two rounds of them say enough.
            if number < 2 or name in ("service", "predictions"):
                seconds = way()
                times[name] += [] if seconds is None else [seconds]
    mine = times.pop("service")
    print(f"{layer}, {channels} channels: {statistics.median(mine):.3f} s (batch of predictions {predicted.batch})")
    for name, others in times.items():
        if not others:
            print(f"  {name}: not installed")
            continue
        ratios = [other / one for other, one in zip(others, mine, strict=False)]
        wanted = f", aim {aim:g}" if name == "predictions" else ""
        print(
            f"  {name}: {statistics.median(others):.2f} s, {statistics.median(ratios):.1f} times as long "
            f"({min(ratios):.1f} to {max(ratios):.1f}{wanted})"
        )


def sweep(service: Service, module: torch.nn.Module, path: Path, row: np.ndarray) -> None:
    """Print how long every channel of every block takes in one request, against what lies behind each by hand."""
    blocks = [f"_blocks.{number}" for number in range(len(module._blocks))]
    graph = Graph.from_program(torch.export.load(path))
    graph = graph.faster() or graph
    by_hand, channels = 0.0, 0
    for block in blocks:
        suffix = graph.suffix(block)
        context = suffix.context({"image": torch.from_numpy(row)})
        values = context.value.expand(RIVAL_ROWS, *context.value.shape[1:]).contiguous()
        values = values.contiguous(memory_format=torch.channels_last)
        seconds = []
        with torch.no_grad():
            for _ in range(4):
                started = time.perf_counter()
                suffix(values, context)
                seconds.append(time.perf_counter() - started)
        by_hand += min(seconds) / RIVAL_ROWS * context.value.shape[1]
        channels += context.value.shape[1]
    seconds_of_all, count = service.seconds(*blocks)
    again, _ = service.seconds(*blocks)
    print(
        f"every channel of {len(blocks)} blocks, {count} of {channels}: {seconds_of_all:.1f} s, again {again:.1f} s; "
        f"the sum of what lies behind each by hand {by_hand:.1f} s, ratio {by_hand / again:.2f}"
    )


if __name__ == "__main__":
    main()
