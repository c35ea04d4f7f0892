"""Single ONNX operators with arguments that fit, to sweep from: the onnx package's own test cases, and more."""

import functools
import importlib
import pkgutil
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from unittest import mock

import numpy as np
import onnx
from onnx import helper
from onnx.backend.test.case import node as onnx_cases
from onnx.reference.ops import op_pool_common
from onnxruntime.capi import onnxruntime_pybind11_state as states
from server.engine.models.onnx_sweep import Start

NEWEST = 26
"""The newest opset of the standard domain that ONNX Runtime 1.32 takes as released."""


@functools.cache
def kernel_versions(domain: str, operator: str) -> tuple[int, ...]:
    """Return an opset for each of the CPU's implementations of an operator, newest first."""
    newest = NEWEST if not domain else 5
    found = {
        min(kernel.version_range[1], newest)
        for kernel in _kernels()[domain, operator]
        if kernel.version_range[0] <= newest
    }
    return tuple(sorted((version for version in found if version >= 7), reverse=True)) or (newest,)


@functools.cache
def _kernels():
    found = defaultdict(list)
    for kernel in states.get_all_opkernel_def():
        if kernel.provider == "CPUExecutionProvider":
            found[kernel.domain, kernel.op_name].append(kernel)
    return found


def onnx_starts(modules: Sequence[str] | None = None) -> Iterator[Start]:
    """Yield the onnx package's test cases of one node, at every opset for which there is an implementation.

    `modules` are those of `onnx.backend.test.case.node` to take, all by default.
    """
    counts = defaultdict(int)
    names = modules or [entry.name for entry in pkgutil.iter_modules(onnx_cases.__path__)]
    with warnings.catch_warnings(), np.errstate(all="ignore"), mock.patch.object(op_pool_common, "pool", _unpooled):
        warnings.simplefilter("ignore")
        for name in names:
            importlib.import_module(f"{onnx_cases.__name__}.{name}")
    for case in onnx_cases._NodeTestCases:
        graph = case.model.graph
        if len(graph.node) != 1 or graph.node[0].domain not in ("", "ai.onnx.ml"):
            continue
        node = graph.node[0]
        counts[node.op_type] += 1
        feeds = _feeds(case)
        if feeds is None:
            continue
        versions = kernel_versions(node.domain, node.op_type)
        if counts[node.op_type] > 4:
            versions = versions[:1]
        for version in versions:
            start = at_version(case.name, node, feeds, version)
            if start is not None:
                yield start


def _unpooled(padded, x_shape, kernel, strides, out_shape, *arguments, **named):
    """Stand in for the package's pooling, which goes through its windows in Python: of a case, the inputs are used."""
    return np.zeros((*x_shape[:2], *out_shape), padded.dtype)


def _feeds(case):
    arrays = case.data_sets[0][0]
    feeds = {}
    for entry, given in zip(case.model.graph.input, arrays, strict=False):
        array = np.asarray(given) if isinstance(given, np.ndarray | np.generic) else None
        if array is None or array.dtype.kind not in "iufb":
            return None
        try:
            if helper.np_dtype_to_tensor_dtype(array.dtype) != entry.type.tensor_type.elem_type:
                return None
        except (KeyError, ValueError):
            return None
        if array.nbytes > 1 << 16:
            return None
        feeds[entry.name] = array
    return feeds


def at_version(name: str, node: onnx.NodeProto, feeds: dict[str, np.ndarray], version: int) -> Start | None:
    """Return a start at an older opset, with inputs that were attributes there put back, or None."""
    domain = node.domain
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    feeds = dict(feeds)
    try:
        new = onnx.defs.get_schema(node.op_type, onnx.defs.onnx_opset_version() if not domain else 5, domain)
        old = onnx.defs.get_schema(node.op_type, version, domain)
    except onnx.defs.SchemaError:
        return None
    if len(copied.input) > len(old.inputs) or any(
        place < len(new.inputs) and new.inputs[place].name in old.attributes for place in range(len(copied.input))
    ):
        for place in reversed(range(len(copied.input))):
            formal = new.inputs[min(place, len(new.inputs) - 1)].name
            if formal in old.attributes and copied.input[place] in feeds:
                array = feeds.pop(copied.input[place])
                value = array.reshape(-1).tolist()
                kind = int(old.attributes[formal].type.value)
                if kind in (1, 2):
                    value = (float if kind == 1 else int)(value[0]) if value else 0
                copied.attribute.append(helper.make_attribute(formal, value, attr_type=kind))
                copied.input.pop(place)
    kept = [entry for entry in copied.attribute if entry.name in old.attributes]
    del copied.attribute[:]
    copied.attribute.extend(kept)
    feeds = {name: array for name, array in feeds.items() if name in copied.input or _has_graph(copied)}
    return start(f"{name}@{version}", [copied], feeds, {domain: version})


def _has_graph(node: onnx.NodeProto) -> bool:
    return any(entry.HasField("g") for entry in node.attribute)


def start(name, nodes, feeds, opsets=None):
    """Return a start of nodes; all their outputs are the graph's."""
    opsets = {"": 21} | {"com.microsoft": 1, "ai.onnx.ml": 3} | (opsets or {})
    used = {entry for node in nodes for entry in node.input}
    outputs = [
        onnx.ValueInfoProto(name=entry)
        for node in nodes
        for entry in node.output
        if entry and (entry not in used or len(nodes) == 1)
    ]
    graph = helper.make_graph(nodes, "g", [], outputs)
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    return Start(name, helper.make_model(graph, opset_imports=imports, ir_version=10), feeds)
