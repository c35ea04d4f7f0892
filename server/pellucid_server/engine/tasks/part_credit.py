"""How far a request's parts may be ahead of the caller that reads them."""

import threading
import time

from pellucid_server.engine.tasks.hub import Hub, Signal
from pellucid_server.engine.tasks.request_state import RequestState


class PartCredit:
    """Parts, and bytes of parts, that a request may send; the task that sends them waits for more, and others run.

    Parameters
    ----------
    parts, size_bytes
        What may be sent before any is granted.
    """

    def __init__(self, hub: Hub, request: RequestState, *, parts: int, size_bytes: int) -> None:
        self._hub = hub
        self._request = request
        self._parts = parts
        self._bytes = size_bytes
        self._change = threading.Lock()
        self._more: Signal | None = None

    def grant(self, parts: int, size_bytes: int) -> None:
        """Allow so much more; callable from any thread."""
        with self._change:
            self._parts += parts
            self._bytes += size_bytes
        self.wake()

    def wake(self) -> None:
        """Have a task that waits look again, because the request was cancelled; callable from any thread."""
        with self._change:
            more, self._more = self._more, None
        if more is not None:
            more.set()

    def spend(self, size_bytes: int) -> None:
        """Take a part of this size off, and wait until there is room for it; called by the request's task.

        A part may be larger than what is left of the bytes: else one above the whole credit could never be sent.

        Raises
        ------
        CancelledError, TimedOutError
            The caller left, or the deadline passed.
        """
        # Parts that are quick to make must not keep the hub from other requests.
        self._hub.signal().wait(until=time.monotonic())
        while True:
            with self._change:
                more = self._more = self._hub.signal()
                room = self._parts > 0 and self._bytes > 0
            # The signal is there before this look, so that no cancellation falls between the two.
            self._request.check()
            if room:
                break
            more.wait(until=self._request.deadline)
        with self._change:
            self._parts -= 1
            self._bytes -= size_bytes
