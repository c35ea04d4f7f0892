"""What lies before cuts at layers, kept on the device: each layer's values and what else crosses its cut."""

from collections.abc import Callable, Hashable, Mapping, Sequence
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
    return sum(each.nbytes for each in (context.value, *context.rows, *context.tapped, *shared))


class Crossing(dict[str, torch.Tensor]):
    """The values that cross cuts, each by row; `shared` are those of each cut that are the same for any rows."""

    def __init__(self, contexts: Sequence[Context]) -> None:
        super().__init__(
            {
                _name(cut, place): rows
                for cut, context in enumerate(contexts)
                for place, rows in enumerate((context.value, *context.rows, *context.tapped))
            }
        )
        self.shared = tuple(context.shared for context in contexts)
        self.tapped = tuple(len(context.tapped) for context in contexts)


def _name(cut: int, place: int) -> str:
    return f"\0{cut}\0{place}"


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
        self._shared: tuple[tuple[object, ...], ...] = ()
        self._tapped: tuple[int, ...] = ()

    def add(self, results: Tensors, start: int, count: int) -> None:
        assert isinstance(results, Crossing)  # noqa: S101 - the prefix's kernel makes nothing else
        # A copy, or all rows of a chunk would stay as long as one.
        self._parts.append({name: rows[start : start + count].clone() for name, rows in results.items()})
        self._shared, self._tapped = results.shared, results.tapped

    def contexts(self) -> tuple[Context, ...]:
        """Return what crosses each cut, of all rows. Each has memory of its own, so that each can be let go."""
        found: list[list[torch.Tensor]] = [[] for _ in self._shared]
        parts = self._parts
        for name in parts[0]:
            whole = parts[0][name] if len(parts) == 1 else torch.cat([part[name] for part in parts])
            found[int(name.split("\0")[1])].append(whole)
        contexts = []
        for values, shared, tapped in zip(found, self._shared, self._tapped, strict=True):
            rows = len(values) - tapped
            contexts.append(Context(values[0], tuple(values[1:rows]), shared, tuple(values[rows:])))
        return tuple(contexts)

    def result(self) -> dict[str, npt.NDArray[np.generic]]:
        return {}


@dataclass(frozen=True, slots=True)
class Prefix(Plain):
    """Ask for what crosses cuts at `layers`, by one pass through what lies before them; `by_unit` as for a graph."""

    rows: Recipe
    layers: tuple[str, ...]
    fold: Fold
    exact: bool = False
    by_unit: frozenset[str] = frozenset()

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What may share a chunk."""
        return ("prefix", *self.layers, "", *sorted(self.by_unit))

    @property
    def derived(self) -> bool:
        """Whether it takes a graph of its own."""
        return True

    def kernel(self, model: LoadedModel, device: str) -> "PrefixKernel":
        """Return what evaluates it."""
        return PrefixKernel(model, device, self.layers, self.by_unit)


class PrefixKernel:
    """Runs the part of a graph before layers."""

    evaluation = "prefix"
    backward = False

    def __init__(self, model: LoadedModel, device: str, layers: tuple[str, ...], by_unit: frozenset[str]) -> None:
        cuts = model.cuts_for(*layers)
        self._run = cuts.prefixes(layers, by_unit)
        self._layers = layers
        self.runtime = cuts.runtime
        self.kind = f"prefix@{layers[-1]}"
        self.device = cuts.device

    def __call__(self, batch: Tensors, parts: Parts) -> Tensors:
        """Return what crosses."""
        contexts = self._run(batch)
        return Crossing([contexts[layer] for layer in self._layers])


def held(layers: Sequence[str], gathered: Accumulator) -> tuple[HeldRows, ...]:
    """Make what a prefix left on the device into something to go on from, for each of its layers."""
    assert isinstance(gathered, _Gathered)  # noqa: S101 - see `OnDevice`
    return tuple(
        HeldRows(layer, context, to_host(context.value))
        for layer, context in zip(layers, gathered.contexts(), strict=True)
    )


def joined(parts: Mapping[int, Held]) -> Context:
    """Put held rows one behind the other, without their layer's values."""
    contexts: list[Context] = [each.context for each in parts.values()]
    if len(contexts) == 1:
        return contexts[0]
    columns = zip(*(context.rows for context in contexts), strict=True)
    return Context(contexts[0].value, tuple(torch.cat(column) for column in columns), contexts[0].shared)


def before(
    of: torch.Tensor, held: Sequence[tuple[Held, int]], join: Callable[[Mapping[int, Held]], Context]
) -> tuple[Context, torch.Tensor | None]:
    """Return what lies before a layer for all parts of a chunk, and the row of it that goes with each of its rows.

    None for the only row there is, which is then shared and not copied.

    Parameters
    ----------
    of
        The row of what its part holds that goes with each of the chunk's rows, (rows,) int64.
    held
        What each part holds, and how many rows it has in the chunk.
    join
        What puts held rows one behind the other.
    """
    found: dict[int, Held] = {}
    starts: dict[int, int] = {}
    offsets = []
    count = 0
    for each, rows in held:
        number = id(each)
        if number not in found:
            found[number], starts[number] = each, count
            count += each.count
        offsets.append(torch.full((rows,), starts[number], device=of.device))
    if count == 1:
        return next(iter(found.values())).context, None
    return join(found), of + (torch.cat(offsets) if len(offsets) > 1 else offsets[0])
