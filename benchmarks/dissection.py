"""Network dissection of a late layer of EfficientNet-Lite0, against a plain implementation in two passes.

The service dissects a layer over a generated probe set, which it reads from disk. Against it, in the same run and on
all cores, the same in plain torch, from arrays in memory: one pass runs the network and finds every unit's threshold,
the second runs it again, upsamples every map of every picture, and multiplies masks of units with those of concepts.
Both must find the same. Then: how much of the service's time the network's own forward pass takes, measured by itself
in its best batch.

With `--memory`, the peak memory of a worker that dissected 500 pictures, and of one that dissected 5,000.
"""

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import torch
from pellucid.tensors import from_tensor
from pellucid.v1 import (
    dissection_pb2,
    explanation_pb2,
    explanation_service_pb2,
    explanation_service_pb2_grpc,
    findings_pb2,
)
from pellucid_server.engine.models.graph.graph import Graph
from pellucid_server.scenes.command import write_scenes
from pellucid_server.scenes.scenes import CATEGORIES, generate
from torch.nn import functional

from benchmarks import load, servers

MODEL, SET = "efficientnet-lite0", "scenes"
AIM, SHARE_AIM = 3.0, 0.8
CONCEPTS = 20
QUANTILE, GRID = 0.005, 112
SIZE = 256
"""Pixels on a side of the pictures, of which the model sees the middle 224 as they are."""
RIVAL_ROWS, RIVAL_UNITS = 16, 64
FORWARD_ROWS = (8, 16, 32)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--layer", default="_bn1")
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    load.print_command(__spec__)
    print(f"load of the machine before: {os.getloadavg()[0]:.1f}", flush=True)
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.memory:
            memory(Path(folder), arguments.models, arguments.layer, arguments.threads)
        else:
            compare(Path(folder), arguments)


def compare(folder: Path, arguments: argparse.Namespace) -> None:
    """Print how many times faster the service is than the rival, and how much of its time the network takes."""
    rows, marks = scenes(arguments.pictures)
    graph = Graph.from_program(torch.export.load(arguments.models / MODEL / "1" / "model.pt2"))
    network = Network(graph.faster() or graph, arguments.layer, rows)
    mine, rivals, forwards = [], [], []
    with server(folder, arguments.models, arguments.pictures, arguments.threads) as running:
        for _ in range(arguments.rounds):
            found, seconds = dissected(running.address, arguments.layer)
            mine.append(seconds)
            forwards.append(network.forward_seconds())
            iou, seconds = network.plainly(marks)
            rivals.append(seconds)
            agree(found, iou)
    ratio = statistics.median(rival / one for rival, one in zip(rivals, mine, strict=True))
    share = statistics.median(one / all_ for one, all_ in zip(forwards, mine, strict=True))
    print(
        f"{arguments.layer}, {arguments.pictures} pictures: {statistics.median(mine):.1f} s, plainly in two passes "
        f"{statistics.median(rivals):.1f} s: {ratio:.1f} times as long (aim {AIM:g}); the network's forward pass alone "
        f"{statistics.median(forwards):.1f} s, a share of {share:.2f} (aim {SHARE_AIM:g})"
    )


def names() -> list[tuple[str, str]]:
    """Return the first of the set's concepts, by category and name: the rival compares so many."""
    return [(category, name) for category, found in CATEGORIES.items() for name in found][:CONCEPTS]


def scenes(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the pictures as the model takes them, and masks, (pictures, concepts, GRID, GRID)."""
    rows = np.empty((count, 3, 224, 224), np.float32)
    marks = np.zeros((count, CONCEPTS, GRID, GRID), np.bool_)
    seen = slice(16, 240)
    for number, scene in enumerate(generate(count, size=SIZE)):
        rows[number] = (np.moveaxis(scene.picture[seen, seen], 2, 0).astype(np.float32) - 127) / 128
        for place, key in enumerate(names()):
            if key in scene.masks:
                marks[number, place] = scene.masks[key][seen, seen][1::2, 1::2]
    return rows, marks


@dataclass(frozen=True)
class Network:
    """The model in plain torch."""

    graph: Graph
    layer: str
    rows: np.ndarray

    def values(self, first: int, count: int) -> torch.Tensor:
        """Return the layer's values for some rows."""
        with torch.no_grad():
            run = self.graph.capturing((self.layer,))
            return run({"image": torch.from_numpy(self.rows[first : first + count])})[1][self.layer]

    def forward_seconds(self) -> float:
        """Return how long the network itself takes for all rows, in its best batch."""
        pace = {}
        for batch in FORWARD_ROWS:
            self.values(0, batch)
            started = time.perf_counter()
            self.values(0, batch)
            pace[batch] = (time.perf_counter() - started) / batch
        best = min(pace, key=lambda batch: pace[batch])
        started = time.perf_counter()
        for first in range(0, len(self.rows), best):
            self.values(first, best)
        return time.perf_counter() - started

    def plainly(self, marks: np.ndarray) -> tuple[np.ndarray, float]:
        """Dissect in two passes; return the IoUs, (units, concepts), and how long it took."""
        started = time.perf_counter()
        parts = range(0, len(self.rows), RIVAL_ROWS)
        seen = torch.cat([self.values(first, RIVAL_ROWS).transpose(0, 1).flatten(1) for first in parts], dim=1)
        rank = int(QUANTILE * seen.shape[1])
        threshold = seen.topk(rank + 1, dim=1).values[:, -1]
        both = torch.zeros(len(threshold), CONCEPTS, dtype=torch.float64)
        units, concepts = torch.zeros(len(threshold)), torch.zeros(CONCEPTS)
        for first in parts:
            values = self.values(first, RIVAL_ROWS)
            for row, value in enumerate(values):
                mark = torch.from_numpy(marks[first + row]).flatten(1).float()
                concepts += mark.sum(1)
                # Some units at a time, so that their masks stay in the cache.
                for part in torch.arange(len(value)).split(RIVAL_UNITS):
                    size = {"size": (GRID, GRID), "mode": "bilinear", "align_corners": False}
                    big = functional.interpolate(value[None, part], **size)[0]
                    on = (big > threshold[part, None, None]).flatten(1).float()
                    both[part] += on @ mark.T
                    units[part] += on.sum(1)
        iou = both / (units[:, None] + concepts - both).clamp(min=1)
        return iou.numpy(), time.perf_counter() - started


def server(folder: Path, models: Path, pictures: int, threads: int) -> "servers.contextlib.AbstractContextManager":
    """Run a server that has the probe set."""
    sets = folder / f"sets-{pictures}"
    if not sets.exists():
        write_scenes(sets / SET, pictures, size=SIZE)
    return servers.running(models, threads=threads, settings={"PELLUCID_MODELS__DATASETS": str(sets)})


def dissected(address: str, layer: str) -> tuple[findings_pb2.Findings, float]:
    """Dissect a layer; return the dictionary's part and how long it took."""
    with grpc.insecure_channel(address, options=load.OPTIONS) as channel:
        stub = explanation_service_pb2_grpc.ExplanationServiceStub(channel)
        request = explanation_service_pb2.DissectRequest(
            model=explanation_pb2.ModelSpec(name=MODEL),
            method="network-dissection",
            layers=[dissection_pb2.LayerUnits(layer=layer)],
            probe=dissection_pb2.Probe(dataset=SET),
        )
        request.parameters["quantile"].real = QUANTILE
        request.parameters["grid"].integer = GRID
        request.parameters["pictures"].integer = 0
        started = time.perf_counter()
        parts = [part.findings for part in stub.Dissect(request) if not part.preview and part.findings.arrays]
        return parts[0], time.perf_counter() - started


def agree(found: findings_pb2.Findings, plain: np.ndarray) -> None:
    """Print how far the two are apart: batches of other sizes round otherwise."""
    (array,) = found.arrays.values()
    called = [list(column.texts.texts) for column in found.tables["concepts"].columns[:2]]
    order = [list(zip(called[1], called[0], strict=True)).index(key) for key in names()]
    mine = from_tensor(array.values)[:, order]
    print(f"  IoUs differ by at most {np.abs(mine - plain).max():.2g}, highest {mine.max():.2f}", flush=True)


def memory(folder: Path, models: Path, layer: str, threads: int) -> None:
    """Print the peak memory of workers that dissected few and many pictures."""
    for pictures in (500, 5000):
        with server(folder, models, pictures, threads) as running:
            dissected(running.address, layer)
            peaks = [peak(pid) for pid in running.workers()]
        print(f"{layer}, {pictures} pictures: a worker's peak memory {max(peaks):.0f} MB", flush=True)


def peak(pid: int) -> float:
    """Return the most memory that a process had, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
