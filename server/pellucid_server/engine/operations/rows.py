"""A request's inputs made ready: checked against the model's signature, preprocessed, stacked."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.models.inputs.pictures import PicturePreprocessor
from pellucid_server.engine.models.inputs.preprocessing import Prepared, Preprocessor
from pellucid_server.engine.models.loading.loaded import LoadedModel
from pellucid_server.engine.operations.context import RequestContext
from pellucid_server.errors import InvalidRequestError
from pellucid_server.vocabulary.requests import Input, PicturesInput, TensorInput
from pellucid_server.vocabulary.results import Box

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows in the model's input space, (rows, *features) each, and for pictures the box of each row."""

    arrays: Arrays
    boxes: Mapping[str, tuple[Box | None, ...]]
    count: int

    def row(self, number: int) -> Arrays:
        """Return one row, (*features) each."""
        return {name: array[number] for name, array in self.arrays.items()}


def prepare(
    context: RequestContext, model: LoadedModel, inputs: Mapping[str, Input], *, field: str = "inputs", most: int = 0
) -> Rows:
    """Preprocess `inputs` for `model`; other requests go on while pictures are decoded and resampled.

    `most` is the largest number of rows; 0 for the model's own limit.

    Raises
    ------
    InvalidRequestError
        An input is missing, unknown or malformed, the numbers of rows differ, or rows are of lengths that the
        model does not take.
    """
    with context.timed("prepare"):
        return _prepared_rows(context, model, inputs, field, most)


def _prepared_rows(
    context: RequestContext, model: LoadedModel, inputs: Mapping[str, Input], field: str, most: int
) -> Rows:
    known = ", ".join(model.inputs)
    for name in inputs:
        if name not in model.inputs:
            text = f"{model.key.name} has no input {name!r}; its inputs: {known}."
            raise InvalidRequestError(text, field=f'{field}["{name}"]')
    for name in model.inputs:
        if name not in inputs:
            text = f"{field} has no {name!r}; {model.key.name} needs each of: {known}."
            raise InvalidRequestError(text, field=f'{field}["{name}"]')
    for given in inputs.values():
        if isinstance(given, PicturesInput) and given.encoded:
            # Before they are decoded, which takes long.
            _require_rows(model, len(given.encoded), field, most)
    prepared = {
        name: _prepared(context, preprocessor, inputs[name], f'{field}["{name}"]')
        for name, preprocessor in model.inputs.items()
    }
    counts = {name: len(entry.rows) for name, entry in prepared.items()}
    if len(set(counts.values())) != 1:
        listed = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise InvalidRequestError(f"All inputs must have the same number of rows; {listed}.", field=field)
    count = next(iter(counts.values()))
    _require_rows(model, count, field, most)
    arrays = {name: entry.rows for name, entry in prepared.items()}
    model.lengths.require({name: array.shape[1:] for name, array in arrays.items()}, field)
    return Rows(arrays, {name: entry.boxes for name, entry in prepared.items()}, count)


def _require_rows(model: LoadedModel, count: int, field: str, most: int) -> None:
    most = most or model.max_rows
    if not 1 <= count <= most:
        text = f"{field} has {count} rows; {model.key.name} takes 1 to {most} a request."
        raise InvalidRequestError(text, field=field)


def _prepared(context: RequestContext, preprocessor: Preprocessor, given: Input, field: str) -> Prepared:
    if not isinstance(preprocessor, PicturePreprocessor):
        sent = {"": given.array} if isinstance(given, TensorInput) else {}
        return context.heavy(lambda: preprocessor.prepare(given, field), sent)

    def run(step: Callable[[], Made]) -> Made:
        # A photograph takes a tenth of a second, in which the hub would run nobody else's request.
        context.request.check()
        return context.services.hub.offload(step)

    return preprocessor.prepare(given, field, run=run)


def digest(arrays: Arrays) -> str:
    """Return the SHA-256 over arrays, their names, types and shapes, as lower-case hexadecimal."""
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        # A copy only where the elements do not lie one behind the other.
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
