"""Parts of a graph that its ONNX file runs: found by numbers, as the values of the two have other names.

A value of the graph and one of the file are taken to be one if on the trial rows they agree, and no other value of the
file agrees with it. A part of the file takes the place of a suffix if all that enters it has such a value, and if its
outputs agree for other values there, too: those that an edit might make.
"""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

from pellucid_server.engine.asking.question import Arrays
from pellucid_server.engine.models.graph.graph import Graph
from pellucid_server.engine.models.graph.suffix import Context, Run, Suffix
from pellucid_server.engine.models.graph.units import UnitSuffix
from pellucid_server.engine.models.loading.trial import graph_rows
from pellucid_server.engine.models.onnx.cuts import OnnxCuts
from pellucid_server.engine.models.onnx.onnx_model import OnnxModel
from pellucid_server.engine.models.onnx.sessions import Kept

_log = logging.getLogger(__name__)

LARGEST_TWIN_BYTES = 256 << 20
"""Of a file beside a graph: its weights are in memory once more."""

VALUE_TOLERANCE, OUTPUT_TOLERANCE = 1e-5, 1e-5
"""Most by which a value, and an output behind it, may differ, as a share of the largest."""

_OPERATORS = frozenset({"Conv"})
"""Operators of which a part has one at least: others are not known to be any faster in ONNX Runtime."""

_SAMPLES = 256
"""Elements of a value's row that are compared."""
_MOST_ELEMENTS = 1 << 26
"""Of all values of a row together: they are computed at once."""
_NICENESS = 10
"""Of the threads that sessions open: those of the device's thread for explanations give way as much."""
_KEPT = 256

Floats = npt.NDArray[np.float64]
_Found = TypeVar("_Found", Suffix, UnitSuffix)
_Any = TypeVar("_Any")


@dataclass(frozen=True, slots=True)
class _Print:
    """What a value of the file is known by: elements of its rows, (rows, samples), and its shape of a row."""

    shape: tuple[int, ...]
    samples: Floats


class Twin:
    """The ONNX file of a model that has a graph, too. May be called from several threads.

    Everything is worked out when it is first asked for. What is found is a function of the model alone.

    Parameters
    ----------
    name
        The model's, for the log.
    session
        The file, opened to be cut.
    rows
        Three rows that the model takes.
    """

    runtime = "onnxruntime"
    """What receipts call it."""

    def __init__(self, name: str, session: OnnxModel, rows: Arrays) -> None:
        self._name = name
        self._session = session
        self._rows = rows
        self._lock = threading.Lock()
        self._file: tuple[OnnxCuts, dict[str, _Print]] | None = None
        self._suffixes: Kept[Suffix | None] = Kept(_KEPT, lambda made: 1)
        self._unit_suffixes: Kept[UnitSuffix | None] = Kept(_KEPT, lambda made: 1)

    def suffix(self, graph: Graph, layer: str) -> Suffix | None:
        """Return what the graph does behind a layer, run by the file; None if the file has no such part."""
        suffix = graph.suffix(layer)
        key: Hashable = (id(graph), layer)
        return self._suffixes.get(
            key, lambda: self._divided(suffix, lambda rows: graph.prefixes((layer,))(rows)[layer], layer)
        )

    def unit_suffix(self, graph: Graph, layer: str) -> UnitSuffix | None:
        """Return the same for a layer of which one unit is changed in each row."""
        suffix = graph.unit_suffix(layer)
        key: Hashable = (id(graph), layer)
        return self._unit_suffixes.get(
            key,
            lambda: self._divided(
                suffix, lambda rows: graph.prefixes((layer,), frozenset({layer}))(rows)[layer], layer
            ),
        )

    def _divided(
        self, suffix: _Found, before: Callable[[dict[str, torch.Tensor]], Context], layer: str
    ) -> _Found | None:
        try:
            run = _at_low_priority(lambda: self._run(suffix, before(graph_rows(self._rows, "cpu"))))
        except Exception as error:  # noqa: BLE001 - whatever it is, the graph runs the part
            _log.info("model %s: the ONNX file does not run what is behind %s (%s)", self._name, layer, type(error))
            return None
        return None if run is None else suffix.run_by(run)

    def _run(self, suffix: Suffix | UnitSuffix, context: Context) -> Run | None:
        """Return what runs the part of the file, if there is one that agrees."""
        entering = suffix.entering(context)
        if any(each.dtype is not torch.float32 for each in entering):
            return None
        cuts, prints = self._known()
        found = [_only(prints, each) for each in entering]
        names = tuple(name for name in found if name is not None)
        if len(set(names)) < len(found):
            return None
        run = cuts.between(names, _OPERATORS)
        if run is None:
            return None
        for scale in (None, 1.0):
            changed = _changed(entering, scale)
            with torch.no_grad():
                expected = suffix.run(changed, context)
            if not _agree(run(changed), expected):
                return None
        return run

    def _known(self) -> tuple[OnnxCuts, dict[str, _Print]]:
        """Return the file's cuts, and what its values are known by."""
        with self._lock:
            if self._file is None:
                cuts = OnnxCuts(self._session, self._rows)
                self._file = cuts, _prints(cuts, self._rows)
            return self._file


def _prints(cuts: OnnxCuts, rows: Arrays) -> dict[str, _Print]:
    """Return what the values of a file are known by; those of one row are computed at a time."""
    names = tuple(name for name, layer in cuts.layers.items() if None not in layer.shape)
    if sum(int(np.prod([length or 1 for length in cuts.layers[name].shape])) for name in names) > _MOST_ELEMENTS:
        return {}
    captured = cuts.capturing(names)
    found: dict[str, list[Floats]] = {name: [] for name in names}
    shapes: dict[str, tuple[int, ...]] = {}
    for number in range(len(next(iter(rows.values())))):
        _, values = captured({name: torch.from_numpy(array[number : number + 1]) for name, array in rows.items()})
        for name, value in values.items():
            shapes[name] = tuple(value.shape[1:])
            found[name].append(_sampled(value)[0])
    return {name: _Print(shapes[name], np.stack(samples)) for name, samples in found.items()}


def _sampled(value: torch.Tensor) -> Floats:
    """Return elements of each row of a value, (rows, samples), at the same places for each value of its size."""
    flat = value.reshape(len(value), -1)
    if flat.shape[1] > _SAMPLES:
        places = np.random.default_rng(flat.shape[1]).choice(flat.shape[1], _SAMPLES, replace=False)
        flat = flat[:, torch.from_numpy(places)]
    return np.asarray(flat.double().numpy())


def _only(prints: dict[str, _Print], value: torch.Tensor) -> str | None:
    """Return the name of the only value of the file that agrees with one of the graph; None for none, or several."""
    shape, samples = tuple(value.shape[1:]), _sampled(value)
    largest = float(value.abs().max())
    if not np.isfinite(largest):
        return None
    names = [
        name
        for name, each in prints.items()
        if each.shape == shape and np.abs(each.samples - samples).max(initial=0.0) <= VALUE_TOLERANCE * largest
    ]
    return names[0] if len(names) == 1 else None


def _changed(entering: Sequence[torch.Tensor], scale: float | None) -> list[torch.Tensor]:
    """Return values as edits might make them: each turned about, with noise of its own size or of `scale`.

    The seed is fixed.
    """
    generator = torch.Generator().manual_seed(0)
    found = []
    for value in entering:
        plain = value.contiguous()
        size = plain.square().mean().sqrt() if scale is None else scale
        found.append(size * torch.randn(plain.shape, generator=generator) - 0.5 * plain)
    return found


def _agree(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> bool:
    """Whether outputs agree: all of them, to a share of the largest."""
    for name, truth in expected.items():
        difference, largest = (found[name] - truth).abs().max(), truth.abs().max()
        if not bool(difference <= OUTPUT_TOLERANCE * largest):
            return False
    return True


def _at_low_priority(function: Callable[[], _Any]) -> _Any:
    """Call a function on a thread that gives way to others, and so do the threads that it starts."""
    found: list[_Any] = []
    errors: list[BaseException] = []

    def call() -> None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        try:
            found.append(function())
        except BaseException as error:  # noqa: BLE001 - raised again where it was called
            errors.append(error)

    thread = threading.Thread(target=call, name="twin")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return found[0]
