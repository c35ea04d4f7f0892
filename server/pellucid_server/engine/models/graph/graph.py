"""One functional graph for every model, and the graphs derived from it."""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from pellucid_server.engine.models.graph.fast import faster, widened
from pellucid_server.engine.models.graph.functional_graph import (
    FunctionalGraph,
    GraphValue,
    UnfitModelError,
    assemble,
    read_program,
)
from pellucid_server.engine.models.graph.index_ranges import (
    IndexRange,
    find_index_ranges,
    index_error,
    names_an_index,
)
from pellucid_server.engine.models.graph.lengths import UnfitValuesError, length_error, names_a_length, values_error
from pellucid_server.engine.models.graph.names import Layer, Sites, find_sites
from pellucid_server.engine.models.graph.norms import hold_scale, scale_of
from pellucid_server.engine.models.graph.suffix import (
    Context,
    Rows,
    Suffix,
    affine_outputs,
    cut,
    prefixes,
    truncated,
)
from pellucid_server.engine.models.graph.taps import Tap, find_taps
from pellucid_server.engine.models.graph.units import UnitSuffix, unit_suffix
from pellucid_server.engine.models.graph.ways import SiteWays, Ways
from pellucid_server.engine.models.operators.contracts import BrokenContractError

__all__ = ["Context", "Graph", "GraphValue", "Layer", "Rows", "Suffix", "UnfitModelError"]

Outputs = dict[str, torch.Tensor]
Captures = dict[str, torch.Tensor]
Derived = Callable[..., tuple[Outputs, Captures]]
Editing = Callable[..., tuple[Outputs, Captures]]
"""Derived graphs: from input rows, and edits, to the outputs and to the values of layers, each by name."""

_Made = TypeVar("_Made")

_CACHED = 256
"""Derived graphs kept for each model. One takes some hundred kilobytes and some ten milliseconds to make."""


@dataclass(frozen=True, slots=True)
class Like:
    """What a graph made of another has in common with it: the whole numbers it takes, and its layers' values."""

    index_ranges: Mapping[str, IndexRange]
    sites: Sites


class Graph:
    """A model as one functional graph. Nothing about it ever changes; may be called from several threads.

    Inputs are called as the arguments of the author's `forward`. Outputs: a dictionary's keys; "output" for a
    single tensor; "output_0", "output_1"... for a tuple; nested ones joined by "_". Parameters do not require
    gradients. Whether a call records gradients with respect to its rows is the caller's to decide; a value
    that is kept for later use with gradients is made under `torch.no_grad`, not `torch.inference_mode`.

    Attributes
    ----------
    inputs, outputs
        What goes in and comes out.
    layers
        Layers by name, in the order in which the first pass enters them.
    sites
        What every method here takes for a layer's name: the layers, and parts of them. "NAME:heads" is the value of
        an attention's heads before their output projection, "NAME:branch" what a residual block adds to its stream.
    largest_batch
        The largest batch that the export promises, or None for any.
    lengths
        What the export promises of axes that are open.
    index_ranges
        The whole numbers that an input may hold, by its name, where a table that they index shows it.
    device
        Where it runs, and where rows have to be.
    runtime
        What receipts call it: "graph", as the author's program has it; "fast-graph", a second one made for speed.
    """

    def __init__(
        self, program: FunctionalGraph, *, device: str = "cpu", runtime: str = "graph", like: "Like | None" = None
    ) -> None:
        self.device = device
        self.runtime = runtime
        self.inputs = program.inputs
        self.outputs = program.outputs
        self.largest_batch = program.largest_batch
        self.lengths = program.lengths
        like = like or Like(find_index_ranges(program.graph, program.inputs), find_sites(program.graph, program.batch))
        self.index_ranges: Mapping[str, IndexRange] = like.index_ranges
        self.layers: Mapping[str, Layer] = MappingProxyType(like.sites.layers)
        self.sites: Mapping[str, Layer] = MappingProxyType(like.sites.all)
        self._sites = like.sites
        self._values = like.sites.values
        self._places = {name: place for place, name in enumerate(self._values)}
        self._program = program
        self._input_names = tuple(value.name for value in self.inputs)
        self._output_names = tuple(value.name for value in self.outputs)
        self._open = any(None in value.shape for value in self.inputs)
        self._run = assemble(program.graph, program.tensors)
        # What runs is part of a cycle of torch's, and would keep the weights until a collection; of a model that was
        # there when the worker began there is none.
        weakref.finalize(self, _let_go, self._run)
        self._derived: OrderedDict[tuple[str, ...], Future[Any]] = OrderedDict()
        self._looking, self._deriving = threading.Lock(), threading.Lock()

    @classmethod
    def from_program(cls, program: ExportedProgram, *, device: str = "cpu") -> "Graph":
        """Make a graph of an exported program, on `device`.

        Raises
        ------
        UnfitModelError
            If the model cannot be served as it is; the message has the remedy.
        """
        return cls(read_program(program, device=device), device=device)

    def value_of(self, layer: str) -> Hashable:
        """Return what is equal for layers that have one value, such as a block and its last part."""
        return self._values[layer]

    def faster(self) -> "Graph | None":
        """Return a graph that computes the same in less time on a CPU, to rounding; None if there is none.

        It has those layers whose values it makes.
        """
        found = faster(self._program)
        if found is None:
            return None
        like = Like(self.index_ranges, self._sites.within(found.nodes))
        return Graph(found.program, device=self.device, runtime="fast-graph", like=like)

    def widened(self) -> "Graph":
        """Return the graph in float64, without layers: the truth that float32 is measured by."""
        like = Like(self.index_ranges, self._sites.within({}))
        return Graph(widened(self._program), device=self.device, runtime="wide-graph", like=like)

    def __call__(self, rows: Rows) -> Outputs:
        """Return the outputs by name, (batch, *shape), of input rows by name, (batch, *features) on the device.

        Raises
        ------
        InvalidRequestError
            A whole number in the rows is beyond a table that it indexes, open axes are of lengths that do not go
            together, or an operator cannot take the values that it comes to (a matrix without an inverse).
        """
        try:
            values = self._run(*[rows[name] for name in self._input_names])
        except (BrokenContractError, LinAlgError) as error:
            raise _values_error(error, self._input_names) from error
        except (ArithmeticError, IndexError, RuntimeError) as error:
            if names_an_index(error):
                raise index_error(self._input_names) from error
            if self._open and names_a_length(error):
                raise length_error({name: tuple(rows[name].shape) for name in self._input_names}) from error
            raise
        return dict(zip(self._output_names, values, strict=True))

    def ended(self, sites: Iterable[str]) -> tuple[str, ...]:
        """Return sites in the order in which the first pass ends them: none has an effect on one before it.

        Raises
        ------
        KeyError
            If there is no such site.
        """
        return tuple(sorted(sites, key=self._places.__getitem__))

    def capturing(self, layers: tuple[str, ...]) -> Derived:
        """Return a graph that returns the values of `layers` too, (batch, *shape).

        Raises
        ------
        KeyError
            If there is no such layer.
        UnfitModelError
            If a layer's value has no rows on axis 0.
        """
        return self._cached(("capturing", *layers), lambda: self._capturing(layers))

    def up_to(self, layer: str, *, rectified: bool = True) -> Callable[[Rows], torch.Tensor]:
        """Return a graph that ends at `layer` and returns its value, (batch, *shape); what is behind does not run.

        Without `rectified`, the rectifier that makes the layer's value, or what it is pooled of, is left out, if there
        is one: where that cuts off all values below 0, there still is a gradient then. It records gradients where they
        are enabled and the rows require them.

        Raises
        ------
        KeyError
            If there is no such layer.
        UnfitModelError
            If the layer's value has no rows on axis 0.
        """
        return self._cached(("up_to", layer, "" if rectified else "before"), lambda: self._up_to(layer, rectified))

    def with_leaf_at(self, layer: str) -> Derived:
        """Return a graph in which the value of `layer`, which is returned too, is a leaf that requires gradients.

        `torch.autograd.grad` of the outputs with respect to it is the gradient at the layer. What comes before
        records nothing, as long as the rows do not require gradients. To be called with gradients enabled.

        Raises
        ------
        KeyError
            If there is no such layer.
        UnfitModelError
            If the layer's value has no rows on axis 0.
        """
        return self._cached(("with_leaf_at", layer), lambda: self._with_leaf_at(layer))

    def with_gradients_at(self, layers: tuple[str, ...]) -> Derived:
        """Return a graph in which values of layers, which are returned too, keep what leads from them to the outputs.

        `torch.autograd.grad` of the outputs with respect to them is the gradient at each layer, all by one pass back.
        To be called with gradients enabled, on rows that do not require gradients.

        Raises
        ------
        KeyError
            If there is no such layer.
        UnfitModelError
            If a layer's value has no rows on axis 0.
        """
        return self._cached(("with_gradients_at", *layers), lambda: self._with_gradients_at(layers))

    def ways(self, first: Iterable[str], last: Iterable[str], output: str = "") -> SiteWays:
        """Return the ways from some sites to others, or to an output where there are none in `last`.

        Raises
        ------
        KeyError
            If there is no such site or output.
        """
        results = dict(zip(self._output_names, _results(self._program.graph.output_node()), strict=True))
        ends = {self._values[name] for name in last} or {results[output]}
        ways = Ways(self._program.graph, {self._values[name] for name in first}, ends)
        return SiteWays(ways, self._values, self._program.batch)

    def norm_scales(self, norms: tuple[str, ...]) -> Derived:
        """Return a graph that returns what norms multiply by too, (batch, ..., 1), by the names of `SiteWays.norms`."""
        return self._cached(("norm_scales", *norms), lambda: self._norm_scales(norms))

    def editing(self, layers: tuple[str, ...], capture: tuple[str, ...] = (), norms: tuple[str, ...] = ()) -> Editing:
        """Return a graph that is also given edits of `layers`, by name, and returns what they lead to.

        An edit is a pair (keep, add) that broadcasts with the layer's value v, (batch, *shape): v becomes
        keep * v + add, and add where keep is 0. An edit changes what leaves the layer. Of layers that have one
        value, the inner is changed before the outer. The values of the layers in `capture`, which are returned
        beside the outputs, are those after all edits up to the end of the layer, its own among them. Norms, by the
        names of `SiteWays.norms`, multiply by scales that are given beside the edits.

        Raises
        ------
        KeyError
            If there is no such layer.
        UnfitModelError
            If a layer's value has no rows on axis 0.
        """
        key = ("editing", *layers, "", *capture, "", *norms)
        return self._cached(key, lambda: self._editing(layers, capture, norms))

    def suffix(self, layer: str) -> Suffix:
        """Return what the graph does behind `layer`.

        Raises
        ------
        KeyError
            If there is no such layer.
        UnfitModelError
            If the layer's value has no rows on axis 0, so that there is no row to put another value in.
        """
        return self._cached(("suffix", layer), lambda: self._suffix(layer))

    def by_unit(self, layer: str) -> bool:
        """Whether there is a `unit_suffix` behind a layer: linear operators read its value, and add up over its units.

        Raises
        ------
        KeyError
            If there is no such layer.
        """
        return bool(self._taps(layer))

    def unit_suffix(self, layer: str) -> UnitSuffix:
        """Return what the graph does behind `layer` where one unit of it is changed in each row.

        Raises
        ------
        KeyError
            If there is no such layer.
        UnfitModelError
            If the layer's value has no rows on axis 0.
        ValueError
            If `by_unit` says that there is none.
        """
        return self._cached(("unit_suffix", layer), lambda: self._unit_suffix(layer))

    def prefixes(
        self, layers: tuple[str, ...], by_unit: frozenset[str] = frozenset()
    ) -> Callable[[Rows], dict[str, Context]]:
        """Return a graph that ends before all of the cuts at `layers`, and gives the context of each suffix by name.

        Contexts of layers that are in `by_unit` go with their `unit_suffix`, too.

        Raises
        ------
        KeyError
            If there is no such layer.
        UnfitModelError
            If a layer's value has no rows on axis 0.
        """
        key = ("prefixes", *layers, "", *sorted(by_unit))
        return self._cached(key, lambda: self._prefixes(layers, by_unit))

    def affine_outputs(self, layer: str) -> frozenset[str]:
        """Return the names of the outputs that are surely affine functions of a layer's value, whatever else crosses.

        Raises
        ------
        KeyError
            If there is no such layer.
        """
        program = self._program
        return self._cached(
            ("affine", layer), lambda: affine_outputs(program.graph, self._node(layer), self._output_names)
        )

    def _cached(self, key: tuple[str, ...], make: Callable[[], _Made]) -> _Made:
        """Return the graph of `key`, derived first if need be; what is derived already waits for no derivation."""
        with self._looking:
            found = self._derived.get(key)
            new = found is None
            if found is None:
                found = self._derived[key] = Future()
            self._derived.move_to_end(key)
            while len(self._derived) > _CACHED:
                self._derived.popitem(last=False)
        if new:
            self._derive(key, make, found)
        made: _Made = found.result()
        return made

    def _derive(self, key: tuple[str, ...], make: Callable[[], Any], found: "Future[Any]") -> None:
        try:
            with self._deriving:
                found.set_result(make())
        except BaseException as error:  # noqa: BLE001 - raised again where the graph is asked for
            with self._looking:
                self._derived.pop(key, None)
            found.set_exception(error)

    def _node(self, layer: str) -> fx.Node:
        node = self._values[layer]
        if not self.sites[layer].cuttable:
            shape = ", ".join(map(str, node.meta["val"].shape))
            raise UnfitModelError(
                f"The value of layer {layer!r} has the shape ({shape}), which does not hold one row of the batch at "
                "each place of axis 0. Choose a layer that `GetModel` shows as cuttable."
            )
        return node

    def _capturing(self, layers: tuple[str, ...]) -> Derived:
        graph, copies = self._copy()
        return self._returning(graph, {layer: copies[self._node(layer)] for layer in layers})

    def _up_to(self, layer: str, rectified: bool) -> Callable[[Rows], torch.Tensor]:
        program = self._program
        return truncated(program.graph, program.tensors, self._node(layer), self._input_names, rectified=rectified)

    def _with_leaf_at(self, layer: str) -> Derived:
        graph, copies = self._copy()
        value = copies[self._node(layer)]
        with graph.inserting_after(value):
            leaf = graph.call_function(as_leaf, (value,))
        value.replace_all_uses_with(leaf, delete_user_cb=lambda user: user is not leaf)
        return self._returning(graph, {layer: leaf})

    def _named(self, norms: tuple[str, ...]) -> dict[str, fx.Node]:
        nodes = {node.name: node for node in self._program.graph.nodes}
        return {name: nodes[name] for name in norms}

    def _norm_scales(self, norms: tuple[str, ...]) -> Derived:
        graph, copies = self._copy()
        found = {name: scale_of(graph, copies[node]) for name, node in self._named(norms).items()}
        return self._returning(graph, found)

    def _with_gradients_at(self, layers: tuple[str, ...]) -> Derived:
        graph, copies = self._copy()
        found: dict[fx.Node, fx.Node] = {}
        for layer in layers:
            value = copies[self._node(layer)]
            if value in found:
                continue
            with graph.inserting_after(value):
                found[value] = graph.call_function(as_tracked, (value,))
            _replace(value, found[value])
        return self._returning(graph, {layer: found[copies[self._node(layer)]] for layer in layers})

    def _editing(self, layers: tuple[str, ...], capture: tuple[str, ...], norms: tuple[str, ...]) -> Editing:
        graph, copies = self._copy()
        last = [node for node in graph.nodes if node.op == "placeholder"][-1]
        with graph.inserting_before(last.next):
            # Names that no operator has: a renamed placeholder could be overwritten by the next one's name.
            given = {
                layer: tuple(graph.placeholder(f"{what}_at_layer_{number}") for what in ("kept", "added"))
                for number, layer in enumerate(layers)
            }
            scales = {name: graph.placeholder(f"scale_of_norm_{number}") for number, name in enumerate(norms)}
        for name, norm in self._named(norms).items():
            place = copies[norm]
            copies[norm] = hold_scale(graph, place, scales[name])
            _replace(place, copies[norm])
        # Layers may have one value: that of a block is its last part's, which ends before it does.
        newest: dict[fx.Node, fx.Node] = {}
        captured: dict[str, fx.Node] = {}
        for layer in self.ended(dict.fromkeys((*layers, *capture))):
            node = copies[self._node(layer)]
            value = newest.get(node, node)
            if layer in given:
                newest[node] = value = _edit(graph, value, *given[layer])
            captured[layer] = value
        run = self._returning(graph, {layer: captured[layer] for layer in capture})

        def derived(
            rows: Rows, edits: Mapping[str, tuple[torch.Tensor, torch.Tensor]], held: Rows = MappingProxyType({})
        ) -> tuple[Outputs, Captures]:
            given_edits = [tensor for layer in layers for tensor in edits[layer]]
            return run(rows, *given_edits, *[held[name] for name in norms])

        return derived

    def _suffix(self, layer: str) -> Suffix:
        program = self._program
        return cut(
            program.graph,
            program.tensors,
            self._node(layer),
            batch=program.batch,
            inputs=self._input_names,
            outputs=self._output_names,
        )

    def _taps(self, layer: str) -> tuple[Tap, ...]:
        site = self.sites[layer]
        return find_taps(self._values[layer], self._program.tensors, site.unit_axis) if site.cuttable else ()

    def _unit_suffix(self, layer: str) -> UnitSuffix:
        program = self._program
        return unit_suffix(
            program.graph,
            program.tensors,
            self._node(layer),
            self._taps(layer),
            batch=program.batch,
            outputs=self._output_names,
        )

    def _prefixes(self, layers: tuple[str, ...], by_unit: frozenset[str]) -> Callable[[Rows], dict[str, Context]]:
        program = self._program
        return prefixes(
            program.graph,
            program.tensors,
            {layer: self._node(layer) for layer in layers},
            batch=program.batch,
            inputs=self._input_names,
            tapped={layer: [tap.node for tap in self._taps(layer)] for layer in by_unit},
        )

    def _copy(self) -> tuple[fx.Graph, dict[fx.Node, fx.Node]]:
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        graph.output(graph.graph_copy(self._program.graph, copies))
        return graph, copies

    def _returning(self, graph: fx.Graph, captured: Mapping[str, fx.Node]) -> Derived:
        """Run `graph` with captured values behind its outputs; what else it is given comes behind the rows."""
        output = graph.output_node()
        output.args = ((*_results(output), *captured.values()),)
        run = assemble(graph, self._program.tensors)
        inputs, names, count = self._input_names, (*self._output_names, *captured), len(self._output_names)

        def derived(rows: Rows, *more: torch.Tensor) -> tuple[Outputs, Captures]:
            values = list(zip(names, run(*[rows[name] for name in inputs], *more), strict=True))
            return dict(values[:count]), dict(values[count:])

        return derived


def _let_go(run: Callable[..., Any]) -> None:
    """Take the weights out of what ran a graph that is no more."""
    vars(run.__self__).clear()  # type: ignore[attr-defined]  # the method of a module


def _results(output: fx.Node) -> tuple[Any, ...]:
    """Return what an output node returns, an entry twice if it is returned twice."""
    results = output.args[0]
    return tuple(results) if isinstance(results, tuple) else (results,)


def _values_error(error: Exception, inputs: Sequence[str]) -> UnfitValuesError:
    """Make the error for rows that come to values which an operator refuses."""
    what = str(error) if isinstance(error, BrokenContractError) else "A matrix cannot be inverted or decomposed."
    return values_error(inputs, what)


def _edit(graph: fx.Graph, value: fx.Node, keep: fx.Node, add: fx.Node) -> fx.Node:
    """Put an edit behind a value; return the edited value."""
    with graph.inserting_after(add if value.op == "placeholder" else value):
        new = graph.call_function(edited, (value, keep, add))
    value.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
    return new


def edited(value: torch.Tensor, keep: torch.Tensor, add: torch.Tensor) -> torch.Tensor:
    """Return keep * value + add, and add where keep is 0: also of a value that is infinite or NaN."""
    keep, add = keep.to(value.dtype), add.to(value.dtype)
    return torch.where(keep == 0, add, keep * value + add)


def _replace(value: fx.Node, new: fx.Node) -> None:
    """Give all other users of a value a new one that is made of it."""
    value.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)


def as_leaf(value: torch.Tensor) -> torch.Tensor:
    """Return the value cut off from what made it, as a leaf that requires gradients."""
    return value.detach().requires_grad_()


def as_tracked(value: torch.Tensor) -> torch.Tensor:
    """Return the value as a tensor that requires gradients: as it is if it does."""
    return value if value.requires_grad else value.detach().requires_grad_()
