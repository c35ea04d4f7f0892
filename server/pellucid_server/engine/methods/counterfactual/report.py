"""Counterfactuals as tables, arrays and pictures."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.counterfactuals import CounterfactualQuestion
from pellucid_server.engine.methods.counterfactual.columns import Space
from pellucid_server.engine.methods.counterfactual.fields import Field
from pellucid_server.engine.methods.shared.pngs import row_picture
from pellucid_server.vocabulary.findings import Axis, Column, NamedArray, Picture, Table

Floats = npt.NDArray[np.float64]

REASONS = ("impossible", "ended", "budget", "deadline")
"""Why nothing was found: the rules allow no answer; the search ended by itself; rows or time were used up."""


@dataclass(frozen=True, slots=True)
class Line:
    """One counterfactual of the table "counterfactuals".

    Attributes
    ----------
    source
        "search", "row" if the row itself is one, or "background" for the background's nearest row.
    found
        Whether it is an answer; else it is the candidate that came closest.
    distance
        From the row, in the distance that was asked for; None where there is no candidate.
    changed
        How many columns or elements differ from the row's; None where there is no candidate.
    score
        The target's score; NaN where there is no candidate.
    prediction
        The element that is the highest, by label or index; empty for an output of one number.
    minimal
        Whether it is known that no single change can be taken back; None where that was not looked at.
    margin
        By how much it is beyond what is wanted, below 0 where it is not; -inf where that is unknown.
    reason
        Why nothing was found, one of `REASONS`; empty for an answer.
    """

    source: str
    found: bool
    distance: float | None
    changed: int | None
    score: float
    prediction: str
    minimal: bool | None
    margin: float = float("-inf")
    reason: str = ""


def nothing(reason: str) -> Line:
    """Return the line of a row that has not even a candidate."""
    return Line("", False, None, None, float("nan"), "", None, reason=reason)


def named(output: Floats, labels: tuple[str, ...]) -> str:
    """Name the highest element of a prediction, (elements,); empty for one number, or where none is the highest."""
    if len(output) < 2 or np.isnan(output).any():
        return ""
    highest = int(output.argmax())
    return labels[highest] if labels else str(highest)


def summary(number: int, lines: list[Line], before: tuple[float, str], measure: str) -> Table:
    """Write counterfactuals as a table; `before` is the row's own score and prediction, `measure` the distance's."""
    count = len(lines)
    scores = [_finite(line.score) for line in lines]
    unknown = np.array([line.minimal is None for line in lines], bool)
    own = _finite(before[0])
    return Table(
        {
            "row": Column(np.full(count, number), text="The row of the request."),
            "number": Column(np.arange(count), text="The counterfactual of the row, the nearest first."),
            "source": Column(tuple(line.source for line in lines), text="Where it is from."),
            "found": Column(np.array([line.found for line in lines], bool), text="Whether it is an answer."),
            "valid": Column(
                np.array([line.found for line in lines], bool),
                text="Whether the model says what was wanted of exactly these values.",
            ),
            "distance": _numbers([line.distance for line in lines], measure),
            "changed": Column(
                np.array([line.changed or 0 for line in lines], np.int64),
                missing=np.array([line.changed is None for line in lines], bool),
                text="How many differ.",
            ),
            "score_before": _numbers([own] * count, "The target's score of the row."),
            "score_after": _numbers(scores, "The target's score of the counterfactual."),
            "prediction_before": Column((before[1],) * count, text="The row's highest element."),
            "prediction_after": Column(tuple(line.prediction for line in lines), text="Its highest element."),
            "minimal": Column(
                np.array([bool(line.minimal) for line in lines], bool),
                missing=unknown,
                text="Whether no single change can be taken back; missing where that was not looked at.",
            ),
            "margin": _numbers(
                [_finite(line.margin) for line in lines],
                "By how much the model's answer is beyond what was wanted, below 0 where it is not: in the target's "
                "score for bounds, else the output's element against the highest other.",
            ),
            "reason": Column(
                tuple(line.reason for line in lines),
                text="Why nothing was found: impossible by the rules, the search ended, budget or deadline.",
            ),
        },
        text="Counterfactuals of each row, the nearest first.",
    )


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _numbers(values: list[float | None], text: str) -> Column:
    missing = np.array([value is None for value in values], bool)
    return Column(np.array([value or 0.0 for value in values], np.float64), missing=missing, text=text)


def changes(number: int, space: Space, candidates: list[Floats]) -> Table:
    """Write what differs from the row: a line for each column of each candidate, (columns,)."""
    places = [(which, int(at)) for which, each in enumerate(candidates) for at in _by_size(space, each)]
    at = [place for _, place in places]
    after = [float(candidates[which][place]) for which, place in places]
    before = [float(space.start[place]) for place in at]
    coded = np.array([bool(space.coded[place]) for place in at], bool)
    return Table(
        {
            "row": Column(np.full(len(places), number), text="The row of the request."),
            "number": Column(np.array([which for which, _ in places], np.int64), text="The counterfactual of the row."),
            "column": Column(tuple(space.names[place] for place in at)),
            "before": Column(tuple(space.text(value, place) for value, place in zip(before, at, strict=True))),
            "after": Column(tuple(space.text(value, place) for value, place in zip(after, at, strict=True))),
            "before_value": _cells(before, coded, "The row's number; missing for categories."),
            "after_value": _cells(after, coded, "The counterfactual's number; missing for categories."),
            "unit": Column(tuple(space.columns[place].unit for place in at), text="The unit of the column."),
        },
        text="What counterfactuals change, the largest change first.",
    )


def _by_size(space: Space, values: Floats) -> list[int]:
    sizes = np.abs(space.changes(values[None])[0])
    return [int(at) for at in np.argsort(-sizes, kind="stable") if values[at] != space.start[at]]


def _cells(values: list[float], coded: npt.NDArray[np.bool_], text: str) -> Column:
    return Column(np.where(coded, 0.0, np.array(values, np.float64)), missing=coded, text=text)


def rows(number: int, space: Space, candidates: list[Floats]) -> Table:
    """Write whole rows, as a caller would send them: a column for each of the model's."""
    count = len(candidates)
    keys = {"row": np.full(count, number), "number": np.arange(count)}
    # A model's columns keep their names: beside one that is called "row", the request's row is "row_".
    taken = set(space.names)
    found: dict[str, Column] = {}
    for key, values in keys.items():
        name = key
        while name in taken:
            name += "_"
        found[name] = Column(values)
    for at, name in enumerate(space.names):
        cells, column = [float(each[at]) for each in candidates], space.columns[at]
        if column.categories:
            found[name] = Column(tuple(space.text(value, at) for value in cells))
        else:
            found[name] = Column(np.array(cells, np.float64), unit=column.unit)
    return Table(found, text="Counterfactuals as rows of the model.")


def measure_text(space: Space, kind: str) -> str:
    """Say in which units the distance of a table is."""
    if kind == "l0":
        return "How many columns differ."
    numbers = ~space.coded & space.free
    ways = dict.fromkeys(how for how, numeric in zip(space.scaled_by, numbers, strict=True) if numeric)
    words = {
        "median absolute deviation": "its median absolute deviation over the background",
        "standard deviation": "its standard deviation",
        "range": "its range",
        "value": "its own value",
    }
    listed = ", else in units of ".join(words[way] for way in ways)
    numeric = f"each number in units of {listed}" if listed else ""
    coded = "1 for another category" if space.coded.any() else ""
    parts = ", ".join(part for part in (numeric, coded) if part) or "no column may change"
    return f"The {kind.upper()} distance from the row: {parts}."


def arrays(question: CounterfactualQuestion, field: Field, values: Floats) -> dict[str, NamedArray]:
    """Write the changed inputs, in the model's input space, and what changed, in the caller's terms."""
    found: dict[str, NamedArray] = {}
    row, moved = field.row(values), field.split(values - field.start)
    for name in field.names:
        axes = _axes(row[name].ndim, name in question.pixels)
        whole = f'Input "{name}" of the counterfactual of row {question.number}, as the model takes it.'
        levels = name in question.pixels
        text = f'What the counterfactual of row {question.number} adds to input "{name}".'
        found[f"counterfactual/{question.number}/{name}"] = NamedArray(row[name], axes, text=whole)
        found[f"change/{question.number}/{name}"] = NamedArray(
            moved[name], axes, unit="levels of 0 to 255" if levels else "", text=text
        )
    return found


def _axes(count: int, picture: bool) -> tuple[Axis, ...]:
    names = ("channel", "height", "width") if picture else tuple(f"axis {at}" for at in range(count))
    return tuple(Axis(name) for name in names)


def pictures(question: CounterfactualQuestion, field: Field, values: Floats, said: str) -> dict[str, Picture]:
    """Write the changed pictures as PNG files that the model, sent one, makes exactly this row of."""
    return {
        f"counterfactual/{question.number}/{name}": row_picture(levels, said, question.pixels[name].resize)
        for name, levels in field.split(values).items()
        if name in question.pixels
    }
