"""What methods of `Ablate` are asked: rows, places in the network, and what becomes of the values there."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.question import Arrays, Feature, Target
from pellucid_server.vocabulary.requests import DEFAULT_DRAWS


@dataclass(frozen=True, slots=True)
class SiteLayer:
    """A layer, or a part of one, whose value can be changed.

    Attributes
    ----------
    name
        The name under which it is captured, held and edited: the layer's, or "block.1:branch", "attention:heads".
    shape
        Shape of its value for one of the request's rows.
    unit_axis
        The axis of `shape` that counts units; 0 where a row's value is one number.
    value
        The name of the first layer of the request that has the same value, such as the block whose last part this is;
        empty for its own.
    """

    name: str
    shape: tuple[int, ...]
    unit_axis: int = 0
    value: str = ""

    @property
    def units(self) -> int:
        """How many units it has: channels, neurons, features, heads."""
        return self.shape[self.unit_axis] if self.shape else 1

    @property
    def positions(self) -> int:
        """How many places each unit has, on the other axes together."""
        return int(np.prod(self.shape)) // max(self.units, 1)


@dataclass(frozen=True, slots=True)
class Site:
    """A place in the network that is changed as one.

    Attributes
    ----------
    layer
        The name of its `SiteLayer`.
    units, positions
        Indices, in increasing order; None for all. A position is a place on the axes that do not count units, in
        row-major order. The site has every unit at every position of these.
    """

    layer: str
    units: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """What callers read: "conv1", "conv1[3]", "conv1@7", "conv1[3]@7", "block:heads[2]"."""
        units = "" if self.units is None else f"[{_ranges(self.units)}]"
        positions = "" if self.positions is None else f"@{_ranges(self.positions)}"
        return f"{self.layer}{units}{positions}"


def _ranges(numbers: tuple[int, ...]) -> str:
    """Write increasing numbers, runs of them as "3-7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


@dataclass(frozen=True, slots=True)
class Intervention:
    """What becomes of the values at some sites; see `Intervention` in the schema.

    Attributes
    ----------
    sites
        Each is changed by itself unless the method says otherwise.
    kind
        "zero", "mean", "resample", "noise", "constant", "scale", "steer" or "patch".
    value
        The constant, the factor, the deviation as a multiple of the layer's own, or the coefficient.
    vector
        For "steer" and "constant": float64, broadcastable to the layer's shape; None for none.
    reference
        For "mean" and "resample": which of `SiteQuestion.references` values come from.
    """

    sites: tuple[Site, ...]
    kind: str = "zero"
    value: float = 0.0
    vector: npt.NDArray[np.float64] | None = None
    reference: str = ""
    draws: int = DEFAULT_DRAWS
    per_position: bool = False


class Network(Protocol):
    """How the sites of a network lie to one another."""

    def find(self, text: str, field: str) -> tuple[str, ...]:
        """Return the layers and parts of layers that a text names: names or patterns, separated by commas.

        Raises
        ------
        NotFoundError
            There is no such layer; `field` is what has the text.
        InvalidRequestError
            A layer's value has no rows.
        """
        ...

    def value_of(self, name: str) -> Hashable:
        """Return what is equal for sites that have one value."""
        ...

    def reaches(self, senders: Sequence[str], receivers: Sequence[str]) -> bool:
        """Whether a change of the senders can change every receiver."""
        ...

    def beside(self, senders: Sequence[str], receivers: Sequence[str], output: str) -> tuple[str, ...]:
        """Return what to hold so that a change of the senders reaches the receivers by the direct path alone.

        These are the innermost layers and the residual branches strictly between them, but for those that every path
        from the senders to a receiver leads through, and for those that nothing can change once the others are held,
        or from which nothing comes then. Without receivers, paths end at the output.
        """
        ...

    def norms(self, senders: Sequence[str], receivers: Sequence[str], output: str) -> tuple[str, ...]:
        """Return the normalisations strictly between whose scale can be held, by names that evaluations take."""
        ...


@dataclass(frozen=True, slots=True)
class SiteQuestion:
    """Asks what would change if parts of the model were different.

    Attributes
    ----------
    rows
        The rows that the model is run on, (rows, *features) each. Read-only.
    targets
        The score of each row, one for each: the metric, unless that is a divergence.
    prediction
        What the unchanged model says, the output of the targets, (rows, *shape).
    divergence
        "softmax", "sigmoid" or "probabilities" if the metric is the Kullback-Leibler divergence of that output's
        distribution, empty if it is the targets' score.
    layers
        The layers that sites are at, by name, in the order in which a forward pass ends them.
    interventions
        What is changed.
    source
        For patches, the rows that values come from, (1, *features) or (rows, *features) each; empty for none.
    references
        Rows that means and draws come from, by reference: "batch", "background" or "dataset", (n, *features) each.
    features
        What each input is.
    seed
        Seed of everything random.
    parts_done
        Parts that the caller has from a worker that was lost: a method that resumes leaves out as many.
    gradients
        Why there are no gradients; empty if there are.
    labels
        Of the targets' output, a label for each class; empty if it has none.
    network
        How the network's sites lie to one another; None if no method asked needs it.
    """

    rows: Arrays
    targets: tuple[Target, ...]
    prediction: npt.NDArray[np.generic]
    layers: Mapping[str, SiteLayer]
    interventions: tuple[Intervention, ...]
    divergence: str = ""
    source: Arrays = field(default_factory=dict)
    references: Mapping[str, Arrays] = field(default_factory=dict)
    features: Mapping[str, Feature] = field(default_factory=dict)
    seed: int = 0
    parts_done: int = 0
    gradients: str = ""
    labels: tuple[str, ...] = ()
    network: Network | None = None

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.targets)
