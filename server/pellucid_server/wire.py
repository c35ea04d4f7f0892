"""Messages between processes as bytes: a msgpack header, and large arrays beside it.

An encoded message is the header's length as a little-endian unsigned 32-bit number, the header, and then the segments:
the elements of each large array and the bytes of each large picture, each at a multiple of 16 from the message's
start. The header names a segment by its place. Encoding copies no segment, and decoding makes read-only arrays on the
received bytes. Each class of the vocabulary has a code that stays the same; nothing here can carry Python code.

How messages share a connection is in `pellucid_server.frames`.
"""

import dataclasses
import functools
import hashlib
import operator
import struct
from collections.abc import Callable
from typing import Any, cast

import msgpack
import numpy as np

from pellucid_server.vocabulary import changes, descriptions, findings, messages, requests, results, spans

Buffer = bytes | bytearray | memoryview

LENGTH = struct.Struct("<I")
"""A length field."""

LEAST_SEGMENT_BYTES = 256
"""Arrays from this size on travel beside the header; those below it are cheaper inside."""

_ALIGNMENT = 16
_FORMAT = "1"
"""Changes when the bytes mean something else though the classes are the same."""

_ARRAY, _SEGMENT, _BYTES = 0, 1, 2
_NUMBERS = frozenset("biuf")
_SHORT = "a message is shorter than its header says"

CODES: dict[type[Any], int] = {
    requests.TensorInput: 10,
    requests.PicturesInput: 11,
    requests.TextsInput: 12,
    requests.TableInput: 13,
    requests.ModelKey: 14,
    requests.Outcome: 15,
    requests.TargetSpec: 16,
    requests.BaselineSpec: 17,
    requests.ReplyFormat: 18,
    requests.ExplanationSpec: 19,
    requests.PredictRequest: 20,
    requests.AttributeRequest: 21,
    requests.AblateRequest: 22,
    requests.SiteSpec: 23,
    requests.InterventionSpec: 24,
    requests.ColumnRule: 25,
    requests.Wanted: 26,
    requests.LayerSpec: 27,
    requests.MaskSpec: 28,
    requests.ProbeSpec: 29,
    requests.DissectRequest: 30,
    results.Box: 40,
    results.InputAttribution: 41,
    results.Accuracy: 42,
    results.BatchShape: 43,
    results.Work: 44,
    results.Runtime: 45,
    results.Receipt: 46,
    results.AttributionResult: 47,
    results.ClassScore: 48,
    results.OutputResult: 49,
    results.Failure: 50,
    results.ExplanationOutcome: 51,
    results.PredictResult: 52,
    results.AttributeResult: 53,
    results.RequestTiming: 54,
    findings.Axis: 55,
    findings.NamedArray: 56,
    findings.Column: 57,
    findings.Table: 58,
    findings.Picture: 59,
    findings.Findings: 60,
    findings.AblationRecord: 61,
    findings.DissectionRecord: 62,
    findings.State: 63,
    descriptions.ColumnInfo: 70,
    descriptions.ImageInfo: 71,
    descriptions.InputInfo: 72,
    descriptions.OutputInfo: 73,
    descriptions.LayerInfo: 74,
    descriptions.CapabilityInfo: 75,
    descriptions.ParityInfo: 76,
    descriptions.ModelInfo: 77,
    descriptions.ParameterInfo: 78,
    descriptions.MethodInfo: 79,
    descriptions.BrokenModel: 80,
    descriptions.Verdict: 81,
    descriptions.DatasetInfo: 82,
    messages.WorkerSettings: 100,
    messages.Start: 101,
    messages.Cancel: 102,
    messages.Loading: 103,
    messages.Hello: 104,
    messages.Refused: 105,
    messages.Progress: 106,
    messages.Heartbeat: 107,
    messages.Done: 108,
    messages.Credit: 109,
    messages.Part: 110,
    messages.StreamInfo: 111,
    messages.ModelsChanged: 112,
    messages.BatchCounts: 120,
    spans.WorkerSpan: 119,
    changes.Prepare: 113,
    changes.Prepared: 114,
    changes.Adopt: 115,
}
"""The code of each class of the vocabulary, in [10, 127]; a class that is gone leaves its code unused."""

_CLASSES = {code: kind for kind, code in CODES.items()}
_NAMES = {kind: tuple(entry.name for entry in dataclasses.fields(kind)) for kind in CODES}


def _reader(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """Return the function that reads these fields off an instance."""
    read: Callable[[Any], Any] = operator.attrgetter(*names)
    if len(names) == 1:
        return lambda value: (read(value),)
    return cast(Callable[[Any], tuple[Any, ...]], read)


class _Large:
    """Bytes that travel beside the header."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


def _read_pictures(pictures: requests.PicturesInput) -> tuple[Any, ...]:
    return (tuple(_Large(each) if len(each) >= LEAST_SEGMENT_BYTES else each for each in pictures.encoded),)


_READERS = {kind: _reader(names) for kind, names in _NAMES.items()} | {requests.PicturesInput: _read_pictures}


def fingerprint() -> str:
    """Return what only processes with the same classes, fields and codes have in common: 32 hexadecimal digits."""
    lines = [_FORMAT]
    for kind, code in sorted(CODES.items(), key=lambda item: item[1]):
        fields = ", ".join(f"{entry.name}: {entry.type}" for entry in dataclasses.fields(kind))
        lines.append(f"{code} {kind.__name__}({fields})")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def pieces(message: Any) -> list[Buffer]:
    """Turn a message into buffers that make up its bytes; those of large arrays are the arrays' own memory.

    An array must not change until its buffer was sent.

    Raises
    ------
    TypeError
        A field holds something that the vocabulary does not allow.
    """
    try:
        encoder = _idle.pop()
    except IndexError:
        encoder = _Encoder()
    header, segments = encoder.encode(message)
    if len(header) < _MOST_KEPT_BYTES:
        _idle.append(encoder)
    head = LENGTH.pack(len(header)) + header
    if not segments:
        return [head]
    found: list[Buffer] = [head + _padding(len(head))]
    for segment in segments[:-1]:
        found.append(segment)
        if len(segment) % _ALIGNMENT:
            found.append(_padding(len(segment)))
    found.append(segments[-1])
    return found


def encode(message: Any) -> bytes:
    """Turn a message into bytes, in one piece; raises as `pieces` does."""
    return b"".join(pieces(message))


def frame(message: Any) -> bytes:
    """Return a message with its length before it, for a connection that carries one message at a time."""
    found = pieces(message)
    return b"".join((LENGTH.pack(sum(map(len, found))), *found))


def decode(data: Buffer) -> Any:
    """Turn the bytes of a message back into an equal object; its arrays are read-only, and large ones lie on `data`.

    Raises
    ------
    Exception
        The bytes are no message; of which class it is depends on what is wrong.
    """
    view = memoryview(data)
    if not view.readonly:
        view = view.toreadonly()
    (length,) = LENGTH.unpack_from(view)
    end = LENGTH.size + length
    if end > len(view):
        raise ValueError(_SHORT)

    def unpack(code: int, packed: bytes) -> Any:
        kind = _CLASSES.get(code)
        if kind is not None:
            return kind(*msgpack.unpackb(packed, ext_hook=unpack, use_list=False))
        return _unpack_special(code, packed, view[end + -end % _ALIGNMENT :])

    return msgpack.unpackb(view[LENGTH.size : end], ext_hook=unpack, use_list=False)


class _Encoder:
    """Packs headers, one at a time. It is kept for the next: making a packer takes as long as packing with it."""

    def __init__(self) -> None:
        self._packers: list[msgpack.Packer] = []
        self._depth = 0
        self._segments: list[Buffer] = []
        self._place = 0

    def encode(self, message: Any) -> tuple[bytes, list[Buffer]]:
        """Return a message's header, and the segments beside it."""
        header = self._pack(message)
        segments, self._segments, self._place = self._segments, [], 0
        return header, segments

    def _pack(self, value: Any) -> bytes:
        # A packer cannot be used again while it waits for what is inside: there is one for each depth.
        depth = self._depth
        if depth == len(self._packers):
            self._packers.append(msgpack.Packer(default=self._pack_special))
        self._depth = depth + 1
        packed: bytes = self._packers[depth].pack(value)
        self._depth = depth
        return packed

    def _pack_special(self, value: Any) -> msgpack.ExtType:
        kind = type(value)
        code = CODES.get(kind)
        if code is not None:
            return msgpack.ExtType(code, self._pack(_READERS[kind](value)))
        if isinstance(value, np.ndarray):
            return self._pack_array(value)
        if kind is _Large:
            return msgpack.ExtType(_BYTES, self._pack((self._beside(value.data), len(value.data))))
        raise TypeError(f"{kind.__name__} cannot cross to another process")

    def _pack_array(self, array: np.ndarray[Any, Any]) -> msgpack.ExtType:
        if array.dtype.kind not in _NUMBERS:
            raise TypeError(f"an array of {array.dtype} cannot cross to another process")
        if array.nbytes < LEAST_SEGMENT_BYTES:
            return msgpack.ExtType(_ARRAY, _array_head(array.dtype.str, array.shape) + array.tobytes())
        start = self._beside(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return msgpack.ExtType(_SEGMENT, self._pack((array.dtype.str, array.shape, start)))

    def _beside(self, segment: Buffer) -> int:
        """Put a segment beside the header; return its place from where the segments begin."""
        place = self._place
        self._segments.append(segment)
        self._place += len(segment) + -len(segment) % _ALIGNMENT
        return place


_MOST_KEPT_BYTES = 1 << 20
_idle: list[_Encoder] = []
"""Encoders that no thread is using."""


def _unpack_special(code: int, packed: bytes, beside: memoryview) -> Any:
    """Unpack an array or bytes, which may lie beside the header."""
    if code == _ARRAY:
        start = packed[0]
        dtype, shape = _array_facts(packed[1:start])
        return np.frombuffer(packed, dtype, offset=start).reshape(shape)
    if code == _SEGMENT:
        name, shape, place = msgpack.unpackb(packed, use_list=False)
        dtype, count = _dtype(name), 1
        for length in shape:
            count *= length
        return np.frombuffer(beside, dtype, count, _within(place)).reshape(shape)
    if code == _BYTES:
        place, length = msgpack.unpackb(packed)
        found = bytes(beside[_within(place) : place + length])
        if len(found) != length:
            raise ValueError(_SHORT)
        return found
    raise ValueError(f"there is no class {code}")


def _within(place: int) -> int:
    if place < 0:
        raise ValueError("a segment begins before the message")
    return place


def _padding(length: int) -> bytes:
    return bytes(-length % _ALIGNMENT)


@functools.lru_cache(maxsize=256)
def _array_head(name: str, shape: tuple[int, ...]) -> bytes:
    """Return what comes before the elements of an array inside the header, so long that they are aligned."""
    head: bytes = msgpack.packb((name, shape, b""))
    room = -(len(head) + 1) % _ALIGNMENT
    # The third entry fills the space up; its length is the last byte so far.
    head = head[:-1] + bytes((room,)) + bytes(room)
    return bytes((len(head) + 1,)) + head


@functools.lru_cache(maxsize=256)
def _array_facts(head: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
    name, shape, _ = msgpack.unpackb(head, use_list=False)
    return _dtype(name), shape


def _dtype(name: str) -> np.dtype[Any]:
    dtype = np.dtype(name)
    if dtype.kind not in _NUMBERS:
        raise ValueError("an array has a type that cannot cross to another process")
    return dtype
