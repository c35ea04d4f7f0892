"""The part of a graph behind a layer, as a graph of its own.

The cut is at a value that holds one row at each place of axis 0. What else crosses the cut is decided by
the symbols of its shape: a value by rows is repeated with its row, a value without the batch is shared,
the batch size is read off the values fed in, and a value that holds the batch in another way is pulled
behind the cut together with what makes it, until all that crosses is of the first three kinds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import fx

from pellucid_server.engine.models.graph.affine import affine_values
from pellucid_server.engine.models.graph.functional_graph import assemble
from pellucid_server.engine.models.graph.rectifiers import leave_out_rectifier
from pellucid_server.engine.models.graph.sizes import BatchLayout, batch_layout

aten = torch.ops.aten

Rows = Mapping[str, torch.Tensor]
Run = Callable[[Sequence[torch.Tensor]], Mapping[str, torch.Tensor]]
"""What runs the part behind a cut: from what enters by row to the outputs by name."""


@dataclass(frozen=True, slots=True)
class Context:
    """What crosses a cut for some rows.

    Attributes
    ----------
    value
        The layer's value, (rows, *shape).
    rows
        Other values that cross, each (rows, ...): they belong to their row.
    shared
        Tensors and numbers that cross and are the same for any rows of these shapes.
    tapped
        What linear operators make of the value, each (rows, ...), where units of it are to be changed one by one.
    """

    value: torch.Tensor
    rows: tuple[torch.Tensor, ...]
    shared: tuple[Any, ...]
    tapped: tuple[torch.Tensor, ...] = ()

    @staticmethod
    def join(contexts: Sequence["Context"]) -> "Context":
        """Put contexts of the same suffix, from rows of the same shape, one behind the other."""
        value = torch.cat([context.value for context in contexts])
        rows, tapped = (
            tuple(torch.cat(column) for column in zip(*columns, strict=True))
            for columns in ([context.rows for context in contexts], [context.tapped for context in contexts])
        )
        return Context(value, rows, contexts[0].shared, tapped)


class Suffix:
    """What a graph does behind one layer; made by `Graph.suffix`. May be called from several threads.

    Right for a model whose rows are independent. For others it is right only for all rows of a context at once.
    """

    def __init__(
        self,
        prefix: Callable[..., tuple[Any, ...]],
        suffix: Callable[..., tuple[Any, ...]],
        *,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        row_crossings: int,
        affine: frozenset[str] = frozenset(),
        plain: bool = False,
    ) -> None:
        self._plain = plain
        self._prefix = prefix
        self._suffix = suffix
        self._inputs = inputs
        self._outputs = outputs
        self._row_crossings = row_crossings
        self._affine = affine

    def entering(self, context: Context) -> tuple[torch.Tensor, ...]:
        """Return what `run_by` is given for the context's own rows: the layer's value, and what crosses by row."""
        return (context.value, *context.rows)

    def run(self, entering: Sequence[torch.Tensor], context: Context) -> dict[str, torch.Tensor]:
        """Return the outputs by name of what enters, (n, ...) each; of the context, only what rows share is used."""
        return dict(zip(self._outputs, self._suffix(*entering, *context.shared), strict=True))

    def run_by(self, run: "Run") -> "Suffix":
        """Return the same, run by something else, without gradients: from what enters to the outputs by name."""
        return Suffix(
            self._prefix,
            run_instead(run, 1 + self._row_crossings, self._outputs),
            inputs=self._inputs,
            outputs=self._outputs,
            row_crossings=self._row_crossings,
            affine=self._affine,
            plain=True,
        )

    def affine(self, output: str) -> bool:
        """Whether an output, by name, is surely an affine function of the layer's value, whatever crosses the cut.

        Then the output of several changes is the sum of what each does, and no more runs than one are needed.

        Raises
        ------
        KeyError
            If there is no such output.
        """
        if output not in self._outputs:
            raise KeyError(output)
        return output in self._affine

    def context(self, rows: Rows) -> Context:
        """Run the part before the cut, without gradients, for input rows (rows, *features) by name."""
        with torch.no_grad():
            value, *crossings = self._prefix(*[rows[name].detach() for name in self._inputs])
        count = self._row_crossings
        return Context(value, tuple(crossings[:count]), tuple(crossings[count:]))

    def __call__(
        self, values: torch.Tensor, context: Context, index: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the outputs by name, (n, *shape), had the layer these values.

        Differentiable with respect to `values`; nothing of the context is.

        Parameters
        ----------
        values
            Values of the layer, (n, *shape).
        context
            From `context` of this suffix.
        index
            The context's row that goes with each value, (n,) int64. Without it: the only row of the context,
            or row i with value i.

        Raises
        ------
        ValueError
            If there is no `index` and the context has neither one row nor n.
        """
        values = values if self._plain else laid_out_like(context.value, values)
        return self.run([values, *(spread(crossing, len(values), index) for crossing in context.rows)], context)


def run_instead(run: Run, count: int, outputs: Sequence[str]) -> Callable[..., tuple[Any, ...]]:
    """Return what stands in for a part behind a cut: it takes `count` values by row, and what rows share."""

    def suffix(*entering: Any) -> tuple[Any, ...]:
        found = run(entering[:count])
        return tuple(found[name] for name in outputs)

    return suffix


def laid_out_like(value: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return values in the layout that the graph makes them in: others take its convolutions twice the time."""
    last = value.ndim == 4 and value.is_contiguous(memory_format=torch.channels_last) and not value.is_contiguous()
    return values.contiguous(memory_format=torch.channels_last) if last else values


def spread(crossing: torch.Tensor, count: int, index: torch.Tensor | None) -> torch.Tensor:
    """Return what crosses by row for `count` values: that of the row with each, as `Suffix` is given it."""
    if index is not None:
        return crossing.index_select(0, index)
    if len(crossing) == count:
        return crossing
    if len(crossing) != 1:
        raise ValueError(
            f"{count} values do not go with {len(crossing)} context rows; give `index`, one context row, or {count}."
        )
    return crossing.expand(count, *crossing.shape[1:])


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a graph is cut in two.

    Attributes
    ----------
    node
        The value that the part behind is given, which holds the batch by rows.
    kept
        The nodes that the part behind computes itself.
    by_row, shared
        The other values that it needs: those that belong to a row, and those that serve all.
    """

    node: fx.Node
    kept: frozenset[fx.Node]
    by_row: tuple[fx.Node, ...]
    shared: tuple[fx.Node, ...]

    @property
    def crossing(self) -> tuple[fx.Node, ...]:
        """All values that cross, that of the cut first."""
        return (self.node, *self.by_row, *self.shared)

    @classmethod
    def at(cls, graph: fx.Graph, node: fx.Node, batch: Any) -> "Cut":
        """Find out what crosses a cut at the value of `node`."""
        kept, by_row, shared = _crossings(graph, node, _behind(node), batch)
        return cls(node, frozenset(kept), tuple(by_row), tuple(shared))


def cut(
    graph: fx.Graph,
    tensors: Mapping[str, torch.Tensor],
    node: fx.Node,
    *,
    batch: Any,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
) -> Suffix:
    """Cut `graph` at the value of `node`, which holds the batch by rows."""
    found = Cut.at(graph, node, batch)
    prefix = _prefix_graph(graph, found.crossing)
    suffix = suffix_graph(graph, found, batch)
    return Suffix(
        assemble(prefix, tensors),
        assemble(suffix, tensors),
        inputs=inputs,
        outputs=outputs,
        row_crossings=len(found.by_row),
        affine=affine_outputs(graph, node, outputs),
    )


def prefixes(
    graph: fx.Graph,
    tensors: Mapping[str, torch.Tensor],
    nodes: Mapping[str, fx.Node],
    *,
    batch: Any,
    inputs: tuple[str, ...],
    tapped: Mapping[str, Sequence[fx.Node]] = MappingProxyType({}),
) -> Callable[[Rows], dict[str, Context]]:
    """Return what runs the part before all of several cuts once: from input rows to what crosses each, by its name.

    `tapped` are operators behind a cut that are run, too, by its name.
    """
    cuts = {name: Cut.at(graph, node, batch) for name, node in nodes.items()}
    more = [node for name in cuts for node in tapped.get(name, ())]
    crossing = list(dict.fromkeys([*(node for each in cuts.values() for node in each.crossing), *more]))
    places = {node: place for place, node in enumerate(crossing)}
    run = assemble(_prefix_graph(graph, crossing), tensors)

    def contexts(rows: Rows) -> dict[str, Context]:
        with torch.no_grad():
            values = run(*[rows[name].detach() for name in inputs])
        return {
            name: Context(
                values[places[each.node]],
                tuple(values[places[node]] for node in each.by_row),
                tuple(values[places[node]] for node in each.shared),
                tuple(values[places[node]] for node in tapped.get(name, ())),
            )
            for name, each in cuts.items()
        }

    return contexts


def truncated(
    graph: fx.Graph,
    tensors: Mapping[str, torch.Tensor],
    node: fx.Node,
    inputs: tuple[str, ...],
    *,
    rectified: bool = True,
) -> Callable[[Rows], torch.Tensor]:
    """Return what runs the part up to the value of `node` and nothing behind it, with gradients if they are enabled.

    Without `rectified`, the last rectifier is left out, if there is one that makes the value.
    """
    prefix = _prefix_graph(graph, [node])
    if not rectified:
        leave_out_rectifier(prefix)
    run = assemble(prefix, tensors)

    def value(rows: Rows) -> torch.Tensor:
        found: torch.Tensor = run(*[rows[name] for name in inputs])[0]
        return found

    return value


def affine_outputs(graph: fx.Graph, node: fx.Node, outputs: Sequence[str]) -> frozenset[str]:
    """Return the names of the outputs that are affine in the value of `node`, or do not depend on it."""
    depending, affine = affine_values(graph, node)
    results = graph.output_node().args[0]
    nodes = tuple(results) if isinstance(results, tuple) else (results,)
    return frozenset(name for name, each in zip(outputs, nodes, strict=True) if each in affine or each not in depending)


def _behind(node: fx.Node) -> set[fx.Node]:
    """Return every node whose value depends on that of `node`."""
    found: set[fx.Node] = set()
    waiting = [node]
    while waiting:
        new = [user for user in waiting.pop().users if user not in found]
        found.update(new)
        waiting.extend(new)
    return found


def _crossings(
    graph: fx.Graph, node: fx.Node, behind: set[fx.Node], batch: Any
) -> tuple[set[fx.Node], list[fx.Node], list[fx.Node]]:
    """Return the nodes that the suffix computes itself, and those that cross: by row, and shared."""
    kept: set[fx.Node] = set()
    crossing: dict[fx.Node, BatchLayout] = {}
    waiting = list(graph.output_node().all_input_nodes)
    while waiting:
        needed = waiting.pop()
        if needed is node or needed in kept or needed in crossing:
            continue
        kind = BatchLayout.FOLDED if needed in behind else batch_layout(needed, batch)
        if needed.op == "get_attr" or kind is BatchLayout.COUNT:
            kept.add(needed)
        elif kind is BatchLayout.FOLDED:
            kept.add(needed)
            waiting.extend(needed.all_input_nodes)
        else:
            crossing[needed] = kind
    ordered = [other for other in graph.nodes if other in crossing]
    by_row = [other for other in ordered if crossing[other] is BatchLayout.ROWS]
    shared = [other for other in ordered if crossing[other] is BatchLayout.SHARED]
    return kept, by_row, shared


def _prefix_graph(graph: fx.Graph, results: Sequence[fx.Node]) -> fx.Graph:
    """Copy what `results` need, with all placeholders of `graph`."""
    needed = set(results)
    for node in reversed(graph.nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    prefix = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node.op == "placeholder" or node in needed:
            copies[node] = prefix.node_copy(node, copies.__getitem__)
    prefix.output(tuple(copies[node] for node in results))
    return prefix


def suffix_graph(graph: fx.Graph, where: Cut, batch: Any, given: Sequence[fx.Node] = ()) -> fx.Graph:
    """Build the graph from (value, *crossings) to the outputs; `given` are values in place of that of the cut."""
    suffix = fx.Graph()
    entering = (*(given or (where.node,)), *where.by_row, *where.shared)
    copies = {source: suffix.placeholder(source.name) for source in entering}
    count = suffix.call_function(aten.sym_size.int, (copies[entering[0]], 0))
    for source in graph.nodes:
        if source not in where.kept or source in copies:
            continue
        counted = source.op != "get_attr" and batch_layout(source, batch) is BatchLayout.COUNT
        copies[source] = count if counted else suffix.node_copy(source, copies.__getitem__)
    results = graph.output_node().args[0]
    suffix.output(fx.node.map_arg(results, copies.__getitem__))
    suffix.eliminate_dead_code()
    return suffix
