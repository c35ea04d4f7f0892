"""The part of a graph behind a layer of which one unit is changed in each row.

Where linear operators read the layer's value, what they make of the unchanged value is held, and each row adds the part
of its unit (`taps`). Behind them the graph runs on as it does behind any cut. What else reads the value, such as the
sum at the end of a residual block, is given the changed value whole.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from pellucid_server.engine.models.graph.functional_graph import assemble
from pellucid_server.engine.models.graph.suffix import (
    Context,
    Cut,
    Run,
    laid_out_like,
    run_instead,
    spread,
    suffix_graph,
)
from pellucid_server.engine.models.graph.taps import Tap, cancelled


class UnitSuffix:
    """What a graph does behind one layer, by unit; made by `Graph.unit_suffix`. May be called from several threads.

    Parameters
    ----------
    run
        From what the operators make of the value, the value itself if it is `read`, and what crosses, to the outputs.
    taps
        The linear operators.
    read
        Whether anything else reads the value.
    row_crossings
        How many other values cross by row.
    plain
        Whether what runs takes values in the order of their axes.
    """

    def __init__(
        self,
        run: Callable[..., tuple[Any, ...]],
        taps: Sequence[Tap],
        *,
        read: bool,
        outputs: tuple[str, ...],
        row_crossings: int,
        plain: bool = False,
    ) -> None:
        self._row_crossings = row_crossings
        self._plain = plain
        self._run = run
        self._taps = tuple(taps)
        self._read = read
        self._outputs = outputs

    def __call__(
        self, units: torch.Tensor, values: torch.Tensor, context: Context, index: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the outputs by name, (n, *shape), had one unit of each row these values. Has no gradients.

        Parameters
        ----------
        units
            Which unit, (n,) int64.
        values
            Its values at all positions, (n, *positions).
        context
            What crosses, and what the operators make of it: from `Graph.prefixes` with the layer `by_unit`.
        index
            The context's row that goes with each value, as for a `Suffix`.

        Raises
        ------
        ValueError
            If there is no `index` and the context has neither one row nor n.
        """
        with torch.no_grad():
            count = len(units)
            crossings = [spread(crossing, count, index) for crossing in context.rows]
            return self.run([*self._entering(units, values, context, index), *crossings], context)

    def entering(self, context: Context) -> tuple[torch.Tensor, ...]:
        """Return what `run_by` is given for the context's own rows."""
        return (*context.tapped, *((context.value,) if self._read else ()), *context.rows)

    def run(self, entering: Sequence[torch.Tensor], context: Context) -> dict[str, torch.Tensor]:
        """Return the outputs by name of what enters, (n, ...) each; of the context, only what rows share is used."""
        return dict(zip(self._outputs, self._run(*entering, *context.shared), strict=True))

    def run_by(self, run: Run) -> "UnitSuffix":
        """Return the same, run by something else: from what enters to the outputs by name."""
        return UnitSuffix(
            run_instead(run, len(self._taps) + self._read + self._row_crossings, self._outputs),
            self._taps,
            read=self._read,
            outputs=self._outputs,
            row_crossings=self._row_crossings,
            plain=True,
        )

    def _entering(
        self, units: torch.Tensor, values: torch.Tensor, context: Context, index: torch.Tensor | None
    ) -> list[torch.Tensor]:
        """Return what enters the part behind in place of the layer's value, (n, ...) each."""
        count, places = len(units), torch.arange(len(units), device=units.device)
        of = index
        if of is None:
            of = places if len(context.value) == count else torch.zeros_like(places)
        changes = values - _by_unit(context.value, self._taps[0])[of, units]
        before = list(context.tapped)
        if self._plain:
            # Of an own layout, rows would be put in order one by one.
            before = [each.contiguous() for each in before]
        if index is not None:
            before = [each.index_select(0, index) for each in before]
        found = [tap.changed(made, units, changes) for tap, made in zip(self._taps, before, strict=True)]
        anew = torch.stack([cancelled(made, each) for made, each in zip(before, found, strict=True)]).any(0)
        some = bool(anew.any())
        if not (some or self._read):
            return found
        whole = laid_out_like(context.value, context.value.index_select(0, of))
        _by_unit(whole, self._taps[0])[places, units] = values
        if some:
            chosen = anew.nonzero()[:, 0]
            for tap, each in zip(self._taps, found, strict=True):
                each[chosen] = tap.whole(laid_out_like(context.value, whole[chosen]))
        return [*found, whole] if self._read else found


def _by_unit(values: torch.Tensor, tap: Tap) -> torch.Tensor:
    """Return a view (n, units, *positions) of values."""
    return values.movedim(tap.unit_axis, 1)


def unit_suffix(
    graph: fx.Graph,
    tensors: Mapping[str, torch.Tensor],
    node: fx.Node,
    taps: Sequence[Tap],
    *,
    batch: Any,
    outputs: tuple[str, ...],
) -> UnitSuffix:
    """Cut `graph` at the value of `node`, which linear operators read.

    Raises
    ------
    ValueError
        None does.
    """
    if not taps:
        raise ValueError("no linear operator reads the layer's value")
    nodes = [tap.node for tap in taps]
    read = any(user not in nodes for user in node.users)
    given = [*nodes, node] if read else nodes
    where = Cut.at(graph, node, batch)
    suffix = suffix_graph(graph, where, batch, given)
    return UnitSuffix(assemble(suffix, tensors), taps, read=read, outputs=outputs, row_crossings=len(where.by_row))
