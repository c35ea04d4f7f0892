"""Streams the records of a data set out of its files, one by one: no more than a few of them are in memory at once.

Nothing is skipped: what cannot be read is an error that names the file and the place.
"""

import csv
import io
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pellucid_server.engine.datasets.array_rows import array_count, array_names, array_rows
from pellucid_server.engine.datasets.description import Description
from pellucid_server.engine.datasets.opening import DataFile, DataSetError
from pellucid_server.engine.datasets.parquet_rows import parquet_count, parquet_names, parquet_rows

MOST_LINE_CHARACTERS = 1 << 24
"""Characters of a line of a CSV or JSON lines file."""

MOST_FILE_BYTES = 64 << 20
"""Bytes of a picture's file."""


@dataclass(frozen=True, slots=True)
class Record:
    """A row of a data set as its file has it.

    Attributes
    ----------
    number
        The row's number, from 0.
    where
        Where it is, for messages: "rows.csv, line 12".
    cells
        Its values by column: texts, numbers, flags, None, or, of `.npz` files, arrays. Of pictures, the path of the
        file is under the column of files.
    """

    number: int
    where: str
    cells: Mapping[str, Any]


def records(folder: Path, description: Description, without: frozenset[str] = frozenset()) -> Iterator[Record]:
    """Give the records in the order of the file; of a folder of pictures, by class, then name.

    Columns in `without` may be left out, where that saves reading them.

    Raises
    ------
    DataSetError
        Something cannot be read.
    """
    source = DataFile(folder, description.data)
    if description.kind == "pictures" and source.is_folder:
        return _picture_folder(source, description)
    if description.kind == "tensor":
        return _numbered(source, array_rows(source))
    if source.ending == ".parquet":
        return _parquet(source, without)
    return {".csv": _csv_rows, ".jsonl": _json_lines}[source.ending](source)


def columns(folder: Path, description: Description) -> tuple[str, ...] | None:
    """Return the names of the columns, or arrays; None where each record has its own.

    Raises
    ------
    DataSetError
        The file's beginning cannot be read, or two columns have one name.
    """
    source = DataFile(folder, description.data)
    if source.is_folder or source.ending == ".jsonl":
        return None
    if description.kind == "tensor":
        return array_names(source)
    if source.ending == ".parquet":
        return _distinct(parquet_names(source), source)
    with _text(source) as file:
        return _header(csv.reader(_lines(file, source), strict=True), source)


def count(folder: Path, description: Description, *, most_bytes: int) -> int | None:
    """Return how many records there are, if that is known without reading more than `most_bytes`; else None.

    Raises
    ------
    DataSetError
        Something cannot be read.
    """
    source = DataFile(folder, description.data)
    if source.is_folder:
        return sum(1 for _ in records(folder, description))
    if description.kind == "tensor":
        return array_count(source)
    if source.ending == ".parquet":
        return parquet_count(source)
    with source.opened() as file:
        size = os.fstat(file.fileno()).st_size
    return sum(1 for _ in records(folder, description)) if size <= most_bytes else None


def picture_classes(folder: Path, description: Description) -> tuple[str, ...]:
    """Return the names of the subfolders of the folder of pictures, in order.

    Raises
    ------
    DataSetError
        It cannot be listed.
    """
    return DataFile(folder, description.data).entries(folders=True)


def picture_bytes(folder: Path, name: str) -> bytes:
    """Read a picture's file, which must lie within the data set's folder.

    Raises
    ------
    DataSetError
        It cannot be read, is too large, or lies elsewhere.
    """
    source = DataFile(folder, name)
    with source.opened() as file:
        found = file.read(MOST_FILE_BYTES + 1)
    if len(found) > MOST_FILE_BYTES:
        raise DataSetError(f"{source} has more than {MOST_FILE_BYTES} bytes, as many as are read.")
    return found


def _picture_folder(source: DataFile, description: Description) -> Iterator[Record]:
    number = 0
    for name in source.entries(folders=True):
        inner = DataFile(source.folder, str(Path(source.name, name)))
        for entry in inner.entries():
            file = DataFile(source.folder, str(Path(inner.name, entry)))
            yield Record(number, str(file), {description.content: file.name, description.label: name})
            number += 1


def _parquet(source: DataFile, without: frozenset[str]) -> Iterator[Record]:
    _distinct(parquet_names(source), source)
    yield from _numbered(source, parquet_rows(source, without))


def _numbered(source: DataFile, found: Iterator[dict[str, Any]]) -> Iterator[Record]:
    for number, cells in enumerate(found):
        yield Record(number, f"{source}, row {number}", cells)


def _csv_rows(source: DataFile) -> Iterator[Record]:
    with _text(source) as file:
        reader = csv.reader(_lines(file, source), strict=True)
        names = _header(reader, source)
        for number, cells in enumerate(_checked(reader, source)):
            where = f"{source}, line {reader.line_num}"
            if len(cells) != len(names):
                raise DataSetError(f"{where}: it has {len(cells)} cells; it must have {len(names)}, as the header has.")
            yield Record(number, where, dict(zip(names, cells, strict=True)))


def _checked(reader: Any, source: DataFile) -> Iterator[list[str]]:
    """Give the rows of a CSV reader, but for the empty line at a file's end that some programs leave."""
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataSetError(f"{source}, line {reader.line_num}: it is no CSV ({error}).") from error
        if cells is None:
            return
        if cells:
            yield cells


def _header(reader: Any, source: DataFile) -> tuple[str, ...]:
    return _distinct(tuple(next(_checked(reader, source), ())), source)


def _distinct(names: tuple[str, ...], source: DataFile) -> tuple[str, ...]:
    if not names:
        raise DataSetError(f"{source} is empty; its first line must name the columns.")
    second = next((place for place, name in enumerate(names) if name in names[:place]), None)
    if second is not None:
        # A file without a header line has a row of data there.
        first = names.index(names[second])
        raise DataSetError(
            f"{source}: columns {first + 1} and {second + 1} have the same name in the first line, which must "
            "name the columns; give each a name of its own."
        )
    return names


def _json_lines(source: DataFile) -> Iterator[Record]:
    with _text(source) as file:
        number = 0
        for line, text in enumerate(_lines(file, source), 1):
            if not text.strip():
                continue
            where = f"{source}, line {line}"
            try:
                cells = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise DataSetError(f"{where}: it is not JSON.") from error
            if not isinstance(cells, dict):
                raise DataSetError(f"{where}: it is not an object; each line must be one, with a value by column.")
            yield Record(number, where, cells)
            number += 1


@contextmanager
def _text(source: DataFile) -> Iterator[IO[str]]:
    with source.opened() as opened, io.TextIOWrapper(opened, encoding="utf-8-sig", newline="") as file:
        yield file


def _lines(file: IO[str], source: DataFile) -> Iterator[str]:
    for number in itertools.count(1):
        line = file.readline(MOST_LINE_CHARACTERS + 1)
        if not line:
            return
        if len(line) > MOST_LINE_CHARACTERS:
            raise DataSetError(f"{source}, line {number}: it has more than {MOST_LINE_CHARACTERS} characters.")
        yield line
