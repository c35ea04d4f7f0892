"""What calls return: small frozen objects of arrays, labels and receipts, which notebooks show as pictures."""

import html
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pellucid.accuracy import Accuracy
from pellucid.errors import PellucidError
from pellucid.receipts import Receipt, plain
from pellucid.tensors import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class of one row: the output's `value`, and its `probability` where the output has one."""

    index: int
    label: str
    value: float
    probability: float | None

    @property
    def name(self) -> str:
        """The label, or the index of a class without one."""
        return self.label or f"class {self.index}"


TopClasses = tuple[ClassScore, ...]
"""The highest classes of one row, highest first."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Where a call's time went on the server, in seconds."""

    queue_seconds: float
    compute_seconds: float
    total_seconds: float


@dataclass(frozen=True, slots=True)
class Box:
    """The rectangle of the caller's picture that a map covers, in the picture's pixels."""

    left: float
    top: float
    right: float
    bottom: float
    picture_width: int
    picture_height: int


@dataclass(frozen=True, slots=True, eq=False)
class InputAttribution:
    """Attributions of one input of one row.

    Attributes
    ----------
    scores
        In units of the target. Tensors: the row's shape; pictures: (channels, height, width) at model
        resolution, or (height, width) with `sum_channels`; tables: (columns,). Read-only.
    columns
        Names of a table's columns, in the order of `scores`.
    box
        For pictures: the part of the caller's picture that `scores` covers.
    groups
        For methods that score groups: the group of each element, (height, width) or as `scores`.
    """

    scores: Array
    columns: tuple[str, ...] = ()
    box: Box | None = None
    groups: Array | None = None

    @property
    def by_column(self) -> dict[str, float]:
        """The score of each of a table's columns; empty for other inputs."""
        return dict(zip(self.columns, self.scores.tolist(), strict=True)) if self.columns else {}


@dataclass(frozen=True, slots=True, eq=False)
class Attribution:
    """What one row's score was based on. A notebook shows its picture; `plot` makes it.

    Attributes
    ----------
    method
        The method's name.
    inputs
        Attributions by input name.
    output, output_index, label
        What was explained: the output, the element's index on each axis of a row, its label or "".
    instance_output_value, baseline_output_value
        The target's score at the row and at the baseline; the latter None if the method uses none.
    approximation_error
        |signed gap| as a share of |the score's change|; None if the method promises no completeness.
    accuracy
        How good the explanation is.
    group_scores, group_standard_errors
        For methods that score groups: (groups,).
    top
        The highest classes of the row, if the call asked for nothing but the attribution.
    receipt
        What the explanation is a function of.
    timing
        Where the call's time went.
    sources
        What was sent for the row, by input name: a picture as it was given, or a table's row.
    """

    method: str
    inputs: Mapping[str, InputAttribution]
    output: str
    output_index: tuple[int, ...]
    label: str
    instance_output_value: float
    baseline_output_value: float | None
    approximation_error: float | None
    accuracy: Accuracy
    group_scores: Array | None
    group_standard_errors: Array | None
    top: TopClasses
    receipt: Receipt
    timing: Timing
    sources: Mapping[str, Any] = field(default_factory=dict, metadata={"plain": False})

    @property
    def scores(self) -> dict[str, Array]:
        """The scores of each input, by its name; see `InputAttribution.scores`."""
        return {name: each.scores for name, each in self.inputs.items()}

    @property
    def by_column(self) -> dict[str, float]:
        """The score of each column of the tables; "input.column" where there are several tables."""
        tables = {name: each.by_column for name, each in self.inputs.items() if each.columns}
        prefix = len(tables) > 1
        return {
            f"{name}.{column}" if prefix else column: score
            for name, table in tables.items()
            for column, score in table.items()
        }

    @property
    def target_name(self) -> str:
        """What was explained, for people: the label or the index, and what it was contrasted with."""
        contrast = self.receipt.target.contrast if self.receipt.target is not None else None
        versus = f" rather than {contrast.label or _index_name(contrast.index)}" if contrast is not None else ""
        return (self.label or _index_name(self.output_index)) + versus

    @property
    def probability(self) -> float | None:
        """The explained class's probability, where it is among `top`."""
        return next((each.probability for each in self.top if (each.index,) == (self.output_index or (0,))), None)

    def plot(self, *, picture: Any = None, smooth: float = 0.0) -> "Figure":
        """Draw the attributions: over the picture, or as bars of columns. Needs `pellucid[plot]`.

        Parameters
        ----------
        picture
            For one picture input: a file, an encoded picture, a PIL image or pixels to draw over in
            place of what was sent.
        smooth
            Standard deviation, in pixels of the map, of a Gaussian blur for the eye; 0 for none.

        Raises
        ------
        ImportError
            matplotlib or Pillow is not installed.
        ValueError
            There is nothing to draw: no picture, no table, no array of one to three axes.
        OSError
            The picture's file is gone.
        """
        from pellucid.plots import attribution_figure  # noqa: PLC0415 - matplotlib and Pillow are extras

        return attribution_figure(self, picture=picture, smooth=smooth)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, texts and numbers; arrays as nested lists."""
        found: dict[str, Any] = plain(self)
        return found

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {list(each.scores.shape)}" for name, each in self.inputs.items())
        gap = "" if self.approximation_error is None else f", gap {self.approximation_error:.2%}"
        gap += ", partial" if self.accuracy.partial else ""
        gap += _warned(self.accuracy.warnings)
        score = f"{self.output}[{self.target_name}] = {self.instance_output_value:.4g}"
        return f"<Attribution by {self.method} of {score}{gap}: {shapes}>"

    def _repr_png_(self) -> bytes | None:
        """Return the picture for a notebook; None, and so the text, where pictures cannot be made."""
        try:
            figure = self.plot()
        except (ImportError, ValueError, OSError):
            return None
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()


@dataclass(frozen=True, slots=True, eq=False)
class ExplanationOutcome:
    """How an explanation beside a prediction went: an attribution for each row, or an error."""

    method: str
    attributions: tuple[Attribution, ...]
    error: PellucidError | None = None

    @property
    def attribution(self) -> Attribution:
        """The first row's attribution.

        Raises
        ------
        PellucidError
            The explanation could not be made.
        """
        if self.error is not None:
            raise self.error
        return self.attributions[0]

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, texts and numbers."""
        if self.error is None:
            return {"method": self.method, "attributions": [each.to_dict() for each in self.attributions]}
        error = self.error
        return {"method": self.method, "error": {"reason": error.reason, "message": error.message}}


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What the model says of each row.

    Attributes
    ----------
    outputs
        Values by output name, (rows, *shape), as the model gives them. Read-only.
    tops
        The highest classes of each row, by the name of each output of classes.
    receipt, timing
        What the prediction is a function of, and where the call's time went.
    explanations
        One for each explanation asked for, in order.
    warnings
        What a reader should know, in sentences: values that are NaN or infinite.
    """

    outputs: Mapping[str, Array]
    tops: Mapping[str, tuple[TopClasses, ...]]
    receipt: Receipt
    timing: Timing
    explanations: tuple[ExplanationOutcome, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def top(self) -> tuple[TopClasses, ...]:
        """The highest classes of each row, of the first output of classes; empty if there is none."""
        return next(iter(self.tops.values()), ())

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, texts and numbers; arrays as nested lists."""
        return {
            "outputs": plain(self.outputs),
            "tops": plain(self.tops),
            "receipt": self.receipt.to_dict(),
            "timing": plain(self.timing),
            "explanations": [each.to_dict() for each in self.explanations],
            "warnings": list(self.warnings),
        }

    def __repr__(self) -> str:
        model = f"{self.receipt.model.name}/{self.receipt.model.version}"
        if self.top:
            firsts = ", ".join(_shown(row[0]) for row in self.top[:3] if row)
            return f"<Prediction by {model}: {firsts}{', …' if len(self.top) > 3 else ''}{_warned(self.warnings)}>"
        shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in self.outputs.items())
        return f"<Prediction by {model}: {shapes}{_warned(self.warnings)}>"

    def _repr_html_(self) -> str | None:
        """Return a table of the highest classes for a notebook; None, and so the text, without classes."""
        if not self.top:
            return None
        rows = "".join(
            f"<tr><td>{number}</td><td>{html.escape(each.name)}</td><td>{each.value:.4g}</td>"
            f"<td>{_percent(each.probability)}</td></tr>"
            for number, row in enumerate(self.top)
            for each in row
        )
        return f"<table><tr><th>row</th><th>class</th><th>value</th><th>probability</th></tr>{rows}</table>"


def _warned(warnings: tuple[str, ...]) -> str:
    """Count warnings for a result's short form, so that they are not overlooked."""
    return f", {len(warnings)} warning{'s' if len(warnings) > 1 else ''}" if warnings else ""


def _index_name(index: tuple[int, ...]) -> str:
    if not index:
        return "the value"
    return f"class {index[0]}" if len(index) == 1 else str(list(index))


def _shown(each: ClassScore) -> str:
    return each.name if each.probability is None else f"{each.name} {each.probability:.1%}"


def _percent(probability: float | None) -> str:
    return "" if probability is None else f"{probability:.2%}"
