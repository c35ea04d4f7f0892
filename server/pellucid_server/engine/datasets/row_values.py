"""The values of a data set's records as a model takes them: rows of tables and tensors, and pictures.

Errors name the file, the line and the column, and never what is there: callers read them, and may read no rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.datasets.cells import as_number
from pellucid_server.engine.datasets.description import Description
from pellucid_server.engine.datasets.labels import as_text
from pellucid_server.engine.datasets.opening import DataSetError
from pellucid_server.engine.datasets.records import MOST_FILE_BYTES, Record, picture_bytes
from pellucid_server.engine.datasets.steps import Run
from pellucid_server.engine.models.inputs.preprocessing import Prepared, Preprocessor
from pellucid_server.errors import InvalidRequestError, UnsupportedError
from pellucid_server.vocabulary.requests import Input, PicturesInput, TableInput, TensorInput
from pellucid_server.vocabulary.results import Box


@dataclass(frozen=True, slots=True)
class RowValues:
    """Prepares records of the data set of a name, a folder and a description."""

    name: str
    folder: Path
    description: Description

    def error(self, text: str) -> UnsupportedError:
        """Make the error that says why the data set does not fit."""
        subject = f"datasets/{self.name}"
        return UnsupportedError(f"The data set {self.name!r} does not fit: {text}", subject=subject)

    def cell(self, record: Record, name: str) -> Any:
        """Return a record's value in a column.

        Raises
        ------
        UnsupportedError
            It has none.
        """
        if name not in record.cells:
            listed = ", ".join([*record.cells][:20])
            raise self.error(f"{record.where}: there is no {name!r}; there are: {listed}.")
        return record.cells[name]

    def picture_path(self, record: Record) -> str:
        """Return the path of a record's picture, in the data set's folder.

        Raises
        ------
        UnsupportedError
            The record names none.
        """
        return self.description.picture(as_text(self.cell(record, self.description.content)))

    def prepared(self, inputs: "Sequence[Preprocessor]", taken: list[Record]) -> Arrays:
        """Return rows of other kinds than pictures, (rows, *features) by input.

        Raises
        ------
        UnsupportedError
            A row does not fit the model.
        """
        found = {}
        for each in inputs:
            try:
                found[each.info.name] = each.prepare(self._given(each, taken), "row").rows
            except InvalidRequestError as error:
                # Which row it was, the message says by a place in the batch; by itself it has a place in the file.
                for record in taken if len(taken) > 1 else ():
                    self.prepared([each], [record])
                raise self._unfit_row(each, taken[0], error) from error
        return found

    def _unfit_row(self, preprocessor: Preprocessor, record: Record, error: InvalidRequestError) -> UnsupportedError:
        """Make the error of a row that a model's input does not take, without the row's values."""
        info, path = preprocessor.info, error.metadata["field"]
        if path == "row.tensor.data":
            text = f"an element is not finite, or not one that the model takes as {info.data_type}."
            return self.error(f"{record.where}, array {info.name!r}: {text}")
        for column in info.columns:
            if path == f'row.table.rows[0].cells["{column.name}"]' and column.name in record.cells:
                right = f"a finite number, within the range of {info.data_type} once standardized"
                if column.categories:
                    right = f"a category, one of: {', '.join(column.categories)}"
                return self.error(f"{record.where}, column {column.name!r}: it must be {right}.")
        return self.error(f"{record.where}: {error.message.removeprefix('row.table.rows[0] ')}")

    def _given(self, preprocessor: Preprocessor, taken: list[Record]) -> Input:
        name = preprocessor.info.name
        if self.description.kind == "table":
            return TableInput(tuple(self._cells(preprocessor, record) for record in taken))
        cells = [self.cell(record, name) for record in taken]
        return TensorInput(np.stack([np.asarray(cell) for cell in cells]))

    def _cells(self, preprocessor: Preprocessor, record: Record) -> dict[str, float | str]:
        """Return a table's row; columns that it has and nobody expects are left in, to be refused by their names."""
        beside = {self.description.label, *self.description.groups, *self.description.ignored}
        names = frozenset(preprocessor.columns)
        beside -= names - {self.description.label}
        coded = {column.name: column.categories for column in preprocessor.info.columns if column.categories}
        return {
            name: _coded(cell, coded[name]) if name in coded else self._number(cell, name, names, record)
            for name, cell in record.cells.items()
            if name not in beside
        }

    def _number(self, cell: Any, name: str, known: frozenset[str], record: Record) -> float | str:
        if name not in known:
            return 0.0
        try:
            return as_number(cell)
        except ValueError as error:
            raise self.error(f"{record.where}, column {name!r}: it must be a number.") from error

    def pictures(self, preprocessor: Preprocessor, taken: list[Record], run: Run) -> tuple[Arrays, tuple[Box, ...]]:
        """Return pictures, (rows, channels, height, width), and the part of each that is seen; one to a step of `run`.

        Raises
        ------
        UnsupportedError
            One cannot be read.
        """
        rows: Any = None
        boxes: list[Box] = []
        for place, record in enumerate(taken):
            found = run(partial(self._picture, preprocessor, record))
            if rows is None:
                rows = np.empty((len(taken), *found.rows.shape[1:]), found.rows.dtype)
            rows[place] = found.rows[0]
            boxes += [box for box in found.boxes if box is not None]
        return {preprocessor.info.name: rows}, tuple(boxes)

    def _picture(self, preprocessor: Preprocessor, record: Record) -> Prepared:
        name = self.picture_path(record)
        try:
            return preprocessor.prepare(PicturesInput((picture_bytes(self.folder, name),)), "picture")
        except DataSetError as error:
            text = f"a plain file in the data set's folder, of at most {MOST_FILE_BYTES} bytes, that can be read"
            raise self.error(f"{record.where}: the picture must be {text}.") from error
        except InvalidRequestError as error:
            text = error.message.replace("picture.pictures.encoded[0]", "the picture")
            raise self.error(f"{record.where}: {text}") from error


def _coded(cell: Any, categories: tuple[str, ...]) -> float | str:
    """Return a category as a caller would send it: a number in a text counts as one, as "2.0" for 2."""
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        return float(cell)
    text = as_text(cell)
    if text in categories:
        return text
    try:
        return as_number(text)
    except ValueError:
        return text
