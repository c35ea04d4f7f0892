"""The bytes between the front and a worker: msgpack, with an extension type for each class of the vocabulary.

A frame is its length as a little-endian unsigned 32-bit number, then that many bytes of one encoded
message. Both ends are of the same installation, so there is no versioning; nothing here can carry code.
"""

import dataclasses
import operator
import struct
from typing import Any, cast

import msgpack
import numpy as np

from pellucid_server.vocabulary import descriptions, findings, messages, requests, results

LENGTH = struct.Struct("<I")
"""The frame's length field."""

_ARRAY = 0
_ALIGNMENT = 16

_CLASSES: dict[int, type[Any]] = dict(
    enumerate(
        (
            kind
            for module in (requests, results, findings, descriptions, messages)
            for _, kind in sorted(vars(module).items())
            if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__
        ),
        start=1,
    )
)
_CODES = {kind: code for code, kind in _CLASSES.items()}


def _reader(kind: type[Any]) -> Any:
    """Return the function that reads all fields off an instance, as a tuple or, of one field, a value."""
    return operator.attrgetter(*(entry.name for entry in dataclasses.fields(kind)))


_READERS = {kind: _reader(kind) for kind in _CODES}
_SINGLE = frozenset(kind for kind in _CODES if len(dataclasses.fields(kind)) == 1)


def encode(message: Any) -> bytes:
    """Turn a class of the vocabulary into bytes.

    Raises
    ------
    TypeError
        A field holds something that the vocabulary does not allow.
    """
    return cast(bytes, msgpack.packb(message, default=_pack))


def decode(data: bytes | bytearray | memoryview) -> Any:
    """Turn the bytes of `encode` back into an equal object; its arrays are read-only."""
    return msgpack.unpackb(data, ext_hook=_unpack, use_list=False)


def frame(message: Any) -> bytes:
    """Return one frame, ready to send."""
    body = encode(message)
    return LENGTH.pack(len(body)) + body


def _pack(value: Any) -> msgpack.ExtType:
    code = _CODES.get(type(value))
    if code is not None:
        fields = _READERS[type(value)](value)
        row = (fields,) if type(value) in _SINGLE else fields
        return msgpack.ExtType(code, msgpack.packb(row, default=_pack))
    if isinstance(value, np.ndarray):
        return msgpack.ExtType(_ARRAY, _pack_array(value))
    raise TypeError(f"{type(value).__name__} cannot cross to another process")


def _unpack(code: int, data: bytes) -> Any:
    if code == _ARRAY:
        return _unpack_array(data)
    return _CLASSES[code](*msgpack.unpackb(data, ext_hook=_unpack, use_list=False))


def _pack_array(array: np.ndarray[Any, Any]) -> bytes:
    if array.dtype.kind not in "biuf":
        raise TypeError(f"an array of {array.dtype} cannot cross to another process")
    header: bytes = msgpack.packb((array.dtype.str, array.shape))
    # Elements start at a multiple of the alignment, so that the array made on them is aligned.
    header = header.ljust(-(-(len(header) + 1) // _ALIGNMENT) * _ALIGNMENT - 1, b"\xc0")
    return bytes((len(header) + 1,)) + header + array.tobytes()


def _unpack_array(data: bytes) -> np.ndarray[Any, Any]:
    start = data[0]
    unpacker = msgpack.Unpacker(use_list=False)
    unpacker.feed(data[1:start])
    kind, shape = unpacker.unpack()
    return np.frombuffer(data, np.dtype(kind), offset=start).reshape(shape)
