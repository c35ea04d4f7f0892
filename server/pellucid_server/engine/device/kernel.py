"""What runs on the device: a kernel turns a batch of rows into rows of results, independently row by row."""

from collections.abc import Sequence
from typing import Protocol

from pellucid_server.engine.asking.recipe import Ask, Tensors

Parts = Sequence[tuple[Ask, int]]
"""What the rows of a batch were asked for by, in their order, and how many rows each has in it."""


class Kernel(Protocol):
    """Evaluates batches of one model and one kind of evaluation; evaluations with equal kernels share batches."""

    evaluation: str
    """The kind of evaluation, for receipts."""
    kind: str
    """What rows have in common that take as long: the kind of evaluation, and the layer if it depends on one."""
    backward: bool
    """Whether it computes gradients."""
    device: str
    """Where it takes its rows."""
    runtime: str
    """What runs the network, for receipts: "onnxruntime", "graph", or "fast-graph"."""

    def __call__(self, batch: Tensors, parts: Parts) -> Tensors:
        """Return the results of each row of the batch, on any device."""
        ...
