"""What `ablate` returns: findings of all parts, effects ranked, and a picture of them."""

import base64
import html
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pellucid.accuracy import Accuracy
from pellucid.catalogue import Model
from pellucid.findings import Findings, NamedArray, Picture, Table
from pellucid.ranking import first_rows, is_study, ranked, worst_first
from pellucid.receipts import ModelKey, Outcome, ParameterValue, Receipt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EFFECTS = "effects"
"""The table of what each change does; its column "effect" is the metric without the change less that with it."""

SUMMARY = "summary"
"""The table of mean effects over the rows, where there are several."""

JOINT = "joint"
"""The table of all changes at once, row by row."""

OUTCOMES = "outcomes"
"""The table of the highest outcomes of each row without and with all changes."""

_RANKED = (EFFECTS, SUMMARY)
"""Tables that are shown with the largest |effect| first."""

_MAIN = (EFFECTS, JOINT, "curve")
"""The tables that answer the question, the first that there is."""

_RUNNING = "running"
"""The table of a study's estimates on the way, of which the last are in the study itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Ablation:
    """What changes if a part of the model, or of the input, is changed. A notebook shows its picture and its tables.

    Attributes
    ----------
    method
        The method's name.
    findings
        Tables, arrays and pictures of all parts. Their names are the method's.
    receipt
        What the answer is a function of.
    progress
        Share of the work that was done, in [0, 1].
    rows
        How many rows were sent.
    described
        The model as the client knew it when it asked: plots name classes and scale columns by it.
    """

    method: str
    findings: Findings
    receipt: Receipt
    progress: float = 1.0
    rows: int = 0
    described: Model | None = None

    @property
    def tables(self) -> Mapping[str, Table]:
        """The tables by name."""
        return self.findings.tables

    @property
    def arrays(self) -> Mapping[str, NamedArray]:
        """The arrays by name."""
        return self.findings.arrays

    @property
    def pictures(self) -> Mapping[str, Picture]:
        """The pictures by name."""
        return self.findings.pictures

    @property
    def accuracy(self) -> Accuracy | None:
        """How good the answer is; None if the method does not say."""
        return self.findings.accuracy

    @property
    def partial(self) -> bool:
        """Whether the deadline cut the work short."""
        return self.accuracy is not None and self.accuracy.partial

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know, in sentences."""
        return self.findings.warnings

    @property
    def resolved(self) -> Mapping[str, ParameterValue]:
        """Parameters that the method settled itself."""
        return self.findings.resolved

    @property
    def model(self) -> ModelKey:
        """The model version that the answer holds for."""
        return self.receipt.model

    @property
    def effects(self) -> Table:
        """What each change does, the largest |effect| first; equal ones as the server ordered them.

        Of a study of a data set: what each change does to each group, the largest |difference| first.

        Raises
        ------
        LookupError
            The method answers with other tables.
        """
        found = self.tables.get(EFFECTS, self.study)
        if found is None:
            others = ", ".join(map(repr, self.tables)) or "none"
            raise LookupError(f"{self.method} has no table {EFFECTS!r}; its tables are: {others}.")
        return ranked(found)

    @property
    def study(self) -> Table | None:
        """The table of a study of a data set: a line for each change and group; None of other answers."""
        return next((each for each in self.tables.values() if is_study(each)), None)

    def ranked(self, count: int) -> Table:
        """Return the first `count` lines of `effects`.

        Raises
        ------
        LookupError
            The method answers with other tables.
        """
        return first_rows(self.effects, count)

    def worst(self, count: int = 10, *, by: str | None = None) -> Table:
        """Return the groups of a data set that lose most by a change: accuracy that falls, or an error that rises.

        Parameters
        ----------
        count
            How many at most.
        by
            Only groups by this: "all" for all rows together, "class", or a column of groups, such as "clinic".

        Raises
        ------
        LookupError
            The answer is no study, or its data set has no such groups.
        """
        study = self.study
        if study is None:
            raise LookupError(f"{self.method} is no study of a data set; ask ablation-study.")
        return first_rows(worst_first(study, by), count)

    def to_pandas(self) -> Any:
        """Return the table that answers the question as a DataFrame: ranked effects, else the curve or another.

        Needs pandas.

        Raises
        ------
        ImportError
            pandas is not installed.
        LookupError
            There are several tables of which none is the answer, or none at all.
        """
        name = next((name for name in _MAIN if name in self.tables), None)
        if name == EFFECTS or self.study is not None:
            return self.effects.to_pandas()
        if name is None and len(self.tables) == 1:
            (name,) = self.tables
        return (self.effects if name is None else self.tables[name]).to_pandas()

    @property
    def shown_tables(self) -> dict[str, Table]:
        """The tables as they are shown: ranked, the main one first, without estimates that the study replaces."""
        left_out = {_RUNNING} if self.study is not None else set()
        names = [*(name for name in (JOINT, OUTCOMES) if name in self.tables), *self.tables]
        return {name: _in_order(name, self.tables[name]) for name in dict.fromkeys(names) if name not in left_out}

    def plot(self) -> "Figure":
        """Draw curves, a heat map of layers and positions, or the largest effects as bars. Needs `pellucid[plot]`.

        Raises
        ------
        ImportError
            matplotlib is not installed.
        ValueError
            There is nothing of these to draw.
        """
        from pellucid.plots_ablation import ablation_figure  # noqa: PLC0415 - matplotlib is an extra

        return ablation_figure(self)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, texts and numbers; arrays as nested lists, without the pictures' bytes."""
        tables = {name: [*(ranked(each) if name in _RANKED else each)] for name, each in self.tables.items()}
        found = self.findings.to_dict() | {"tables": tables, "receipt": self.receipt.to_dict()}
        return {"method": self.method, "progress": self.progress} | found

    def __repr__(self) -> str:
        shown = repr(self.findings).removeprefix("<Findings: ").removesuffix(">")
        partial = f", partial ({self.progress:.0%} done)" if self.partial else ""
        return f"<Ablation by {self.method} of {self.model.name}/{self.model.version}{partial}: {shown}>"

    def _repr_html_(self) -> str:
        """Return the heading, the picture where it can be made, and the findings, effects ranked, for a notebook."""
        tables = self.shown_tables
        head = f"<p>{html.escape(repr(self))}</p>"
        return head + drawn_html(self) + replace(self.findings, tables=tables)._repr_html_()


def outcome_name(ablation: Ablation, outcome: Outcome, output: str) -> str:
    """Return an element's label, by what the client knows of the model, or its index; empty for neither."""
    if outcome.label:
        return outcome.label
    outputs = () if ablation.described is None else ablation.described.outputs
    found = next((each for each in outputs if each.name == output), None)
    labels = () if found is None else found.labels
    if found is not None and not labels and math.prod(found.shape) == 1:
        # An output of one number has no elements to tell apart.
        return ""
    if len(outcome.index) == 1 and outcome.index[0] < len(labels):
        return labels[outcome.index[0]]
    return ", ".join(map(str, outcome.index))


def drawn_html(drawn: Any) -> str:
    """Return what an object's `plot` draws as an image within a page; empty where it cannot be drawn."""
    try:
        figure = drawn.plot()
    except (ImportError, ValueError):
        return ""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return f'<img src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}" alt="plot">'


def _in_order(name: str, table: Table) -> Table:
    return ranked(table) if name in _RANKED or is_study(table) else table
