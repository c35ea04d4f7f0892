"""The worker's end of the socket to the front."""

import logging
import select
import socket
import threading
import time
from collections import deque
from typing import Any

from pellucid_server import wire
from pellucid_server.frames import FrameError, Inbox, Outbox, Sending

_log = logging.getLogger(__name__)

_GATHERING_SECONDS = 0.002


class Connection:
    """The socket to the front; any thread may send, one receives.

    Messages are gathered and sent together by `flush`, or at once when the first of them is old: a
    system call for each of a thousand small replies a second would cost more than making them.

    Sending never blocks. What the socket does not take at once, a thread of its own sends as soon as there is room.
    """

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd)
        self._inbox = Inbox()
        self._received: deque[Any] = deque()
        self._outbox = Outbox()
        self._sending = Sending()
        self._change = threading.Condition()
        self._oldest = 0.0
        self._gathered = True
        self._stuck = False
        self._writer: threading.Thread | None = None

    @property
    def stuck(self) -> bool:
        """Whether the front has not taken yet what was sent before."""
        return self._stuck

    def send(self, message: Any) -> None:
        """Send one message with the next flush, or now if others have waited for 2 ms.

        Its arrays are not copied, so they must not change.
        """
        pieces = wire.pieces(message)
        with self._change:
            self._outbox.put_pieces(getattr(message, "request_number", 0), pieces)
            now = time.monotonic()
            if not self._gathered:
                self._gathered = True
                self._oldest = now
            if now - self._oldest > _GATHERING_SECONDS:
                self._send_gathered()

    def send_now(self, message: Any) -> None:
        """Send one message, behind those that were gathered."""
        self.send(message)
        self.flush()

    def turn(self, idle: bool) -> None:
        """Send what is gathered if nothing else will be done now, or if it has waited for 2 ms."""
        if self._gathered and (idle or time.monotonic() - self._oldest > _GATHERING_SECONDS):
            self.flush()

    def flush(self) -> None:
        """Send what is gathered, as far as the socket takes it now."""
        with self._change:
            if self._gathered:
                self._send_gathered()

    def drain(self) -> None:
        """Wait until all that was sent has left; called before the process ends."""
        self.flush()
        with self._change:
            while self._stuck:
                self._change.wait()

    def _send_gathered(self) -> None:
        self._gathered = False
        if not self._stuck and not self._send_some():
            self._stuck = True
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="writer", daemon=True)
                self._writer.start()
            self._change.notify_all()

    def _send_some(self) -> bool:
        """Send until the socket is full; return whether nothing is left."""
        try:
            while True:
                if not self._sending:
                    self._sending.add(self._outbox.take())
                if not self._sending:
                    return True
                self._sending.sent(self._socket.sendmsg(self._sending.next(), (), socket.MSG_DONTWAIT))
        except BlockingIOError:
            return False
        except OSError:
            # A front that is gone reads nothing; the reader sees it too and ends the process.
            self._outbox, self._sending = Outbox(), Sending()
            return True

    def _write(self) -> None:
        """Send what did not fit into the socket, whenever it has room."""
        room = select.poll()
        room.register(self._socket, select.POLLOUT)
        while True:
            with self._change:
                while not self._stuck:
                    self._change.wait()
            room.poll()
            with self._change:
                self._gathered = False
                if self._send_some():
                    self._stuck = False
                    self._change.notify_all()

    def receive(self) -> Any:
        """Return the next message, or None at end of file.

        Raises
        ------
        FrameError
            The front sent what cannot be read, or is of another installation.
        """
        while not self._received:
            try:
                count = self._socket.recv_into(self._inbox.buffer())
            except ConnectionError:
                # The front died without reading what it was sent last.
                return None
            if not count:
                return None
            self._received.extend(self._inbox.received(count))
        return self._received.popleft()

    def first(self) -> Any:
        """Return the first message, or None where there is no front to serve; also tells the front who this is."""
        self.flush()
        try:
            return self.receive()
        except FrameError as error:
            _log.error("%s", error)
            return None
