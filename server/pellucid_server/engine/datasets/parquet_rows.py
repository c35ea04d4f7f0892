"""Reads the rows of Parquet files: a few at a time, the needed columns alone, no cell longer than one of CSV."""

import csv
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pellucid_server.engine.datasets.opening import DataFile, DataSetError

MOST_CELL_CHARACTERS = csv.field_size_limit()
"""Of a text, as in a CSV file; of bytes, so many bytes."""

_ROWS = 256
_BUFFER_BYTES = 1 << 20
_MOST_CHARACTER_BYTES = 4


def parquet_names(source: DataFile) -> tuple[str, ...]:
    """Return the names of the columns.

    Raises
    ------
    DataSetError
        The file cannot be read.
    """
    with _opened(source) as file:
        return tuple(file.schema_arrow.names)


def parquet_count(source: DataFile) -> int:
    """Return how many rows there are.

    Raises
    ------
    DataSetError
        The file cannot be read.
    """
    with _opened(source) as file:
        return int(file.metadata.num_rows)


def parquet_rows(source: DataFile, without: frozenset[str] = frozenset()) -> Iterator[dict[str, Any]]:
    """Give the rows, without some columns, which are not read.

    Raises
    ------
    DataSetError
        The file cannot be read, or a cell is too long, or is not one value.
    """
    first = 0
    with _opened(source, without) as file:
        _check_sizes(source, file, without)
        names = [name for name in file.schema_arrow.names if name not in without]
        for batch in file.iter_batches(batch_size=_ROWS, columns=names, use_threads=False):
            columns = [_cells(source, name, batch.column(place), first) for place, name in enumerate(names)]
            for cells in zip(*columns, strict=True):
                yield dict(zip(names, cells, strict=True))
            first += batch.num_rows


def _cells(source: DataFile, name: str, column: Any, first: int) -> list[Any]:
    arrow, compute = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.compute")
    if not arrow.types.is_dictionary(column.type):
        cells: list[Any] = column.to_pylist()
        return cells
    values = column.dictionary
    if arrow.types.is_string(values.type) or arrow.types.is_large_string(values.type):
        lengths = compute.utf8_length(values)
    elif arrow.types.is_binary(values.type) or arrow.types.is_large_binary(values.type):
        lengths = compute.binary_length(values)
    else:
        lengths = None
    # Lengths are looked at before values are written out by row: a long one may be there once, for many rows.
    if lengths is not None and (compute.max(lengths).as_py() or 0) > MOST_CELL_CHARACTERS:
        for row, length in enumerate(compute.take(lengths, column.indices).to_pylist(), first):
            if (length or 0) > MOST_CELL_CHARACTERS:
                raise DataSetError(
                    f"{source}, row {row}: the column {name!r} has {length} characters; at most {MOST_CELL_CHARACTERS} "
                    "are read."
                )
    decoded: list[Any] = column.dictionary_decode().to_pylist()
    return decoded


def _check_sizes(source: DataFile, file: Any, without: frozenset[str]) -> None:
    """Refuse, before it is read, a part of the file in which some cell must be too long."""
    arrow = importlib.import_module("pyarrow")
    for field in file.schema_arrow:
        if field.name not in without and arrow.types.is_nested(field.type):
            raise DataSetError(
                f"{source}: the column {field.name!r} is of {str(field.type)[:80]}; each cell must be one value."
            )
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        most = (group.num_rows + 1) * (_MOST_CHARACTER_BYTES * MOST_CELL_CHARACTERS)
        for place in range(group.num_columns):
            column = group.column(place)
            if column.path_in_schema not in without and column.total_uncompressed_size > most:
                raise DataSetError(
                    f"{source}: the column {column.path_in_schema!r} has cells of more than {MOST_CELL_CHARACTERS} "
                    "characters; shorten them, or list the column in ignored."
                )


@contextmanager
def _opened(source: DataFile, without: frozenset[str] = frozenset()) -> Iterator[Any]:
    """Open a file, its texts and bytes to be read as dictionaries: each value that a page repeats is there once."""
    try:
        arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataSetError(
            f"{source} is a Parquet file, which the server reads with pyarrow; install pellucid[parquet], or save "
            "the data as CSV."
        ) from error
    with source.opened() as opened:
        options = {"buffer_size": _BUFFER_BYTES, "pre_buffer": False}
        file = parquet.ParquetFile(opened, **options)
        texts = [
            field.name for field in file.schema_arrow if field.name not in without and _is_text(arrow.types, field.type)
        ]
        yield parquet.ParquetFile(opened, metadata=file.metadata, read_dictionary=texts, **options)


def _is_text(types: Any, kind: Any) -> bool:
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(
        types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind)
    )
