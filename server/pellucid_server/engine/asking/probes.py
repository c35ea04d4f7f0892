"""What methods of `Dissect` are asked: layers, and the rows whose values there are looked at."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.counterfactuals import Cells
from pellucid_server.engine.asking.question import Arrays, Feature, Target
from pellucid_server.engine.asking.sites import SiteLayer
from pellucid_server.vocabulary.findings import Findings, State

Pixels = npt.NDArray[np.uint8]
"""A picture, (height, width, 3)."""


@dataclass(frozen=True, slots=True)
class Concept:
    """A concept that masks of a probe set mark; `category` is "" where the set has none."""

    name: str
    category: str = ""


@dataclass(frozen=True, slots=True)
class RowMasks:
    """The concepts in one row.

    Attributes
    ----------
    concepts
        Their numbers in `ProbeSet.concepts`, increasing, (present,).
    masks
        Where each is, (present, height, width) bool, at the size of the row's picture in the model's input. A
        concept of the whole picture is everywhere.
    """

    concepts: npt.NDArray[np.int64]
    masks: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ProbeBatch:
    """Some rows of a probe set.

    Attributes
    ----------
    rows
        As the model takes them, (rows, *features) each.
    numbers
        The rows' numbers in the set, from 0, (rows,).
    labels
        The class of each row; empty texts where there is none, or empty where the set has none.
    masks
        The concepts in each row; empty where the set has no masks, or they were not asked for.
    """

    rows: Arrays
    numbers: npt.NDArray[np.int64]
    labels: tuple[str, ...] = ()
    masks: tuple[RowMasks, ...] = ()

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.numbers)


class ProbeSet(Protocol):
    """The rows that are looked at. They are read as they are asked for, and never held all at once."""

    @property
    def kind(self) -> str:
        """What they are: "pictures", "table", "texts" or "tensor"."""
        ...

    @property
    def count(self) -> int:
        """How many rows there are: of a set whose count is not known, they are counted when the request is read."""
        ...

    @property
    def concepts(self) -> tuple[Concept, ...]:
        """What masks mark; empty where there are none."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that rows may have, as far as they are known beforehand."""
        ...

    def batches(self, rows_per_batch: int, *, first: int = 0, masks: bool = False) -> Iterator[ProbeBatch]:
        """Give the rows from number `first` on, in order, at most so many at once; with their masks if asked for.

        Raises
        ------
        PellucidError
            A row cannot be read or does not fit the model, or the files changed meanwhile.
        """
        ...

    def rows(self, numbers: Sequence[int]) -> Arrays:
        """Return the rows of these numbers, in this order, (rows, *features) each; for a few."""
        ...

    def pictures(self, numbers: Sequence[int]) -> tuple[Pixels, ...]:
        """Return what the model sees of these rows' pictures: the part that its input covers, at its input's size.

        A position of a feature map, at its share of the map's height and width, is at that share of these pictures.
        Only for sets of pictures.
        """
        ...

    def names(self, numbers: Sequence[int]) -> tuple[str, ...]:
        """Return what these rows are called: a file's name, or the row's number."""
        ...


@dataclass(frozen=True, slots=True)
class ProbeLayer:
    """A layer that is looked at.

    Attributes
    ----------
    layer
        Its name and shape. `layer.name` is what evaluations take.
    units
        The units that are looked at, increasing, (units,): all of them if the request named none.
    """

    layer: SiteLayer
    units: npt.NDArray[np.int64]

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.layer.name


@dataclass(frozen=True, slots=True)
class ProbeQuestion:
    """Asks what is inside a model.

    Attributes
    ----------
    layers
        What is looked at, in the order of the request; empty where a method needs none and none were named.
    probe
        The rows; None where the request named none.
    features
        What each input of the model is.
    inputs
        Signature of each input: shape of a row, modality, preprocessing; see `InputInfo`.
    outputs
        What the model's outputs are; see `OutputInfo`.
    target
        The element of an output to work towards; None if there is none.
    seed
        Seed of everything random.
    exact
        Whether the answer must be the same bit for bit however often it is interrupted: evaluations already are of
        fixed chunks then, and a method must add up in a fixed order.
    state
        Where the method stood when its worker was lost; None at the start.
    background
        Background rows of the model, (rows, *features) each; empty if it has none.
    disclosable
        Whether rows of the background, and the extremes of their columns, may be shown to callers.
    cells
        By input: tables in the caller's own terms; their `values` are no row's, and 0.
    boxes
        By input of tensors: the smallest and the largest value of its elements, broadcastable to (*features), where
        the model states them.
    """

    layers: tuple[ProbeLayer, ...] = ()
    probe: ProbeSet | None = None
    features: Mapping[str, Feature] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[Any, ...] = ()
    target: Target | None = None
    seed: int = 0
    exact: bool = False
    state: State | None = None
    background: Arrays = field(default_factory=dict)
    disclosable: bool = False
    cells: Mapping[str, Cells] = field(default_factory=dict)
    boxes: Mapping[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Saved:
    """Yielded by a method that can go on from here: it is asked again with this state if its worker is lost.

    Methods yield one every few seconds. `rows_done` of `rows` are what callers read of the progress.
    """

    state: State
    rows_done: int = 0
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Preview:
    """Yielded by a method: what it would answer if it ended here. Callers that watch see it."""

    findings: Findings


Yielded = Findings | Saved | Preview
"""What methods of `Dissect` yield: parts of the answer, states to go on from, and estimates so far."""
