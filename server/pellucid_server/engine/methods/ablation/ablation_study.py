"""Ablation study: how well a model does on labelled data, overall and by group, with parts of it changed.

Source: Meyes, Lu, de Puiseau and Meisen, "Ablation Studies in Artificial Neural Networks", 2019; accuracy by group
after Buolamwini and Gebru, "Gender Shades", FAT* 2018; intervals by Efron's bootstrap, 1979.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.handle import Handle
from pellucid_server.engine.asking.registry import Background, Cost, Need, method, parameter
from pellucid_server.engine.asking.studies import Batch, StudyQuestion
from pellucid_server.engine.asking.verbs import STUDY
from pellucid_server.engine.methods.shared.studies.labelled_runs import LabelledRuns, StudyChange, study_changes
from pellucid_server.engine.methods.shared.studies.study_tables import AccuracyTables, ErrorTables
from pellucid_server.engine.methods.shared.studies.subsets import Subsets
from pellucid_server.errors import InvalidRequestError, TimedOutError
from pellucid_server.vocabulary.findings import Findings
from pellucid_server.vocabulary.results import Accuracy

_PARTS = 20
"""Running estimates of a data set whose rows are counted."""
_PART_ROWS = 2048
"""Rows between two of them, of one whose rows are not."""
_ROWS_OF_A_TABLE = 5000
_MARGIN = 1.5
"""How much longer the next batch may take than the longest so far."""
_CUT_OFF = "The deadline ended the study after"
"""What the warning begins with that every table of an early end has."""

Predicted = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Params:
    """Parameters of an ablation study."""

    joint: bool = parameter(False, "Make all changes at once, in place of each site by itself.")
    rows: int = parameter(0, "Use the first rows of the data set, at most so many; 0 for all.", minimum=0)
    bootstrap: int = parameter(
        1000, "Draws of the bootstrap that intervals come from; 0 for no intervals.", minimum=0, maximum=10_000
    )
    level: float = parameter(0.95, "Share of the draws that lie within an interval.", minimum=0.5, maximum=0.999)


class Tables(Protocol):
    """What is kept of the rows, and the tables that are made of it."""

    name: str
    """Of the table that `final` gives."""

    def expect(self, batch: Batch) -> None:
        """Refuse a batch before it is evaluated, if more would be kept with it than may be."""
        ...

    def add(self, batch: Batch, before: Predicted, after: Sequence[Sequence[Predicted]]) -> None:
        """Add the predictions of a batch: without changes, and with each change in each of its draws."""
        ...

    def running(self, rows: int) -> Findings:
        """Return the estimates so far."""
        ...

    def final_seconds(self) -> float:
        """Return about how long `final` takes."""
        ...

    def final(self, model: Handle) -> Iterator[Findings]:
        """Give the tables, at most so many rows of one at once."""
        ...


@method(
    "ablation-study",
    Params,
    verb=STUDY,
    family="ablation",
    source="Meyes, Lu, de Puiseau and Meisen, 2019, https://arxiv.org/abs/1901.08644",
    cost=lambda params, question: Cost(forward=question.count or 0),
    needs=(Need.FORWARD,),
    baselines=Background.NONE,
    rows_parameter="rows",
    answers_early=True,
    skips_parts=True,
)
def ablation_study(model: Handle, question: StudyQuestion, params: Params) -> Iterator[Findings]:
    """Measure accuracy on a labelled data set, by class and by group, with parts of the model changed.

    The rows are read once, batch by batch; each is predicted without changes and with each of them. A deadline ends the
    reading, and what was read until then is the answer.

    After a lost worker the rows are read again. Running estimates that the caller has are left out, and the tables are
    always given, of one reading: if the caller has a part of them, the rest is of all rows, as that part was.
    """
    changes = study_changes(question, joint=params.joint)
    total = min((each for each in (question.count, params.rows or None) if each is not None), default=None)
    tables = _tables(question, params, changes, total)
    last = question.last or Findings()
    again = tables.name in last.tables
    # The last part of the tables says how good they are.
    if again and (last.accuracy is not None or _cut_off(last)):
        yield _ending(last)
        return
    runs = LabelledRuns(model, question)
    size = runs.rows_per_batch(changes)
    step = _PART_ROWS if total is None else max(math.ceil(total / _PARTS), 1)
    done, shown, running, longest, partial = 0, 0, 0, 0.0, False
    try:
        for batch in question.batches(size):
            kept = _first(batch, params.rows - done if params.rows else batch.count)
            if kept.count == 0:
                break
            tables.expect(kept)
            started = time.monotonic()
            before, after = _predictions(runs, kept, changes, _progress(done, kept.count, total))
            tables.add(kept, before, after)
            done += kept.count
            longest = max(longest, time.monotonic() - started)
            if done // step > shown and done != total:
                shown, running = done // step, running + 1
                if running > question.parts_done:
                    yield tables.running(done)
            if done == params.rows:
                break
            late = model.seconds_left() < _MARGIN * longest + tables.final_seconds()
            if late and done != total and not again:
                partial = True
                break
    except TimedOutError:
        if not done or again:
            raise
        partial = True
    runs.end()
    if not done:
        raise InvalidRequestError("The data set has no rows; a study needs at least one.", field="dataset")
    skipped = max(question.parts_done - running, 0) if again else 0
    found = _marked(tables.final(model), done, partial=partial)
    yield from found[skipped:] or [Findings(accuracy=found[-1].accuracy)]


def _cut_off(part: Findings) -> bool:
    return any(text.startswith(_CUT_OFF) for text in part.warnings)


def _ending(last: Findings) -> Findings:
    """Return what ends an answer of which the caller has all tables, or all that there can be.

    After an early end there is no time to read the same rows again.
    """
    partial = _cut_off(last)
    warnings: tuple[str, ...] = ()
    if last.accuracy is None:
        warnings = (
            "A worker was lost while it sent the tables, with no time left to read the rows again: the last "
            "changes may be missing.",
        )
    return Findings(accuracy=Accuracy(partial=partial), warnings=warnings)


def _tables(question: StudyQuestion, params: Params, changes: Sequence[StudyChange], total: int | None) -> Tables:
    subsets = Subsets(question.decision.classes)
    made = ErrorTables if question.decision.kind == "number" else AccuracyTables
    return made(
        question.decision,
        subsets,
        changes,
        total=total,
        classes=question.classes,
        seed=question.seed,
        resamples=params.bootstrap,
        level=params.level,
        most_rows=_ROWS_OF_A_TABLE,
    )


def _predictions(
    runs: LabelledRuns, batch: Batch, changes: Sequence[StudyChange], progress: tuple[float, float] | None
) -> tuple[Predicted, list[list[Predicted]]]:
    runs.begin(batch)
    before = runs.predicted(progress=progress if not changes else None)
    after = []
    for number, change in enumerate(changes):
        share = progress if number == len(changes) - 1 else None
        after.append([runs.changed(change, draw, progress=share) for draw in range(change.draws)])
    return before, after


def _progress(done: int, count: int, total: int | None) -> tuple[float, float] | None:
    return None if not total else (min(done / total, 1.0), min((done + count) / total, 1.0))


def _first(batch: Batch, count: int) -> Batch:
    if count >= batch.count:
        return batch
    return Batch(
        {name: array[:count] for name, array in batch.rows.items()},
        batch.labels[:count],
        {name: values[:count] for name, values in batch.groups.items()},
        batch.numbers[:count],
    )


def _marked(parts: Iterator[Findings], rows: int, *, partial: bool) -> list[Findings]:
    """Return the parts: each says if it is of an early end, and the last how good they are."""
    warnings = (f"{_CUT_OFF} {rows} rows; the tables are of those.",) if partial else ()
    found = [replace(part, warnings=warnings + part.warnings) for part in parts]
    return [*found[:-1], replace(found[-1], accuracy=Accuracy(partial=partial))]
