"""What the device is asked to evaluate: recipes that rows are grown from, and folds that results are reduced by.

A method says how rows come about (a path, masks over a row, noise) and what is wanted of their results (all of them,
a weighted sum, moments). The rows are grown on the device, chunk by chunk, and reduced there: what crosses to the
device and back is small.
"""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from pellucid_server.engine.asking.question import Arrays

Tensors = Mapping[str, torch.Tensor]
"""A tensor for each name, axis 0 the rows."""

Layout = tuple[tuple[str, str, tuple[int, ...]], ...]
"""Name, type and shape (*features) of each array of a row, in the order of names."""

SCORES = "\0scores"
"""The name of the target's scores, (rows,) float64, among an evaluation's results."""


class HostTensors(Mapping[str, torch.Tensor]):
    """Tensors on a CPU that are arrays too: on few numbers, numpy's calls take less time than torch's."""

    __slots__ = ("arrays",)

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self.arrays = arrays

    @classmethod
    def of(cls, tensors: Tensors) -> "HostTensors | None":
        """Return tensors as arrays, on the same bytes; None if some cannot be."""
        if all(rows.device.type == "cpu" and rows.dtype is not torch.bfloat16 for rows in tensors.values()):
            return cls({name: rows.detach().numpy() for name, rows in tensors.items()})
        return None

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[name])

    def __contains__(self, name: object) -> bool:
        return name in self.arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)


class Stage(Protocol):
    """A recipe on a device: what it is made of was copied there once."""

    def rows(self, first: int, count: int) -> Tensors | None:
        """Return `count` rows from number `first` on, if they lie there already; None if they have to be grown."""
        ...

    def write(self, out: Tensors, first: int) -> None:
        """Grow rows from number `first` on into `out`, as many as it has, (rows, *features) each."""
        ...


class Recipe(Protocol):
    """Rows that differ in what is small: made of arrays that a request sends to the device once. Never changed."""

    @property
    def count(self) -> int:
        """How many rows there are, at least one."""
        ...

    @property
    def layout(self) -> Layout:
        """Name, type and shape (*features) of each array of a row, in the order of names."""
        ...

    def stage(self, device: str) -> Stage:
        """Put what the rows are made of on a device."""
        ...

    def row(self, number: int) -> Arrays:
        """Return one row, (*features) each, on the host."""
        ...

    def grow(self, out: Arrays, first: int) -> None:
        """Grow rows on the host from number `first` on into `out`, as many as it has, (rows, *features) each.

        They are those of a stage, to rounding. Of table rows, a stage's calls into torch take longer than their work.
        """
        ...


@dataclass(frozen=True, slots=True)
class NonFinite:
    """The first value among an evaluation's results that is NaN or infinite.

    Attributes
    ----------
    row
        Number of the evaluation's row.
    name
        Of the result.
    values
        That row's result, (*shape).
    """

    row: int
    name: str
    values: npt.NDArray[np.generic]


class Accumulator(Protocol):
    """The results of the rows so far, reduced."""

    @property
    def nonfinite(self) -> NonFinite | None:
        """The first value that was no finite number, where the fold looks for one."""
        ...

    def add(self, results: Tensors, start: int, count: int) -> None:
        """Take in the results of the next `count` rows, found at `start` of `results`, in the order of rows."""
        ...

    def result(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return what came of all rows."""
        ...


class Fold(Protocol):
    """How results are reduced. Sums are in float64 and in the order of rows, one row after the other.

    So their bits depend neither on how the rows were split into chunks nor on whose rows were beside them.
    """

    def start(self, count: int) -> Accumulator:
        """Return an accumulator for `count` rows."""
        ...


class Ask(Protocol):
    """An evaluation that is asked for: which rows, and what is wanted of the results."""

    @property
    def rows(self) -> Recipe:
        """The rows, as they were asked for."""
        ...

    @property
    def recipe(self) -> Recipe:
        """The rows, with what else each of them needs."""
        ...

    @property
    def fold(self) -> Fold:
        """What is kept of the results."""
        ...

    @property
    def exact(self) -> bool:
        """Whether its rows run in chunks of their own, of a fixed size: then its bits depend on nothing else."""
        ...

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What it has in common with those that may share a chunk with it, beside the model and the rows' layout."""
        ...

    @property
    def derived(self) -> bool:
        """Whether its kernel needs a graph of its own, which takes long to derive."""
        ...

    def kernel(self, model: Any, device: str) -> Any:
        """Return the `Kernel` that evaluates it on a model that is loaded, on a device."""
        ...


class Plain:
    """What most asks have in common: their rows go to the device as they are, and the model's own graph suffices."""

    __slots__ = ()

    rows: Recipe

    @property
    def recipe(self) -> Recipe:
        """The rows."""
        return self.rows

    @property
    def derived(self) -> bool:
        """Whether it takes a graph of its own."""
        return False
