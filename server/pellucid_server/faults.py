"""Fault points: named places in a request's or a model's life at which tests hold it, or end the process it is in.

For tests only, and nothing but a comparison with None where no folder is set. A point is armed by a file
of its name in the folder, whose text says what happens there:

- `hold`: the code that reaches the point waits until the file is gone, and its thread with it: a worker that is held
  where requests arrive (``sent``) reads no cancellation, where their Python runs (``running``, ``answered``) it runs
  nobody's, and where their batches do (``chunk``) it runs no other of that thread's;
- `crash`: the process ends at once, as from a crash;
- `hold NAME`, `kill NAME`: waits, or ends the process, but only for a request of the model NAME;
- `abort`, `abort NAME`: the process ends by a signal, as native code ends it.

Reaching an armed point adds a line, the process id, to the file `POINT.reached` beside it. Arm a point by moving
the file there whole, or before anything can reach it: an empty file arms nothing.

====================  ============================================================================
point                 where
====================  ============================================================================
``loading``           child of a worker: a model is about to be tried out
``decode``            front: the request has arrived and has not been read
``queued``            front: the request is admitted and has no place on a worker yet
``sent``              worker: the request has arrived and waits for its turn
``running``           worker: the request's Python is about to run
``chunk``             worker: a device batch is about to be evaluated
``answered``          worker: the result is about to be sent
``replying``          front: the result is there and is about to be turned into the reply
``storing``           front: a part or a state of a job has come and is about to be stored
====================  ============================================================================
"""

import asyncio
import os
import time
from pathlib import Path

POINTS = ("decode", "queued", "sent", "running", "chunk", "answered", "replying")
"""Every point of a request's life, in order."""

STORING = "storing"
"""The point of a job's life."""

LOADING = "loading"
"""The point of a model's life."""

EXIT_STATUS = 70
"""Exit status of a process that a point ended."""

_LOOK_SECONDS = 0.002


class Faults:
    """The fault points of one process; `folder` is empty where there are none."""

    def __init__(self, folder: str = "") -> None:
        self._folder = Path(folder) if folder else None

    @property
    def possible(self) -> bool:
        """Whether any point can be armed."""
        return self._folder is not None

    def reach(self, point: str, *, model: str = "") -> None:
        """Pass a point on a thread that may block."""
        held = False
        while self._armed(point, model, held=held):
            held = True
            time.sleep(_LOOK_SECONDS)

    async def pass_by(self, point: str, *, model: str = "") -> None:
        """Pass a point on the event loop."""
        held = False
        while self._armed(point, model, held=held):
            held = True
            await asyncio.sleep(_LOOK_SECONDS)

    def _armed(self, point: str, model: str, *, held: bool) -> bool:
        """Do what the point is armed with; tell whether to wait there. `held` is whether it was waited already."""
        if self._folder is None:
            return False
        armed = self._folder / point
        try:
            what, _, name = armed.read_text("utf-8").strip().partition(" ")
        except FileNotFoundError:
            return False
        if not what or ((name or what == "kill") and name != model):
            return False
        if not held:
            self._note(point)
        if what in {"crash", "kill"}:
            os._exit(EXIT_STATUS)
        if what == "abort":
            os.abort()
        return what == "hold"

    def _note(self, point: str) -> None:
        assert self._folder is not None  # noqa: S101 - no point is armed without
        with (self._folder / f"{point}.reached").open("a", encoding="utf-8") as reached:
            reached.write(f"{os.getpid()}\n")
