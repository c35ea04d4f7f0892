"""Compares what was exported with the network that it was exported from, on random rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.models.graph.graph import Graph
from pellucid_server.engine.models.loading.trial import PARITY_TOLERANCE, largest_difference
from pellucid_server.engine.models.onnx.onnx_model import OnnxModel

_BATCHES = (1, 2, 5)
"""Rows of the comparisons: the batch that an export fixes by mistake, the example's and another."""


class ExportError(Exception):
    """The network cannot be exported as it is; the message says why, and what would be right."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Random rows, and what the network answers, by the outputs' names."""

    rows: dict[str, Tensor]
    outputs: dict[str, Tensor]


def draw_trials(
    module: nn.Module, arguments: Mapping[str, Tensor], shapes: Mapping[str, Mapping[int, Dim]], names: list[str]
) -> list[Trial]:
    """Draw rows at three batch sizes, one of them with shorter dynamic axes, and ask the network for its outputs.

    Raises
    ------
    ExportError
        forward fails on them, or returns another number of tensors than `names`.
    """
    generator = torch.Generator().manual_seed(0)
    trials = []
    for batch in _BATCHES:
        rows = {name: _random(tensor, batch, shapes[name], generator) for name, tensor in arguments.items()}
        outputs = _eager(module, rows, batch)
        _require_rows(outputs, names, batch)
        if len(outputs) != len(names):
            raise ExportError(f"forward returns {len(outputs)} tensors on {batch} rows, and the graph {len(names)}.")
        trials.append(Trial(rows, dict(zip(names, outputs, strict=True))))
    return trials


def _eager(module: nn.Module, rows: Mapping[str, Tensor], batch: int) -> list[Tensor]:
    try:
        with torch.enable_grad():  # Without, torch's own encoder takes a path that no export has.
            leaves = pytree.tree_leaves(module(**{name: tensor.clone() for name, tensor in rows.items()}))
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ExportError(f"forward fails on {batch} rows like the example's: {reason}") from error
    return [leaf.detach() for leaf in leaves if isinstance(leaf, Tensor)]


def _require_rows(outputs: list[Tensor], names: list[str], batch: int) -> None:
    """Refuse an output that loses the axis of its rows, as `squeeze()` takes away that of a single one."""
    for name, output in zip(names, outputs, strict=False):
        if output.ndim and len(output) == batch:
            continue
        shape = f"({', '.join(map(str, output.shape))})"
        raise ExportError(
            f"Output {name!r} has the shape {shape} for {batch} row{'s' if batch > 1 else ''}; its axis 0 must be the "
            "rows. A squeeze() without an axis takes away that of a single row, (rows,) for 2 rows and () for 1: "
            "write squeeze(1), or reshape(x.shape[0], -1)."
        )


def _random(tensor: Tensor, batch: int, axes: Mapping[int, Dim], generator: torch.Generator) -> Tensor:
    """Draw rows like the example's: whole numbers from among its own; a dynamic axis is one shorter for two rows."""
    sizes = enumerate(tensor.shape[1:], 1)
    shape = [batch, *(max(2, size - 1) if batch == 2 and axis in axes else size for axis, size in sizes)]
    if not tensor.is_floating_point() or tensor.numel() == 0:
        values = tensor.flatten()
        return values[torch.randint(0, max(1, len(values)), shape, generator=generator)]
    mean, deviation = tensor.double().mean(), tensor.double().std()
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (mean + noise * (deviation if deviation > 0 else 1.0)).to(tensor.dtype)


def graph_difference(graph: Graph, trials: list[Trial]) -> float:
    """Return the graph's largest difference from the network, as a share of an output's largest absolute value.

    Raises
    ------
    ExportError
        It is above what a server takes for equal, or a shape differs.
    """
    difference = 0.0
    for trial in trials:
        with torch.no_grad():
            outputs = graph({name: tensor.clone() for name, tensor in trial.rows.items()})
        difference = max(difference, _difference(outputs, trial))
    if not difference <= PARITY_TOLERANCE:
        raise ExportError(
            f"The graph differs from the network by {difference:.1g} of an output's largest value, more than "
            f"{PARITY_TOLERANCE:g}. forward must be a function of its arguments alone: no random numbers, no state."
        )
    return difference


def _difference(outputs: Mapping[str, Tensor], trial: Trial) -> float:
    for name, expected in trial.outputs.items():
        if outputs[name].shape != expected.shape:
            shapes = f"{tuple(outputs[name].shape)}, and the network {tuple(expected.shape)}"
            raise ExportError(f"Output {name!r} of what was exported has the shape {shapes}.")
    return largest_difference(_arrays(outputs), _arrays(trial.outputs))


def _arrays(tensors: Mapping[str, Tensor]) -> Arrays:
    plain = {name: tensor.float() if tensor.dtype is torch.bfloat16 else tensor for name, tensor in tensors.items()}
    return {name: tensor.detach().numpy() for name, tensor in plain.items()}


def onnx_difference(path: Path, trials: list[Trial]) -> float:
    """Return an ONNX file's largest difference from the network, as a share of an output's largest absolute value.

    Raises
    ------
    ExportError
        It is above what a server takes for equal, or a shape differs.
    SessionError
        ONNX Runtime cannot load or run the file.
    """
    session = OnnxModel(path, threads=1, device="cpu")
    difference = 0.0
    for trial in trials:
        outputs = session.run_checked(_arrays(trial.rows))
        difference = max(difference, _difference({name: torch.as_tensor(outputs[name]) for name in outputs}, trial))
    if not difference <= PARITY_TOLERANCE:
        raise ExportError(f"it differs from the network by {difference:.1g}, more than {PARITY_TOLERANCE:g}")
    return difference
