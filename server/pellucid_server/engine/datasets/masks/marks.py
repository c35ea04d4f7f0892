"""Where concepts are in a picture, and how that becomes masks at the size of a model's input.

A model sees a part of a picture, its box, at its own size. A mask is sampled there by nearest neighbour: each position
of the input takes the value of the mask where the position's centre lies. So a mask may have another size than its
picture, as long as it has its shape; it lies on the picture as viewers show it, turned as its EXIF orientation says.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pellucid_server.engine.asking.probes import Concept, RowMasks
from pellucid_server.engine.datasets.opening import DataSetError
from pellucid_server.engine.datasets.records import Record
from pellucid_server.vocabulary.results import Box

NOTHING = -1
"""In place of a concept's number: a value that marks no concept."""

UNKNOWN = -2
"""In place of a concept's number: a value that may not be in a map."""


@dataclass(frozen=True, slots=True)
class MarkedMap:
    """A map of a picture whose values stand for concepts.

    Attributes
    ----------
    where
        What it is called, for messages.
    values
        Whole numbers from 0 to 65535, (height, width).
    concepts
        The number of the concept that each value stands for, (values,), or `NOTHING`, or `UNKNOWN`.
    """

    where: str
    values: npt.NDArray[Any]
    concepts: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Marks:
    """The concepts in a picture: those on maps, and the numbers of those that all of it has."""

    maps: tuple[MarkedMap, ...] = ()
    whole: tuple[int, ...] = ()


class MaskReader(Protocol):
    """Reads the masks of a data set."""

    @property
    def concepts(self) -> tuple[Concept, ...]:
        """What masks mark."""
        ...

    def of(self, record: Record, picture: str) -> Marks:
        """Return the concepts in a row, whose picture's path in the data set is `picture`.

        Raises
        ------
        DataSetError
            A mask cannot be read, or marks what is no concept of the data set.
        """
        ...


def row_masks(marks: Marks, box: Box, height: int, width: int) -> RowMasks:
    """Return the masks at the size of a model's input that shows the part `box` of the picture.

    Concepts that are outside the box are left out.

    Raises
    ------
    DataSetError
        A map has another shape than the picture, or a value that stands for nothing.
    """
    found: dict[int, npt.NDArray[np.bool_]] = {}
    for each in marks.maps:
        values = _sampled(each, box, height, width)
        for value in np.flatnonzero(np.bincount(values.ravel())).tolist():
            number = int(each.concepts[value])
            if number != NOTHING:
                mask = values == value
                found[number] = found[number] | mask if number in found else mask
    for number in marks.whole:
        found[number] = np.ones((height, width), np.bool_)
    ordered = sorted(found)
    masks = np.stack([found[number] for number in ordered]) if ordered else np.zeros((0, height, width), np.bool_)
    return RowMasks(np.array(ordered, np.int64), masks)


def places(first: float, last: float, whole: int, count: int, length: int) -> npt.NDArray[np.int64]:
    """Return which of `length` elements of a mask are at the centres of `count` positions of a model's input.

    `first` and `last` are where the input begins and ends on an axis of the picture, in pixels of `whole`.
    """
    centres = first + (np.arange(count) + 0.5) * ((last - first) / count)
    # A centre may lie on the edge between two elements; a small error in the division must not decide which.
    found = np.floor(np.round(centres * (length / whole), 9)).astype(np.int64)
    return np.clip(found, 0, length - 1)


def has_shape_of(shape: tuple[int, ...], box: Box) -> bool:
    """Say whether a mask, (height, width), has the shape of its picture, but for the rounding of sizes."""
    height, width = shape
    return abs(width * box.picture_height - height * box.picture_width) <= max(box.picture_width, box.picture_height)


def _sampled(given: MarkedMap, box: Box, height: int, width: int) -> npt.NDArray[Any]:
    """Return the values at the positions of a model's input, (height, width), once all of the map are checked."""
    tall, wide = given.values.shape
    if not has_shape_of((tall, wide), box):
        sizes = f"{wide} by {tall} pixels, and its picture {box.picture_width} by {box.picture_height}"
        raise DataSetError(f"{given.where} has {sizes}; a mask must have its picture's shape, upright, at any size.")
    # Values are counted, as sorting them takes ten times as long.
    present = np.flatnonzero(np.bincount(given.values.ravel()))
    bad = present[(present >= len(given.concepts)) | (given.concepts[present % len(given.concepts)] == UNKNOWN)]
    if len(bad):
        raise DataSetError(f"{given.where} has the value {bad[0]}, which stands for no concept of its category.")
    rows = places(box.top, box.bottom, box.picture_height, height, tall)
    columns = places(box.left, box.right, box.picture_width, width, wide)
    return np.take(np.take(given.values, rows, axis=0), columns, axis=1)


def value_table(category: str, names: Mapping[int, str], concepts: tuple[Concept, ...]) -> npt.NDArray[np.int64]:
    """Return the number of the concept that each value of a category's maps stands for; 0 is nothing."""
    numbers = {concept: number for number, concept in enumerate(concepts)}
    table = np.full(max(names, default=0) + 1, UNKNOWN, np.int64)
    table[0] = NOTHING
    for value, name in names.items():
        table[value] = numbers[Concept(name, category)]
    return table


def distinct_concepts(found: Iterable[Concept], where: str) -> tuple[Concept, ...]:
    """Return concepts that are each there once.

    Raises
    ------
    DataSetError
        They are too many, or a name does not print.
    """
    kept = tuple(dict.fromkeys(found))
    if len(kept) > MOST_CONCEPTS:
        raise DataSetError(f"{where} has {len(kept)} concepts; at most {MOST_CONCEPTS} are read.")
    for each in kept:
        for text in (each.category, each.name):
            if not text or not text.isprintable() or len(text) > _MOST_CHARACTERS:
                right = f"1 to {_MOST_CHARACTERS} characters that print"
                raise DataSetError(f"{where} has the concept {ascii(text)[:80]}; a name must be {right}.")
    return kept


MOST_CONCEPTS = 10_000
"""Of a data set, or a request."""

_MOST_CHARACTERS = 256
