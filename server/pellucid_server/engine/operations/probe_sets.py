"""From the probe that a `Dissect` names to the rows that its method looks at."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pellucid_server.engine.asking.probes import Concept, Pixels, ProbeBatch, ProbeSet
from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.datasets.probe import open_probe
from pellucid_server.engine.models.loading.loaded import LoadedModel
from pellucid_server.engine.operations.context import RequestContext
from pellucid_server.engine.operations.dataset_rows import offloaded
from pellucid_server.engine.operations.rows import Rows, digest, prepare
from pellucid_server.errors import UnsupportedError
from pellucid_server.vocabulary.requests import ProbeSpec

MOST_INLINE_ROWS = 4096
"""Rows that a request brings itself, at most."""


@dataclass(frozen=True, slots=True)
class OpenedProbe:
    """The rows of a request, and what the answer is a function of.

    `rows` is None where the request names none. Digests are empty where there is nothing to take one of.
    """

    rows: ProbeSet | None = None
    digest: str = ""
    dataset_digest: str = ""
    masks_digest: str = ""
    warnings: tuple[str, ...] = ()


def opened_probe(context: RequestContext, model: LoadedModel, spec: ProbeSpec | None) -> OpenedProbe:
    """Find the rows that a request names.

    Raises
    ------
    PellucidError
        There is no such data set, it does not fit the model, or inline rows are wrong.
    """
    if spec is None:
        return OpenedProbe()
    if spec.dataset:
        datasets, run = context.models.datasets, offloaded(context)
        found = datasets.find(spec.dataset, place="probe.dataset")
        files = datasets.digest(found, run)
        return OpenedProbe(open_probe(found, model, spec.rows, run), files, files)
    rows = prepare(context, model, spec.inputs, field="probe.inputs", most=MOST_INLINE_ROWS)
    return OpenedProbe(_Inline(rows, spec), digest(rows.arrays))


@dataclass(frozen=True, slots=True)
class _Inline:
    """Rows that came with the request."""

    _rows: Rows
    _spec: ProbeSpec
    concepts: tuple[Concept, ...] = field(default=(), init=False)
    classes: tuple[str, ...] = field(default=(), init=False)

    @property
    def kind(self) -> str:
        return "tensor"

    @property
    def count(self) -> int:
        return min(self._rows.count, self._spec.rows or self._rows.count)

    def batches(self, rows_per_batch: int, *, first: int = 0, masks: bool = False) -> Iterator[ProbeBatch]:
        for begin in range(first, self.count, rows_per_batch):
            numbers = np.arange(begin, min(begin + rows_per_batch, self.count))
            labels = tuple(self._spec.labels[number] for number in numbers) if self._spec.labels else ()
            yield ProbeBatch(self.rows(numbers.tolist()), numbers, labels)

    def rows(self, numbers: Sequence[int]) -> Arrays:
        return {name: array[list(numbers)] for name, array in self._rows.arrays.items()}

    def pictures(self, numbers: Sequence[int]) -> tuple[Pixels, ...]:
        raise UnsupportedError("The rows of the probe are no pictures.", subject="probe")

    def names(self, numbers: Sequence[int]) -> tuple[str, ...]:
        return tuple(f"row {number}" for number in numbers)
