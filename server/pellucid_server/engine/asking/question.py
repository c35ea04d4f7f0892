"""What a method is asked, and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pellucid_server.vocabulary.requests import ParamValue

Arrays = Mapping[str, npt.NDArray[np.generic]]
"""An array for each model input by name: of one row (*features) or of rows (rows, *features)."""

Scores = npt.NDArray[np.float64]
"""Scores, (rows,)."""


@dataclass(frozen=True, slots=True)
class Target:
    """The scalar that is explained: a weighted sum of one output's elements.

    `elements` holds pairs (flat index into a row of the output, weight): one pair with weight 1 for a
    class, and one more with weight -1 for the class it is contrasted with.
    """

    output: str
    elements: tuple[tuple[int, float], ...]
    space: str = ""
    """"" for the output as the model gives it, "softmax" or "sigmoid" for its probabilities."""


@dataclass(frozen=True, slots=True)
class Feature:
    """What a method needs to know of one model input."""

    modality: str
    """"tensor", "image" or "tabular"."""
    differentiable: bool
    """Whether elements are floating-point: others have no gradient and are held fixed by gradient methods."""
    groups: npt.NDArray[np.int32] | None = None
    """For tables: the column of each element of a row, (*features)."""
    ranges: npt.NDArray[np.float32] | None = None
    """Largest minus smallest value of each element, broadcastable to (*features), where the model states it."""
    columns: tuple[str, ...] = ()
    """For tables: the columns' names, which `groups` numbers."""
    coded: npt.NDArray[np.bool_] | None = None
    """For tables: the elements that stand for a category, one-hot or ordinal, (*features); None if there are none."""
    uncentred: tuple[str, ...] = ()
    """For tables: the columns whose zeros are not known to be their mean."""
    mask: bool = False
    """Whether the input only says which parts of others count: baselines that are made leave it as it is."""


@dataclass(frozen=True, slots=True)
class Question:
    """One row, to be explained.

    Attributes
    ----------
    inputs
        The row, (*features) each, float32 unless the model takes another type. Read-only.
    baselines
        Baseline rows, (baselines, *features) each; one row unless the method declared that it takes
        a background. Empty if the method uses none. Read-only.
    target
        The score to explain.
    features
        What each input is.
    seed
        Seed of everything random.
    tolerance
        Share of the score's change that the error must stay below; None if none was asked for.
    time_share
        Share of the time until the deadline that a method may take that could go on for longer, in (0, 1]: the rest
        is for other rows of the request, which have not begun.
    """

    inputs: Arrays
    baselines: Arrays
    target: Target
    features: Mapping[str, Feature]
    seed: int = 0
    tolerance: float | None = None
    time_share: float = 1.0

    @property
    def baseline(self) -> Arrays:
        """The only baseline row, (*features) each."""
        return {name: rows[0] for name, rows in self.baselines.items()}


@dataclass(frozen=True, slots=True)
class Attribution:
    """A method's answer for one row. Arrays are in the model's input space.

    `scores` are in units of the target, (*features) each. `groups` numbers the group of each element,
    (*features) or broadcastable to it, where scores were found for groups; `group_scores` and
    `group_standard_errors` are then (groups,).
    """

    scores: Arrays
    layer: str = field(default="", kw_only=True)
    """The layer whose values' elements the scores are of, under its name; empty for the inputs."""
    instance_value: float | None = None
    """The target's score at the row, if the method knows it."""
    baseline_value: float | None = None
    """The target's score at the baseline, averaged over a background, if the method uses one."""
    signed_gap: float | None = None
    absolute_gap: float | None = None
    tolerance: float = 0.0
    """The largest |signed gap| that the method worked to, as a share of |the score's change|; 0 if none."""
    absolute_tolerance: float | None = None
    """The largest absolute gap that it worked to, as such a share; None if none."""
    tolerance_met: bool = False
    groups: Mapping[str, npt.NDArray[np.int32]] = field(default_factory=dict)
    group_scores: npt.NDArray[np.float64] | None = None
    group_standard_errors: npt.NDArray[np.float64] | None = None
    standard_error: float | None = None
    """The largest standard error of an element's score, for methods that sample and score no groups."""
    warnings: tuple[str, ...] = ()
    partial: bool = False
    """Whether the deadline ended the work before what was asked for was done."""
    resolved: Mapping[str, ParamValue] = field(default_factory=dict)
    """Parameters that the method settled for this row, such that giving them makes this very answer again.

    They stand in the receipt in place of what the caller gave.
    """
