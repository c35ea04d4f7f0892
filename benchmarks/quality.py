"""How good dissections are: of a trained network, of its untrained twin, and of the output layer, whose truth is known.

On composites of real photographs and textures (`scripts/composites.py`, which needs two Debian packages), through the
real server:

- three layers of EfficientNet-Lite0: how many concepts the units of each detect for sure, that is by three standard
  errors, and which share of these units detect objects, which should rise with depth;
- the last of them in the same network with random weights, which should detect next to nothing, and no object;
- the output layer, on composites of things that are ImageNet classes: how many of the units of classes that the set has
  get their own class's name.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import grpc
import torch
from pellucid.tensors import from_tensor
from pellucid.v1 import (
    dissection_pb2,
    explanation_pb2,
    explanation_service_pb2,
    explanation_service_pb2_grpc,
    findings_pb2,
)

from benchmarks import load, servers
from demo.models import Lite0, export_network, write_manifest
from scripts import composites

TRAINED, UNTRAINED = "efficientnet-lite0", "untrained"
SCENES, CLASSES = "composites", "classes"
LAYERS = ("_blocks.5._bn1", "_blocks.10._bn1", "_bn1")
OUTPUT = "_fc"
SEED = 0

CONCEPTS_AIM, UNTRAINED_AIM, LABELS_AIM = 20, 5, 0.85
CLASS_QUANTILE = 0.01
"""Of the pictures, about as many as a class has."""

Lines = list[dict[str, object]]


def main() -> int:
    """Measure and print; return 1 where an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    load.print_command(__spec__)
    with tempfile.TemporaryDirectory() as folder:
        models, sets = Path(folder) / "models", Path(folder) / "datasets"
        if not _write_sets(sets, arguments.pictures):
            return 1
        models.mkdir()
        (models / TRAINED).symlink_to((arguments.models / TRAINED).absolute())
        write_untrained(models / UNTRAINED)
        with servers.pellucid(models, threads=arguments.threads) as address, Service(address) as service:
            good = [trained(service), untrained(service), outputs(service)]
    return 0 if all(good) else 1


def _write_sets(folder: Path, pictures: int) -> bool:
    made = (
        composites.main([str(folder / SCENES), "--rows", str(pictures)]),
        composites.main([str(folder / CLASSES), "--rows", str(pictures), "--classes", "--seed", "1"]),
    )
    return not any(made)


def write_untrained(folder: Path) -> None:
    """Write the trained network's twin, with weights as they are before training."""
    torch.manual_seed(SEED)
    network = Lite0.from_name("efficientnet-lite0")
    (folder / "1").mkdir(parents=True)
    export_network(network, (3, 224, 224), folder / "1")
    image = {
        "name": "image",
        "modality": "image",
        "resize": 256,
        "crop": [224, 224],
        "interpolation": "bicubic",
        "mean": [127, 127, 127],
        "standard_deviation": [128, 128, 128],
    }
    output = {"name": "output", "kind": "logits"}
    write_manifest(folder, "EfficientNet-Lite0 before training.", inputs=[image], outputs=[output])


class Service:
    """Dissections by the service."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, options=load.OPTIONS)
        self._stub = explanation_service_pb2_grpc.ExplanationServiceStub(self._channel)

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def tables(self, model: str, layers: Sequence[str], dataset: str, **reals: float) -> dict[str, Lines]:
        """Dissect layers; return the tables by name, each as its lines."""
        request = explanation_service_pb2.DissectRequest(
            model=explanation_pb2.ModelSpec(name=model),
            method="network-dissection",
            layers=[dissection_pb2.LayerUnits(layer=layer) for layer in layers],
            probe=dissection_pb2.Probe(dataset=dataset),
        )
        request.parameters["pictures"].integer = 0
        for name, value in reals.items():
            request.parameters[name].real = value
        started = time.perf_counter()
        parts = [part.findings for part in self._stub.Dissect(request) if not part.preview and part.findings.tables]
        print(f"-- {model}, {', '.join(layers)}: {time.perf_counter() - started:.0f} s", flush=True)
        return {name: lines(table) for name, table in parts[0].tables.items()}


def lines(table: findings_pb2.NamedTable) -> Lines:
    """Return a table's lines."""
    columns = {
        each.name: list(each.texts.texts) if each.HasField("texts") else from_tensor(each.numbers).tolist()
        for each in table.columns
    }
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def trained(service: Service) -> bool:
    """Print what the layers of the trained network detect; return whether it is as it should be."""
    shares, distinct = summary(service.tables(TRAINED, LAYERS, SCENES), LAYERS)
    rises = shares == sorted(shares)
    print(f"share of objects {'rises' if rises else 'does not rise'} with depth (aim: it rises)")
    print(f"{distinct[-1]} concepts in the last layer (aim: at least {CONCEPTS_AIM})", flush=True)
    return rises and distinct[-1] >= CONCEPTS_AIM


def untrained(service: Service) -> bool:
    """Print what the last layer of the untrained twin detects; return whether it is next to nothing."""
    tables = service.tables(UNTRAINED, LAYERS[-1:], SCENES)
    _, (distinct,) = summary(tables, LAYERS[-1:])
    objects = {each["concept"] for each in detectors(tables, LAYERS[-1]) if _is_object(each)}
    print(f"untrained: {distinct} concepts (aim: at most {UNTRAINED_AIM}), objects: {sorted(objects) or 'none'}")
    return distinct <= UNTRAINED_AIM and not objects


def outputs(service: Service) -> bool:
    """Print how many units of the output layer get their class's name; return whether they are enough."""
    tables = service.tables(TRAINED, (OUTPUT,), CLASSES, quantile=CLASS_QUANTILE)
    truth = {index: name for name, index in class_numbers().items()}
    shown = {str(each["concept"]) for each in tables["concepts"] if each["category"] == "class" and each["pictures"]}
    found = {each["unit"]: each["concept"] for each in tables["best_by_category"] if each["category"] == "class"}
    asked = [unit for unit, name in truth.items() if name in shown]
    right = [unit for unit in asked if found.get(unit) == truth[unit]]
    for unit in sorted(set(asked) - set(right)):
        print(f"   {truth[unit]}: named {found.get(unit, 'nothing')}")
    share = len(right) / max(len(asked), 1)
    print(f"output layer: {len(right)} of {len(asked)} classes named rightly, {share:.2f} (aim {LABELS_AIM})")
    return share >= LABELS_AIM


def class_numbers() -> dict[str, int]:
    """Return the number of each class that composites show, by the concept's name."""
    sources = composites.read_sources(classes_only=True)
    return {sources.names[each.index]: each.index for each in sources.stamps if each.index is not None}


def detectors(tables: dict[str, Lines], layer: str) -> Lines:
    """Return the lines of the units that detect something for sure."""
    return [each for each in tables["dictionary"] if each["layer"] == layer and each["sure"]]


def _is_object(line: dict[str, object]) -> bool:
    return line["category"] in ("object", "class")


def summary(tables: dict[str, Lines], layers: Sequence[str]) -> tuple[list[float], list[int]]:
    """Print a line for each layer; return the share of objects among each layer's detectors, and its concepts."""
    shares, counts = [], []
    print(f"{'layer':12} {'units':>6} {'detectors':>9} {'concepts':>8} | {'sure':>5} {'concepts':>8} {'objects':>8}")
    for layer in layers:
        (line,) = (each for each in tables["layers"] if each["layer"] == layer)
        found = detectors(tables, layer)
        shares.append(sum(map(_is_object, found)) / max(len(found), 1))
        counts.append(len({(each["category"], each["concept"]) for each in found}))
        each = f"{layer:12} {line['units']:6} {line['detectors']:9} {line['concepts']:8}"
        print(f"{each} | {len(found):5} {counts[-1]:8} {shares[-1]:8.2f}", flush=True)
    return shares, counts


if __name__ == "__main__":
    sys.exit(main())
