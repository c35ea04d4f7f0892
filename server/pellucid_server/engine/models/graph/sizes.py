"""How a value of a graph holds the batch: told by the symbols of its shape, never by a size.

Batch and length may be equal in one call, and rows may be folded with heads or stand behind the
sequence; only the symbols that the export put into `node.meta["val"]` tell them apart.
"""

from enum import Enum
from typing import Any

import torch
from torch import fx


class BatchLayout(Enum):
    """How a value holds the batch."""

    ROWS = "rows"
    """A tensor (batch, *shape): axis 0 is the batch, no other axis has to do with it."""
    SHARED = "shared"
    """A tensor or number whose form has nothing to do with the batch: one serves all rows."""
    COUNT = "count"
    """The batch size itself."""
    FOLDED = "folded"
    """Anything else: the batch on another axis, multiplied into one, or inside a tuple."""


def expression(size: Any) -> Any:
    """Return the sympy expression of a symbolic size, or the number itself."""
    return size.node.expr if isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool) else size


def contains(size: Any, batch: Any) -> bool:
    """Tell whether a size depends on the symbol `batch`."""
    return batch in getattr(expression(size), "free_symbols", ())


def batch_layout(node: fx.Node, batch: Any) -> BatchLayout:
    """Tell how the value of `node` holds the batch, whose symbol is `batch`."""
    value = node.meta.get("val")
    if isinstance(value, torch.Tensor):
        axes = [axis for axis, size in enumerate(value.shape) if contains(size, batch)]
        if not axes:
            return BatchLayout.SHARED
        return BatchLayout.ROWS if axes == [0] and expression(value.shape[0]) == batch else BatchLayout.FOLDED
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        if expression(value) == batch:
            return BatchLayout.COUNT
        return BatchLayout.FOLDED if contains(value, batch) else BatchLayout.SHARED
    return BatchLayout.SHARED if isinstance(value, bool | int | float) else BatchLayout.FOLDED


def row_shape(value: torch.Tensor) -> tuple[int | None, ...]:
    """Return the shape of one row of a (batch, *shape) value, None where it is dynamic."""
    return tuple(size if isinstance(size, int) else None for size in value.shape[1:])
