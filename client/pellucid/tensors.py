"""Arrays in and out of the schema's `Tensor`: one encoding, little-endian and row-major."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid.v1 import tensor_pb2

Array = npt.NDArray[Any]

DTYPES: Mapping[int, np.dtype[Any]] = MappingProxyType(
    {
        tensor_pb2.DATA_TYPE_BOOL: np.dtype(np.bool_),
        tensor_pb2.DATA_TYPE_UINT8: np.dtype("u1"),
        tensor_pb2.DATA_TYPE_INT8: np.dtype("i1"),
        tensor_pb2.DATA_TYPE_INT16: np.dtype("<i2"),
        tensor_pb2.DATA_TYPE_INT32: np.dtype("<i4"),
        tensor_pb2.DATA_TYPE_INT64: np.dtype("<i8"),
        tensor_pb2.DATA_TYPE_FLOAT16: np.dtype("<f2"),
        tensor_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
        tensor_pb2.DATA_TYPE_FLOAT64: np.dtype("<f8"),
    }
)
"""The numpy type of the elements of each `DataType`, but for BFLOAT16, which numpy has not."""

_HALVES = np.dtype("<u2")
_ENCODED = {**DTYPES, tensor_pb2.DATA_TYPE_BFLOAT16: _HALVES}
_DATA_TYPES = {dtype: data_type for data_type, dtype in DTYPES.items()}
_MOST_AXES = 32
_MOST_BYTES = 1 << 62


class TensorError(ValueError):
    """A tensor or an array that the schema cannot hold.

    Attributes
    ----------
    part
        The field of `Tensor` at fault: "data_type", "shape" or "data".
    what
        What is wrong with it, and what would be right.
    """

    def __init__(self, part: str, what: str) -> None:
        super().__init__(f"{part} {what}")
        self.part = part
        self.what = what


def to_tensor(array: npt.ArrayLike, *, dtype: npt.DTypeLike | None = None) -> tensor_pb2.Tensor:
    """Copy an array, of any shape, byte order and strides, into a message.

    Parameters
    ----------
    array
        An array, a number, or nested sequences of numbers.
    dtype
        Type to convert to first; None keeps the array's own, and numpy's choice for sequences.

    Raises
    ------
    TensorError
        The nesting is ragged, or the schema has no such type of element.
    """
    given = _array(array, dtype)
    little = given.dtype.newbyteorder("<")
    data_type = _DATA_TYPES.get(little)
    if data_type is None:
        known = ", ".join(kind.name for kind in DTYPES.values())
        raise TensorError("data_type", f"cannot be {given.dtype}; convert the array to one of {known}")
    data = given.astype(little, copy=False).tobytes()
    return tensor_pb2.Tensor(data_type=tensor_pb2.DataType.Name(data_type), shape=given.shape, data=data)


def from_tensor(tensor: tensor_pb2.Tensor, data: bytes | memoryview | None = None) -> Array:
    """View a message's elements as a read-only array; BFLOAT16 is widened to float32, a copy.

    Parameters
    ----------
    tensor
        The message.
    data
        Its bytes where they are kept apart from it; None are those of the message.

    Raises
    ------
    TensorError
        The type is unknown, an axis negative, the number of bytes wrong, or a BOOL neither 0 nor 1.
    """
    dtype = _ENCODED.get(tensor.data_type)
    if dtype is None:
        known = ", ".join(tensor_pb2.DataType.Name(known) for known in sorted(_ENCODED))
        raise TensorError("data_type", f"is {_type_name(tensor.data_type)}; it must be one of {known}")
    shape = _shape(tensor.shape, dtype.itemsize)
    data, wanted = tensor.data if data is None else data, math.prod(shape) * dtype.itemsize
    if len(data) != wanted:
        name = _type_name(tensor.data_type)
        raise TensorError("data", f"has {len(data)} bytes; {name} of shape {list(shape)} takes {wanted}")
    if tensor.data_type == tensor_pb2.DATA_TYPE_BOOL and (np.frombuffer(data, np.uint8) > 1).any():
        raise TensorError("data", "has a byte above 1; each element of a DATA_TYPE_BOOL must be 0 or 1")
    elements: Array = np.frombuffer(data, dtype).reshape(shape)
    return _widened(elements) if tensor.data_type == tensor_pb2.DATA_TYPE_BFLOAT16 else elements


def _array(array: npt.ArrayLike, dtype: npt.DTypeLike | None) -> Array:
    try:
        return np.asarray(array, dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TensorError(
            "shape",
            "cannot be read off what was given; nested sequences of numbers, of equal length on each axis, are needed",
        ) from error


def _shape(lengths: Sequence[int], item_bytes: int) -> tuple[int, ...]:
    shape = tuple(lengths)
    if len(shape) > _MOST_AXES:
        raise TensorError("shape", f"has {len(shape)} axes; at most {_MOST_AXES} are taken")
    if any(length < 0 for length in shape):
        raise TensorError("shape", f"is {list(shape)}; no axis may be negative")
    # numpy refuses these by the axes that are not empty, even where another axis makes the array empty.
    if math.prod(length or 1 for length in shape) * item_bytes > _MOST_BYTES:
        raise TensorError("shape", f"is {list(shape)}; that is more than an array can hold")
    return shape


def _widened(halves: Array) -> Array:
    """Return the float32 values whose upper halves these are, read-only."""
    shifted = halves.astype("<u4")
    shifted <<= np.uint32(16)
    wide: Array = shifted.view("<f4")
    wide.flags.writeable = False
    return wide


def _type_name(data_type: int) -> str:
    return tensor_pb2.DataType.Name(data_type) if data_type in tensor_pb2.DataType.values() else str(data_type)
