"""Reads an ONNX file and refuses what must not be run, before anything of it is.

What can be refused by reading is refused here: operators that are random, keep state or read files, arguments that
ONNX Runtime trusts and must not, functions that expand without end, values and rows that are too large, and data
outside the file's folder. A loop without end shows only when it runs: a load is bounded in time and memory for that.
"""

import math
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import onnx
import onnx.inliner

from pellucid_server.engine.models.onnx.arguments import misfit, misfit_number
from pellucid_server.engine.models.onnx.division import UnsafeDivisionError, make_divisions_safe
from pellucid_server.engine.models.onnx.graphs import Scope, drop_claims, inferred_shapes, scopes, subgraphs
from pellucid_server.engine.models.onnx.guards import AnyGuard, add_guards, guards
from pellucid_server.engine.models.onnx.operators import refusal
from pellucid_server.engine.models.onnx.sizes import UnboundedSizeError, follow, size_guards

_LARGEST_FILE = 2**31 - 1
"""What protobuf reads; larger weights are kept beside the file."""

_LARGEST_VALUE = 1 << 30
"""Bytes of one value, for each row where it has an axis of rows: a picture of 8,000 x 8,000 in float32 has 0.8e9."""

_MOST_NODES = 100_000
_DEEPEST = 8
_LONGEST_NAME = 1024
_LONGEST_TEXT = 1 << 20
_MOST_METADATA = 1 << 20
_OPEN_LENGTH = 256
"""Assumed length of an axis that is open, where memory is estimated."""

_IN_MEMORY = "_ORT_MEM_ADDR_"
"""ONNX Runtime's own mark for data at an address in memory, in place of a file's name."""


_SOURCE = re.compile(
    r"/onnxruntime_src/\S+?:\d+ "  # file and line
    r"(?:[^\[\]\n]*?\) (?:const )?|SafeIntOnOverflow\(\) )?"  # the function, as C++ declares it
)
"""Where ONNX Runtime raised an error."""


class SessionError(Exception):
    """An ONNX file that cannot be served; the message says why, and what would be right."""


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """What reading a file shows."""

    model: onnx.ModelProto
    """As ONNX Runtime may run it: with its own functions in place of the nodes that call them, without what it claims
    of shapes, and with guards."""

    guards: tuple[AnyGuard, ...]
    refusing: Mapping[str, str]
    """By an operator that is given a shape or a place which follows what a caller sends, one such node."""

    largest_value_bytes: int
    """Bytes of the largest value in the file, for a row."""


def read_onnx(path: Path) -> OnnxFile:
    """Read and check a file.

    Raises
    ------
    SessionError
        It is no ONNX file, or one that cannot be served; the message names the node or tensor.
    """
    model = _parsed(path)
    _check_data(model, path.parent)
    return checked_model(model)


def checked_model(model: onnx.ModelProto) -> OnnxFile:
    """Check all of a model but its data, and make it ready to be run; the model given may be changed.

    Raises
    ------
    SessionError
        It cannot be served; the message names the node or value.
    """
    _check_texts(model)
    _check_expansion(model)
    model = _inlined(model)
    for scope in scopes(model, {}):
        _check_nodes(scope, model, lambda node, version, scope: misfit_number(node))
    shapes = inferred_shapes(model)
    found: list[AnyGuard] = []
    flow = follow(model)
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    for place, scope in enumerate(scopes(model, shapes)):
        _check_nodes(scope, model, misfit)
        found += guards(model, place, scope)
        try:
            found += size_guards(place, scope, flow, opset)
        except UnboundedSizeError as error:
            raise SessionError(str(error)) from error
    largest = _checked_values(model, shapes)
    drop_claims(model, shapes)
    add_guards(model, found)
    try:
        make_divisions_safe(model)
    except UnsafeDivisionError as error:
        raise SessionError(str(error)) from error
    return OnnxFile(model, tuple(found), flow.operators, largest)


def _parsed(path: Path) -> onnx.ModelProto:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise SessionError("it is larger than 2 GiB; save the model with its weights beside it (external data)")
        # Finds damage and dangling names, and turns them into errors of its own.
        onnx.checker.check_model(str(path))
        model = onnx.load(str(path), load_external_data=False)
        _check_depth(model.graph, 1)
    except (onnx.checker.ValidationError, OSError, ValueError, RecursionError) as error:
        raise SessionError(
            f"it is not an ONNX file that can be served ({one_line(error)}); export the model again"
        ) from error
    return model


def _check_depth(graph: onnx.GraphProto, depth: int) -> None:
    if depth > _DEEPEST:
        raise SessionError(
            f"branches and loops stand in one another more than {_DEEPEST} deep; write fewer into each other"
        )
    for node in graph.node:
        for inner in subgraphs(node):
            _check_depth(inner, depth + 1)


def _check_texts(model: onnx.ModelProto) -> None:
    metadata = sum(len(entry.key) + len(entry.value) for entry in model.metadata_props)
    if metadata > _MOST_METADATA:
        raise SessionError(
            f"its metadata is {metadata} characters long; at most {_MOST_METADATA} are read, leave it out"
        )
    for role, entries in (("input", model.graph.input), ("output", model.graph.output)):
        for entry in entries:
            if not entry.name or not _showable(entry.name):
                raise SessionError(
                    f"{role} {shown(entry.name)} has a name that cannot be shown; it must be 1 to {_LONGEST_NAME} "
                    "printable characters"
                )
    for node in _nodes(model):
        names = (node.name, node.op_type, node.domain, *node.input, *node.output)
        if not all(map(_showable, names)):
            raise SessionError(
                f"node {shown(node.name)} has or names a value of a name that cannot be shown; it must be at most "
                f"{_LONGEST_NAME} printable characters"
            )
        for attribute in node.attribute:
            if any(len(text) > _LONGEST_TEXT for text in (attribute.s, *attribute.strings)):
                raise SessionError(f"node {shown(node.name)} has a text of more than {_LONGEST_TEXT} bytes; shorten it")


def _showable(name: str | bytes) -> bool:
    """Tell whether a name may stand in a message; protobuf gives one that is no UTF-8 as bytes."""
    return isinstance(name, str) and len(name) <= _LONGEST_NAME and name.isprintable()


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for scope in scopes(model, {}):
        yield from scope.graph.node


def _check_expansion(model: onnx.ModelProto) -> None:
    """Bound the nodes after every function is in place of the nodes that call it."""
    functions = {(function.domain, function.name): function for function in model.functions}
    counts: dict[tuple[str, str], int] = {}
    open_: list[tuple[str, str]] = []

    def count(nodes: Sequence[onnx.NodeProto]) -> int:
        total = 0
        for node in nodes:
            total += 1 + sum(count(graph.node) for graph in subgraphs(node))
            key = (node.domain, node.op_type)
            if key in functions:
                total += expanded(key)
            if total > _MOST_NODES:
                raise SessionError(
                    f"it has more than {_MOST_NODES} nodes once its functions are written out; export a smaller model"
                )
        return total

    def expanded(key: tuple[str, str]) -> int:
        if key in open_ or len(open_) > _DEEPEST * 4:
            raise SessionError(
                f"function {shown(key[1])} calls itself, or functions call each other more than {_DEEPEST * 4} deep; "
                "write out what it computes"
            )
        if key not in counts:
            open_.append(key)
            counts[key] = count(functions[key].node)
            open_.pop()
        return counts[key]

    count(model.graph.node)
    for key in functions:
        expanded(key)


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    if not model.functions:
        return model
    try:
        return onnx.inliner.inline_local_functions(model, convert_version=False)
    except (RuntimeError, ValueError) as error:
        raise SessionError(
            f"its functions cannot be written out ({one_line(error)}); export the model without functions of its own"
        ) from error


def _check_nodes(
    scope: Scope, model: onnx.ModelProto, misfit: Callable[[onnx.NodeProto, int, Scope], str | None]
) -> None:
    functions = {(function.domain, function.name) for function in model.functions}
    imports = scope.graph.opset_import if isinstance(scope.graph, onnx.FunctionProto) else model.opset_import
    versions = {entry.domain: entry.version for entry in imports}
    versions[""] = versions.get("", versions.get("ai.onnx", 1))
    for node in scope.graph.node:
        if (node.domain, node.op_type) in functions:
            continue
        standard = "" if node.domain == "ai.onnx" else node.domain
        reason = refusal(node.domain, node.op_type) or misfit(node, versions.get(standard, 1), scope)
        if reason is not None:
            raise SessionError(
                f"node {shown(node.name)} is an operator {node.op_type!r} of the domain {node.domain!r} that cannot be "
                f"served: {reason}"
            )


def _checked_values(model: onnx.ModelProto, shapes: dict[str, tuple[int | str | None, ...]]) -> int:
    """Return the bytes of a row of the largest value, open axes at an assumed length; refuse what is too large."""
    taken = {entry.name for entry in model.graph.input}
    largest = 8
    for name, shape in shapes.items():
        rows = shape[1:] if shape and not isinstance(shape[0], int) else shape
        size = 8 * math.prod(length for length in rows if isinstance(length, int))
        if size > 8 * _LARGEST_VALUE // 4:
            what = "input" if name in taken else "value"
            raise SessionError(
                f"{what} {shown(name)} has {size // 8} elements per row; a value may have at most {_LARGEST_VALUE // 4}"
            )
    for shape in shapes.values():
        lengths = [length if isinstance(length, int) else _OPEN_LENGTH for length in shape[1:]]
        largest = max(largest, 8 * math.prod(length or _OPEN_LENGTH for length in lengths))
    return largest


def _check_data(model: onnx.ModelProto, folder: Path) -> None:
    """Check the tensors whose data is in files beside the model's."""
    files: dict[Path, int] = {}
    total = 0
    for tensor in _tensors(model):
        if not tensor.external_data and tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        file, length = _located(tensor, folder)
        files[file] = file.stat().st_size
        total += length
    if total > 2 * sum(files.values()):
        raise SessionError(
            f"its tensors take {total} bytes from files of {sum(files.values())}; each must have data of its own: "
            "save the model again"
        )


def _located(tensor: onnx.TensorProto, folder: Path) -> tuple[Path, int]:
    """Return the file of a tensor's data, and its length in bytes."""
    name = shown(tensor.name)
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    relative = PurePosixPath(location)
    bad = not location or not location.isprintable() or "\\" in location or _IN_MEMORY in location
    if bad or relative.is_absolute() or ".." in relative.parts or not _inside(folder, location):
        raise SessionError(
            f"tensor {name} has its data in {shown(location)}, outside the folder of the file; save the model with its "
            "data beside it"
        )
    file = folder / location
    if not file.is_file() or not stat.S_ISREG(file.stat().st_mode):
        raise SessionError(f"tensor {name} has its data in {shown(location)}, which is missing; copy it there too")
    size = file.stat().st_size
    needed = _tensor_bytes(tensor)
    offset, length = (_number(entries.get(key, default)) for key, default in (("offset", "0"), ("length", str(needed))))
    if offset is None or length is None or length != needed or offset + length > size:
        raise SessionError(
            f"tensor {name} takes {shown(entries.get('length', str(needed)))} bytes at "
            f"{shown(entries.get('offset', '0'))} of {shown(location)}, which has {size}; it needs {needed} bytes "
            "that are there: copy the whole file"
        )
    return file, length


def _inside(folder: Path, location: str) -> bool:
    try:
        return folder.joinpath(location).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        return False


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _tensor_bytes(tensor: onnx.TensorProto) -> int:
    try:
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except KeyError as error:
        raise SessionError(
            f"tensor {shown(tensor.name)} is of a type that is not known; export the model again"
        ) from error
    count = math.prod(tensor.dims)
    if count < 0 or any(length < 0 for length in tensor.dims):
        raise SessionError(f"tensor {shown(tensor.name)} has negative lengths; export the model again")
    bits = 4 if kind.name in ("int4", "uint4", "float4_e2m1fn") else 8 * kind.itemsize
    return (count * bits + 7) // 8


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """Walk all tensors of a model, in whatever part of it they are."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if isinstance(value, Sequence) else (value,):
                yield from _tensors(part)


def shown(text: str | bytes) -> str:
    """Return a file's text as it may stand in a message: quoted, escaped and short."""
    return ascii(text[:80])


def one_line(error: BaseException) -> str:
    """Return an error's text on one line of bounded length, without the places of ONNX Runtime's own source."""
    text = " ".join(_SOURCE.sub("", str(error)).split())
    return text if len(text) <= 400 else f"{text[:397]}..."
