"""The tables of an ablation study: accuracy, or errors of numbers, by change and subset, with intervals."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.studies import Batch, Decision
from pellucid_server.engine.methods.shared.columns import number_column
from pellucid_server.engine.methods.shared.studies.hits import Hits, all_estimates, count_bytes
from pellucid_server.engine.methods.shared.studies.labelled_runs import StudyChange
from pellucid_server.engine.methods.shared.studies.misses import Misses, error_estimates
from pellucid_server.engine.methods.shared.studies.subsets import Subsets
from pellucid_server.errors import InvalidRequestError, TimedOutError
from pellucid_server.vocabulary.findings import Column, Findings, Table

Predicted = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float64]

NONE = "none"
"""What stands in the column of changes for the unchanged model."""

_MOST_COUNT_BYTES = 256 << 20
_SECONDS_OF_AN_INTERVAL = 3e-4
_AT_ONCE = 256
_BELATED_INTERVALS = 300
"""Intervals that are still made after the deadline of the rows: some hundredths of a second."""

_VALUE, _LOW, _HIGH = range(3)


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of a table: the change's name, the subset, its rows, and its numbers, (columns, 3)."""

    change: str
    by: str
    group: str
    rows: int
    numbers: Floats


class AccuracyTables:
    """Counts right predictions.

    `total` is how many rows there will be, if that is known, and `classes` how many classes at least.

    Raises
    ------
    InvalidRequestError
        There are more changes and draws than counts are kept of.
    """

    name = "accuracy"

    def __init__(
        self,
        decision: Decision,
        subsets: Subsets,
        changes: Sequence[StudyChange],
        *,
        total: int | None,
        classes: int,
        seed: int,
        resamples: int,
        level: float,
        most_rows: int,
    ) -> None:
        self._subsets = subsets
        self._changes = changes
        self._seed, self._resamples, self._level, self._most_rows = seed, resamples, level, most_rows
        self._require_room(1 + classes)
        self._hits = [Hits(0), *(Hits(change.draws) for change in changes)]

    def expect(self, batch: Batch) -> None:
        """Refuse a batch before it is evaluated, if its groups are more than counts are kept of.

        Raises
        ------
        PellucidError
            They are too many.
        """
        for _ in self._subsets.of(batch):
            pass
        self._require_room(len(self._subsets))

    def add(self, batch: Batch, before: Predicted, after: Sequence[Sequence[Predicted]]) -> None:
        """Add the predictions of a batch: without changes, and with each change in each of its draws."""
        subsets = list(self._subsets.of(batch))
        right = before == batch.labels
        self._hits[0].add(subsets, right, np.zeros(batch.count, np.int64))
        for hits, draws in zip(self._hits[1:], after, strict=True):
            hits.add(subsets, right, sum((each == batch.labels).astype(np.int64) for each in draws))

    def _require_room(self, subsets: int) -> None:
        draws = [0, *(change.draws for change in self._changes)]
        if sum(count_bytes(each, subsets) for each in draws) > _MOST_COUNT_BYTES:
            text = (
                f"{len(self._changes)} changes of {sum(draws)} draws in all, with {subsets} classes and groups, are "
                "more than a study keeps count of; name fewer sites, or ask for fewer draws."
            )
            raise InvalidRequestError(text, field="interventions")

    def running(self, rows: int) -> Findings:
        """Return the accuracy so far, over all rows."""
        lines = [
            (name, self._share(hits), self._share(hits) - self._share(self._hits[0]))
            for name, hits in zip((NONE, *(change.name for change in self._changes)), self._hits, strict=True)
        ]
        return _running(rows, {"change": [line[0] for line in lines]}, "accuracy", lines)

    def final_seconds(self) -> float:
        """Return about how long the intervals take."""
        draws = np.mean([hits.draws + 1 for hits in self._hits])
        pairs = len(self._subsets) * len(self._hits)
        return float(pairs * _SECONDS_OF_AN_INTERVAL * (0.2 + draws / 4) * self._resamples / 1000)

    def final(self, model: Handle) -> Iterator[Findings]:
        """Give the table `accuracy`."""
        lines = []
        listed = self._subsets.listed()
        for place, hits in enumerate(self._hits):
            name = NONE if place == 0 else self._changes[place - 1].name
            for start in range(0, len(listed), _AT_ONCE):
                some = listed[start : start + _AT_ONCE]
                counts = np.stack([hits.of(number) for number, _, _ in some])
                # Without changes, the counts after say nothing: the accuracy is that before.
                found = self._estimates(model, counts, tuple(f"{by}/{group}" for _, by, group in some), len(listed))
                for (_, by, group), each, count in zip(some, found, counts, strict=True):
                    numbers = np.stack([each[0], np.full(3, np.nan)]) if place == 0 else each[1:]
                    lines.append(_Line(name, by, group, int(count.sum()), numbers))
        measures = (("accuracy", "", "Share of right predictions."),)
        yield from _tables("accuracy", lines, self._most_rows, measures, self._level)

    def _estimates(self, model: Handle, counts: npt.NDArray[np.int64], names: tuple[str, ...], total: int) -> Floats:
        arguments = (counts, names, self._seed)

        def without() -> Floats:
            few = total * len(self._hits) <= _BELATED_INTERVALS
            return all_estimates(*arguments, self._resamples if few else 0, self._level)

        return _computed(model, all_estimates, (*arguments, self._resamples, self._level), without)

    def _share(self, hits: Hits) -> float:
        counts = hits.of(0)
        if hits.draws == 0:
            return float(counts[1].sum() / counts.sum())
        return float(counts.sum(axis=0) @ np.arange(hits.draws + 1) / hits.draws / counts.sum())


class ErrorTables:
    """Keeps the errors of predicted numbers.

    `total` is how many rows there will be, if that is known; `classes` says nothing here.

    Raises
    ------
    InvalidRequestError
        There are more rows and changes than errors are kept of.
    """

    name = "errors"

    def __init__(
        self,
        decision: Decision,
        subsets: Subsets,
        changes: Sequence[StudyChange],
        *,
        total: int | None,
        classes: int,
        seed: int,
        resamples: int,
        level: float,
        most_rows: int,
    ) -> None:
        self._unit = decision.unit
        self._subsets = subsets
        self._changes = changes
        self._seed, self._resamples, self._level, self._most_rows = seed, resamples, level, most_rows
        self._misses = Misses(len(changes))
        self._misses.expect(total or 0)
        self._rows = 0

    def expect(self, batch: Batch) -> None:
        """Refuse a batch before it is evaluated, if its rows are more than errors are kept of, or its groups too many.

        Raises
        ------
        PellucidError
            They are too many.
        """
        for _ in self._subsets.of(batch):
            pass
        self._misses.expect(batch.count)

    def add(self, batch: Batch, before: Predicted, after: Sequence[Sequence[Predicted]]) -> None:
        """Add the predictions of a batch: without changes, and with each change in each of its draws."""
        with np.errstate(over="ignore"):
            misses = [np.abs(np.stack(draws).astype(np.float64) - batch.labels) for draws in ([before], *after)]
            errors = np.stack([np.stack([(each**2).mean(0), each.mean(0)], 1) for each in misses], axis=1)
        if not np.isfinite(errors).all():
            row = int(batch.numbers[int((~np.isfinite(errors)).any(axis=(1, 2)).argmax())])
            text = f"The error of row {row} is not finite, without or with a change; leave the row or the change out."
            raise InvalidRequestError(text, field="dataset")
        self._misses.add(list(self._subsets.of(batch)), errors)
        self._rows += batch.count

    def running(self, rows: int) -> Findings:
        """Return the mean absolute error so far, over all rows."""
        means = self._misses.means[:, 1]
        names = (NONE, *(change.name for change in self._changes))
        lines = [(name, float(mean), float(mean - means[0])) for name, mean in zip(names, means, strict=True)]
        return _running(rows, {"change": list(names)}, "mean absolute error", lines)

    def final_seconds(self) -> float:
        """Return about how long the intervals take."""
        row = 3e-8 + 2e-9 * 4 * (1 + len(self._changes))
        return self._resamples * (2 * self._rows * row + 2e-5 * len(self._subsets))

    def final(self, model: Handle) -> Iterator[Findings]:
        """Give the table `errors`."""
        names = (NONE, *(change.name for change in self._changes))
        found: list[list[_Line]] = [[] for _ in names]
        for number, by, group in self._subsets.listed():
            errors = self._misses.of(number)
            arguments = (errors, self._seed, f"{by}/{group}")
            numbers = _computed(
                model,
                error_estimates,
                (*arguments, self._resamples, self._level),
                partial(error_estimates, *arguments, 0, self._level),
            )
            for place, name in enumerate(names):
                # Squared error and its difference, absolute error and its difference.
                each = numbers[place].reshape(4, 3).copy()
                if place == 0:
                    each[1::2] = np.nan
                found[place].append(_Line(name, by, group, len(errors), each))
        squared = f"({self._unit})²" if self._unit else ""
        measures = (
            ("mean squared error", squared, "Mean of the squared differences of prediction and label."),
            ("mean absolute error", self._unit, "Mean of the absolute differences of prediction and label."),
        )
        lines = [line for some in found for line in some]
        yield from _tables("errors", lines, self._most_rows, measures, self._level)


def _computed(
    model: Handle, function: Callable[..., Floats], arguments: tuple[object, ...], belated: Callable[[], Floats]
) -> Floats:
    """Run the bootstrap in a helper process, or, if the deadline passes meanwhile, what is quick, here."""
    try:
        found: Floats = model.compute(function, *arguments)
        return found
    except TimedOutError:
        return belated()


def _running(
    rows: int, names: dict[str, list[str]], measure: str, lines: Sequence[tuple[str, float, float]]
) -> Findings:
    columns = {
        "rows": Column(np.full(len(lines), rows, np.int64), text="Rows so far."),
        "change": Column(tuple(names["change"])),
        measure: Column(np.array([line[1] for line in lines])),
        "difference": Column(np.array([line[2] for line in lines]), text="To the unchanged model's."),
    }
    return Findings(tables={"running": Table(columns, "Estimates from the rows that were read so far.")})


def unseen_share(rows: npt.NDArray[np.int64], level: float) -> Floats:
    """Return how large a share rows of another kind may have where `rows` rows are all of one kind, in (0, 1).

    With a larger share, one of them would be among so many rows with a probability above `level`. At 95 % it is about
    3 / rows.

    Source: Hanley and Lippman-Hand, "If nothing goes wrong, is everything all right?", JAMA 249, 1983.
    """
    return np.asarray(-np.expm1(np.log1p(-level) / rows))


def _tables(
    name: str, lines: Sequence[_Line], most: int, measures: Sequence[tuple[str, str, str]], level: float
) -> Iterator[Findings]:
    alike = sum(bool(_points(line.numbers)[::2].any()) for line in lines)
    warnings = (
        f"In {alike} of {len(lines)} lines all rows came out alike, and the interval is a point. That is no certainty: "
        "the column unseen has the share that rows of another kind may have all the same, about 3 / rows.",
    )
    for start in range(0, max(len(lines), 1), most):
        some = lines[start : start + most]
        columns = {
            "change": Column(tuple(line.change for line in some), text=f'What was changed; "{NONE}" for nothing.'),
            "by": Column(tuple(line.by for line in some), text='"all", "class", or the column that groups.'),
            "group": Column(tuple(line.group for line in some), text="The class, or the column's value."),
            "rows": Column(np.array([line.rows for line in some], np.int64)),
        }
        numbers = np.stack([line.numbers for line in some])
        for place, (measure, unit, text) in enumerate(measures):
            prefix = f"{measure} " if len(measures) > 1 else ""
            value, difference = numbers[:, 2 * place], numbers[:, 2 * place + 1]
            columns |= {
                measure: Column(value[:, _VALUE], unit=unit, text=text),
                f"{prefix}low": number_column(value[:, _LOW], unit, "Lower end of its bootstrap interval over rows."),
                f"{prefix}high": number_column(value[:, _HIGH], unit, "Upper end of it."),
                f"{prefix}difference": number_column(
                    difference[:, _VALUE], unit, "To the unchanged model's: less than 0 is a smaller one."
                ),
                f"{prefix}difference low": number_column(
                    difference[:, _LOW], unit, "Lower end of its bootstrap interval, paired by row."
                ),
                f"{prefix}difference high": number_column(difference[:, _HIGH], unit, "Upper end of it."),
            }
        points = np.array([_points(line.numbers).any() for line in some], bool)
        shares = unseen_share(np.array([line.rows for line in some], np.int64), level)
        columns["unseen"] = number_column(
            np.where(points, shares, np.nan),
            "",
            f"Where an interval is a point: the share that rows of another kind may have all the same, at {level:g}.",
        )
        last = start + most >= len(lines)
        table = Table(columns, "By change, then by what the rows are divided by.")
        yield Findings(tables={name: table}, warnings=warnings if last and alike else ())


def _points(numbers: Floats) -> npt.NDArray[np.bool_]:
    """Return which intervals have no width, (columns,): with every resample being the same, rounding aside."""
    width = numbers[:, _HIGH] - numbers[:, _LOW]
    return np.asarray(width <= 1e-12 * np.abs(numbers[:, _VALUE]))
