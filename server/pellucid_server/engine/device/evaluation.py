"""Rows of one request on their way over the device."""

import functools
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.asking.recipe import Ask, Fold, HostTensors, Layout, NonFinite, Recipe, Stage, Tensors
from pellucid_server.engine.tasks.request_state import RequestState, Tally


class Settable(Protocol):
    """What somebody waits for: a `Signal` or a `threading.Event`."""

    def set(self) -> None:
        """Let the waiting one go on."""
        ...


class Evaluation:
    """Rows of one request on their way through a lane. Its answer is there once `finished` is set.

    Evaluations with equal `lane_key` may share batches; those of a prediction and of an explanation have
    different ones. `rows` and `fold` take the place of the ask's; `layout` is that of the rows. `on_rows` is called by
    the device thread with the share of the rows that are done.
    """

    __slots__ = (
        "_finished",
        "_stage",
        "alone",
        "ask",
        "count",
        "done",
        "error",
        "fold",
        "lane_key",
        "layout",
        "on_rows",
        "prediction",
        "recipe",
        "request",
        "results",
        "tally",
    )

    def __init__(
        self,
        lane_key: Hashable,
        ask: Ask,
        request: RequestState,
        tally: Tally,
        finished: Settable,
        *,
        prediction: bool = False,
        exact: bool = False,
        rows: Recipe | None = None,
        fold: Fold | None = None,
        layout: Layout | None = None,
        on_rows: Callable[[float], None] | None = None,
    ) -> None:
        self.lane_key = lane_key
        self.ask = ask
        self.recipe = ask.recipe if rows is None else rows
        self.count = self.recipe.count
        self.layout = self.recipe.layout if layout is None else layout
        self.request = request
        self.tally = tally
        self.prediction = prediction
        self.on_rows = on_rows
        self.alone = request.alone or exact
        """Whether it shares no chunk with others."""
        self.done = 0
        self.error: BaseException | None = None
        self._stage: Stage | None = None
        self.fold = ask.fold if fold is None else fold
        self.results = self.fold.start(self.count)
        """What the fold has made of the rows so far."""
        self._finished = finished

    @property
    def nonfinite(self) -> NonFinite | None:
        """The first result that was no finite number, where the fold looks for one."""
        return self.results.nonfinite

    def answer(self) -> dict[str, npt.NDArray[np.generic]]:
        """Return what the fold made of all rows.

        Raises
        ------
        PellucidError
            The request was cancelled or its deadline passed, or the device could not do it.
        """
        if self.error is not None:
            raise self.error
        return self.results.result()

    def finish(self, error: BaseException | None = None) -> None:
        """Let the waiting request go on; called once, by a device thread."""
        self.error = error
        self._stage = None
        self._finished.set()

    def stage(self, device: str) -> Stage:
        """Return the rows' recipe on the device, put there with the first of them."""
        if self._stage is None:
            self._stage = self.recipe.stage(device)
        return self._stage

    @property
    def staged(self) -> bool:
        """Whether the recipe was put on the device, and is there still."""
        return self._stage is not None

    def unstage(self) -> None:
        """Give back what the recipe takes on the device, where it is put again when it is needed."""
        self._stage = None

    def keep(self, results: Tensors, start: int, taken: int) -> None:
        """Take in the results of the next `taken` rows, found at `start` of a batch's results."""
        self.results.add(results, start, taken)
        self.done += taken
        if self.on_rows is not None:
            self.on_rows(self.done / self.count)


ChunkPart = tuple[Evaluation, int]
"""An evaluation and how many of its next rows are in a chunk."""


def pack(chunk: list[ChunkPart], device: str) -> Tensors:
    """Grow the chosen rows on the device, one part behind the other; without a copy where they lie there as one."""
    layout = chunk[0][0].layout
    if device == "cpu" and small(layout):
        return HostTensors(grown([(entry.recipe, entry.done, count) for entry, count in chunk], layout))
    lying = [entry.stage(device).rows(entry.done, count) for entry, count in chunk]
    found = [rows for rows in lying if rows is not None]
    if len(found) == len(chunk):
        return found[0] if len(found) == 1 else {name: torch.cat([rows[name] for rows in found]) for name in found[0]}
    total = sum([count for _, count in chunk])
    batch = {name: torch.empty((total, *shape), dtype=_torch_type(kind), device=device) for name, kind, shape in layout}
    start = 0
    for entry, count in chunk:
        part = {name: rows[start : start + count] for name, rows in batch.items()} if len(chunk) > 1 else batch
        entry.stage(device).write(part, entry.done)
        start += count
    return batch


_SMALL_ROW_BYTES = 4096


@functools.lru_cache(maxsize=1024)
def row_bytes(layout: Layout) -> int:
    """Return the bytes of a row."""
    return sum(math.prod(shape) * np.dtype(kind).itemsize for _, kind, shape in layout)


def small(layout: Layout) -> bool:
    """Whether rows of a layout are so small that numpy grows them on a CPU, whatever is beside them."""
    return row_bytes(layout) <= _SMALL_ROW_BYTES


def grown(parts: Sequence[tuple[Recipe, int, int]], layout: Layout) -> Arrays:
    """Grow rows on the host: of each recipe so many from a number on, (recipe, first, count), one behind the other."""
    total = sum([count for _, _, count in parts])
    found = {name: np.empty((total, *shape), kind) for name, kind, shape in layout}
    start = 0
    for recipe, first, count in parts:
        recipe.grow({name: rows[start : start + count] for name, rows in found.items()}, first)
        start += count
    return found


@functools.cache
def _torch_type(kind: str) -> torch.dtype:
    return torch.from_numpy(np.empty(0, np.dtype(kind))).dtype
