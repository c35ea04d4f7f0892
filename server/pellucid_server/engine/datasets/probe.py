"""The rows of a data set as methods of `Dissect` look at them: with names, concept masks, and what the model sees."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pellucid_server.engine.asking.probes import Concept, Pixels, ProbeBatch, RowMasks
from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.datasets.dataset import DataSet, Taken
from pellucid_server.engine.datasets.labels import as_text
from pellucid_server.engine.datasets.masks.marks import MaskReader, row_masks
from pellucid_server.engine.datasets.masks.readers import open_masks
from pellucid_server.engine.datasets.records import Record, records
from pellucid_server.engine.datasets.steps import Ahead, Run, here, when_taken
from pellucid_server.engine.models.inputs.pictures import seen_pixels
from pellucid_server.engine.models.loading.loaded import LoadedModel
from pellucid_server.vocabulary.results import Box


@dataclass(frozen=True, slots=True)
class DataSetProbe:
    """The rows of a data set; see `ProbeSet`."""

    dataset: DataSet
    model: LoadedModel
    count: int
    run: Run = here
    masks: MaskReader | None = None
    ahead: Ahead[ProbeBatch] = when_taken
    """Reads a batch while the last one is worked on."""

    @property
    def kind(self) -> str:
        """What the rows are."""
        return self.dataset.description.kind

    @property
    def concepts(self) -> tuple[Concept, ...]:
        """What masks mark."""
        return () if self.masks is None else self.masks.concepts

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels, as far as they are known."""
        return self.dataset.info.classes

    def batches(self, rows_per_batch: int, *, first: int = 0, masks: bool = False) -> Iterator[ProbeBatch]:
        """Give the rows from number `first` on, at most so many at once, with their masks if asked for."""
        yield from self.ahead(self._batches(rows_per_batch, first, masks=masks))

    def _batches(self, rows_per_batch: int, first: int, *, masks: bool) -> Generator[ProbeBatch, None, None]:
        label = self.dataset.description.label
        for taken in self.dataset.taken_batches(self.model, rows_per_batch, first, self.count, self.run):
            yield ProbeBatch(
                taken.rows,
                np.array([record.number for record in taken.records], np.int64),
                tuple(as_text(record.cells.get(label)) for record in taken.records) if label else (),
                self._row_masks(taken) if masks else (),
            )

    def rows(self, numbers: Sequence[int]) -> Arrays:
        """Return the rows of these numbers, in this order."""
        if not numbers:
            return {name: array[:0] for name, array in self.rows([0]).items()}
        found = {taken.records[0].number: taken.rows for taken in self.dataset.picked(self.model, numbers, self.run)}
        return {name: np.concatenate([found[number][name] for number in numbers]) for name in found[numbers[0]]}

    def pictures(self, numbers: Sequence[int]) -> tuple[Pixels, ...]:
        """Return what the model sees of these rows' pictures."""
        if self.kind != "pictures":
            raise self.dataset.unfit("its rows are no pictures.")
        ((name, found),) = self.rows(numbers).items()
        return tuple(seen_pixels(row, self.model.inputs[name].info) for row in found)

    def names(self, numbers: Sequence[int]) -> tuple[str, ...]:
        """Return what these rows are called: a picture by its file."""
        if self.kind != "pictures":
            return tuple(f"row {number}" for number in numbers)
        content = self.dataset.description.content
        found = self.dataset.picked_records(numbers, self.run)
        names = {record.number: as_text(record.cells.get(content)) for record in found}
        return tuple(names[number] for number in numbers)

    def _row_masks(self, taken: Taken) -> tuple[RowMasks, ...]:
        if self.masks is None:
            return ()
        (height, width) = next(iter(taken.rows.values())).shape[-2:]
        pairs = zip(taken.records, taken.boxes, strict=True)
        return tuple(self.run(partial(self._masks, self.masks, record, box, height, width)) for record, box in pairs)

    def _masks(self, reader: MaskReader, record: Record, box: Box, height: int, width: int) -> RowMasks:
        with self.dataset.reading():
            return row_masks(reader.of(record, self.dataset.picture_path(record)), box, height, width)


def open_probe(
    dataset: DataSet,
    model: LoadedModel,
    most: int = 0,
    run: Run = here,
    ahead: Ahead[ProbeBatch] = when_taken,
) -> DataSetProbe:
    """Return the rows as methods of `Dissect` look at them: the first `most`, or all for 0.

    Raises
    ------
    UnsupportedError
        The data set does not fit the model, has no rows, or its masks cannot be read.
    """
    count = dataset.info.rows
    with dataset.unchanged(run), dataset.reading():
        if count is None:
            count = run(lambda: sum(1 for _ in records(dataset.folder, dataset.description)))
        masks = run(partial(open_masks, dataset.folder, dataset.description))
    if not count:
        raise dataset.unfit("it has no rows.")
    return DataSetProbe(dataset, model, min(most or count, count), run, masks, ahead)
