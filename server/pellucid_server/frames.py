"""Messages of many requests on one connection: cut into frames of at most 1 MiB, which take turns by request.

A connection begins, in both directions, with `GREETING`, which only processes with the same messages have in common.
Then come frames: a head (the frame's length, the length of the whole message, and the number of its stream, as
little-endian unsigned numbers of 32, 64 and 64 bits) and so many bytes of the message. A stream carries the messages
of one request, one after the other; stream 0 those of none. Nothing here reads or writes a socket.
"""

import itertools
import struct
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from pellucid_server import wire
from pellucid_server.wire import Buffer

HEAD = struct.Struct("<IQQ")
"""A frame's head."""

FRAME_BYTES = 1 << 20
"""Most bytes of a message in one frame."""

MOST_MESSAGE_BYTES = 1 << 32
MOST_PARTIAL_BYTES = 1 << 34
"""Most bytes of all messages that have begun to arrive."""

MOST_PARTIAL_MESSAGES = 4096
MOST_BUFFERS = 512
"""Buffers that one system call takes; the system's own limit is 1,024."""

GREETING = b"pellucid " + wire.fingerprint().encode()

_READ_BYTES = 256 << 10
_JOINED_BYTES = 64 << 10
"""Up to this size, joining buffers costs less than handing them to the system one by one."""


class FrameError(Exception):
    """The other end sent what is no frame, so that nothing after it can be trusted."""


class GreetingError(FrameError):
    """The other end has other messages: it is of another installation."""

    def __init__(self, received: bytes) -> None:
        prefix, theirs = GREETING[:-32], received[-32:].decode("ascii", "replace")
        schema = f"of the schema {theirs[:8]}" if received.startswith(prefix) else "without a schema"
        super().__init__(
            f"the two ends are of different installations: the other's messages are {schema}, ours of the schema "
            f"{wire.fingerprint()[:8]}"
        )


class _Outgoing:
    """A message of which some frames have left."""

    def __init__(self, stream: int, pieces: list[Buffer], total: int) -> None:
        self._stream = stream
        self._total = self._left = total
        self._pieces: deque[memoryview] = deque(memoryview(piece) for piece in pieces)

    def next_frame(self) -> list[Buffer]:
        """Cut off the next frame."""
        length = min(self._left, FRAME_BYTES)
        frame: list[Buffer] = [HEAD.pack(length, self._total, self._stream)]
        self._left -= length
        while length:
            piece = self._pieces.popleft()
            if len(piece) > length:
                self._pieces.appendleft(piece[length:])
                piece = piece[:length]
            frame.append(piece)
            length -= len(piece)
        return frame

    @property
    def ended(self) -> bool:
        """Whether no frame is left."""
        return not self._left


class Outbox:
    """Messages on their way out. What fits into one frame leaves first, unless its stream has a larger one to end."""

    def __init__(self) -> None:
        self._small: list[Buffer] = [GREETING]
        self._small_bytes = len(GREETING)
        self._streams: OrderedDict[int, deque[_Outgoing]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._small or self._streams)

    def put(self, message: Any) -> None:
        """Take a message; raises as `pellucid_server.wire.pieces` does, and has taken nothing then."""
        self.put_pieces(getattr(message, "request_number", 0), wire.pieces(message))

    def put_pieces(self, stream: int, pieces: list[Buffer]) -> None:
        """Take an encoded message for a stream."""
        total = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
        if stream in self._streams:
            self._streams[stream].append(_Outgoing(stream, pieces, total))
        elif total > FRAME_BYTES:
            self._streams[stream] = deque((_Outgoing(stream, pieces, total),))
        else:
            self._small.append(HEAD.pack(total, total, stream))
            self._small += pieces
            self._small_bytes += HEAD.size + total

    def take(self) -> list[Buffer]:
        """Return what is to leave next: all that is small, and one frame of a large message; empty if nothing is."""
        found, self._small = self._small, []
        size, self._small_bytes = self._small_bytes, 0
        if len(found) > 1 and size <= _JOINED_BYTES:
            found = [b"".join(found)]
        if self._streams:
            found += self._large_frame()
        return found

    def _large_frame(self) -> list[Buffer]:
        stream, messages = next(iter(self._streams.items()))
        frame = messages[0].next_frame()
        if messages[0].ended:
            messages.popleft()
        if messages:
            self._streams.move_to_end(stream)
        else:
            del self._streams[stream]
        return frame


class Sending:
    """Buffers of which a socket takes as much as it likes at a time."""

    def __init__(self) -> None:
        self._left: deque[memoryview] = deque()

    def __bool__(self) -> bool:
        return bool(self._left)

    def add(self, buffers: list[Buffer]) -> None:
        """Append what is to be sent."""
        self._left.extend(memoryview(buffer) for buffer in buffers)

    def next(self) -> list[memoryview]:
        """Return what one system call may send."""
        return list(itertools.islice(self._left, MOST_BUFFERS))

    def sent(self, count: int) -> None:
        """Note how many bytes the socket took."""
        while count:
            first = self._left.popleft()
            if len(first) > count:
                self._left.appendleft(first[count:])
                return
            count -= len(first)


class _Incoming:
    """A message of which some bytes have arrived, in the one buffer that will hold all."""

    def __init__(self, total: int) -> None:
        # `bytearray` would write zeros to all of it first.
        self.view = np.empty(total, np.uint8).data
        self.count = 0


class Inbox:
    """Puts messages together from what arrives.

    Use: read from the socket into `buffer()`, then take the messages of `received(count)`. Bytes of a message that is
    larger than a frame are read into place.
    """

    def __init__(self) -> None:
        self._scratch = memoryview(bytearray(_READ_BYTES))
        self._start = self._end = 0
        self._greeted = False
        self._messages: dict[int, _Incoming] = {}
        self._partial_bytes = 0
        self._stream = 0
        self._frame_left = 0
        """Bytes of the frame in progress that have not arrived."""

    def buffer(self) -> memoryview:
        """Return where to read to; at least one byte long."""
        if self._frame_left and self._start == self._end:
            message = self._messages[self._stream]
            return message.view[message.count : message.count + self._frame_left]
        if self._start:
            rest = self._end - self._start
            self._scratch[:rest] = bytes(self._scratch[self._start : self._end])
            self._start, self._end = 0, rest
        return self._scratch[self._end :]

    def received(self, count: int) -> Iterator[Any]:
        """Take note that `count` bytes were read; yield the messages that are whole. To be used up.

        Raises
        ------
        GreetingError
            The other end is of another installation.
        FrameError
            A frame is none, or cannot be decoded.
        """
        if self._frame_left and self._start == self._end:
            yield from self._arrived(count)
            return
        self._end += count
        if not self._greeted and not self._greet():
            return
        while self._start < self._end:
            if self._frame_left:
                yield from self._move()
                continue
            if self._end - self._start < HEAD.size:
                return
            length, total, stream = HEAD.unpack_from(self._scratch, self._start)
            self._check(length, total, stream)
            begin = self._start + HEAD.size
            self._start = begin
            if length == total and self._end - begin >= length:
                self._start = begin + length
                yield _decoded(bytes(self._scratch[begin : self._start]))
            else:
                self._begin(length, total, stream)

    def _greet(self) -> bool:
        """Compare what the other end begins with; return whether all of it is there."""
        begun = bytes(self._scratch[: min(self._end, len(GREETING))])
        if not GREETING.startswith(begun) and (len(begun) == len(GREETING) or not GREETING[:-32].startswith(begun[:9])):
            raise GreetingError(begun)
        if len(begun) < len(GREETING):
            return False
        self._start, self._greeted = len(GREETING), True
        return True

    def _check(self, length: int, total: int, stream: int) -> None:
        """Refuse a frame that no end sends."""
        begun = self._messages.get(stream)
        left = total if begun is None else len(begun.view) - begun.count
        if not 0 < length <= FRAME_BYTES or length > left or (begun is not None and len(begun.view) != total):
            raise FrameError(f"a frame of {length} bytes of a message of {total} bytes does not fit what came before")
        if length < min(left, FRAME_BYTES):
            raise FrameError(f"a frame has {length} bytes, though {left} of its message are left")
        if begun is not None or length == total:
            return
        if total > MOST_MESSAGE_BYTES or self._partial_bytes + total > MOST_PARTIAL_BYTES:
            raise FrameError(f"a message of {total} bytes is too large")
        if len(self._messages) >= MOST_PARTIAL_MESSAGES:
            raise FrameError(f"more than {MOST_PARTIAL_MESSAGES} messages arrive at once")

    def _begin(self, length: int, total: int, stream: int) -> None:
        """Note that a frame follows which is not all there, or not all of its message."""
        if stream not in self._messages:
            self._messages[stream] = _Incoming(total)
            self._partial_bytes += total
        self._stream, self._frame_left = stream, length

    def _move(self) -> Iterator[Any]:
        """Move bytes of the frame in progress to their message."""
        count = min(self._end - self._start, self._frame_left)
        message = self._messages[self._stream]
        message.view[message.count : message.count + count] = self._scratch[self._start : self._start + count]
        self._start += count
        yield from self._arrived(count)

    def _arrived(self, count: int) -> Iterator[Any]:
        message = self._messages[self._stream]
        message.count += count
        self._frame_left -= count
        if message.count == len(message.view):
            del self._messages[self._stream]
            self._partial_bytes -= len(message.view)
            yield _decoded(message.view)


def _decoded(data: Buffer) -> Any:
    try:
        return wire.decode(data)
    except Exception as error:
        # The decoder's own words may quote what is in the message.
        raise FrameError("a message cannot be decoded") from error
