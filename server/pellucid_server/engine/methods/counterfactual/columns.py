"""Rows of a table in the caller's own terms: which values a column may get, how far one is from another, what is shown.

A candidate is an array of numbers, (columns,): values in the columns' units, and the indices of categories. Every
candidate is encoded by the model's own preprocessor, so that what is evaluated is what the caller would send.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.counterfactuals import CellColumn, Cells, CounterfactualQuestion
from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.methods.counterfactual.projection import distances, ranks

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_MOST_DIGITS = 15
_NEAR = 1e-9
"""Share of a step that a value may be off a whole number of steps and still count as one."""


@dataclass(frozen=True, slots=True)
class Space:
    """The columns of all tables of a model, one after the other.

    Attributes
    ----------
    inputs
        The row of every input of the model, (*features) each.
    cells
        By input, the tables.
    columns, names
        All columns, and what they are called: with their input's name if there are several tables.
    start
        The row, (columns,).
    low, high
        What a changed number lies between, (columns,).
    scale
        The unit of distance of each column, (columns,): 1 for categories.
    scaled_by
        How each unit was found: "median absolute deviation", "standard deviation", "range", "value" or "category".
    digits
        Decimal places of changed numbers, (columns,), negative ones for tens and hundreds.
    coded, free, whole
        Which columns are categories, which may change, and which take whole numbers, (columns,).
    """

    inputs: Arrays
    cells: dict[str, Cells]
    columns: tuple[CellColumn, ...]
    names: tuple[str, ...]
    start: Floats
    low: Floats
    high: Floats
    scale: Floats
    scaled_by: tuple[str, ...]
    digits: npt.NDArray[np.int64]
    coded: Flags
    free: Flags
    whole: Flags

    def recipe(self, candidates: Floats) -> Rows:
        """Encode candidates, (rows, columns), as the model takes them."""
        count, at = len(candidates), 0
        arrays = {
            name: np.repeat(row[None], count, axis=0) for name, row in self.inputs.items() if name not in self.cells
        }
        for name, cells in self.cells.items():
            arrays[name] = cells.encode(candidates[:, at : at + len(cells.columns)])
            at += len(cells.columns)
        return Rows({name: arrays[name] for name in self.inputs})

    def changes(self, candidates: Floats) -> Floats:
        """Return the changes from the row in units of distance, (rows, columns): 1 for another category."""
        moved = candidates - self.start
        return np.where(self.coded, (moved != 0).astype(np.float64), moved / self.scale)

    def distances(self, candidates: Floats, kind: str) -> Floats:
        """Return each candidate's distance from the row, (rows,)."""
        return distances(self.changes(candidates), kind)

    def ranks(self, candidates: Floats, kind: str) -> Floats:
        """Return what puts candidates in order, (rows,)."""
        return ranks(self.changes(candidates), kind)

    def snapped(self, candidates: Floats, how: str = "nearest", more: int = 0) -> Floats:
        """Round changed numbers to what can be read and is allowed; columns that are not free go back.

        Parameters
        ----------
        how
            "nearest", "away" from the row's own value, or "back" towards it.
        more
            Decimal places beyond those of the column.
        """
        found = np.where(self.free, candidates, self.start)
        numeric = ~self.coded
        moved = (found != self.start) & numeric
        rounded = self._rounded(found, how, np.where(self.whole, np.minimum(self.digits, 0), self.digits + more))
        rounded = np.clip(rounded, self.low, self.high)
        # Rounding must not take a value past the row's own to its other side.
        crossed = (rounded - self.start) * (found - self.start) < 0
        return np.where(moved & ~crossed, rounded, np.where(numeric, self.start, found))

    def _rounded(self, values: Floats, how: str, digits: npt.NDArray[np.int64]) -> Floats:
        tens = np.power(10.0, np.abs(digits))
        with np.errstate(over="ignore", invalid="ignore"):
            steps = np.where(digits >= 0, values * tens, values / tens)
            whole = np.rint(steps)
            if how != "nearest":
                up = (values > self.start) == (how == "away")
                near = np.abs(steps - whole) < _NEAR * np.maximum(1.0, np.abs(steps))
                whole = np.where(near, whole, np.where(up, np.ceil(steps), np.floor(steps)))
            found = np.where(digits >= 0, whole / tens, whole * tens)
        return np.where(np.isfinite(found), found, values)

    def written(self, values: Floats, more: int) -> Floats:
        """Round all numbers of rows to the decimal places of their column and `more` beyond them."""
        return self._rounded(values, "nearest", np.minimum(self.digits + more, _MOST_DIGITS))

    def step(self, more: int = 0) -> Floats:
        """Return the distance of two neighbouring values of each numeric column, in its unit, (columns,)."""
        digits = np.where(self.whole, np.minimum(self.digits, 0), self.digits + more)
        return np.asarray(np.power(10.0, -digits.astype(np.float64)))

    def reachable(self) -> tuple[Floats, Floats]:
        """Return the bounds of each column's change, (columns,) each: `low` at most 0, `high` at least 0."""
        movable = self.free & ~self.coded
        low = np.where(movable, np.minimum(self.low - self.start, 0.0), 0.0)
        high = np.where(movable, np.maximum(self.high - self.start, 0.0), 0.0)
        return low, high

    def gradient(self, gradients: Arrays) -> Floats:
        """Return the gradient with respect to each column's change in units of distance, (columns,)."""
        found, at = np.zeros(len(self.start)), 0
        for name, cells in self.cells.items():
            elements = gradients[name].reshape(-1)[np.maximum(cells.elements, 0)].astype(np.float64)
            found[at : at + len(cells.columns)] = np.where(cells.elements < 0, 0.0, elements * cells.slopes)
            at += len(cells.columns)
        return np.where(np.isfinite(found), found, 0.0) * self.scale

    def obeys(self, rows: Floats) -> Flags:
        """Tell which rows, (rows, columns), obey the rules, (rows,)."""
        same = rows == self.start
        inside = (rows >= self.low) & (rows <= self.high) & (~self.whole | (rows == np.rint(rows)))
        allowed = np.stack([self._allowed(rows[:, at], at) for at in range(len(self.columns))], axis=1)
        return np.asarray((same | (self.free & np.where(self.coded, allowed, inside))).all(axis=1))

    def _allowed(self, values: Floats, at: int) -> Flags:
        return np.isin(values, np.array(self.columns[at].allowed, np.float64))

    def listed(self, most: int) -> Floats | None:
        """Return every row that the rules allow, (rows, columns), but the row itself; None if there are more.

        It is None, too, where a number may change that is not whole, or that is rounded to tens.
        """
        if (self.free & ~self.coded & ~(self.whole & (self.digits >= 0))).any():
            return None
        values, count = [], 1
        for at, column in enumerate(self.columns):
            own = {float(self.start[at])}
            if self.free[at] and self.coded[at]:
                own |= {float(each) for each in column.allowed}
            elif self.free[at]:
                if not self.high[at] - self.low[at] < most:
                    return None
                own |= set(np.arange(self.low[at], self.high[at] + 1).tolist())
            values.append(sorted(own))
            count *= len(own)
            if count > most:
                return None
        rows = np.array(list(itertools.product(*values)), np.float64)
        return np.asarray(rows[(rows != self.start).any(axis=1)])

    def text(self, value: float, at: int) -> str:
        """Write a column's value as callers do: a category's name, or a number."""
        column = self.columns[at]
        if column.categories:
            return column.categories[int(value)]
        return f"{value:.0f}" if value == np.rint(value) and abs(value) < 1e15 else repr(float(value))


def space_of(question: CounterfactualQuestion, digits: int) -> Space:
    """Put the tables of a question together; changed numbers get `digits` significant digits of a column's scale."""
    cells = dict(question.cells)
    columns = tuple(column for each in cells.values() for column in each.columns)
    start = np.concatenate([each.values for each in cells.values()])
    scales: list[tuple[float, str]] = []
    for each in cells.values():
        scales += [_scale(column, each, at) for at, column in enumerate(each.columns)]
    scale = np.array([size for size, _ in scales])
    coded = np.array([bool(column.categories) for column in columns])
    whole = np.array([column.whole for column in columns])
    low = np.array([math.ceil(c.minimum) if c.whole and math.isfinite(c.minimum) else c.minimum for c in columns])
    high = np.array([math.floor(c.maximum) if c.whole and math.isfinite(c.maximum) else c.maximum for c in columns])
    choices = np.array([not c.categories or bool(set(c.allowed) - {v}) for c, v in zip(columns, start, strict=True)])
    free = ~np.array([column.fixed for column in columns]) & choices & (coded | (low <= high))
    places = np.clip(digits - 1 - np.floor(np.log10(scale)), -_MOST_DIGITS, _MOST_DIGITS).astype(np.int64)
    return Space(
        inputs=question.inputs,
        cells=cells,
        columns=columns,
        names=_names(cells),
        start=start,
        low=low.astype(np.float64),
        high=high.astype(np.float64),
        scale=scale,
        scaled_by=tuple(how for _, how in scales),
        digits=np.where(whole, np.minimum(places, 0), places),
        coded=coded,
        free=free,
        whole=whole,
    )


def _names(cells: dict[str, Cells]) -> tuple[str, ...]:
    if len(cells) == 1:
        return tuple(column.name for each in cells.values() for column in each.columns)
    return tuple(f"{name}.{column.name}" for name, each in cells.items() for column in each.columns)


def _scale(column: CellColumn, cells: Cells, at: int) -> tuple[float, str]:
    """Return the unit of distance of a column and how it was found: the first of some that is above 0."""
    if column.categories:
        return 1.0, "category"
    values = cells.background[:, at]
    found: list[tuple[float, str]] = []
    if len(values):
        deviation = float(np.median(np.abs(values - np.median(values))))
        spread = float(values.std())
        # What is left of a constant column once it was standardized in 32 bits is no spread.
        least = 1e-6 * float(np.abs(values).max())
        found += [
            (deviation if deviation > least else 0.0, "median absolute deviation"),
            (spread if spread > least else 0.0, "standard deviation"),
        ]
    elif cells.slopes[at] not in (0.0, 1.0):
        found.append((abs(1 / float(cells.slopes[at])), "standard deviation"))
    found += [(column.maximum - column.minimum, "range"), (abs(float(cells.values[at])), "value"), (1.0, "value")]
    return next((size, how) for size, how in found if 0 < size < math.inf)
