"""The front's end of the socket to a worker."""

import asyncio
import logging
import socket
from collections.abc import Callable

from pellucid_server.frames import FrameError, Inbox, Outbox, Sending
from pellucid_server.vocabulary.messages import Message

_log = logging.getLogger(__name__)

_TURN_BYTES = 1 << 20
"""Bytes sent in one turn of the event loop, after which others have theirs."""


class Connection:
    """Sends and receives whole messages; reads whenever there is something to read.

    A frame that cannot be decoded ends the connection, as nothing after it could be trusted.
    """

    def __init__(self, on_message: Callable[[Message], None], on_lost: Callable[[], None]) -> None:
        self.problem = ""
        """Why this end closed the connection, if the worker sent what cannot be read."""
        self._on_message = on_message
        self._on_lost = on_lost
        self._inbox = Inbox()
        self._outbox = Outbox()
        self._sending = Sending()
        self._socket: socket.socket | None = None
        self._unheard = False
        self._closed = False
        self._scheduled = False
        self._full = False

    def open(self, connected: socket.socket) -> None:
        """Use this socket from now on; called once, on the event loop."""
        connected.setblocking(False)
        self._socket = connected
        asyncio.get_running_loop().add_reader(connected, self._read)
        self._schedule()

    def send(self, message: Message) -> None:
        """Send one message, or drop it if the connection is lost; never blocks.

        Messages of one turn of the event loop leave together at its end, by one system call. Large ones leave in
        frames, by turns; their arrays are not copied, so they must not change.

        What the socket does not take at once waits in memory. There is no waiting for it to drain:
        the pool bounds the requests in flight, and a request that waited here would only wait in another shape.

        Raises
        ------
        TypeError
            The message holds something that cannot be sent; nothing was sent.
        """
        self._outbox.put(message)
        if self._closed or self._unheard:
            self._outbox = Outbox()
        elif not self._full:
            self._schedule()

    def close(self) -> None:
        """Close the socket; the worker reads end of file."""
        if self._socket is None or self._closed:
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        loop.remove_writer(self._socket)
        self._socket.close()
        self._outbox, self._sending = Outbox(), Sending()
        loop.call_soon(self._on_lost)

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._write)

    def _write(self) -> None:
        """Send until nothing is left, the socket is full, or others are to have their turn."""
        self._scheduled = False
        if self._socket is None or self._closed or self._unheard:
            return
        count = 0
        try:
            while count < _TURN_BYTES:
                if not self._sending:
                    self._sending.add(self._outbox.take())
                if not self._sending:
                    self._watch_for_room(False)
                    return
                sent = self._socket.sendmsg(self._sending.next())
                self._sending.sent(sent)
                count += sent
        except BlockingIOError:
            pass
        except OSError:
            # It has closed its end: what it said before, such as why, is still to be read, and the end of file closes.
            self._unheard = True
            self._outbox, self._sending = Outbox(), Sending()
            self._watch_for_room(False)
            return
        self._watch_for_room(True)

    def _watch_for_room(self, full: bool) -> None:
        """Have the loop call when the socket has room, or no longer."""
        if full is self._full or self._socket is None:
            return
        self._full = full
        loop = asyncio.get_running_loop()
        if full:
            loop.add_writer(self._socket, self._write)
        else:
            loop.remove_writer(self._socket)

    def _read(self) -> None:
        """Pass on every message that is complete."""
        if self._socket is None or self._closed:
            return
        try:
            count = self._socket.recv_into(self._inbox.buffer())
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            count = 0
        if not count:
            self.close()
            return
        try:
            for message in self._inbox.received(count):
                self._on_message(message)
        except FrameError as error:
            self.problem = str(error)
            _log.error("the connection to a worker is closed: %s", error)
            self.close()
        except Exception:  # noqa: BLE001 - a bug here must cost the worker and not go unseen
            _log.exception("a message of a worker could not be taken")
            self.close()
