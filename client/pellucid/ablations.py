"""What `ablate` returns: findings of all parts, effects ranked, and a picture of them."""

import base64
import html
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pellucid.accuracy import Accuracy
from pellucid.findings import Findings, NamedArray, Picture, Table
from pellucid.receipts import ModelKey, ParameterValue, Receipt
from pellucid.tensors import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EFFECTS = "effects"
"""The table of what each change does; its column "effect" is the metric without the change less that with it."""

SUMMARY = "summary"
"""The table of mean effects over the rows, where there are several."""

RANKED = (EFFECTS, SUMMARY)
"""Tables that are shown with the largest |effect| first."""


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
    """

    method: str
    findings: Findings
    receipt: Receipt
    progress: float = 1.0
    rows: int = 0

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

        Raises
        ------
        LookupError
            The method answers with other tables.
        """
        table = self.tables.get(EFFECTS)
        if table is None:
            others = ", ".join(map(repr, self.tables)) or "none"
            raise LookupError(f"{self.method} has no table {EFFECTS!r}; its tables are: {others}.")
        return ranked(table)

    def ranked(self, count: int) -> Table:
        """Return the `count` changes with the largest |effect|.

        Raises
        ------
        LookupError
            The method answers with other tables.
        """
        return first_rows(self.effects, count)

    def to_pandas(self) -> Any:
        """Return the effects, ranked, as a DataFrame; for methods without effects their only table. Needs pandas.

        Raises
        ------
        ImportError
            pandas is not installed.
        LookupError
            There are several tables, or none, and no effects.
        """
        if EFFECTS not in self.tables and len(self.tables) == 1:
            return next(iter(self.tables.values())).to_pandas()
        return self.effects.to_pandas()

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
        tables = {name: [*(ranked(each) if name in RANKED else each)] for name, each in self.tables.items()}
        found = self.findings.to_dict() | {"tables": tables, "receipt": self.receipt.to_dict()}
        return {"method": self.method, "progress": self.progress} | found

    def __repr__(self) -> str:
        shown = repr(self.findings).removeprefix("<Findings: ").removesuffix(">")
        partial = f", partial ({self.progress:.0%} done)" if self.partial else ""
        return f"<Ablation by {self.method} of {self.model.name}/{self.model.version}{partial}: {shown}>"

    def _repr_html_(self) -> str:
        """Return the heading, the picture where it can be made, and the findings, effects ranked, for a notebook."""
        tables = {name: ranked(each) if name in RANKED else each for name, each in self.tables.items()}
        head = f"<p>{html.escape(repr(self))}</p>"
        return head + drawn_html(self) + replace(self.findings, tables=tables)._repr_html_()


def drawn_html(drawn: Any) -> str:
    """Return what an object's `plot` draws as an image within a page; empty where it cannot be drawn."""
    try:
        figure = drawn.plot()
    except (ImportError, ValueError):
        return ""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return f'<img src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}" alt="plot">'


def ranked(table: Table) -> Table:
    """Return a table by |effect|, the largest first and what has none last; as it is where it has no such column."""
    column = table.columns.get("effect")
    if column is None or column.values.dtype.kind not in "biuf":
        return table
    size = np.abs(np.ma.filled(np.ma.asarray(column.values).astype(np.float64), np.nan))
    # A stable sort, in which NaN comes last.
    return _taken(table, np.argsort(-size, kind="stable"))


def first_rows(table: Table, count: int) -> Table:
    """Return the first rows of a table."""
    return _taken(table, np.arange(min(max(count, 0), len(table))))


def _taken(table: Table, rows: Array) -> Table:
    columns = {name: replace(each, values=_rows(each.values, rows)) for name, each in table.columns.items()}
    return replace(table, columns=columns)


def _rows(values: Array, rows: Array) -> Array:
    taken: Array = values[rows]
    if not isinstance(taken, np.ma.MaskedArray):
        taken.flags.writeable = False
    return taken
