"""The front's end of the socket to a worker."""

import asyncio
from collections.abc import Callable

from pellucid_server import wire
from pellucid_server.vocabulary.messages import Message


class Connection(asyncio.Protocol):
    """Sends and receives whole messages; reads whenever there is something to read.

    A frame that cannot be decoded ends the connection, as nothing after it could be trusted.
    """

    def __init__(self, on_message: Callable[[Message], None], on_lost: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._buffer = bytearray()
        self._transport: asyncio.WriteTransport | None = None
        self._gathered: list[bytes] = []

    def send(self, message: Message) -> None:
        """Send one message, or drop it if the connection is lost; never blocks.

        Messages of one turn of the event loop leave together at its end, by one system call.

        What the socket does not take at once waits in memory. There is no waiting for it to drain:
        the pool bounds the requests in flight, and a request that waited here would only wait in another shape.

        Raises
        ------
        TypeError
            The message holds something that cannot be sent; nothing was sent.
        """
        if not self._gathered:
            asyncio.get_running_loop().call_soon(self._flush)
        self._gathered.append(wire.frame(message))

    def _flush(self) -> None:
        data, self._gathered = b"".join(self._gathered), []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Close the socket; the worker reads end of file."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (called by asyncio)."""
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101 - a stream socket's always is
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Pass on every message that is complete (called by asyncio)."""
        buffer = self._buffer
        buffer += data
        start, header = 0, wire.LENGTH.size
        while len(buffer) - start >= header:
            end = start + header + wire.LENGTH.unpack_from(buffer, start)[0]
            if len(buffer) < end:
                break
            message = wire.decode(bytes(buffer[start + header : end]))
            start = end
            self._on_message(message)
        del buffer[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner (called by asyncio)."""
        self._on_lost()
