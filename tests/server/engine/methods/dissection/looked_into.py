"""Small networks that are looked into by methods of `Dissect`, without a server."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pellucid_server.engine.asking import registry
from pellucid_server.engine.asking.probes import Preview, ProbeBatch, ProbeLayer, ProbeQuestion, Saved
from pellucid_server.engine.asking.question import Feature
from pellucid_server.engine.asking.sites import SiteLayer
from pellucid_server.engine.asking.verbs import DISSECT
from pellucid_server.engine.evaluations.model_handle import ModelHandle
from pellucid_server.engine.models.graph.graph import Graph
from pellucid_server.engine.tasks.request_state import RequestState
from pellucid_server.vocabulary.descriptions import ImageInfo, InputInfo
from pellucid_server.vocabulary.findings import Findings
from pellucid_server.vocabulary.requests import ModelKey
from server.engine.conftest import ZooModel
from torch.export import Dim

_numbers = itertools.count()


def graph_of(module: torch.nn.Module, **rows: torch.Tensor) -> Graph:
    """Export a network, with a row of each input, and make a graph of it."""
    given = {name: torch.stack([row, row]) for name, row in rows.items()}
    program = torch.export.export(module.eval(), (), given, dynamic_shapes={name: {0: Dim.DYNAMIC} for name in rows})
    return Graph.from_program(program)


class Probe:
    """Rows of a probe, in memory."""

    kind = "tensor"
    concepts = ()
    classes = ()

    def __init__(self, **arrays: np.ndarray) -> None:
        self.arrays = arrays

    @property
    def count(self) -> int:
        return len(next(iter(self.arrays.values())))

    def batches(self, rows_per_batch: int, *, first: int = 0, masks: bool = False) -> Any:
        for begin in range(first, self.count, rows_per_batch):
            numbers = np.arange(begin, min(begin + rows_per_batch, self.count))
            yield ProbeBatch(self.rows(numbers.tolist()), numbers)

    def rows(self, numbers: Sequence[int]) -> Mapping[str, np.ndarray]:
        return {name: each[list(numbers)] for name, each in self.arrays.items()}


class LookedInto:
    """A network, and how it is asked by methods of `Dissect`; `pictures` has (mean, deviation) of picture inputs."""

    def __init__(
        self,
        bench: Any,
        graph: Graph,
        *,
        pictures: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
        features: Mapping[str, Feature] | None = None,
        resize: int = 1,
    ) -> None:
        self.bench, self.graph = bench, graph
        self._key = ModelKey(f"looked-into-{next(_numbers)}", 1)
        self.inputs, self.features = {}, {}
        for value in graph.inputs:
            shape = tuple(-1 if length is None else length for length in value.shape)
            image = None
            if pictures and value.name in pictures:
                mean, deviation = pictures[value.name]
                image = ImageInfo(resize, shape[1], shape[2], "bilinear", tuple(mean), tuple(deviation))
            floating = value.dtype.is_floating_point
            kind = str(value.dtype).removeprefix("torch.")
            self.inputs[value.name] = InputInfo(value.name, "image" if image else "tensor", kind, shape, image=image)
            self.features[value.name] = Feature("image" if image else "tensor", floating)
        self.features.update(features or {})

    def layer(self, name: str, *units: int) -> ProbeLayer:
        layer = self.graph.sites[name]
        site = SiteLayer(name, tuple(layer.shape), layer.unit_axis)
        return ProbeLayer(site, np.array(units or range(layer.units), np.int64))

    def question(self, *layers: ProbeLayer, **fields: Any) -> ProbeQuestion:
        return ProbeQuestion(
            **{"layers": layers, "features": self.features, "inputs": self.inputs, "outputs": (), **fields}
        )

    def handle(self, request: RequestState | None = None, *, exact: bool = False) -> ModelHandle:
        model = ZooModel(self._key, self.graph)
        return ModelHandle(model, self.bench.services, request or RequestState(1, None), exact=exact)

    def yielded(
        self,
        method: str,
        question: ProbeQuestion,
        *,
        each: Callable[[Any], None] = lambda found: None,
        request: RequestState | None = None,
        **parameters: Any,
    ) -> list[Any]:
        """Return all that a method yields; `each` sees what it yields as it comes."""
        found = registry.lookup(method, DISSECT)

        def run() -> list[Any]:
            collected = []
            for part in found.function(self.handle(request, exact=question.exact), question, found.resolve(parameters)):
                each(part)
                collected.append(part)
            return collected

        (collected,) = self.bench.run(run)
        return collected

    def found(self, method: str, question: ProbeQuestion, **parameters: Any) -> Findings:
        """Return all parts of a method's answer together."""
        return together(self.yielded(method, question, **parameters))


def together(yielded: list[Any]) -> Findings:
    """Put the parts of an answer together."""
    parts = [each for each in yielded if not isinstance(each, Saved | Preview)]
    return Findings(
        arrays={name: each for part in parts for name, each in part.arrays.items()},
        tables={name: each for part in parts for name, each in part.tables.items()},
        pictures={name: each for part in parts for name, each in part.pictures.items()},
        warnings=tuple(warning for part in parts for warning in part.warnings),
    )


def column(findings: Findings, table: str, name: str) -> Any:
    """Return a column's values; texts as a list."""
    values = findings.tables[table].columns[name].values
    return list(values) if isinstance(values, tuple) else values


def parts_across_a_loss(
    network: LookedInto, method: str, question: ProbeQuestion, lost_at: int, **parameters: Any
) -> Any:
    """Return the parts that a caller gets if the worker is lost after `lost_at` of what the method yields.

    What is delivered again is dropped as the operation drops it: parts that were yielded behind the last state.
    """
    delivered: list[Findings] = []
    standing, behind = question.state, 0
    for each in network.yielded(method, question, **parameters)[:lost_at]:
        if isinstance(each, Saved):
            standing, behind = each.state, 0
        elif not isinstance(each, Preview):
            behind += 1
            delivered.append(each)
    again, skipped = dataclasses.replace(question, state=standing), behind
    begun, number = standing, 0
    for each in network.yielded(method, again, **parameters):
        if isinstance(each, Saved):
            begun, number = each.state, 0
        elif not isinstance(each, Preview):
            number += 1
            if number > skipped or begun is not standing:
                delivered.append(each)
    return delivered
