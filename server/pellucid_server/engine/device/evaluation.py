"""Rows of one request on their way over the device."""

from collections.abc import Hashable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.tasks.request_state import RequestState, Tally


class Settable(Protocol):
    """What somebody waits for: a `Signal` or a `threading.Event`."""

    def set(self) -> None:
        """Let the waiting one go on."""
        ...


class Evaluation:
    """Rows of one request on their way through a lane. Its answer is there once `finished` is set.

    Evaluations with equal `lane_key` may share batches; those of a prediction and of an explanation have
    different ones.
    """

    __slots__ = (
        "_finished",
        "alone",
        "count",
        "done",
        "error",
        "lane_key",
        "prediction",
        "request",
        "results",
        "rows",
        "tally",
    )

    def __init__(
        self,
        lane_key: Hashable,
        rows: Arrays,
        request: RequestState,
        tally: Tally,
        finished: Settable,
        *,
        prediction: bool = False,
    ) -> None:
        self.lane_key = lane_key
        self.rows = rows
        self.count = len(next(iter(rows.values())))
        self.request = request
        self.tally = tally
        self.prediction = prediction
        self.alone = request.alone
        """Whether it shares no chunk with others."""
        self.done = 0
        self.results: dict[str, npt.NDArray[np.generic]] = {}
        self.error: BaseException | None = None
        self._finished = finished

    def answer(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return the results of all rows, (rows, ...) each.

        Raises
        ------
        PellucidError
            The request was cancelled or its deadline passed, or the device could not do it.
        """
        if self.error is not None:
            raise self.error
        return self.results

    def finish(self, error: BaseException | None = None) -> None:
        """Let the waiting request go on; called once, by a device thread."""
        self.error = error
        self._finished.set()

    def keep(self, results: Arrays, start: int, taken: int) -> None:
        """Store the results of the next `taken` rows, found at `start` of a batch's results."""
        if taken == self.count:
            self.results = {name: rows[start : start + taken] for name, rows in results.items()}
        else:
            if not self.results:
                self.results = {
                    name: np.empty((self.count, *rows.shape[1:]), rows.dtype) for name, rows in results.items()
                }
            for name, rows in results.items():
                self.results[name][self.done : self.done + taken] = rows[start : start + taken]
        self.done += taken


ChunkPart = tuple[Evaluation, int]
"""An evaluation and how many of its next rows are in a chunk."""


def pack(chunk: list[ChunkPart]) -> Arrays:
    """Stack the chosen rows, without a copy where they are of one evaluation."""
    pieces = [
        {name: rows[entry.done : entry.done + count] for name, rows in entry.rows.items()} for entry, count in chunk
    ]
    if len(pieces) == 1:
        return pieces[0]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
