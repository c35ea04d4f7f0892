"""What a method sees of a model: evaluations to ask for, each of which blocks only its own request."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.question import Arrays, Scores, Target


class Handle(Protocol):
    """Answers evaluations of one model version for one request.

    Rows are float32 arrays (rows, *features), one for each model input, all with the same number of
    rows; any number of rows may be asked for at once, and they are split into device batches and
    packed with rows of other requests. Arrays given and returned must not be changed afterwards.
    """

    def forward(self, rows: Arrays) -> Arrays:
        """Return every output of the model by name, (rows, *shape)."""
        ...

    def scores(self, rows: Arrays, target: Target) -> Scores:
        """Return the target's score of each row, (rows,) float64."""
        ...

    def gradient(self, rows: Arrays, target: Target, *, at: str = "") -> tuple[Scores, Arrays]:
        """Return the target's score of each row, (rows,), and its gradient.

        The gradient is with respect to every floating-point input by name, (rows, *features); or, with
        `at`, to that layer's value under the layer's name.
        """
        ...

    def activations(self, rows: Arrays, layers: tuple[str, ...]) -> Arrays:
        """Return the value of each layer by name, (rows, *shape)."""
        ...

    def suffix(self, rows: Arrays, layer: str, values: npt.NDArray[np.generic]) -> Arrays:
        """Return the outputs, (rows, *shape), had `layer` had these values, (rows, *shape of a row of the layer).

        `rows` is one row, which serves all values, or one row for each value.
        """
        ...

    def compute(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run `function`, a module-level function of `pellucid_server.engine`, in a helper process.

        For Python that runs for more than some ten milliseconds: it would slow the device thread down.
        Arguments and result are arrays, numbers, strings, and tuples and dicts of them. Long calls have a process
        of their own; a function counts as long unless `takes` (`engine/asking/duration.py`) declares it short.
        """
        ...

    def blocks(self, count: int) -> Iterator[slice]:
        """Cut `count` rows into slices whose rows together stay within a fair share of memory."""
        ...

    def seconds_left(self) -> float:
        """Return the time until the deadline, at least 0; infinity if there is none.

        For methods that can answer with less than was asked for: at the deadline an evaluation fails.
        """
        ...

    def least_seconds(self, *, forward: int, backward: int) -> float:
        """Return a lower bound of the device time for so many rows, by the pace of late; 0 if none is known."""
        ...

    def likely_seconds(self, *, forward: int, backward: int) -> float:
        """Return about how long so many rows take the device, by the pace of late; infinity if none is known."""
        ...

    def progress(self, share: float) -> None:
        """Tell the caller that this share of the request, in [0, 1], is done."""
        ...
