"""What lies before a cut at a layer, kept on the device: the layer's values and what else crosses the cut."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pellucid_server.engine.asking.handle import Held
from pellucid_server.engine.asking.recipe import Accumulator, Fold, NonFinite, Plain, Recipe, Tensors
from pellucid_server.engine.device.accelerator import to_host
from pellucid_server.engine.device.kernel import Parts
from pellucid_server.engine.models.graph.suffix import Context
from pellucid_server.engine.models.loading.loaded import LoadedModel

_VALUE = "\0value"


@dataclass(frozen=True, slots=True, eq=False)
class HeldRows:
    """The part of a network before a layer, run once for some rows and held on the device.

    `values` are the layer's, (rows, *shape), on the host.
    """

    layer: str
    context: Context
    values: npt.NDArray[np.generic]

    @property
    def count(self) -> int:
        """How many rows it holds."""
        return len(self.values)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes on the device."""
        return context_bytes(self.context)


def context_bytes(context: Context) -> int:
    """Return the bytes of what crosses a cut."""
    shared = (each for each in context.shared if isinstance(each, torch.Tensor))
    return sum(each.nbytes for each in (context.value, *context.rows, *shared))


class Crossing(dict[str, torch.Tensor]):
    """The values that cross a cut, each by row; `shared` are those that are the same for any rows."""

    def __init__(self, context: Context) -> None:
        super().__init__({_VALUE: context.value, **{f"\0{number}": rows for number, rows in enumerate(context.rows)}})
        self.shared = context.shared


@dataclass(frozen=True, slots=True)
class OnDevice:
    """The crossing values of all rows, left on the device."""

    def start(self, count: int) -> Accumulator:
        """Return an accumulator for `count` rows."""
        return _Gathered()


class _Gathered:
    nonfinite: NonFinite | None = None

    def __init__(self) -> None:
        self._parts: list[dict[str, torch.Tensor]] = []
        self._shared: tuple[object, ...] = ()

    def add(self, results: Tensors, start: int, count: int) -> None:
        assert isinstance(results, Crossing)  # noqa: S101 - the prefix's kernel makes nothing else
        # A copy, or all rows of a chunk would stay as long as one.
        self._parts.append({name: rows[start : start + count].clone() for name, rows in results.items()})
        self._shared = results.shared

    def context(self) -> Context:
        """Return what crosses, of all rows."""
        found = {name: torch.cat([part[name] for part in self._parts]) for name in self._parts[0]}
        value = found.pop(_VALUE)
        return Context(value, tuple(found[f"\0{number}"] for number in range(len(found))), self._shared)

    def result(self) -> dict[str, npt.NDArray[np.generic]]:
        return {}


@dataclass(frozen=True, slots=True)
class Prefix(Plain):
    """Ask for what crosses a cut at `layer`."""

    rows: Recipe
    layer: str
    fold: Fold
    exact: bool = False

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What may share a chunk."""
        return ("prefix", self.layer)

    @property
    def derived(self) -> bool:
        """Whether it takes a graph of its own."""
        return True

    def kernel(self, model: LoadedModel, device: str) -> "PrefixKernel":
        """Return what evaluates it."""
        return PrefixKernel(model, device, self.layer)


class PrefixKernel:
    """Runs the part of a graph before a layer."""

    evaluation = "prefix"
    backward = False

    def __init__(self, model: LoadedModel, device: str, layer: str) -> None:
        cuts = model.cuts_for(layer)
        self._suffix = cuts.suffix(layer)
        self.runtime = cuts.runtime
        self.kind = f"prefix@{layer}"
        self.device = cuts.device

    def __call__(self, batch: Tensors, parts: Parts) -> Tensors:
        """Return what crosses."""
        return Crossing(self._suffix.context(batch))


def held(layer: str, gathered: Accumulator) -> HeldRows:
    """Make what a prefix left on the device into something to go on from."""
    assert isinstance(gathered, _Gathered)  # noqa: S101 - see `OnDevice`
    context = gathered.context()
    return HeldRows(layer, context, to_host(context.value))


def joined(parts: Mapping[int, Held]) -> Context:
    """Put held rows one behind the other, without their layer's values."""
    contexts: list[Context] = [each.context for each in parts.values()]
    if len(contexts) == 1:
        return contexts[0]
    columns = zip(*(context.rows for context in contexts), strict=True)
    return Context(contexts[0].value, tuple(torch.cat(column) for column in columns), contexts[0].shared)
