"""Opens the PNG files that masks are in, and the small tables that say what they mark."""

import csv
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pellucid_server.engine.datasets.opening import DataFile, DataSetError
from pellucid_server.engine.datasets.records import MOST_FILE_BYTES
from pellucid_server.engine.models.inputs.pictures import DAMAGE

_ONE_CHANNEL = ("1", "L", "P", "I;16", "I")
MOST_PIXELS = 16_000_000
"""Pixels of a mask."""

_MOST_TABLE_BYTES = 16 << 20


def read_map(source: DataFile) -> npt.NDArray[Any]:
    """Return the values of a PNG file of one channel, (height, width): flags, grey levels, or places in its palette.

    Raises
    ------
    DataSetError
        It cannot be read, or has other channels.
    """
    values, mode = _values(source)
    if mode not in _ONE_CHANNEL:
        raise DataSetError(f"{source} has the channels {mode}; it must have one: grey, black and white, or a palette.")
    # Older versions of Pillow give 16 bits as 32, and flags cannot be counted.
    return values if values.dtype.kind == "u" else values.astype(np.uint16)


def read_colour_map(source: DataFile) -> npt.NDArray[np.uint16]:
    """Return the numbers R + 256 G of a PNG file, (height, width).

    Raises
    ------
    DataSetError
        It cannot be read, or is not RGB.
    """
    values, mode = _values(source)
    if mode not in ("RGB", "RGBA"):
        raise DataSetError(f"{source} has the channels {mode}; it must have RGB, with numbers R + 256 G.")
    numbers: npt.NDArray[np.uint16] = values[:, :, 0] + (values[:, :, 1].astype(np.uint16) << 8)
    return numbers


def table_lines(source: DataFile, wanted: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Give the lines of a small CSV file: where each is, for messages, and its cells of the columns that are wanted.

    Raises
    ------
    DataSetError
        It cannot be read, or has no such columns.
    """
    with source.opened() as opened:
        content = opened.read(_MOST_TABLE_BYTES + 1)
        if len(content) > _MOST_TABLE_BYTES:
            raise DataSetError(f"{source} has more than {_MOST_TABLE_BYTES} bytes, as many as are read.")
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        try:
            if not set(wanted) <= set(reader.fieldnames or ()):
                raise DataSetError(f"{source} must have the columns {', '.join(wanted)} in its first line.")
            for line in reader:
                yield f"{source}, line {reader.line_num}", {name: line[name] or "" for name in wanted}
        except csv.Error as error:
            raise DataSetError(f"{source}, line {reader.line_num}: it is no CSV ({error}).") from error


def _values(source: DataFile) -> tuple[npt.NDArray[Any], str]:
    with source.opened() as file:
        content = file.read(MOST_FILE_BYTES + 1)
        if len(content) > MOST_FILE_BYTES:
            raise DataSetError(f"{source} has more than {MOST_FILE_BYTES} bytes, as many as are read.")
        try:
            picture = Image.open(io.BytesIO(content), formats=("PNG",))
            if picture.width * picture.height > MOST_PIXELS:
                raise DataSetError(
                    f"{source} has more than {MOST_PIXELS:,} pixels; a mask may be smaller than its picture."
                )
            return np.asarray(picture), picture.mode
        except (*DAMAGE, Image.DecompressionBombError) as error:
            raise DataSetError(f"{source} is damaged, or no PNG file.") from error
