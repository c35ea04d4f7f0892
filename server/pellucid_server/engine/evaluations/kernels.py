"""What runs on the device: a kernel turns a batch of rows into rows of results, independently row by row.

A kernel is bound to one model and one kind of evaluation; evaluations with equal kernels share
batches. It gets one dictionary of arrays, axis 0 the rows: the model's inputs by name, and what the
evaluation adds, under names that no input can have.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pellucid_server.engine.asking.question import Arrays, Target
from pellucid_server.engine.device.accelerator import to_device, to_host
from pellucid_server.engine.models.graph.graph import Graph
from pellucid_server.engine.models.loading.loaded import LoadedModel

INDICES = "\0indices"
"""Flat indices of the target's elements, (rows, elements) int64."""
WEIGHTS = "\0weights"
"""CostEstimator of the target's elements, (rows, elements) float32."""
VALUES = "\0values"
"""A layer's values, (rows, *shape)."""
OWNERS = "\0owners"
"""A number for each row, (rows,) int64; rows with equal numbers have equal inputs."""
SCORES = "\0scores"
"""The target's scores, (rows,) float64."""


class Forward:
    """All outputs of the model, by name."""

    evaluation = "forward"
    backward = False

    def __init__(self, model: LoadedModel, device: str) -> None:
        self._model = model
        self._device = device

    def __call__(self, batch: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """Return every output, (rows, *shape)."""
        model = self._model
        if model.session is not None and model.runtime == "onnxruntime":
            return dict(model.session.run(dict(batch)))
        with torch.no_grad():
            return _arrays(_graph(model)(_tensors(batch, self._device)))


class Scored:
    """The target's score of each row; rows may have different elements of the same output."""

    evaluation = "forward"
    backward = False

    def __init__(self, model: LoadedModel, device: str, target: Target) -> None:
        self._forward = Forward(model, device)
        self._target = target

    def __call__(self, batch: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """Return the scores, (rows,)."""
        inputs = {name: rows for name, rows in batch.items() if name not in (INDICES, WEIGHTS)}
        values = self._forward(inputs)[self._target.output].astype(np.float64)
        values = probabilities(values, self._target.space).reshape(len(values), -1)
        chosen = np.take_along_axis(values, batch[INDICES].astype(np.int64), axis=1)
        return {SCORES: (chosen * batch[WEIGHTS].astype(np.float64)).sum(axis=1)}


class Gradient:
    """The target's score of each row, and its gradient at the inputs or at a layer."""

    evaluation = "gradient"
    backward = True

    def __init__(self, model: LoadedModel, device: str, target: Target, at: str) -> None:
        self._graph = _graph(model)
        self._device = device
        self._target = target
        self._at = at
        self._with_leaf_at = self._graph.with_leaf_at(at) if at else None
        self._inputs = tuple(entry.name for entry in self._graph.inputs if entry.dtype.is_floating_point)

    def __call__(self, batch: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """Return the scores, (rows,), and gradients of the shape of what they are taken at."""
        tensors = _tensors(batch, self._device)
        indices, weights = tensors.pop(INDICES), tensors.pop(WEIGHTS)
        with torch.enable_grad():
            outputs, leaves = self._run(tensors)
            values = _probabilities(outputs[self._target.output], self._target.space)
            values = values.reshape(len(values), -1)  # An output with one number a row has no axis to flatten.
            scores = (values.gather(1, indices) * weights.to(values.dtype)).sum(1)
            gradients = _gradients(scores.sum(), tuple(leaves.values()))
        found = {
            name: torch.zeros_like(leaf) if gradient is None else gradient
            for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)
        }
        return {SCORES: scores.detach().double().cpu().numpy(), **_arrays(found)}

    def _run(self, tensors: dict[str, Tensor]) -> tuple[Mapping[str, Tensor], dict[str, Tensor]]:
        if self._with_leaf_at is not None:
            return self._with_leaf_at(tensors)
        leaves = {name: tensors[name].requires_grad_(True) for name in self._inputs}
        return self._graph(tensors), leaves


class Activations:
    """The values of some layers."""

    evaluation = "activations"
    backward = False

    def __init__(self, model: LoadedModel, device: str, layers: tuple[str, ...]) -> None:
        self._capturing = _graph(model).capturing(layers)
        self._device = device

    def __call__(self, batch: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """Return each layer's value by name, (rows, *shape)."""
        with torch.no_grad():
            return _arrays(self._capturing(_tensors(batch, self._device))[1])


class Suffix:
    """The outputs, had a layer given values."""

    evaluation = "suffix"
    backward = False

    def __init__(self, model: LoadedModel, device: str, layer: str) -> None:
        self._suffix = _graph(model).suffix(layer)
        self._device = device

    def __call__(self, batch: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """Return every output, (rows, *shape). What the cut's other side gives is computed once an owner."""
        _, first, index = np.unique(batch[OWNERS], return_index=True, return_inverse=True)
        inputs = {name: rows[first] for name, rows in batch.items() if name not in (OWNERS, VALUES)}
        values = _tensors({VALUES: batch[VALUES]}, self._device)[VALUES]
        with torch.no_grad():
            context = self._suffix.context(_tensors(inputs, self._device))
            return _arrays(self._suffix(values, context, torch.from_numpy(index).to(self._device)))


def probabilities(values: npt.NDArray[np.float64], space: str) -> npt.NDArray[np.float64]:
    """Read an output, (rows, *shape), in a target's space; softmax goes over the last axis."""
    if space == "softmax":
        exponentials = np.exp(values - values.max(axis=-1, keepdims=True))
        return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))
    if space == "sigmoid":
        return np.asarray(0.5 * (1 + np.tanh(0.5 * values)))
    return values


def _probabilities(values: Tensor, space: str) -> Tensor:
    if space == "softmax":
        return values.softmax(-1)
    if space == "sigmoid":
        return values.sigmoid()
    return values


def _gradients(total: Tensor, leaves: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    """Return the gradient at each leaf, None where it has none: also where the score looks everything up in tables."""
    if not total.requires_grad:
        return (None,) * len(leaves)
    return torch.autograd.grad(total, leaves, allow_unused=True)


def _graph(model: LoadedModel) -> Graph:
    if model.graph is None:
        raise ValueError(f"{model.key.name} has no graph")
    return model.graph


def _tensors(arrays: Arrays, device: str) -> dict[str, Tensor]:
    return {name: to_device(rows, device) for name, rows in arrays.items()}


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, npt.NDArray[np.generic]]:
    return {name: to_host(tensor) for name, tensor in tensors.items()}
