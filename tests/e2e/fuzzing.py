"""Requests that nobody would write: arbitrary messages by their descriptors, and valid ones with something changed."""

import math
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
from e2e import small_models
from e2e.messages import attribute, param, pictures, predict, rows, spec, table_rows
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st
from pellucid.tensors import to_tensor
from pellucid.v1 import explanation_pb2, explanation_service_pb2, input_pb2, tensor_pb2
from pellucid_server.engine import methods
from pellucid_server.engine.asking import registry
from pellucid_server.engine.asking.verbs import ATTRIBUTE
from pellucid_server.vocabulary.descriptions import ParameterInfo

MODELS = (
    small_models.SCORES,
    small_models.PICTURES,
    small_models.TOKENS,
    small_models.SERIES,
    small_models.SEVERAL,
    small_models.OUTPUTS,
)

registry.discover(methods)
METHODS = {method.name: method for method in registry.methods() if method.verb is ATTRIBUTE}
PARAMETERS = sorted({name for method in METHODS.values() for name in method.parameters})
INPUTS = ("features", "image", "ids", "mask", "series", "table", "offset")
WORDS = (*MODELS, *METHODS, *PARAMETERS, *INPUTS, *small_models.COLUMNS, *small_models.COLOURS)
WORDS += ("output", "output_0", "output_1", "small", "large", "grid", "superpixels", "cat", "", "0" * 64)

REPLY_TYPES = (tensor_pb2.DATA_TYPE_UNSPECIFIED, tensor_pb2.DATA_TYPE_FLOAT32, tensor_pb2.DATA_TYPE_FLOAT16)

INTEGERS = (0, 1, 2, 3, 5, 8, 64, 65, 1024, 1025, 16384, 65536)
EDGES = (2**31 - 1, -(2**31), 2**32 - 1, 2**53, 2**63 - 1, -(2**63), 2**64 - 1, -1)
NUMBERS = (0.0, -0.0, 1.0, -1.0, 0.01, 1e-6, 1e-300, 5e-324, 1e30, 1.8e308, math.nan, math.inf, -math.inf)

texts = st.sampled_from(WORDS) | st.text(max_size=20) | st.text(string.printable, min_size=90, max_size=300)
numbers = st.sampled_from(NUMBERS) | st.floats()

_BITS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(2**31), 2**31 - 1),
}
_MOST_ENTRIES = 3
_DEEPEST = 6


def values(field: FieldDescriptor, depth: int = 0) -> st.SearchStrategy[Any]:
    """Return values for one entry of a field: known words and edges more often than others."""
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=64) | st.sampled_from([bytes(120), b"\x89PNG\r\n\x1a\n", b"GIF89a" + bytes(20)])
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_MESSAGE:
            return messages(field.message_type._concrete_class, depth + 1)
        case FieldDescriptor.CPPTYPE_STRING:
            return texts
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return numbers
        case FieldDescriptor.CPPTYPE_ENUM:
            known = st.sampled_from([value.number for value in field.enum_type.values])
            return known | known | st.integers(*_BITS[field.cpp_type])
    least, most = _BITS[field.cpp_type]
    usual = st.sampled_from([number for number in (*INTEGERS, *EDGES) if least <= number <= most])
    return usual | st.integers(least, most)


@st.composite
def messages(draw: st.DrawFn, kind: type[Message], depth: int = 0) -> Any:
    """Return messages of a class with any of their fields set, to anything that the wire can carry."""
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        if depth < _DEEPEST and draw(st.integers(0, 3)):
            put(draw, message, field, depth)
    return message


def put(draw: st.DrawFn, message: Any, field: FieldDescriptor, depth: int = 0) -> None:
    """Set a field anew; of a oneof, this unsets the others."""
    if is_map(field):
        key, value = field.message_type.fields
        for _ in range(draw(st.integers(0, _MOST_ENTRIES))):
            entry = draw(values(value, depth))
            name = draw(values(key))
            put_entry(getattr(message, field.name), name, entry)
    elif field.is_repeated:
        message.ClearField(field.name)
        entries = draw(st.lists(values(field, depth), max_size=_MOST_ENTRIES))
        getattr(message, field.name).extend(entries)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(draw(values(field, depth)))
    else:
        setattr(message, field.name, draw(values(field)))


def put_entry(entries: Any, name: str, value: Any) -> None:
    if isinstance(value, Message):
        entries[name].CopyFrom(value)
    else:
        entries[name] = value


def is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def parts(message: Any) -> list[Any]:
    """Return a message and every message in it."""
    found = [message]
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if is_map(field):
            within = list(value.values()) if field.message_type.fields[1].message_type is not None else []
        else:
            within = list(value) if field.is_repeated else [value]
        found += [part for each in within for part in parts(each)]
    return found


def _random(*shape: int) -> Any:
    return np.random.default_rng(math.prod(shape)).normal(size=shape).astype(np.float32)


GOOD_INPUTS = {
    small_models.SCORES: {"features": table_rows([{"width": 12.0, "height": 3.0, "colour": "green"}] * 2)},
    small_models.PICTURES: {"image": rows(_random(2, 3, 12, 12))},
    small_models.TOKENS: {"ids": rows(np.arange(10).reshape(2, 5)), "mask": rows(np.ones((2, 5), np.bool_))},
    small_models.SERIES: {"series": rows(_random(2, 5)), "mask": rows(np.ones((2, 5), np.bool_))},
    small_models.SEVERAL: {
        "image": rows(_random(2, 1, 6, 6)),
        "table": rows(_random(2, 5)),
        "offset": rows(_random(2)),
    },
    small_models.OUTPUTS: {"features": rows(_random(2, 6))},
}
"""Two rows for each model, which every one of them takes."""


@st.composite
def tensors(draw: st.DrawFn) -> Any:
    """Return arrays whose bytes fit their shapes, of every type, with values at the edges."""
    kinds = (np.bool_, np.uint8, np.int8, np.int16, np.int32, np.int64, np.float16, np.float32, np.float64)
    kind = draw(st.sampled_from(kinds))
    shapes = [(2, 5), (1, 5), (2, 6), (2, 3, 12, 12), (1, 3, 12, 12), (2, 12, 12, 3), (2, 40, 30, 3), (2, 1, 6, 6)]
    shape = draw(st.sampled_from([*shapes, (2,), (1,), (), (0,), (2, 0)]) | st.lists(st.integers(0, 7), max_size=5))
    fill = draw(st.sampled_from([0, 1, 3, 19, 20, 127, 3e4, 1e30, -1, -1e30, 1e300, math.nan]))
    with np.errstate(all="ignore"):
        return to_tensor(np.full(tuple(shape), fill, np.float64).astype(kind))


def parameters(known: ParameterInfo) -> st.SearchStrategy[explanation_pb2.ParamValue]:
    """Return values of a parameter: small ones of its range, its edges, what is beside them, and what it never is."""
    least, most = known.minimum or 0.0, known.maximum or 1e6
    odd = st.sampled_from([param(value) for value in (True, "hexagons", 1.5, *EDGES[:6], *NUMBERS)])
    match known.type:
        case "integer":
            usual = [param(int(value)) for value in (least, least + 1, 2, 3, 4, 16, 64, most)]
            odd |= st.sampled_from([param(int(least) - 1), param(int(most) + 1)])
        case "real":
            usual = [param(value) for value in (least, least + 0.1, 1.0, most)]
        case "flag":
            usual = [param(True), param(False)]
        case "tensor":
            path = np.array([0.0, 0.25, 1.0])
            usual = [explanation_pb2.ParamValue(tensor=to_tensor(each)) for each in (path, path[:2], path[::-1])]
            odd |= tensors().map(lambda tensor: explanation_pb2.ParamValue(tensor=tensor))
        case _:
            usual = [param(choice) for choice in known.choices or ("", "a layer that there is not")]
    return st.integers(0, 5).flatmap(lambda die: st.sampled_from(usual) if die else odd)


@st.composite
def explanations(draw: st.DrawFn, model: str) -> Any:
    """Return explanations that may well be possible for a model: known methods, parameters, targets, baselines."""
    method = METHODS[draw(st.sampled_from(sorted(METHODS)))]
    wanted = spec(method.name, seed=draw(st.sampled_from([0, 1, 2**64 - 1])))
    for name in draw(st.lists(st.sampled_from(sorted(method.parameters)), max_size=2)) if method.parameters else ():
        wanted.parameters[name].CopyFrom(draw(parameters(method.parameters[name])))
    if method.takes_tolerance and not draw(st.integers(0, 3)):
        wanted.tolerance = draw(st.sampled_from([1e-6, 0.01, 1.0]))
    if not draw(st.integers(0, 3)):
        put_target(draw, wanted.target)
    if not draw(st.integers(0, 2)):
        wanted.baseline.kind = draw(st.integers(0, 6))
        if wanted.baseline.kind == explanation_pb2.BASELINE_KIND_GIVEN:
            for name, value in GOOD_INPUTS[model].items():
                wanted.baseline.inputs[name].CopyFrom(value)
    wanted.format.sum_channels = draw(st.booleans())
    wanted.format.data_type = draw(st.sampled_from(REPLY_TYPES))
    return wanted


def put_target(draw: st.DrawFn, target: Any) -> None:
    target.output = draw(st.sampled_from(["", "", "output", "output_0", "output_1", "output_2"]))
    target.outcome.index.extend(draw(st.lists(st.integers(0, 3), max_size=2)))
    target.space = draw(st.integers(0, 2))
    if draw(st.booleans()):
        target.contrast.label = draw(st.sampled_from(["small", "large", "dog", "", "nobody"]))


@st.composite
def valid_requests(draw: st.DrawFn) -> Any:
    """Return requests that are answered, or refused for what their explanations ask of the model."""
    model = draw(st.sampled_from(MODELS))
    inputs = GOOD_INPUTS[model]
    if draw(st.booleans()):
        return attribute(model, inputs, draw(explanations(model)))
    wanted = draw(st.lists(explanations(model), max_size=2))
    return predict(model, inputs, explanations=wanted, top_k=draw(st.integers(0, 9)))


@st.composite
def changed_requests(draw: st.DrawFn) -> Any:
    """Return valid requests with one or two things changed, anywhere in them."""
    request = draw(valid_requests())
    for _ in range(draw(st.integers(1, 2))):
        found = parts(request)
        part = found[draw(st.integers(0, len(found) - 1))]
        if isinstance(part, input_pb2.Input) and draw(st.booleans()):
            put_input(draw, part)
        else:
            put(draw, part, draw(st.sampled_from(list(part.DESCRIPTOR.fields))))
    return request


@st.composite
def requests_of_any_lengths(draw: st.DrawFn) -> Any:
    """Return requests of models that take sequences, each input and baseline of a length of its own."""
    model = draw(st.sampled_from([small_models.TOKENS, small_models.SERIES]))
    usual = draw(_LENGTHS)
    inputs = {name: draw(_sequences(name, usual)) for name in GOOD_INPUTS[model]}
    if draw(st.booleans()):
        return predict(model, inputs)
    wanted = draw(explanations(model))
    for name in wanted.baseline.inputs:
        wanted.baseline.inputs[name].CopyFrom(draw(_sequences(name, usual)))
    return attribute(model, inputs, wanted)


_LENGTHS = st.sampled_from([1, 2, 5, small_models.LONGEST, small_models.LONGEST + 1, 70]) | st.integers(0, 20)


@st.composite
def _sequences(draw: st.DrawFn, name: str, usual: int) -> Any:
    length = draw(_LENGTHS) if not draw(st.integers(0, 3)) else usual
    kind = {"ids": np.int64, "mask": np.bool_, "series": np.float32}[name]
    return rows(np.ones((2, length), kind))


def put_input(draw: st.DrawFn, part: input_pb2.Input) -> None:
    """Give an input an array of any type and shape, or pictures that are none."""
    if draw(st.booleans()):
        part.tensor.CopyFrom(draw(tensors()))
    else:
        part.CopyFrom(pictures(*draw(st.lists(st.binary(max_size=40), max_size=2))))


@st.composite
def changed_bytes(draw: st.DrawFn) -> bytes:
    """Return a valid request's bytes, with some cut out, put in, repeated or turned over."""
    data = bytearray(draw(valid_requests()).SerializeToString())
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        end = place + draw(st.integers(0, 12))
        piece = bytes(data[place:end])
        new = (
            piece * 2,
            b"",
            draw(st.binary(max_size=8)),
            bytes(byte ^ 1 << draw(st.integers(0, 7)) for byte in piece),
        )
        data[place:end] = draw(st.sampled_from(new))
    return bytes(data)


def request_classes(names: Sequence[str]) -> list[Any]:
    """Return the request messages of RPCs of the explanation service."""
    return [getattr(explanation_service_pb2, f"{name}Request") for name in names]
