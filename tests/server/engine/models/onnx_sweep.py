"""Runs ONNX models whose arguments do not fit, in child processes, and finds reads and writes beyond arrays.

Each model is run twice by ONNX Runtime on arrays that lie between guard bytes, which are of other values in the
second run, as is all fresh memory. A guard that changed is a write beyond an array; another answer in the second run
is a read beyond one, or of memory that was never written; a child that died by a signal is a crash.
"""

import ctypes
import faulthandler
import mmap
import os
import random
import resource
import signal
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import AttributeProto, helper
from pellucid_server.engine.models.onnx.file import SessionError, checked_model

Array = NDArray[np.generic]

_PAGE = mmap.PAGESIZE
_GUARD = 4 * _PAGE
_ROOM = 32 * _PAGE
"""Bytes for an array's own data; larger ones are not swept."""

_SLOTS = 48
_PASSES = ((0x00, 0x01), (0x42, 0xBD))
"""Byte in the guards, and mallopt's perturbation (fresh memory is its complement), of each run."""

_M_PERTURB = -6
_SECONDS = 4
"""A call that takes longer is left to the bounds of a load."""

_ADDRESS_SPACE = 6 << 30


@dataclass(frozen=True)
class Start:
    """A model that runs, with what it runs on."""

    name: str
    model: onnx.ModelProto
    feeds: dict[str, Array]

    @property
    def operator(self) -> str:
        """The operator, with its domain, or what ONNX Runtime may fuse."""
        return "+".join(
            f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in self.model.graph.node
        )


@dataclass(frozen=True)
class Call:
    """A start with some of its arguments changed."""

    start: Start
    changes: str
    model: onnx.ModelProto
    feeds: dict[str, Array]
    mode: str
    """What the file says: "hidden" has no shapes, "ranked" the number of axes of each input, and in "fixed" all inputs
    but the first are weights in the file, which ONNX Runtime reads and packs before the first run."""


@dataclass(frozen=True)
class Finding:
    """What one call did that it must not."""

    operator: str
    start: str
    changes: str
    mode: str
    kind: str


MODES = ("hidden", "ranked", "fixed")

Change = tuple[str, Callable[[onnx.ModelProto, dict[str, Array]], None]]

WHOLE = (-(2**63), -(2**31) - 1, -(2**31), -100, -2, -1, 0, 1, 2, 3, 7, 100, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)
REAL = (float("nan"), float("inf"), -float("inf"), -1e30, -1.0, 0.0, 1e-38, 1e-6, 0.5, 1.0, 3.0, 1e9, 1e30)


def changes(start: Start) -> list[Change]:
    """Return all single changes of a start's arguments."""
    found: list[Change] = []
    for name, array in start.feeds.items():
        found += _shape_changes(name, array) + _dtype_changes(name, array) + _value_changes(name, array)
        found.append((f"{name} missing", _without(name)))
    for index, node in enumerate(start.model.graph.node):
        found += _attribute_changes(start.model, index, node)
        found.append((f"{node.op_type}: fewer outputs", _resize_outputs(index, -1)))
        found.append((f"{node.op_type}: more outputs", _resize_outputs(index, 1)))
    return found


def _shape_changes(name: str, array: Array) -> list[Change]:
    shapes: list[tuple[int, ...]] = [(), (0,), (1,), (1, *array.shape), (*array.shape, 1), (*array.shape, 3)]
    for axis, length in enumerate(array.shape):
        others = {0, 1, 2, length - 1, length + 1, 2 * length, 301} - {length}
        shapes += [(*array.shape[:axis], other, *array.shape[axis + 1 :]) for other in sorted(others) if other >= 0]
        shapes.append((*array.shape[:axis], *array.shape[axis + 1 :]))
    if array.ndim > 1:
        shapes += [array.shape[::-1], (array.size,)]
    return [
        (f"{name} of shape {shape}", _with_array(name, np.resize(array, shape)))
        for shape in dict.fromkeys(shapes)
        if shape != array.shape and np.prod(shape) * array.itemsize <= _ROOM
    ]


def _dtype_changes(name: str, array: Array) -> list[Change]:
    kinds = ("float32", "float64", "float16", "int64", "int32", "int8", "uint8", "bool")
    with np.errstate(all="ignore"):
        return [
            (f"{name} as {kind}", _with_array(name, array.astype(kind))) for kind in kinds if kind != array.dtype.name
        ]


def _value_changes(name: str, array: Array) -> list[Change]:
    if array.size == 0 or array.dtype.kind not in "iuf":
        return []
    found = []
    values: Sequence[float] = REAL if array.dtype.kind == "f" else WHOLE
    if array.dtype.kind != "f":
        information = np.iinfo(array.dtype)
        values = [value for value in (*WHOLE, array.size) if information.min <= value <= information.max]
    for value in values:
        filled = np.full_like(array, value)
        found.append((f"{name} all {value}", _with_array(name, filled)))
        for place in sorted({0, array.size // 2, array.size - 1}):
            edited = array.copy()
            edited.flat[place] = value
            found.append((f"{name}[{place}] {value}", _with_array(name, edited)))
    return found


def _with_array(name: str, array: Array) -> Callable[[onnx.ModelProto, dict[str, Array]], None]:
    def change(model: onnx.ModelProto, feeds: dict[str, Array]) -> None:
        if name in feeds:
            feeds[name] = array

    return change


def _without(name: str) -> Callable[[onnx.ModelProto, dict[str, Array]], None]:
    def change(model: onnx.ModelProto, feeds: dict[str, Array]) -> None:
        feeds.pop(name, None)
        for node in model.graph.node:
            for place, entry in enumerate(node.input):
                if entry == name:
                    node.input[place] = ""
            while node.input and not node.input[-1]:
                del node.input[-1]

    return change


def _resize_outputs(index: int, by: int) -> Callable[[onnx.ModelProto, dict[str, Array]], None]:
    def change(model: onnx.ModelProto, feeds: dict[str, Array]) -> None:
        node = model.graph.node[index]
        if by > 0:
            node.output.append(f"extra_{len(node.output)}")
            model.graph.output.add(name=node.output[-1])
        elif len(node.output) > 1:
            dropped = node.output.pop()
            kept = [entry for entry in model.graph.output if entry.name != dropped]
            del model.graph.output[:]
            model.graph.output.extend(kept)

    return change


def _attribute_changes(model: onnx.ModelProto, index: int, node: onnx.NodeProto) -> list[Change]:
    found: list[Change] = []
    there = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    for name, kind in sorted(_attribute_kinds(model, node).items()):
        if name in there:
            found.append((f"{node.op_type}.{name} absent", _with_attribute(index, name, None, kind)))
        for value in _attribute_values(kind, there.get(name), node, name):
            found.append((f"{node.op_type}.{name} = {str(value)[:60]}", _with_attribute(index, name, value, kind)))
    return found


def _attribute_kinds(model: onnx.ModelProto, node: onnx.NodeProto) -> dict[str, int]:
    kinds = {entry.name: int(entry.type) for entry in node.attribute}
    version = next(entry.version for entry in model.opset_import if entry.domain == node.domain)
    try:
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    except onnx.defs.SchemaError:
        return kinds
    return {name: int(entry.type.value) for name, entry in schema.attributes.items()} | kinds


def _attribute_values(kind: int, present: object, node: onnx.NodeProto, name: str) -> list[object]:
    if kind == AttributeProto.INT:
        near = [present + 1, present - 1] if isinstance(present, int) else []
        return list(dict.fromkeys([*WHOLE, *near]))
    if kind == AttributeProto.FLOAT:
        return list(REAL)
    if kind == AttributeProto.INTS:
        return _list_values(list(present) if present else [], WHOLE)  # type: ignore[call-overload]
    if kind == AttributeProto.FLOATS:
        return _list_values(list(present) if present else [], REAL)  # type: ignore[call-overload]
    if kind == AttributeProto.STRING:
        return [b"", b"x", *_WORDS]
    if kind == AttributeProto.STRINGS:
        words = list(present) if present else []  # type: ignore[call-overload]
        return [[], words[:-1], [*words, b"x"], *([word] * max(len(words), 1) for word in _WORDS)]
    if kind == AttributeProto.TENSOR and isinstance(present, onnx.TensorProto):
        return _tensor_values(present)
    return []


_WORDS = (
    *(
        b"SAME_UPPER",
        b"SAME_LOWER",
        b"VALID",
        b"NOTSET",
        b"reflect",
        b"edge",
        b"wrap",
        b"constant",
        b"border",
        b"zeros",
    ),
    *(b"nearest", b"linear", b"cubic", b"bilinear", b"bicubic", b"align_corners", b"asymmetric", b"tf_crop_and_resize"),
    *(b"half_pixel", b"reverse", b"bidirectional", b"forward", b"Tanh", b"Sigmoid", b"Relu", b"Affine", b"avg", b"max"),
    *(b"DCR", b"CRD", b"add", b"mul", b"min", b"NONE", b"SUM", b"AVERAGE", b"MIN", b"MAX", b"SOFTMAX", b"LOGISTIC"),
    *(b"SOFTMAX_ZERO", b"PROBIT", b"BRANCH_LEQ", b"LEAF", b"BRANCH_EQ", b"RBF", b"POLY", b"SIGMOID", b"L1", b"L2"),
    *(b"TF", b"IDF", b"TFIDF", b"ij,jk->ik", b"ii->i", b"...i,i->...", b"bij,bjk->bik", b"ij->ji", b"iij->", b"->"),
)


def _list_values(present: list[float], values: Sequence[float]) -> list[object]:
    lists: list[list[float]] = [[], present[:-1], present[1:], [*present, *present]]
    for value in values:
        lists += [[value] * max(len(present), 1), [*present, value]]
        lists += [[*present[:place], value, *present[place + 1 :]] for place in sorted(_places(len(present)))]
    lists += [[value] * count for value in (0, 1, 2) for count in (1, 2, 3, 4, 6)]
    unique = {struct.pack(f"{len(entry)}d", *entry): entry for entry in lists}
    return [entry for entry in unique.values() if entry != present]


def _places(length: int) -> set[int]:
    return {0, length // 2, length - 1} if length else set()


def _tensor_values(present: onnx.TensorProto) -> list[object]:
    array = onnx.numpy_helper.to_array(present)
    holder: dict[str, Array] = {}
    found: list[object] = []
    for _, change in (*_shape_changes("t", array), *_value_changes("t", array)):
        holder["t"] = array
        change(onnx.ModelProto(), holder)
        found.append(onnx.numpy_helper.from_array(holder["t"]))
    return found


def _with_attribute(
    index: int, name: str, value: object, kind: int
) -> Callable[[onnx.ModelProto, dict[str, Array]], None]:
    def change(model: onnx.ModelProto, feeds: dict[str, Array]) -> None:
        node = model.graph.node[index]
        kept = [entry for entry in node.attribute if entry.name != name]
        del node.attribute[:]
        node.attribute.extend(kept)
        if value is not None:
            node.attribute.append(helper.make_attribute(name, value, attr_type=kind))

    return change


def single_calls(start: Start) -> Iterator[Call]:
    """Yield the start itself and each single change of it, with weights in the file and as inputs."""
    for label, change in [("as it is", lambda model, feeds: None), *changes(start)]:
        for mode in MODES:
            yield call_of(start, [(label, change)], mode)


def random_call(start: Start, generator: random.Random) -> Call:
    """Return the start with one to three changes drawn at random."""
    drawn = generator.choices(_changes_of(start), k=generator.choice((1, 1, 1, 2, 2, 3)))
    return call_of(start, drawn, generator.choice(MODES))


_CHANGES: dict[int, list[Change]] = {}


def _changes_of(start: Start) -> list[Change]:
    if id(start) not in _CHANGES:
        _CHANGES[id(start)] = changes(start)
    return _CHANGES[id(start)]


def call_of(start: Start, drawn: Sequence[Change], mode: str) -> Call:
    """Return a start with changes."""
    model = onnx.ModelProto()
    model.CopyFrom(start.model)
    feeds = dict(start.feeds)
    for _, change in drawn:
        change(model, feeds)
    del model.graph.input[:]
    del model.graph.initializer[:]
    for place, (name, array) in enumerate(feeds.items()):
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        if mode == "fixed" and place:
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        else:
            shape = [None] * array.ndim if mode != "hidden" else None
            model.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
    return Call(start, "; ".join(label for label, _ in drawn), model, feeds, mode)


class _Slots:
    """Places for arrays, each between guards, and these between pages that cannot be touched."""

    def __init__(self) -> None:
        self._stride = _PAGE + _GUARD + _ROOM + _GUARD
        self._memory = mmap.mmap(-1, self._stride * _SLOTS + _PAGE)
        whole = np.frombuffer(self._memory, np.uint8)
        libc = ctypes.CDLL(None)
        for slot in range(_SLOTS + 1):
            libc.mprotect(ctypes.c_void_p(whole.ctypes.data + slot * self._stride), ctypes.c_size_t(_PAGE), 0)
        self._slots = [whole[slot * self._stride + _PAGE : (slot + 1) * self._stride] for slot in range(_SLOTS)]
        self._used: list[tuple[int, int, int]] = []

    def clear(self, byte: int) -> None:
        self._byte = byte
        self._used = []

    def place(self, array: Array) -> Array:
        """Return a copy whose end is at its guard."""
        placed = self.empty(array.shape, array.dtype)
        placed[...] = array
        return placed

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
        """Return an array of which every byte is the guards'."""
        size = int(np.prod(shape)) * dtype.itemsize
        slot = len(self._used)
        room = self._slots[slot]
        start = (_GUARD + _ROOM - size) & ~63
        room[start - _GUARD :] = self._byte
        self._used.append((slot, start, size))
        return room[start : start + size].view(dtype).reshape(shape)

    def intact(self) -> bool:
        """Tell whether every guard is as it was."""
        for slot, start, size in self._used:
            room = self._slots[slot]
            if (room[start - _GUARD : start] != self._byte).any() or (room[start + size :] != self._byte).any():
                return False
        return True


class Runner:
    """Runs calls in this process; made in a child that may die of them."""

    def __init__(self, before: Callable[[bool, int], None] | None = None, *, checks: bool = True) -> None:
        self._checks = checks
        self._slots = _Slots()
        self._libc = ctypes.CDLL(None)
        self._before = before
        self.limited = before is None

    def run(self, call: Call) -> str | None:
        """Return what the call did that it must not, or None."""
        try:
            content = self._content(call.model)
        except SessionError:
            return None
        answers = []
        for number, (byte, perturbation) in enumerate(_PASSES):
            self._slots.clear(byte)
            self._libc.mallopt(_M_PERTURB, perturbation)
            if self._before is not None:
                self._before(True, byte)
            earlier = answers[0] if number else None
            answers.append(self._answer(call, content, earlier if isinstance(earlier, list) else None))
            if self._before is not None:
                self._before(False, byte)
            if not self._slots.intact():
                return "writes beyond"
        return None if _same(*answers) else "reads beyond"

    def answer(self, call: Call) -> list[Array | None] | str:
        """Return a call's outputs, or the name of what it raised; "refused" where the checks do."""
        try:
            content = self._content(call.model)
        except SessionError:
            return "refused"
        self._slots.clear(0)
        return self._answer(call, content, None)

    def _content(self, model: onnx.ModelProto) -> bytes:
        return (checked_model(model).model if self._checks else model).SerializeToString()

    def _answer(self, call: Call, content: bytes, earlier: list[Array | None] | None) -> list[Array | None] | str:
        options = onnxruntime.SessionOptions()
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        placed = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(self._slots.place(array))
            for name, array in call.feeds.items()
        }
        given = [entry.name for entry in call.model.graph.input]
        try:
            for name, value in placed.items():
                if name not in given:
                    options.add_initializer(name, value)
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            session.disable_fallback()
            binding = session.io_binding()
            for name in given:
                binding.bind_ortvalue_input(name, placed[name])
            for place, entry in enumerate(session.get_outputs()):
                before = earlier[place] if earlier is not None and place < len(earlier) else None
                if before is not None and 0 < before.nbytes <= _ROOM and not _has_graph(call.model):
                    room = self._slots.empty(before.shape, before.dtype)
                    binding.bind_ortvalue_output(entry.name, onnxruntime.OrtValue.ortvalue_from_numpy(room))
                else:
                    binding.bind_output(entry.name)
            session.run_with_iobinding(binding)
            return [_numbers(value) for value in binding.get_outputs()]
        except Exception as error:
            if earlier is not None and "for output" in str(error):
                # An output given has to be of the shape that was inferred, which may be untrue.
                return self._answer(call, content, None)
            return type(error).__name__


def _has_graph(model: onnx.ModelProto) -> bool:
    return any(entry.HasField("g") for node in model.graph.node for entry in node.attribute)


def _numbers(value: onnxruntime.OrtValue) -> Array | None:
    if not value.is_tensor() or value.data_type() == "tensor(string)":
        return None
    try:
        return value.numpy().copy()
    except Exception:
        return None


def _same(one: list[Array | None] | str, other: list[Array | None] | str) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return isinstance(one, str) and isinstance(other, str)
    return all(_alike(first, second) for first, second in zip(one, other, strict=True))


def _alike(one: Array | None, other: Array | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))


def sweep(
    calls: Callable[[], Iterator[Call]],
    before: Callable[[bool, int], None] | None = None,
    *,
    checks: bool = True,
) -> tuple[int, list[Finding]]:
    """Run calls in children, and return how many ran and what was found.

    `calls` must yield the same calls each time: a child goes on after the call that its predecessor died of.
    """
    shared = mmap.mmap(-1, _PAGE)
    findings: list[Finding] = []
    skip, done = 0, False
    while not done:
        readable, writable = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(readable)
            _serve(calls(), skip, shared, writable, Runner(before, checks=checks))
        os.close(writable)
        with os.fdopen(readable, "r", encoding="utf-8") as lines:
            for line in lines:
                findings.append(Finding(*line.rstrip("\n").split("\t")))
        _, status = os.waitpid(child, 0)
        (at,) = struct.unpack_from("q", shared, 0)
        done = status == 0
        if not done:
            call = next(call for index, call in enumerate(calls()) if index == at)
            number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            kind = f"dies of {signal.Signals(number).name}" if number else f"ends with {os.WEXITSTATUS(status)}"
            if number != signal.SIGALRM:
                findings.append(Finding(call.start.operator, call.start.name, call.changes, call.mode, kind))
            skip = at + 1
    return at + 1, findings


def _serve(calls: Iterator[Call], skip: int, shared: mmap.mmap, writable: int, runner: "Runner") -> None:
    code = 1
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if runner.limited:
            resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 2)
        for index, call in enumerate(calls):
            if index < skip:
                continue
            struct.pack_into("q", shared, 0, index)
            signal.alarm(_SECONDS)
            kind = runner.run(call)
            signal.alarm(0)
            if kind is not None:
                fields = (call.start.operator, call.start.name, call.changes, call.mode, kind)
                os.write(writable, ("\t".join(fields) + "\n").encode("utf-8", "replace"))
        code = 0
    finally:
        os._exit(code)
