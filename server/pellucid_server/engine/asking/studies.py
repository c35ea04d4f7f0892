"""What methods of `Ablate` that study a labelled data set are asked."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.question import Arrays, Feature
from pellucid_server.engine.asking.sites import Intervention, Site, SiteLayer
from pellucid_server.vocabulary.findings import Findings

INPUT_PREFIX = "input:"
"""What a site's layer begins with that is an input of the model: "input:features"."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows of a labelled data set.

    Attributes
    ----------
    rows
        As the model takes them, (rows, *features) each.
    labels
        Of each row: the index of its class, (rows,) int64; where the model predicts a number, that number, float64.
    groups
        The value of each group column, a text for each row.
    numbers
        The rows' numbers in the data set, from 0, (rows,).
    """

    rows: Arrays
    labels: npt.NDArray[Any]
    groups: Mapping[str, tuple[str, ...]]
    numbers: npt.NDArray[np.int64]

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.labels)


@dataclass(frozen=True, slots=True)
class Decision:
    """How an output is read as a prediction of the label.

    Attributes
    ----------
    output
        The output's name.
    kind
        "highest": the class of the highest element; "sign" and "half": class 1 where the only element is above 0 or
        above 0.5, else class 0; "number": the only element itself, which is compared with the label by its error.
    classes
        The classes' names, by index; empty for "number".
    unit
        The unit of a number; empty if it has none.
    """

    output: str
    kind: str
    classes: tuple[str, ...] = ()
    unit: str = ""

    def read(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the predicted classes, (rows,) int64, or numbers, float64, of an output, (rows, *shape)."""
        flat = values.reshape(len(values), -1)
        if self.kind == "highest":
            found: npt.NDArray[Any] = flat.argmax(1)
            return found
        if self.kind == "number":
            return flat[:, 0].astype(np.float64)
        return (flat[:, 0] > (0.5 if self.kind == "half" else 0.0)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class StudyQuestion:
    """Asks how well a model does on labelled data, with parts of it as they are and changed.

    Attributes
    ----------
    batches
        Gives the rows of the data set, at most as many at once as it is called with.
    count
        How many rows there are; None if that is not known before they are read.
    decision
        How the model's output is compared with the labels.
    layers
        The layers that sites are at, by name.
    interventions
        What is changed. A site whose layer is "input:NAME" is a column of a table that is an input: its units are the
        column's elements in a row.
    references
        Rows that means and draws come from, by reference: "background" or "dataset", (n, *features) each.
    features
        What each input is.
    names
        What callers read of sites that are columns: "input:features[age]".
    row_bytes
        About the bytes of a row of the model's inputs.
    seed
        Seed of everything random.
    parts_done
        Parts that the caller has from a worker that was lost.
    last
        The last of them; None if there is none.
    classes
        How many classes the data set is known to have; 0 if that is not known before the rows are read.
    """

    batches: Callable[[int], Iterator[Batch]]
    count: int | None
    decision: Decision
    layers: Mapping[str, SiteLayer] = field(default_factory=dict)
    interventions: tuple[Intervention, ...] = ()
    references: Mapping[str, Arrays] = field(default_factory=dict)
    features: Mapping[str, Feature] = field(default_factory=dict)
    names: Mapping[Site, str] = field(default_factory=dict)
    row_bytes: int = 1 << 12
    seed: int = 0
    parts_done: int = 0
    last: Findings | None = None
    classes: int = 0
