"""Large bytes fields of a request, taken out before it is parsed: protobuf would copy each of them twice."""

import contextlib
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

LEAST_BYTES = 1 << 16
"""Fields from this size on are taken out."""

_MOST_FIELDS = 10_000
"""A message of more fields is left to protobuf as it is: it reads small ones much faster."""

_STAND_IN_BYTES = 16
_MOST_VARINT_BYTES = 10
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class LargeFields:
    """The fields that were taken out of one message.

    In the message that is parsed, each has a stand-in: random bytes, drawn after the message arrived, so that no caller
    can write them.
    """

    taken: Mapping[bytes, memoryview] = field(default_factory=dict)
    """The bytes of each field, on the message's own, by its stand-in."""

    def of(self, value: bytes) -> bytes | memoryview:
        """Return what a bytes field of the parsed message has: the field that `value` stands for, or `value`."""
        # Of the right length first: a large field that was not taken out would be hashed.
        return self.taken.get(value, value) if len(value) == _STAND_IN_BYTES else value


NONE = LargeFields()
"""Nothing was taken out."""


def take_out(data: bytes, message_class: type[Message]) -> tuple[bytes, LargeFields]:
    """Take the large bytes fields out of an encoded message.

    Returns
    -------
    tuple[bytes, LargeFields]
        The message with stand-ins, and what they stand for. Bytes that are no message, and messages of very many
        fields, are returned as they are: the parser answers for them.
    """
    taking = _Taking(data)
    try:
        rest = taking.message(cast(Descriptor, message_class.DESCRIPTOR), 0, len(data))
    except _UnreadableError:
        return data, NONE
    return (data, NONE) if rest is None else (rest, LargeFields(taking.taken))


def has_more_fields(data: bytes, most: int) -> bool:
    """Tell whether an encoded message has more fields than that, without those of the messages in it.

    What is parsed of an empty message takes fifty times the bytes on the wire.
    """
    taking = _Taking(data, most)
    with contextlib.suppress(_UnreadableError):
        for _ in taking.large(0, len(data)):
            pass
    return taking.fields > most


class _UnreadableError(ValueError):
    """The bytes are no message, or have too many fields to be read here."""


class _Taking:
    """One walk through an encoded message."""

    def __init__(self, data: bytes, most_fields: int = _MOST_FIELDS) -> None:
        self._data = data
        self._view = memoryview(data)
        self._most_fields = most_fields
        self.fields = 0
        self.taken: dict[bytes, memoryview] = {}

    def message(self, descriptor: Descriptor, start: int, end: int) -> bytes | None:
        """Return the message that lies there with its large fields taken out, or None if it has none."""
        pieces: list[bytes | memoryview] = []
        copied = start
        for number, length_at, begin, stop in self.large(start, end):
            known = descriptor.fields_by_number.get(number)
            if known is None:
                continue
            if known.type == FieldDescriptor.TYPE_BYTES:
                inside: bytes | None = self._stand_in(begin, stop)
            elif known.message_type is not None:
                inside = self.message(known.message_type, begin, stop)
            else:
                continue
            if inside is not None:
                pieces += (self._view[copied:length_at], _varint(len(inside)), inside)
                copied = stop
        if not pieces:
            return None
        pieces.append(self._view[copied:end])
        return b"".join(pieces)

    def _stand_in(self, begin: int, stop: int) -> bytes:
        stand_in = secrets.token_bytes(_STAND_IN_BYTES)
        self.taken[stand_in] = self._view[begin:stop]
        return stand_in

    def large(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield number, place of the length, begin and end of each large field that has a length."""
        at = start
        while at < end:
            self.fields += 1
            if self.fields > self._most_fields:
                raise _UnreadableError
            key, at = self._read_varint(at)
            kind = key & 7
            if kind == _DELIMITED:
                length_at = at
                length, begin = self._read_varint(at)
                at = begin + length
                if length >= LEAST_BYTES and at <= end:
                    yield key >> 3, length_at, begin, at
            elif kind == _VARINT:
                _, at = self._read_varint(at)
            elif kind in {_FIXED64, _FIXED32}:
                at += 8 if kind == _FIXED64 else 4
            else:
                raise _UnreadableError
        if at != end:
            raise _UnreadableError

    def _read_varint(self, at: int) -> tuple[int, int]:
        """Return the number that begins at `at`, and where what follows it begins."""
        value = 0
        for place, byte in enumerate(self._data[at : at + _MOST_VARINT_BYTES]):
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return value, at + place + 1
        raise _UnreadableError


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
