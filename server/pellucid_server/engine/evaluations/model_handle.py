"""The handle that methods get: turns what they ask for into evaluations and waits for them."""

import functools
import itertools
import math
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.question import Arrays, Scores, Target
from pellucid_server.engine.device.engine import Engine, Evaluation, Lane
from pellucid_server.engine.device.kernel import Kernel
from pellucid_server.engine.evaluations.kernels import (
    INDICES,
    OWNERS,
    SCORES,
    VALUES,
    WEIGHTS,
    Activations,
    Forward,
    Gradient,
    Scored,
    Suffix,
)
from pellucid_server.engine.models.loading.loaded import LoadedModel
from pellucid_server.engine.tasks.helpers import Helpers
from pellucid_server.engine.tasks.hub import Hub
from pellucid_server.engine.tasks.request_state import RequestState, Tally

_BLOCK_BYTES = 32 << 20
_ELEMENTS = 2
"""Elements that targets are padded to, so that a class and a difference of two pack together."""

_ANY_BATCH = 1 << 30

_owners = itertools.count()


@dataclass(frozen=True, slots=True)
class WorkerServices:
    """What a worker has one of, and every handle uses."""

    engine: Engine
    hub: Hub
    helper: Helpers
    device: str


class ModelHandle:
    """Answers evaluations of one model for one answer of a request; implements `Handle`.

    Called by a task of the hub; other tasks run while it waits.
    """

    def __init__(
        self,
        model: LoadedModel,
        services: WorkerServices,
        request: RequestState,
        *,
        prediction: bool = False,
        on_progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        self.tally = Tally()
        self.progress = on_progress
        self._model = model
        self._machinery = services
        self._request = request
        self._prediction = prediction

    def forward(self, rows: Arrays) -> Arrays:
        """Return every output of the model by name, (rows, *shape)."""
        make = functools.partial(Forward, self._model, self._machinery.device)
        return self._evaluate(("forward",), make, rows)

    def scores(self, rows: Arrays, target: Target) -> Scores:
        """Return the target's score of each row, (rows,) float64."""
        make = functools.partial(Scored, self._model, self._machinery.device, target)
        results = self._evaluate(("scores", target.output, target.space), make, _with_elements(rows, target))
        return results[SCORES].astype(np.float64, copy=False)

    def gradient(self, rows: Arrays, target: Target, *, at: str = "") -> tuple[Scores, Arrays]:
        """Return the target's score of each row and its gradient at the inputs, or at a layer."""
        make = functools.partial(Gradient, self._model, self._machinery.device, target, at)
        results = self._evaluate(("gradient", target.output, target.space, at), make, _with_elements(rows, target))
        scores = results.pop(SCORES)
        return scores.astype(np.float64, copy=False), results

    def activations(self, rows: Arrays, layers: tuple[str, ...]) -> Arrays:
        """Return the value of each layer by name, (rows, *shape)."""
        make = functools.partial(Activations, self._model, self._machinery.device, layers)
        return self._evaluate(("activations", layers), make, rows)

    def suffix(self, rows: Arrays, layer: str, values: npt.NDArray[np.generic]) -> Arrays:
        """Return the outputs had `layer` had these values; `rows` is one row for all values or one for each."""
        make = functools.partial(Suffix, self._model, self._machinery.device, layer)
        count, given = len(values), len(next(iter(rows.values())))
        owners = np.array([next(_owners) for _ in range(given)], np.int64)
        batch = {name: np.broadcast_to(array, (count, *array.shape[1:])) for name, array in rows.items()}
        batch |= {OWNERS: np.broadcast_to(owners, (count,)), VALUES: values}
        return self._evaluate(("suffix", layer), make, batch)

    def compute(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a module-level function of the engine in a helper process: short calls never wait for long ones."""
        request, finished = self._request, self._machinery.hub.signal()
        return self._machinery.helper.call(function, arguments, request.check, finished, caller=request.caller)

    def blocks(self, count: int) -> Iterator[slice]:
        """Cut `count` rows into slices whose rows together stay within a fair share of memory."""
        size = max(1, _BLOCK_BYTES // self._model.input_row_bytes)
        for start in range(0, count, size):
            yield slice(start, min(start + size, count))

    def seconds_left(self) -> float:
        """Return the time until the request's deadline, at least 0; infinity if it has none."""
        deadline = self._request.deadline
        return math.inf if deadline is None else max(0.0, deadline - time.monotonic())

    def least_seconds(self, *, forward: int, backward: int) -> float:
        """Return the device time that so many rows take at the least, by the fastest of late; 0 if none was measured.

        Rows longer than those that the model was tried on take more.
        """
        engine, model = self._machinery.engine, self._model.key
        seconds = forward * engine.row_seconds(model, backward=False)
        return seconds + backward * engine.row_seconds(model, backward=True)

    def likely_seconds(self, *, forward: int, backward: int) -> float:
        """Return about how long so many rows take the device, by the pace of late; infinity if none was measured.

        It is infinity, too, where rows have open lengths: the pace of some says nothing of others.
        """
        if self._model.open_lengths:
            return math.inf
        rows = ((forward, False), (backward, True))
        row_seconds = functools.partial(self._machinery.engine.likely_row_seconds, self._model.key)
        return math.fsum(count * row_seconds(backward=direction) for count, direction in rows if count)

    def _evaluate(
        self, kind: tuple[Hashable, ...], make: Callable[[], Kernel], rows: Arrays
    ) -> dict[str, npt.NDArray[np.generic]]:
        self._request.check()
        shapes = tuple((name, array.dtype.str, array.shape[1:]) for name, array in sorted(rows.items()))
        key = (self._model.key, kind, self._prediction, shapes)
        finished = self._machinery.hub.signal()
        evaluation = Evaluation(key, rows, self._request, self.tally, finished, prediction=self._prediction)
        if evaluation.count == 0:
            raise ValueError("an evaluation needs at least one row")
        self._machinery.engine.submit(evaluation, lambda: self._lane(make(), rows))
        # The end of a part does not wait for the batch in progress, or the whole would be late with it.
        if not finished.wait(until=self._request.deadline if self._request.whole is not None else None):
            self._request.check()
        return evaluation.answer()

    def _lane(self, kernel: Kernel, rows: Arrays) -> Lane:
        return Lane(
            kernel=kernel,
            row_bytes=round(self._model.row_bytes(backward=kernel.backward) * self._growth(rows)),
            row_limit=self._model.largest_batch or _ANY_BATCH,
            whole=self._model.solo and self._prediction,
            single=self._model.solo and not self._prediction,
            model=self._model.key,
            growth=self._growth(rows),
        )

    def _growth(self, rows: Arrays) -> float:
        """Return how much more memory a row takes than those that the model was tried on.

        Rows of open length may be longer than those. Of what a model does with them, attention grows fastest, with
        the square of the length.
        """
        tried = self._model.input_row_bytes
        inputs = [array for name, array in rows.items() if name in self._model.features]
        return max(1.0, sum(array[:1].nbytes for array in inputs) / tried) ** 2


def _with_elements(rows: Arrays, target: Target) -> Arrays:
    """Add the target's elements to each row."""
    count = len(next(iter(rows.values())))
    indices, weights = _elements(target.elements)
    shape = (count, len(indices))
    return {**rows, INDICES: np.broadcast_to(indices, shape), WEIGHTS: np.broadcast_to(weights, shape)}


@functools.lru_cache(maxsize=4096)
def _elements(elements: tuple[tuple[int, float], ...]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    padded = (*elements, *(((elements[0][0], 0.0),) * (_ELEMENTS - len(elements))))
    return np.array([index for index, _ in padded], np.int64), np.array([weight for _, weight in padded], np.float32)
