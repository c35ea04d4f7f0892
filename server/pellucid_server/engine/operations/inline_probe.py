"""Rows that a `Dissect` request brings itself, with labels and concept masks, as methods look at them."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pellucid_server.engine.asking.probes import Concept, Pixels, ProbeBatch, RowMasks
from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.datasets.masks.marks import (
    MOST_CONCEPTS,
    NOTHING,
    MarkedMap,
    Marks,
    has_shape_of,
    row_masks,
)
from pellucid_server.engine.datasets.steps import Run, here
from pellucid_server.engine.models.inputs.pictures import seen_pixels
from pellucid_server.engine.models.loading.loaded import LoadedModel
from pellucid_server.engine.operations.rows import Rows
from pellucid_server.errors import InvalidRequestError, UnsupportedError
from pellucid_server.vocabulary.descriptions import InputInfo
from pellucid_server.vocabulary.requests import MaskSpec, ProbeSpec
from pellucid_server.vocabulary.results import Box

_MOST_ROW_BYTES, _LEAST_CONCEPTS = 8 << 20, 32
"""Bytes of a row's masks at the size of the model's input, 167 concepts at 224 by 224; but so many are always taken."""
_MOST_ROW_MASKS = 1024
"""Masks of one row, several of which may be of one concept: they are sampled in one go, some tenths of a second."""

_KINDS = {"image": "pictures", "tabular": "table", "text": "texts"}


@dataclass(frozen=True, slots=True)
class InlineProbe:
    """Rows of a request, of those that are looked at; see `ProbeSet`."""

    arrays: Arrays
    count: int
    kind: str
    labels: tuple[str, ...]
    concepts: tuple[Concept, ...]
    marks: Mapping[int, Marks]
    """The concepts in each row that has any."""
    pictured: InputInfo | None
    """The input that has pictures; None where none has."""
    boxes: tuple[Box | None, ...]
    run: Run = here

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels of the rows, sorted."""
        return tuple(sorted({label for label in self.labels if label}))

    def batches(self, rows_per_batch: int, *, first: int = 0, masks: bool = False) -> Iterator[ProbeBatch]:
        """Give the rows from number `first` on, at most so many at once, with their masks if asked for."""
        for begin in range(first, self.count, rows_per_batch):
            numbers = np.arange(begin, min(begin + rows_per_batch, self.count))
            found: tuple[RowMasks, ...] = ()
            if masks and self.concepts:
                found = tuple(self.run(partial(self._row_masks, number)) for number in numbers.tolist())
            labels = self.labels[begin : begin + rows_per_batch]
            yield ProbeBatch(self.rows(numbers.tolist()), numbers, labels, found)

    def rows(self, numbers: Sequence[int]) -> Arrays:
        """Return the rows of these numbers, in this order."""
        return {name: array[list(numbers)] for name, array in self.arrays.items()}

    def pictures(self, numbers: Sequence[int]) -> tuple[Pixels, ...]:
        """Return what the model sees of these rows' pictures."""
        if self.pictured is None:
            raise UnsupportedError("The rows of the probe are no pictures.", subject="probe")
        array, info = self.arrays[self.pictured.name], self.pictured
        return tuple(seen_pixels(array[number], info) for number in numbers)

    def names(self, numbers: Sequence[int]) -> tuple[str, ...]:
        """Return what these rows are called."""
        return tuple(f"row {number}" for number in numbers)

    def _row_masks(self, number: int) -> RowMasks:
        if self.pictured is None:
            raise ValueError("only rows of pictures have masks")
        height, width = self.pictured.shape[-2:]
        return row_masks(self.marks.get(number, Marks()), _box(self.boxes[number], height, width), height, width)


def inline_probe(model: LoadedModel, rows: Rows, spec: ProbeSpec, run: Run = here) -> InlineProbe:
    """Make the rows of a request ready: the first `spec.rows`, or all for 0.

    Raises
    ------
    InvalidRequestError
        Labels or masks do not fit the rows, a row has too many, or there are masks and no pictures.
    """
    count = min(rows.count, spec.rows or rows.count)
    if spec.labels and len(spec.labels) != rows.count:
        text = f"probe.labels has {len(spec.labels)} entries, and there are {rows.count} rows; give one for each row."
        raise InvalidRequestError(text, field="probe.labels")
    pictured = [each.info for each in model.inputs.values() if each.info.modality == "image"]
    if spec.masks and len(pictured) != 1:
        inputs = ", ".join(f"{each.info.name} ({each.info.modality})" for each in model.inputs.values())
        text = f"probe.masks lie on pictures; {model.key.name} must have one input of pictures, and has: {inputs}."
        raise InvalidRequestError(text, field="probe.masks")
    boxes = rows.boxes[pictured[0].name] if len(pictured) == 1 else (None,) * rows.count
    for number, mask in enumerate(spec.masks):
        _check(mask, f"probe.masks[{number}]", boxes, pictured[0].shape)
    seen = [each for each in spec.masks if each.row < count]
    concepts = tuple(dict.fromkeys(Concept(each.concept, each.category) for each in seen))
    if len(concepts) > MOST_CONCEPTS:
        text = f"probe.masks marks {len(concepts)} concepts; at most {MOST_CONCEPTS} are taken."
        raise InvalidRequestError(text, field="probe.masks")
    if seen:
        _require_few(seen, pictured[0].shape)
    kinds = {_KINDS.get(each.info.modality, "tensor") for each in model.inputs.values()}
    return InlineProbe(
        arrays={name: array[:count] for name, array in rows.arrays.items()},
        count=count,
        kind=kinds.pop() if len(model.inputs) == 1 else "tensor",
        labels=spec.labels[:count],
        concepts=concepts,
        marks=_by_row(seen, concepts),
        pictured=pictured[0] if len(pictured) == 1 else None,
        boxes=boxes,
        run=run,
    )


def masks_digest(spec: ProbeSpec, count: int) -> str:
    """Return the SHA-256 over the labels and masks of the first `count` rows, in the request's order; "" for none."""
    masks = [each for each in spec.masks if each.row < count]
    if not masks and not spec.labels:
        return ""
    found = hashlib.sha256()
    for label in spec.labels[:count]:
        found.update(b"label\0" + _framed(label))
    for each in masks:
        found.update(b"mask\0" + _framed(each.category) + _framed(each.concept) + f"{each.row}\0".encode())
        if each.mask is not None:
            found.update(f"{each.mask.shape}\0".encode())
            found.update(np.packbits(each.mask.astype(np.bool_)).data)
    return found.hexdigest()


def _framed(text: str) -> bytes:
    content = text.encode()
    return f"{len(content)}\0".encode() + content


def _check(mask: MaskSpec, field: str, boxes: tuple[Box | None, ...], shape: tuple[int, ...]) -> None:
    if mask.row >= len(boxes):
        text = f"{field}.row is {mask.row}; the probe has {len(boxes)} rows, numbered from 0."
        raise InvalidRequestError(text, field=f"{field}.row")
    box = _box(boxes[mask.row], *shape[-2:])
    if mask.mask is not None and not has_shape_of(mask.mask.shape, box):
        text = (
            f"{field}.mask is {list(mask.mask.shape)}, and the picture of row {mask.row} is [{box.picture_height}, "
            f"{box.picture_width}] upright, height first; a mask must have its picture's shape, at any size."
        )
        raise InvalidRequestError(text, field=f"{field}.mask")


def _require_few(masks: Sequence[MaskSpec], shape: tuple[int, ...]) -> None:
    """Refuse more concepts of one row than there is memory for: a mask is the whole input's, however small it came."""
    height, width = shape[-2:]
    row, count = Counter(each.row for each in masks).most_common(1)[0]
    if count > _MOST_ROW_MASKS:
        text = f"probe.masks has {count} masks of row {row}; at most {_MOST_ROW_MASKS} are taken of one row."
        raise InvalidRequestError(text, field="probe.masks")
    most = max(_LEAST_CONCEPTS, _MOST_ROW_BYTES // (height * width))
    marked = Counter(row for row, _ in {(each.row, Concept(each.concept, each.category)) for each in masks})
    row, concepts = marked.most_common(1)[0]
    if concepts > most:
        text = (
            f"probe.masks marks {concepts} concepts in row {row}; at most {most} are taken of a row of {width} by "
            f"{height} pixels."
        )
        raise InvalidRequestError(text, field="probe.masks")


def _box(box: Box | None, height: int, width: int) -> Box:
    """Return the part of a picture that a row shows: of a row that was sent as the model takes it, all."""
    return box or Box(0, 0, width, height, width, height)


def _by_row(masks: Sequence[MaskSpec], concepts: tuple[Concept, ...]) -> Mapping[int, Marks]:
    numbers = {concept: number for number, concept in enumerate(concepts)}
    maps: dict[int, list[MarkedMap]] = {}
    whole: dict[int, set[int]] = {}
    for each in masks:
        number = numbers[Concept(each.concept, each.category)]
        if each.mask is None:
            whole.setdefault(each.row, set()).add(number)
            continue
        there = np.ascontiguousarray(each.mask).view(np.uint8)
        table = np.array([NOTHING, number], np.int64)
        maps.setdefault(each.row, []).append(MarkedMap(f"the mask of row {each.row}", there, table))
    return {row: Marks(tuple(maps.get(row, ())), tuple(whole.get(row, ()))) for row in {*maps, *whole}}
