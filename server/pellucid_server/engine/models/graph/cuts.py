"""What evaluations need of a model that can be cut: the same of a graph and of an ONNX file."""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch

from pellucid_server.engine.models.graph.names import Layer
from pellucid_server.engine.models.graph.suffix import Context, Rows

Values = dict[str, torch.Tensor]
Edits = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


class Behind(Protocol):
    """What a model does behind one layer."""

    def __call__(self, values: torch.Tensor, context: Context, index: torch.Tensor | None = None) -> Values:
        """Return the outputs by name, (n, *shape), had the layer these values; value i goes with row `index[i]`."""
        ...


class BehindUnits(Protocol):
    """What a model does behind one layer of which one unit is changed in each row."""

    def __call__(
        self, units: torch.Tensor, values: torch.Tensor, context: Context, index: torch.Tensor | None = None
    ) -> Values:
        """Return the outputs by name, (n, *shape), had unit `units[i]` the values i, (n, *positions), in row i."""
        ...


class Cuts(Protocol):
    """A model whose layers can be read and changed, without gradients. May be called from several threads.

    `Graph` describes the calls; that of an ONNX file makes the same promises.
    """

    @property
    def device(self) -> str:
        """Where rows have to be, and where values are."""
        ...

    @property
    def runtime(self) -> str:
        """What receipts call it."""
        ...

    @property
    def layers(self) -> Mapping[str, Layer]:
        """Layers by name, in the order in which the first pass enters them."""
        ...

    @property
    def sites(self) -> Mapping[str, Layer]:
        """The layers, and parts of them."""
        ...

    def capturing(self, layers: tuple[str, ...]) -> Callable[[Rows], tuple[Values, Values]]:
        """Return what gives the outputs, which may be left out, and the values of layers, each by name."""
        ...

    def editing(
        self, layers: tuple[str, ...], capture: tuple[str, ...] = (), norms: tuple[str, ...] = ()
    ) -> Callable[[Rows, Edits, Values], tuple[Values, Values]]:
        """Return what gives the outputs with edits (keep, add) of layers, and the values of others then, by name.

        Norms, by the names of `Graph.norms_between`, multiply by the scales that are given last; only a graph has some.
        """
        ...

    def prefixes(
        self, layers: tuple[str, ...], by_unit: frozenset[str] = frozenset()
    ) -> Callable[[Rows], dict[str, Context]]:
        """Return what gives the context of the suffix of each layer, and of its `unit_suffix` if asked, by one pass."""
        ...

    def by_unit(self, layer: str) -> bool:
        """Whether there is a `unit_suffix` behind a layer."""
        ...

    def unit_suffix(self, layer: str) -> BehindUnits:
        """Return what the model does behind a layer of which one unit is changed in each row."""
        ...

    def suffix(self, layer: str) -> Behind:
        """Return what the model does behind a layer."""
        ...
