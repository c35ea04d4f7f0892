"""Threads beside the hub, for what blocks and lets go of the interpreter, such as decoding a picture.

Predictions' work goes first, and then what came first: give it in small pieces, a picture and not a request, and
no request waits behind the whole of another's.
"""

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import PriorityQueue
from typing import Any

from pellucid_server.recorder import Recorder

_Work = tuple[bool, int, int, Callable[[], Any], "Future[Any]"]


class Offload:
    """`threads` threads, in [1, 32], that the recorder tells apart by their numbers."""

    def __init__(self, threads: int, recorder: Recorder | None = None) -> None:
        self._recorder = recorder
        self._arrivals = itertools.count()
        self._waiting: PriorityQueue[_Work] = PriorityQueue()
        self._since = [0.0] * threads
        for number in range(threads):
            threading.Thread(target=self._run, args=(number,), name=f"offload-{number}", daemon=True).start()

    def busy_seconds(self) -> float:
        """Return how long the call that has run longest has run, 0 if there is none; callable from any thread."""
        since = min((began for began in self._since if began), default=0.0)
        return time.monotonic() - since if since else 0.0

    def submit(
        self, function: Callable[[], Any], *, request_number: int = 0, prediction: bool = False
    ) -> "Future[Any]":
        """Call `function` soon, on one of the threads; callable from any thread."""
        future: Future[Any] = Future()
        # No two have the same number, so that nothing behind it is ever compared.
        self._waiting.put((not prediction, next(self._arrivals), request_number, function, future))
        return future

    def _run(self, number: int) -> None:
        while True:
            self._do(number, self._waiting.get())

    def _do(self, number: int, work: _Work) -> None:
        _, _, request_number, function, future = work
        self._note(number, request_number, time.monotonic())
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - raised again where the result is taken
            self._note(number, 0, 0.0)
            future.set_exception(error)
        else:
            self._note(number, 0, 0.0)
            future.set_result(result)

    def _note(self, number: int, request_number: int, began: float) -> None:
        self._since[number] = began
        if self._recorder is not None:
            self._recorder.offloaded(number, request_number)
