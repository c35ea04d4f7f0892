"""What a file says of its values is not believed: weights are compared with it, and sizes are bounded.

torch takes the shape of a parameter from the text of the graph, and its bytes from elsewhere in the file. All that is
known of the values behind it follows from that shape, so that the two have to agree.
"""

import math
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils._pytree import tree_leaves

from pellucid_server.engine.models.graph.sizes import expression

LARGEST_VALUE_BYTES = 2**30
"""Bytes of one value for one row, with open lengths of 1."""


def unlike_declared(program: ExportedProgram) -> str | None:
    """Say which parameter, buffer or constant is not as the graph says; None if all are."""
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    for spec in program.graph_signature.input_specs:
        if spec.kind == InputKind.USER_INPUT or spec.target is None:
            continue
        known = program.state_dict if spec.target in program.state_dict else program.constants
        tensor, declared = known.get(spec.target), placeholders[spec.arg.name].meta.get("val")
        if isinstance(tensor, torch.Tensor) and _form(tensor) != _form(declared):
            return f"The tensor {spec.target!r} is {_shown(tensor)}, where the graph says {_shown(declared)}"
    return None


def _form(tensor: Any) -> object:
    """Return all by which two tensors must be alike; strides matter only along axes of more than one place."""
    if not isinstance(tensor, torch.Tensor):
        return None
    strides = [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size != 1]
    return tuple(tensor.shape), tensor.dtype, strides if tensor.numel() else None


def _shown(tensor: Any) -> str:
    if not isinstance(tensor, torch.Tensor):
        return "no tensor"
    return f"{tensor.dtype} of shape ({', '.join(map(str, tensor.shape))}) and strides {tensor.stride()}"


def oversized(node: fx.Node) -> int | None:
    """Return the bytes of a node's value for one row if they are more than `LARGEST_VALUE_BYTES`, or None."""
    for value in tree_leaves(node.meta.get("val")):
        if isinstance(value, torch.Tensor):
            counted = math.prod(_least(size) for size in value.shape) * value.itemsize
            if counted > LARGEST_VALUE_BYTES:
                return counted
    return None


def _least(size: Any) -> int:
    """Return a size for one row and open lengths of 1."""
    found = expression(size)
    symbols = getattr(found, "free_symbols", None)
    try:
        return max(int(found.subs(dict.fromkeys(symbols, 1)) if symbols else found), 0)
    except (TypeError, ValueError, ArithmeticError):
        # A length of 1 may be none that the model takes.
        return 1
