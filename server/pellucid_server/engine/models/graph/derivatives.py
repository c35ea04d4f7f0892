"""Whether a model's gradient can be computed at all, and which operator is in the way."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from pellucid_server.engine.device.memory import out_of_memory
from pellucid_server.engine.models.graph.graph import Graph

_NAMED = re.compile(r"(?:aten::|function '|derivative for ')(\w+)")


def gradient_obstacle(graph: Graph, rows: Mapping[str, torch.Tensor]) -> str:
    """Say why the gradient of the outputs with respect to these rows cannot be computed; empty if it can.

    Some operators have no derivative, or none with respect to one of their arguments; torch says so only when it is
    asked for.
    """
    leaves = {name: tensor.detach().requires_grad_(tensor.is_floating_point()) for name, tensor in rows.items()}
    inputs = [tensor for tensor in leaves.values() if tensor.requires_grad]
    if not inputs:
        return ""
    calls = _LastCall()
    try:
        with torch.enable_grad():
            with calls:
                outputs = graph(leaves)
            scores = [value for value in outputs.values() if value.requires_grad]
            if scores:
                torch.autograd.grad(scores, inputs, [torch.ones_like(score) for score in scores], allow_unused=True)
    except (ArithmeticError, IndexError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        named = _NAMED.search(str(error))
        culprit = f"aten.{named[1]}" if named else calls.last
        return f"the operator {culprit} of the model has no derivative in what it is given" if culprit else _UNKNOWN
    return ""


_UNKNOWN = "the gradient of the model cannot be computed"


class _LastCall(TorchFunctionMode):
    """Notes the operator that was called last."""

    def __init__(self) -> None:
        super().__init__()
        self.last = ""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.last = str(func)
        result = func(*args, **(kwargs or {}))
        self.last = ""
        return result
