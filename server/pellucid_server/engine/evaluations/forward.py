"""All outputs of the model."""

from collections.abc import Hashable
from dataclasses import dataclass, field

import torch

from pellucid_server.engine.asking.recipe import Fold, HostTensors, Plain, Recipe, Tensors
from pellucid_server.engine.device.kernel import Parts
from pellucid_server.engine.evaluations.folds import Keep
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
        by_onnx = model.session is not None and model.runtime == "onnxruntime"
        self.device = "cpu" if by_onnx else device
        self._session = model.session if by_onnx else None
        self._graph = None if by_onnx else model.graph_for()
        self.runtime = "onnxruntime" if self._graph is None else self._graph.runtime

    def __call__(self, batch: Tensors, parts: Parts) -> Tensors:
        """Return every output, (rows, *shape); of ONNX Runtime they are arrays."""
        if self._graph is not None:
            with torch.no_grad():
                return self._graph(batch)
        rows = batch.arrays if isinstance(batch, HostTensors) else {name: rows.numpy() for name, rows in batch.items()}
        assert self._session is not None  # noqa: S101 - a model has the one or the other
        return HostTensors(self._session.run(rows))
