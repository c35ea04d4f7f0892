"""Keeps whole numbers of ONNX files from a division that ends the process: the lowest of 64 bits by -1.

ONNX Runtime hands the division to the processor, which stops at a result that has no 64 bits. A divisor that is in the
file is looked at when that is read (`onnx_arguments`). Another one is replaced by 1 where it is -1, and the quotient by
its negative there, which is the same number for all but the lowest, and that one itself for the lowest.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pellucid_server.engine.models.onnx.graphs import Scope, inferred_types, scopes

PREFIX = "pellucid.quotient."
"""Before the names of the nodes and values that are added to a file."""

_FIRST_OPSET = 9
"""Of the standard domain, with an operator that chooses (Where)."""
_FIRST_OPSET_FOR_ANY_TYPE = 15
"""With one that makes a number of another's type (CastLike)."""


class UnsafeDivisionError(Exception):
    """A division cannot be made safe; the message names the node and a way round."""


def make_divisions_safe(model: onnx.ModelProto) -> None:
    """Rewrite each division whose divisor is not in the file, unless it is known not to be of 64-bit whole numbers.

    Raises
    ------
    UnsafeDivisionError
        The file's version of the standard operators is too old for what would be written.
    """
    types = inferred_types(model)
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    number = 0
    for scope in list(scopes(model, {})):
        for place, node in reversed(list(enumerate(scope.graph.node))):
            if not _may_end_the_process(node, scope, types):
                continue
            known = types.get(node.input[1]) == onnx.TensorProto.INT64
            if opset < (_FIRST_OPSET if known else _FIRST_OPSET_FOR_ANY_TYPE):
                raise UnsafeDivisionError(
                    f"node {node.name[:80]!a} (Div) may divide whole numbers by -1, and the lowest of them cannot be; "
                    f"export the model with opset {_FIRST_OPSET_FOR_ANY_TYPE} or newer"
                )
            added = list(_safe_division(node, f"{PREFIX}{number}", known=known))
            number += 1
            del scope.graph.node[place]
            for each in reversed(added):
                scope.graph.node.insert(place, each)


def _may_end_the_process(node: onnx.NodeProto, scope: Scope, types: dict[str, int]) -> bool:
    if node.op_type != "Div" or node.domain not in ("", "ai.onnx") or len(node.input) != 2:
        return False
    known = types.get(node.input[1]) or types.get(node.input[0])
    return known in (None, onnx.TensorProto.INT64) and scope.constant(node.input[1]) is None


def _safe_division(node: onnx.NodeProto, prefix: str, *, known: bool) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that take a division's place; with `known`, of 64-bit whole numbers."""
    dividend, divisor = node.input

    def added(operator: str, inputs: list[str], output: str) -> onnx.NodeProto:
        return helper.make_node(operator, inputs, [output], name=output)

    for key, value in (("one", 1), ("minus", -1)):
        written = f"{prefix}.{key}" if known else f"{prefix}.{key}.int"
        constant = numpy_helper.from_array(np.array(value, np.int64))
        yield helper.make_node("Constant", [], [written], name=written, value=constant)
        if not known:
            yield added("CastLike", [written, divisor], f"{prefix}.{key}")
    yield added("Equal", [divisor, f"{prefix}.minus"], f"{prefix}.turns")
    yield added("Where", [f"{prefix}.turns", f"{prefix}.one", divisor], f"{prefix}.divisor")
    yield helper.make_node("Div", [dividend, f"{prefix}.divisor"], [f"{prefix}.plain"], name=node.name)
    yield added("Neg", [f"{prefix}.plain"], f"{prefix}.turned")
    yield helper.make_node(
        "Where", [f"{prefix}.turns", f"{prefix}.turned", f"{prefix}.plain"], [node.output[0]], name=f"{prefix}.chosen"
    )
