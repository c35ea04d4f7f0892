"""All outputs of the model."""

from collections.abc import Hashable
from dataclasses import dataclass, field

import torch

from pellucid_server.engine.asking.recipe import Fold, HostTensors, Plain, Recipe, Tensors
from pellucid_server.engine.device.kernel import Parts
from pellucid_server.engine.evaluations.folds import Keep
from pellucid_server.engine.models.graph.graph import Graph
from pellucid_server.engine.models.loading.loaded import LoadedModel


@dataclass(frozen=True, slots=True)
class Forward(Plain):
    """Ask for every output of the model by name, (rows, *shape)."""

    rows: Recipe
    fold: Fold = field(default_factory=Keep)
    exact: bool = False

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What may share a chunk."""
        return ("forward",)

    def kernel(self, model: LoadedModel, device: str) -> "ForwardKernel":
        """Return what evaluates it."""
        return ForwardKernel(model, device)


class ForwardKernel:
    """Runs a model forward, by ONNX Runtime or as a graph."""

    evaluation = "forward"
    kind = "forward"
    backward = False

    def __init__(self, model: LoadedModel, device: str) -> None:
        self._model = model
        self._by_onnx = model.session is not None and model.runtime == "onnxruntime"
        self.device = "cpu" if self._by_onnx else device

    def __call__(self, batch: Tensors, parts: Parts) -> Tensors:
        """Return every output, (rows, *shape); of ONNX Runtime they are arrays."""
        session = self._model.session
        if self._by_onnx and session is not None:
            rows = (
                batch.arrays if isinstance(batch, HostTensors) else {name: rows.numpy() for name, rows in batch.items()}
            )
            return HostTensors(session.run(rows))
        with torch.no_grad():
            return graph_of(self._model)(batch)


def graph_of(model: LoadedModel) -> Graph:
    """Return a model's graph, which there must be."""
    if model.graph is None:
        raise ValueError(f"{model.key.name} has no graph")
    return model.graph
