"""A labelled data set: its rows as a model takes them, batch by batch, with labels and groups.

Errors name the file, the line and the column, and never what is there: callers read them, and may read no rows.
"""

import difflib
import itertools
import os
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.asking.studies import Batch, Decision
from pellucid_server.engine.datasets.description import Description
from pellucid_server.engine.datasets.files import Stamp, stamping
from pellucid_server.engine.datasets.labels import Labels, as_text
from pellucid_server.engine.datasets.opening import DataSetError
from pellucid_server.engine.datasets.records import Record, records
from pellucid_server.engine.datasets.row_values import RowValues
from pellucid_server.engine.datasets.steps import Run, here, in_steps
from pellucid_server.engine.models.inputs.preprocessing import Preprocessor
from pellucid_server.engine.models.loading.loaded import LoadedModel
from pellucid_server.errors import InvalidRequestError, UnavailableError, UnsupportedError
from pellucid_server.model_files.plain_files import UnfitFileError
from pellucid_server.vocabulary.descriptions import DatasetInfo
from pellucid_server.vocabulary.results import Box

SAMPLE_ROWS = 256
"""Rows that means and draws are taken from."""

SAMPLE_BYTES = 64 << 20
"""Bytes of them, of inputs so large that fewer rows have as many."""

_LEAST_SAMPLE_ROWS = 16

FRESH_SECONDS = 1.0
"""A file that was changed since it was described, and within this time, may still be being written."""

_CHANGED = "The files of the data set changed while they were read; ask again when they are as they shall be."


@dataclass(frozen=True, slots=True)
class Taken:
    """Some rows as a model takes them, (rows, *features) each, their records, and of pictures the part that it sees."""

    rows: Arrays
    records: tuple[Record, ...]
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set that can be read."""

    info: DatasetInfo
    folder: Path
    description: Description
    described_ns: int = field(default_factory=time.time_ns)
    """When it was described, in nanoseconds of the system's clock."""

    def batches(
        self,
        model: LoadedModel,
        decision: Decision,
        rows_per_batch: int,
        *,
        first: int = 0,
        run: Run = here,
    ) -> Iterator[Batch]:
        """Give the rows from number `first` on, at most `rows_per_batch` at once, prepared as a caller's would be.

        `run` is given each step that may take long, such as a picture, and returns what the step returns.

        Raises
        ------
        UnsupportedError
            A row cannot be read, or does not fit the model, or there are none; the message names the file and the row.
        UnavailableError
            The files changed meanwhile.
        """
        if not self.description.label:
            raise self._values.error("its rows have no labels; name the column that has them in dataset.toml.")
        labels, inputs = Labels(decision, self.description.classes), self._inputs(model)
        needed = {self.description.label, *self.description.groups}
        number = first
        with self.unchanged(run):
            found = itertools.islice(records(self.folder, self.description, self._unread(inputs, needed)), first, None)
            while taken := run(partial(self._taken, found, rows_per_batch)):
                number += len(taken)
                yield self._batch(model, inputs, labels, taken, run)
            if number == 0:
                raise self._values.error("it has no rows.")

    def taken_batches(
        self, model: LoadedModel, rows_per_batch: int, first: int, stop: int, run: Run
    ) -> Iterator["Taken"]:
        """Give the rows from number `first` up to `stop`, at most so many at once, as the model takes them and as read.

        Raises
        ------
        UnsupportedError, UnavailableError
            As for `batches`.
        """
        inputs = self._inputs(model)
        with self.unchanged(run):
            found = itertools.islice(records(self.folder, self.description), first, stop)
            while taken := run(partial(self._taken, found, rows_per_batch)):
                yield self._taken_rows(model, inputs, taken, run)

    def picked(self, model: LoadedModel, numbers: Iterable[int], run: Run) -> Iterator["Taken"]:
        """Give the rows of these numbers, one by one in increasing order; the files are gone through once.

        Raises
        ------
        UnsupportedError, UnavailableError
            As for `batches`.
        """
        inputs = self._inputs(model)
        with self.unchanged(run):
            for record in self._picked_records(numbers, run):
                yield self._taken_rows(model, inputs, [record], run)

    def picked_records(self, numbers: Iterable[int], run: Run) -> list[Record]:
        """Return the records of these numbers, in increasing order.

        Raises
        ------
        UnsupportedError, UnavailableError
            As for `batches`.
        """
        with self.unchanged(run):
            return self._picked_records(numbers, run)

    def picture_path(self, record: Record) -> str:
        """Return the path of a record's picture, in the data set's folder.

        Raises
        ------
        UnsupportedError
            The record names none.
        """
        return self._values.picture_path(record)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turn what is wrong with a file into the error that says why this data set does not fit.

        Raises
        ------
        UnsupportedError
            A file cannot be read.
        """
        try:
            yield
        except DataSetError as error:
            raise self._values.error(str(error)) from error

    def sample(self, model: LoadedModel, *, seed: int, most: int = SAMPLE_ROWS, run: Run = here) -> Arrays:
        """Return rows drawn without replacement, every row equally likely, (rows, *features) each.

        There are at most `most`, and fewer of large inputs, in the order of the file; the labels are not read.

        Raises
        ------
        UnsupportedError
            There are no rows, or one that is drawn cannot be read or does not fit the model.
        UnavailableError
            The files changed meanwhile.
        """
        fitting, inputs = max(SAMPLE_BYTES // max(model.input_row_bytes, 1), _LEAST_SAMPLE_ROWS), self._inputs(model)
        with self.unchanged(run):
            found = records(self.folder, self.description, self._unread(inputs, set()))
            taken = in_steps(self._drawn(found, seed, min(most, fitting)), run)
            if not taken:
                raise self._values.error("it has no rows.")
            return self._taken_rows(model, inputs, taken, run).rows

    @contextmanager
    def unchanged(self, run: Run = here) -> Iterator[None]:
        """Answer that the files changed, where they did meanwhile, in place of whatever came of that.

        Raises
        ------
        UnavailableError
            They changed.
        UnsupportedError
            They cannot be looked at.
        """
        before = self._stamp(run)
        try:
            yield
        except UnsupportedError as error:
            if self._changed(before, run) or self._is_fresh(before):
                raise UnavailableError(_CHANGED) from error
            raise
        if self._changed(before, run):
            raise UnavailableError(_CHANGED)

    def unfit(self, text: str) -> UnsupportedError:
        """Make the error that says why this data set does not fit what is asked."""
        return self._values.error(text)

    @property
    def _values(self) -> RowValues:
        return RowValues(self.info.name, self.folder, self.description)

    def _stamp(self, run: Run) -> Stamp:
        try:
            return in_steps(stamping(self.folder), run)
        except UnfitFileError as error:
            raise self._values.error(str(error)) from error
        except OSError as error:
            raise self._values.error(f"its files cannot be listed: {os.strerror(error.errno or 0)}.") from error

    def _changed(self, before: Stamp, run: Run) -> bool:
        try:
            return self._stamp(run) != before
        except UnsupportedError:
            return True

    def _is_fresh(self, found: Stamp) -> bool:
        """Say whether a file may still be being written: what is wrong with it may be right in a moment."""
        last = found.latest_ns
        return last > self.described_ns and abs(time.time_ns() - last) < FRESH_SECONDS * 1e9

    def _unread(self, inputs: "Sequence[Preprocessor]", needed: set[str]) -> frozenset[str]:
        """Return the columns that need not be read."""
        description = self.description
        beside = {description.label, *description.groups, *description.ignored} - needed
        return (
            frozenset(beside.difference(*(each.columns for each in inputs)))
            if description.kind == "table"
            else frozenset()
        )

    def _drawn(self, found: Iterator[Record], seed: int, most: int) -> Generator[None, None, list[Record]]:
        # Algorithm R: each row in turn takes the place of a random one, with the odds that keep all equally likely.
        source, kept = np.random.default_rng(seed), list[Record]()
        for number, record in enumerate(self._guarded(found)):
            if number < most:
                kept.append(record)
            elif (place := int(source.integers(number + 1))) < most:
                kept[place] = record
            yield
        return sorted(kept, key=lambda record: record.number)

    def _guarded(self, found: Iterator[Record]) -> Iterator[Record]:
        with self.reading():
            yield from found

    def _picked_records(self, numbers: Iterable[int], run: Run) -> list[Record]:
        wanted = sorted(set(numbers))
        found = itertools.islice(records(self.folder, self.description), max(wanted, default=-1) + 1)
        return in_steps(self._kept(found, frozenset(wanted)), run)

    def _kept(self, found: Iterator[Record], wanted: frozenset[int]) -> Generator[None, None, list[Record]]:
        kept = []
        for record in self._guarded(found):
            if record.number in wanted:
                kept.append(record)
            yield
        return kept

    def _taken(self, found: Iterator[Record], count: int) -> list[Record]:
        return list(itertools.islice(self._guarded(found), count))

    def _batch(
        self, model: LoadedModel, inputs: "Sequence[Preprocessor]", labels: Labels, taken: list[Record], run: Run
    ) -> Batch:
        return Batch(
            self._taken_rows(model, inputs, taken, run).rows,
            np.array([self._label(labels, record) for record in taken]),
            {name: tuple(self._group(record, name) for record in taken) for name in self.description.groups},
            np.array([record.number for record in taken], np.int64),
        )

    def _inputs(self, model: LoadedModel) -> "Sequence[Preprocessor]":
        """Return what prepares the inputs that the data set feeds."""
        description, subject = self.description, model.key.name
        if description.kind == "tensor":
            return tuple(model.inputs.values())
        name = description.input
        if name and name not in model.inputs:
            near = ", ".join(difflib.get_close_matches(name, model.inputs) or model.inputs)
            raise self._values.error(f"it feeds the input {name!r}, and {subject} has: {near}.")
        if len(model.inputs) != 1:
            raise self._values.error(
                f"it feeds one input, and {subject} has {len(model.inputs)}: {', '.join(model.inputs)}."
            )
        (found,) = model.inputs.values()
        wanted = {"pictures": "image", "table": "tabular", "texts": "text"}[description.kind]
        if found.info.modality != wanted:
            raise self._values.error(
                f"it has {description.kind}, and the input {found.info.name!r} of {subject} is of the kind "
                f"{found.info.modality}; it must be {wanted}."
            )
        return (found,)

    def _taken_rows(
        self, model: LoadedModel, inputs: "Sequence[Preprocessor]", taken: list[Record], run: Run
    ) -> "Taken":
        boxes: tuple[Box, ...] = ()
        if self.description.kind == "pictures":
            rows, boxes = self._values.pictures(inputs[0], taken, run)
        else:
            rows = run(partial(self._values.prepared, inputs, taken))
        try:
            model.lengths.require({name: array.shape[1:] for name, array in rows.items()}, "rows")
        except InvalidRequestError as error:
            raise self._values.error(error.message) from error
        return Taken(rows, tuple(taken), boxes)

    def _label(self, labels: Labels, record: Record) -> int | float:
        name = self.description.label
        try:
            return labels.read(self._values.cell(record, name))
        except DataSetError as error:
            column = f", column {name!r}" if (self.folder / self.description.data).is_file() else ""
            raise self._values.error(f"{record.where}{column}: {error}") from error

    def _group(self, record: Record, name: str) -> str:
        return as_text(self._values.cell(record, name))
