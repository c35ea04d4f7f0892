"""What methods are asked that look for another input: a row, what the model shall say of it, and what may change."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.question import Arrays, Feature, Target

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Goal:
    """What the model shall say of the changed row: one of three things.

    Attributes
    ----------
    outcome
        The element of the target's output, a flat index, that shall be the highest; None for another goal.
    other_than
        The element that shall not be the highest; None for another goal.
    minimum, maximum
        Bounds of the target's score, in its space; None for none.
    """

    outcome: int | None = None
    other_than: int | None = None
    minimum: float | None = None
    maximum: float | None = None

    @property
    def bounded(self) -> bool:
        """Whether the goal is a bound of the score, and not which element is the highest."""
        return self.outcome is None and self.other_than is None


@dataclass(frozen=True, slots=True)
class CellColumn:
    """A column of a table, and what a counterfactual may do to it.

    Attributes
    ----------
    minimum, maximum
        What a changed value must lie between, in the column's unit; infinite for no bound.
    categories
        The names; empty for a numeric column.
    allowed
        Indices of the categories that it may get.
    fixed
        Whether it stays as it is.
    whole
        Whether a changed value is a whole number.
    """

    name: str
    unit: str = ""
    minimum: float = -np.inf
    maximum: float = np.inf
    categories: tuple[str, ...] = ()
    allowed: tuple[int, ...] = ()
    fixed: bool = False
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Cells:
    """A row of a table in the caller's own terms, and how it becomes a row of the model.

    Attributes
    ----------
    columns
        The columns, in order.
    values
        The row, (columns,): numbers in the column's unit; of a category, its index.
    encode
        Makes rows of the model, (rows, elements), of rows like `values`, (rows, columns). It is the preprocessor's own.
    elements
        The element of a row of the model that a numeric column becomes, (columns,); -1 for categories.
    slopes
        By how much that element changes for one unit of the column, (columns,); 0 for categories.
    background
        The model's background in the same terms, (rows, columns); without rows if there is none.
    """

    columns: tuple[CellColumn, ...]
    values: Floats
    encode: Callable[[Floats], npt.NDArray[np.generic]]
    elements: npt.NDArray[np.int64]
    slopes: Floats
    background: Floats


@dataclass(frozen=True, slots=True)
class Pixels:
    """How the 256 levels of a picture's channels become elements of a row: (level - mean) / standard_deviation.

    `mean` and `standard_deviation` are (channels,); `resize` is the length of a picture's short side, in pixels,
    that the model's preprocessing cuts the row out of without resampling.
    """

    mean: Floats
    standard_deviation: Floats
    resize: int


@dataclass(frozen=True, slots=True)
class CounterfactualQuestion:
    """Asks which small change of one row makes the model say something else.

    Attributes
    ----------
    inputs
        The row, (*features) each. Read-only.
    number
        The row's number in the request.
    target
        The score that bounds are of; its output is the one that outcomes are of.
    goal
        What is wanted.
    features
        What each input is.
    labels
        A label for each element of the output, or none.
    cells, pixels
        By input: of tables, and of pictures.
    boxes
        By input of tensors: the smallest and the largest value of its elements, broadcastable to (*features), where
        the model states them.
    background
        Rows of the model's background, (rows, *features) each; empty if there are none.
    disclosable
        Whether rows of the background may be shown to callers.
    gradients
        Why there are no gradients; empty if there are.
    seed
        Seed of everything random.
    time_share
        Share of the time until the deadline that may be taken, in (0, 1]: the rest is for other rows.
    """

    inputs: Arrays
    target: Target
    goal: Goal
    features: Mapping[str, Feature]
    number: int = 0
    labels: tuple[str, ...] = ()
    cells: Mapping[str, Cells] = field(default_factory=dict)
    pixels: Mapping[str, Pixels] = field(default_factory=dict)
    boxes: Mapping[str, tuple[Floats, Floats]] = field(default_factory=dict)
    background: Arrays = field(default_factory=dict)
    disclosable: bool = False
    gradients: str = ""
    seed: int = 0
    time_share: float = 1.0
