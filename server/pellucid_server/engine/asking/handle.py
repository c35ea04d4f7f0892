"""What a method sees of a model: evaluations to ask for, each of which blocks only its own request."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.question import Arrays, Scores
from pellucid_server.engine.asking.recipe import SCORES, Ask, NonFinite, Recipe
from pellucid_server.errors import InvalidRequestError

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Answer:
    """What an evaluation's fold made of its results.

    Attributes
    ----------
    arrays
        By name, as the fold says.
    nonfinite
        The first result that was NaN or infinite, where the fold looks for one.
    """

    arrays: Arrays
    nonfinite: NonFinite | None = None

    @property
    def scores(self) -> Scores:
        """The target's score of each row, (rows,), of evaluations with a target."""
        return self.arrays[SCORES].astype(np.float64, copy=False)

    @property
    def values(self) -> Arrays:
        """All but the scores."""
        return {name: array for name, array in self.arrays.items() if name != SCORES}


class UnfitLayerError(InvalidRequestError):
    """A layer that there is not, or at which the network cannot be cut; a method names the parameter at fault."""


class Held(Protocol):
    """The part of a network before a layer, run once for some rows and held on the device."""

    @property
    def layer(self) -> str:
        """The layer."""
        ...

    @property
    def values(self) -> npt.NDArray[np.generic]:
        """The layer's values, (rows, *shape), on the host."""
        ...

    @property
    def count(self) -> int:
        """How many rows it holds."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        ...

    @property
    def context(self) -> Any:
        """What crosses there, for the evaluations that go on from it."""
        ...


class Handle(Protocol):
    """Answers evaluations of one model version for one request.

    Any number of rows may be asked for at once: they are split into device batches and packed with rows of other
    requests. Arrays given and returned must not be changed afterwards.
    """

    def ask(self, ask: Ask, *, progress: tuple[float, float] | None = None) -> Answer:
        """Evaluate rows and return what the fold made of them; what can be asked for is in `engine.evaluations`.

        Parameters
        ----------
        progress
            The share of the request that is done before and after, to be reported on the way.
        """
        ...

    def hold(self, rows: Recipe, layer: str) -> Held:
        """Run the part before `layer` for some rows, and keep on the device what crosses there.

        Raises
        ------
        UnfitLayerError
            There is no such layer, or no cut at it.
        OverloadedError
            The request would hold more bytes than one may.
        """
        ...

    def hold_each(
        self, rows: Recipe, layers: Sequence[str], *, by_unit: frozenset[str] = frozenset()
    ) -> tuple[Held, ...]:
        """Run the part before all of `layers` once for some rows, and keep what crosses at each; all different.

        What is held for a layer counts and is released by itself, though values may cross at several. From layers that
        are in `by_unit`, which `Handle.by_unit` must allow, one can go on with one unit changed in each row.

        Raises
        ------
        UnfitLayerError
            There is no such layer, or no cut at it.
        OverloadedError
            The request would hold more bytes than one may; then it holds no more than before.
        """
        ...

    def by_unit(self, layer: str) -> bool:
        """Whether rows in which one unit of a layer is changed need less than the whole layer's values.

        They do where linear operators read the layer's value and add up over its units; see `UnitSuffix`.
        """
        ...

    def affine(self, layer: str) -> frozenset[str]:
        """Return the names of outputs that are surely affine functions of a layer's value, whatever else is given."""
        ...

    def release(self, held: Held) -> None:
        """Let go of what was held; what is not released goes with the request."""
        ...

    def compute(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run `function`, a module-level function of `pellucid_server.engine`, in a helper process.

        For Python that runs for more than some ten milliseconds: it would slow the device thread down.
        Arguments and result are arrays, numbers, strings, and tuples and dicts of them. Long calls have a process
        of their own; a function counts as long unless `takes` (`engine/asking/duration.py`) declares it short.
        """
        ...

    def beside(self, function: Callable[[], Found], *, byte_count: int | None = None) -> Found:
        """Call `function` on a thread of the worker, while other requests go on.

        For calls into numpy and torch that let go of the interpreter, and run for more than some milliseconds. It must
        not ask the handle for anything. Where it works on arrays of a few bytes, `byte_count`, it is called at once.
        """
        ...

    def together(self, *functions: Callable[[], Any]) -> list[Any]:
        """Call functions, which may ask the handle, and return what each returned: one goes on while another waits.

        Reading the next rows, evaluating these and adding up the last ones take no longer than the longest then.
        """
        ...

    def seconds_left(self) -> float:
        """Return the time until the deadline, at least 0; infinity if there is none.

        For methods that can answer with less than was asked for: at the deadline an evaluation fails.
        """
        ...

    def least_seconds(self, rows: Mapping[str, int]) -> float:
        """Return a lower bound of the device time for rows by kind of evaluation; 0 if none is known."""
        ...

    def likely_seconds(self, rows: Mapping[str, int]) -> float:
        """Return about how long rows by kind of evaluation take the device; infinity if none is known."""
        ...
