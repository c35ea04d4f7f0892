"""The protocol's tensors as arrays, and back."""

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid_server import open_inference_pb2
from pellucid_server.rpc.codec import check_finite, refuse, shown
from pellucid_server.vocabulary.requests import Array

BYTES = "BYTES"
"""The type of elements of any length: texts, and encoded pictures."""

_MOST_AXES = 32
_BFLOAT16 = "BF16"


@dataclass(frozen=True, slots=True)
class _Type:
    """A type of element.

    `encoded` is its numpy type as bytes, `kept` the one that the engine has it in, `field` its field of
    `InferTensorContents`; None where the protocol has no such field.
    """

    encoded: np.dtype[Any]
    kept: np.dtype[Any]
    field: str | None


def _type(encoded: str, field: str | None, kept: str | None = None) -> _Type:
    return _Type(np.dtype(encoded), np.dtype(kept or encoded), field)


_TYPES: Mapping[str, _Type] = MappingProxyType(
    {
        "BOOL": _type("?", "bool_contents"),
        "UINT8": _type("u1", "uint_contents"),
        "UINT16": _type("<u2", "uint_contents", "<i4"),
        "UINT32": _type("<u4", "uint_contents", "<i8"),
        "UINT64": _type("<u8", "uint64_contents", "<i8"),
        "INT8": _type("i1", "int_contents"),
        "INT16": _type("<i2", "int_contents"),
        "INT32": _type("<i4", "int_contents"),
        "INT64": _type("<i8", "int64_contents"),
        "FP16": _type("<f2", None),
        _BFLOAT16: _type("<u2", None, "<f4"),
        "FP32": _type("<f4", "fp32_contents"),
        "FP64": _type("<f8", "fp64_contents"),
    }
)
_NAMES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "bfloat16": _BFLOAT16,
    "float32": "FP32",
    "float64": "FP64",
}


def datatype(name: str) -> str:
    """Return the protocol's name of a type of element, by the engine's."""
    return _NAMES[name]


def read_numbers(
    tensor: open_inference_pb2.ModelInferRequest.InferInputTensor, raw: bytes | memoryview | None, field: str
) -> Array:
    """Read an array of numbers, read-only and finite; `raw` has its bytes where the request sends them raw.

    Raises
    ------
    InvalidRequestError
        The type is unknown, the shape or the number of elements is wrong, or an element is not finite.
    """
    kind = _TYPES.get(tensor.datatype)
    if kind is None:
        known = ", ".join([*_TYPES, BYTES])
        refuse(f"{field}.datatype", f"is {shown(tensor.datatype)}; it must be one of {known}")
    shape = _shape(tensor.shape, field)
    array = _decoded(tensor, raw, kind, shape, field)
    if array.dtype.kind == "f":
        check_finite(array, field)
    return array


def read_bytes(
    tensor: open_inference_pb2.ModelInferRequest.InferInputTensor, raw: bytes | memoryview | None, field: str
) -> list[bytes]:
    """Read the elements of a BYTES tensor of shape (rows,) or (rows, 1).

    Raises
    ------
    InvalidRequestError
        The shape or the number of elements is wrong, or the raw bytes do not end with an element.
    """
    shape = _shape(tensor.shape, field)
    if shape[1:] not in ((), (1,)):
        refuse(f"{field}.shape", f"is {list(shape)}; a BYTES input has one element for each row: [rows] or [rows, 1]")
    if raw is not None:
        return _split(bytes(raw), shape, field)
    given = tensor.contents.bytes_contents
    if len(given) != shape[0]:
        refuse(field, f"has {len(given)} elements; shape {list(shape)} takes {shape[0]}")
    return list(given)


def raw_elements(array: Array) -> bytes:
    """Return an array's elements as the protocol has them: little-endian and row-major."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _shape(lengths: Sequence[int], field: str) -> tuple[int, ...]:
    # Before they are looked at: millions of them would hold up everyone's requests.
    if not lengths or len(lengths) > _MOST_AXES:
        refuse(
            f"{field}.shape", f"has {len(lengths)} axes; it must have 1 to {_MOST_AXES}, of which axis 0 is the rows"
        )
    shape = tuple(lengths)
    if any(length < 0 for length in shape) or 0 in shape[1:]:
        refuse(f"{field}.shape", f"is {list(shape)}; no axis may be negative, and none of a row empty")
    return shape


def _decoded(
    tensor: open_inference_pb2.ModelInferRequest.InferInputTensor,
    raw: bytes | memoryview | None,
    kind: _Type,
    shape: tuple[int, ...],
    field: str,
) -> Array:
    if raw is not None:
        wanted = math.prod(shape) * kind.encoded.itemsize
        if len(raw) != wanted:
            refuse(field, f"has {len(raw)} raw bytes; {tensor.datatype} of shape {list(shape)} takes {wanted}")
        elements = np.frombuffer(raw, kind.encoded)
        if kind.encoded.kind == "b" and (np.frombuffer(raw, np.uint8) > 1).any():
            refuse(field, "has a byte above 1; each element of a BOOL must be 0 or 1")
        return _kept(elements, tensor.datatype, kind, field).reshape(shape)
    if kind.field is None:
        refuse(f"{field}.datatype", f"is {tensor.datatype}, which contents cannot hold; send raw_input_contents")
    values = getattr(tensor.contents, kind.field)
    if len(values) != math.prod(shape):
        refuse(
            f"{field}.contents.{kind.field}",
            f"has {len(values)} elements; shape {list(shape)} takes {math.prod(shape)}",
        )
    elements = np.array(values, values_type(kind))
    limits = np.iinfo(kind.encoded) if kind.encoded.kind in "iu" else None
    if limits is not None and len(elements) and not limits.min <= elements.min() <= elements.max() <= limits.max:
        refuse(f"{field}.contents.{kind.field}", f"has an element that is no {tensor.datatype}")
    return _kept(elements.astype(kind.encoded), tensor.datatype, kind, field).reshape(shape)


def values_type(kind: _Type) -> np.dtype[Any]:
    """Return a type that holds every value of a field of contents."""
    return {"i": np.dtype("i8"), "u": np.dtype("u8")}.get(kind.encoded.kind, kind.encoded)


def _kept(elements: npt.NDArray[Any], name: str, kind: _Type, field: str) -> Array:
    """Convert elements to the type that the engine has them in; the engine has no unsigned ones but bytes."""
    if name == _BFLOAT16:
        return (elements.astype("<u4") << 16).view("<f4")
    if name == "UINT64" and len(elements) and elements.max() > np.iinfo(np.int64).max:
        refuse(field, "has an element above 2^63 - 1; elements of UINT64 are taken up to that")
    return elements.astype(kind.kept, copy=False)


def _split(raw: bytes, shape: tuple[int, ...], field: str) -> list[bytes]:
    """Split raw bytes into the elements that a shape takes, each behind its length in four bytes."""
    found: list[bytes] = []
    at = 0
    while at < len(raw) and len(found) < shape[0]:
        end = at + 4
        length = struct.unpack_from("<I", raw, at)[0] if end <= len(raw) else len(raw)
        if end + length > len(raw):
            refuse(field, f"has raw bytes that end within element {len(found)}; each is its length in 4 bytes, then it")
        found.append(raw[end : end + length])
        at = end + length
    if at < len(raw) or len(found) < shape[0]:
        more = "more" if at < len(raw) else f"{len(found)}"
        refuse(field, f"has {more} elements; shape {list(shape)} takes {shape[0]}")
    return found
