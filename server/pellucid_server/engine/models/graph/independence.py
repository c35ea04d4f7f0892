"""Whether the rows of a batch have anything to do with one another."""

from collections.abc import Mapping

import torch

from pellucid_server.engine.device.memory import out_of_memory
from pellucid_server.engine.models.graph.graph import Graph, GraphValue
from pellucid_server.errors import InvalidRequestError

_ROWS = 3
_LENGTH = 5
"""Size of a dynamic axis in the random rows."""


def rows_independent(graph: Graph, *, seed: int = 0) -> bool:
    """Tell whether three random rows have the same answers alone and together, to 1e-4 of the largest.

    The gradient of one row's outputs with respect to the others must be zero as well: it finds what small
    numbers hide. False as well if the graph cannot be run on random rows, a single one included: such a
    model is safe only in the batches that callers send.

    Raises
    ------
    RuntimeError, MemoryError
        There was not enough memory to find out (`out_of_memory`).
    """
    generator = torch.Generator().manual_seed(seed)
    rows = {value.name: _random(value, generator).to(graph.device) for value in graph.inputs}
    try:
        return _same_alone(graph, rows) and _separate_gradients(graph, rows, generator)
    except (InvalidRequestError, RuntimeError, IndexError) as error:
        if out_of_memory(error):
            raise
        return False


def _random(value: GraphValue, generator: torch.Generator) -> torch.Tensor:
    shape = (_ROWS, *(_LENGTH if size is None else size for size in value.shape))
    if value.dtype.is_floating_point or value.dtype.is_complex:
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(value.dtype)
    # Zeros and ones are valid as tokens, categories, masks and flags alike.
    return torch.randint(0, 2, shape, generator=generator).to(value.dtype)


def _same_alone(graph: Graph, rows: Mapping[str, torch.Tensor]) -> bool:
    with torch.no_grad():
        together = graph(rows)
        alone = [graph({name: tensor[row : row + 1] for name, tensor in rows.items()}) for row in range(_ROWS)]
    return all(_close(torch.cat([outputs[name] for outputs in alone]), value) for name, value in together.items())


def _close(alone: torch.Tensor, together: torch.Tensor) -> bool:
    if not together.is_floating_point():
        return torch.equal(alone, together)
    finite = together[together.isfinite()].abs()
    largest = float(finite.max()) if finite.numel() else 0.0
    return torch.allclose(alone, together, rtol=0.0, atol=1e-4 * largest, equal_nan=True)


def _separate_gradients(graph: Graph, rows: Mapping[str, torch.Tensor], generator: torch.Generator) -> bool:
    leaves = {name: tensor.clone().requires_grad_(tensor.is_floating_point()) for name, tensor in rows.items()}
    inputs = [tensor for tensor in leaves.values() if tensor.requires_grad]
    with torch.enable_grad():
        outputs = [value[0] for value in graph(leaves).values() if value.requires_grad]
        if not inputs or not outputs:
            return True
        weights = [torch.randn(value.shape, generator=generator).to(value) for value in outputs]
        gradients = torch.autograd.grad(outputs, inputs, weights, allow_unused=True)
    return all(_only_first(gradient) for gradient in gradients if gradient is not None)


def _only_first(gradient: torch.Tensor) -> bool:
    own, others = gradient[0].abs(), gradient[1:].abs()
    return bool((others <= 1e-6 * own.nan_to_num(0.0).max()).all()) if own.numel() else True
