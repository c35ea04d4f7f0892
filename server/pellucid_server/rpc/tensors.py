"""Arrays in and out of the schema's `Tensor`."""

import math

import numpy as np
from pellucid.v1 import tensor_pb2

from pellucid_server.jobs import Array

_TYPES: dict[int, np.dtype[np.generic]] = {
    tensor_pb2.DATA_TYPE_BOOL: np.dtype(np.bool_),
    tensor_pb2.DATA_TYPE_UINT8: np.dtype("u1"),
    tensor_pb2.DATA_TYPE_INT8: np.dtype("i1"),
    tensor_pb2.DATA_TYPE_INT16: np.dtype("<i2"),
    tensor_pb2.DATA_TYPE_INT32: np.dtype("<i4"),
    tensor_pb2.DATA_TYPE_INT64: np.dtype("<i8"),
    tensor_pb2.DATA_TYPE_FLOAT16: np.dtype("<f2"),
    tensor_pb2.DATA_TYPE_BFLOAT16: np.dtype("<u2"),
    tensor_pb2.DATA_TYPE_FLOAT32: np.dtype("<f4"),
    tensor_pb2.DATA_TYPE_FLOAT64: np.dtype("<f8"),
}
_DATA_TYPES = {kind: data_type for data_type, kind in _TYPES.items() if data_type != tensor_pb2.DATA_TYPE_BFLOAT16}
_MOST_AXES = 32
_MOST_BYTES = 1 << 62


class TensorError(ValueError):
    """A tensor whose parts contradict one another. `part` is the name of the field at fault."""

    def __init__(self, part: str, what: str) -> None:
        super().__init__(what)
        self.part = part


def from_tensor(tensor: tensor_pb2.Tensor) -> Array:
    """Return the array, a read-only view of the message's bytes; BFLOAT16 becomes float32, a copy.

    Raises
    ------
    TensorError
        The type is unknown, an axis is negative, the number of bytes is wrong, or a BOOL is neither 0 nor 1.
    """
    kind = _TYPES.get(tensor.data_type)
    if kind is None:
        known = ", ".join(tensor_pb2.DataType.Name(known) for known in _TYPES)
        raise TensorError("data_type", f"is {_sent_type(tensor.data_type)}; it must be one of {known}")
    shape = tuple(tensor.shape)
    if len(shape) > _MOST_AXES:
        raise TensorError("shape", f"has {len(shape)} axes; at most {_MOST_AXES} are taken")
    if any(length < 0 for length in shape):
        raise TensorError("shape", f"is {list(shape)}; no axis may be negative")
    if math.prod(length or 1 for length in shape) * kind.itemsize > _MOST_BYTES:
        raise TensorError("shape", f"is {list(shape)}; that is more than an array can hold")
    data = tensor.data
    wanted = math.prod(shape) * kind.itemsize
    if len(data) != wanted:
        name = tensor_pb2.DataType.Name(tensor.data_type)
        raise TensorError("data", f"has {len(data)} bytes; {name} of shape {list(shape)} takes {wanted}")
    if tensor.data_type == tensor_pb2.DATA_TYPE_BFLOAT16:
        return _widened(np.frombuffer(data, kind)).reshape(shape)
    if tensor.data_type == tensor_pb2.DATA_TYPE_BOOL and data.translate(None, b"\0\1"):
        raise TensorError("data", "has a byte above 1; each element of a DATA_TYPE_BOOL must be 0 or 1")
    return np.frombuffer(data, kind).reshape(shape)


def to_tensor(array: Array) -> tensor_pb2.Tensor:
    """Return the message with a copy of the array's elements.

    Raises
    ------
    TypeError
        The schema has no such type of element.
    """
    kind = array.dtype.newbyteorder("<")
    data_type = _DATA_TYPES.get(kind)
    if data_type is None:
        raise TypeError(f"a Tensor cannot hold elements of {array.dtype}")
    return tensor_pb2.Tensor(
        data_type=tensor_pb2.DataType.Name(data_type),
        shape=array.shape,
        data=array.astype(kind, copy=False).tobytes(),
    )


def _widened(halves: Array) -> Array:
    """Return the float32 values whose upper halves these are."""
    wide: Array = (halves.astype("<u4") << np.uint32(16)).view("<f4")
    wide.flags.writeable = False
    return wide


def _sent_type(data_type: int) -> str:
    return tensor_pb2.DataType.Name(data_type) if data_type in tensor_pb2.DataType.values() else str(data_type)
