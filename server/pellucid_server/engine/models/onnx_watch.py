"""Watches what reading an ONNX file cannot show: whether an input of a Concat is empty.

ONNX Runtime takes an empty array as one that fits any other, adds its length along the axis all the same, and leaves
that part of the output as the memory was. The shapes of such inputs become outputs of their own, and an answer behind
which there is an empty one is not given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper

PREFIX = "pellucid.shape-of."
"""Before the names of the outputs that are added to a file."""


@dataclass(frozen=True, slots=True)
class Watch:
    """A Concat whose inputs may be empty."""

    node: str
    inputs: tuple[str, ...]

    def harm(self, values: Mapping[str, Any]) -> str | None:
        """Return what went wrong in a run with these outputs, or None."""
        shapes = [[int(length) for length in values[f"{PREFIX}{name}"]] for name in self.inputs]
        if not any(0 in shape and len(shape) > 1 for shape in shapes):
            return None
        found = ", ".join(map(str, shapes))
        return f"node {self.node!r} concatenates arrays of which one is empty ({found}); leave it out where it is"


def watched_outputs(watches: Sequence[Watch]) -> list[str]:
    """Return the names of the outputs that are added."""
    return [f"{PREFIX}{name}" for name in dict.fromkeys(name for watch in watches for name in watch.inputs)]


def with_watches(model: onnx.ModelProto, watches: Sequence[Watch]) -> onnx.ModelProto:
    """Return a copy of the model with the shapes of watched values as outputs of its own."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    for output in watched_outputs(watches):
        watched.graph.node.append(helper.make_node("Shape", [output.removeprefix(PREFIX)], [output]))
        watched.graph.output.append(helper.make_tensor_value_info(output, onnx.TensorProto.INT64, [None]))
    return watched
