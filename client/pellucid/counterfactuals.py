"""What `counterfactual` returns: for each row, inputs that the model answers differently."""

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pellucid.ablations import Ablation, drawn_html, outcome_name
from pellucid.findings import Findings, NamedArray, Picture, Table
from pellucid.receipts import ModelKey, Receipt, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NAMED = 6
"""Changes that a sentence names."""

_REASONS = {
    "impossible": "is impossible: the rules for columns leave nothing to change that would do",
    "ended": "was not found: the search ended without it, and there may be none",
    "budget": "was not found within the evaluations that were allowed",
    "deadline": "was not found before the deadline",
}
"""Why there is no counterfactual, by the server's word for it."""


@dataclass(frozen=True, slots=True)
class Change:
    """A column's value before and after: numbers, or texts of a column with categories; None where there is none."""

    column: str
    before: float | str | None
    after: float | str | None
    unit: str = ""

    def __str__(self) -> str:
        before, after = self.shown
        unit = f" {self.unit}" if self.unit else ""
        return f"{self.column} were {after}{unit} instead of {before}{unit}"

    @property
    def shown(self) -> tuple[str, str]:
        """Before and after for people: with four digits, or as many as it takes to tell them apart."""
        for digits in range(4, 18):
            before, after = _written(self.before, digits), _written(self.after, digits)
            if before != after:
                break
        return before, after


@dataclass(frozen=True, slots=True, eq=False)
class Counterfactual:
    """An input that the model answers differently, or the fact that none was found.

    Attributes
    ----------
    row, number
        Which of the call's rows it belongs to, and which of its counterfactuals it is; from 0.
    found
        Whether it is an answer. Where it is not, what follows describes the closest candidate, if there is one.
    source
        "search", "background" for the nearest row of the model's background, or "row" where the row itself has what
        is wanted.
    valid
        Whether the served model gives the wanted answer to it, as it is returned.
    minimal
        Whether each change is needed: with any one of them reverted, it is no longer valid. None if that was not
        looked at.
    distance
        From the row, in the method's distance.
    changed
        How many columns or elements differ.
    score_before, score_after, prediction_before, prediction_after
        The target's score, and the class or value that the model predicts.
    changes
        The changed columns of a table.
    values
        A table's row in full, ready to be sent again; None where there is no candidate, and for other inputs.
    arrays, pictures
        What the findings have for it, by name.
    reason
        Why it was not found: "impossible" by the rules for columns, "ended" where the search tried all that it does,
        "budget" or "deadline"; empty where the server does not say, and for what was found.
    margin
        By how much the model's answer to it is beyond what is wanted, below 0 where it falls short: in the target's
        score for bounds, else the class's value less the highest other. None where that is not known.
    wanted
        What was wanted, in words, such as "benign" or "a score of at least 5"; empty where that is not known.
    """

    row: int
    number: int
    found: bool
    source: str = ""
    valid: bool = False
    minimal: bool | None = None
    distance: float | None = None
    changed: int | None = None
    score_before: float | None = None
    score_after: float | None = None
    prediction_before: str = ""
    prediction_after: str = ""
    changes: tuple[Change, ...] = ()
    values: Mapping[str, float | str] | None = None
    arrays: Mapping[str, NamedArray] = field(default_factory=dict)
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    reason: str = ""
    margin: float | None = None
    wanted: str = ""

    @property
    def answer(self) -> str:
        """What the model says of it: the class, or the score of an output without classes."""
        return self.prediction_after or ("another answer" if self.score_after is None else f"{self.score_after:.4g}")

    @property
    def sentence(self) -> str:
        """The counterfactual in words: "benign if worst radius were 14.2 instead of 17.9"."""
        if not self.found:
            return f"row {self.row}: {self._not_found}{self._closest}"
        if self.changed == 0:
            return f"{self.answer} as it is"
        if self.changes:
            named = [str(each) for each in self.changes[:_MOST_NAMED]]
            rest = len(self.changes) - len(named)
            parts = [*named, f"{rest} more column{'s' if rest > 1 else ''} changed"] if rest else named
            how = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
        else:
            how = f"{_elements(self.changed)} changed"
        notes = " (a row of the background)" if self.source == "background" else ""
        notes += "" if self.valid else " (not valid on the served model)"
        return f"{self.answer} if {how}{notes}"

    @property
    def _not_found(self) -> str:
        if self.reason in _REASONS:
            return f"{self.wanted or 'another answer'} {_REASONS[self.reason]}"
        return "not found within the budget"

    @property
    def _closest(self) -> str:
        if self.margin is not None and self.margin <= 0:
            return f"; the closest falls short by {-self.margin:.4g}" if self.margin else "; the closest is on its edge"
        # A score without a margin may be that of another class than the one that was wanted.
        return "" if self.score_after is None or self.reason else f"; the closest has the score {self.score_after:.4g}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, texts and numbers; without arrays and pictures."""
        found: dict[str, Any] = plain(self)
        return {key: value for key, value in found.items() if key not in ("arrays", "pictures")}

    def __repr__(self) -> str:
        return f"<Counterfactual {self.number} of row {self.row}: {self.sentence}>"


@dataclass(frozen=True, slots=True, eq=False)
class Counterfactuals:
    """The counterfactuals of all rows, by row, then by number. Iterate over them, or ask `of_row`.

    Attributes
    ----------
    items
        One for each that was asked for, found or not.
    ablation
        The tables, arrays and pictures as the server sent them, accuracy and warnings.
    """

    items: tuple[Counterfactual, ...]
    ablation: Ablation

    @property
    def findings(self) -> Findings:
        """The tables, arrays and pictures as the server sent them."""
        return self.ablation.findings

    @property
    def receipt(self) -> Receipt:
        """What the answer is a function of."""
        return self.ablation.receipt

    @property
    def model(self) -> ModelKey:
        """The model version that the counterfactuals hold for."""
        return self.receipt.model

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know, in sentences."""
        return self.ablation.warnings

    @property
    def partial(self) -> bool:
        """Whether the deadline cut the search short."""
        return self.ablation.partial

    def of_row(self, row: int) -> tuple[Counterfactual, ...]:
        """Return those of one row."""
        return tuple(each for each in self.items if each.row == row)

    def sentences(self) -> list[str]:
        """Return each in words, such as "benign if worst radius were 14.2 instead of 17.9"."""
        return [each.sentence for each in self.items]

    def to_pandas(self) -> Any:
        """Return the changes as a DataFrame, a line for each changed column. Needs pandas.

        Raises
        ------
        ImportError
            pandas is not installed.
        LookupError
            The inputs are no tables.
        """
        table = self.findings.tables.get("changes")
        if table is None:
            raise LookupError("There is no table of changes; the inputs are no table's rows.")
        return table.to_pandas()

    def plot(self) -> "Figure":
        """Draw the changed columns on their ranges, or the pictures before and after. Needs `pellucid[plot]`.

        Where nothing was found, the closest candidates are drawn.

        Raises
        ------
        ImportError
            matplotlib is not installed.
        ValueError
            There are no changed columns or pictures.
        """
        from pellucid.plots_counterfactuals import counterfactual_figure  # noqa: PLC0415 - matplotlib is an extra

        return counterfactual_figure(self)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, texts and numbers, with a sentence for each."""
        found = [each.to_dict() | {"sentence": each.sentence} for each in self.items]
        return {"counterfactuals": found} | self.ablation.to_dict()

    def __getitem__(self, place: int) -> Counterfactual:
        return self.items[place]

    def __iter__(self) -> Iterator[Counterfactual]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        found = sum(each.found for each in self.items)
        partial = ", partial" if self.partial else ""
        return f"<Counterfactuals by {self.model.name}/{self.model.version}: {found} of {len(self)} found{partial}>"

    def _repr_html_(self) -> str:
        """Return the sentences, the picture where it can be made, and the changes for a notebook."""
        lines = "".join(f"<li>{html.escape(each)}</li>" for each in self.sentences())
        table = self.findings.tables.get("changes")
        shown = "" if table is None else table._repr_html_()
        return f"<p>{html.escape(repr(self))}</p><ol>{lines}</ol>{drawn_html(self)}{shown}"


def read_counterfactuals(ablation: Ablation) -> Counterfactuals:
    """Read counterfactuals off an answer's tables; a row that has none there was not found."""
    tables, wanted = ablation.tables, _wanted(ablation)
    changes = _by_place(tables.get("changes"))
    rows = _by_place(tables.get("rows"))
    places = _by_place(tables.get("counterfactuals"))
    known = {row for row, _ in places}
    places |= {(row, 0): [{"found": False}] for row in range(ablation.rows) if row not in known}
    items = [
        Counterfactual(
            row=place[0],
            number=place[1],
            found=bool(each.get("found", True)),
            source=_text(each.get("source")),
            valid=bool(each.get("valid")),
            minimal=each.get("minimal"),
            distance=each.get("distance"),
            changed=each.get("changed"),
            score_before=each.get("score_before"),
            score_after=each.get("score_after"),
            prediction_before=_text(each.get("prediction_before")),
            prediction_after=_text(each.get("prediction_after")),
            changes=tuple(_change(change) for change in changes.get(place, ())),
            values=_values(rows.get(place, ())),
            arrays=_of_place(ablation.arrays, place),
            pictures=_of_place(ablation.pictures, place),
            reason=_text(each.get("reason")),
            margin=each.get("margin"),
            wanted=wanted,
        )
        for place, found in sorted(places.items())
        for each in found
    ]
    return Counterfactuals(tuple(items), ablation)


_Place = tuple[int, int]


def _by_place(table: Table | None) -> dict[_Place, list[dict[str, Any]]]:
    """Return a table's rows by the row and the number that they belong to, its first two columns.

    The columns are known by their places: beside a model's column that is called "row", it is called "row_".
    """
    found: dict[_Place, list[dict[str, Any]]] = {}
    keys = [*table.columns][:2] if table is not None else []
    for each in table or ():
        row, number = (int(each.pop(key) or 0) for key in keys)
        found.setdefault((row, number), []).append(each)
    return found


def _change(each: Mapping[str, Any]) -> Change:
    # As numbers where the column has numbers, else as texts.
    before, after = (
        each.get(name) if each.get(f"{name}_value") is None else each[f"{name}_value"] for name in ("before", "after")
    )
    return Change(str(each.get("column", "")), before, after, each.get("unit") or "")


def _values(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    return dict(rows[0]) if rows else None


def _wanted(ablation: Ablation) -> str:
    """Say what was wanted; empty where the record does not say, or says any other class."""
    record = ablation.findings.record
    if record is None:
        return ""
    if record.wanted is not None:
        target = ablation.receipt.target
        return outcome_name(ablation, record.wanted, "" if target is None else target.output)
    bounds = [("at least", record.minimum), ("at most", record.maximum)]
    said = " and ".join(f"{word} {bound:.4g}" for word, bound in bounds if bound is not None)
    return f"a score of {said}" if said else ""


def _of_place(named: Mapping[str, Any], place: _Place) -> dict[str, Any]:
    """Return what is named after a row, as in "counterfactual/ROW/INPUT"; there is one of each row."""
    row, number = place
    return {name: each for name, each in named.items() if number == 0 and name.split("/")[1:2] == [str(row)]}


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _elements(count: int | None) -> str:
    return "it" if count is None else f"{count:,} element{'s' if count != 1 else ''}"


def _written(value: float | str | None, digits: int) -> str:
    """Write a number with so many digits, or in full where it is a whole one."""
    if value is None or isinstance(value, str):
        return value or ""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.{digits}g}"
