"""Which values of a graph lie on the ways from some values to others, and which of them every way leads through."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import fx

from pellucid_server.engine.models.graph.norms import is_norm


class Ways:
    """The ways from some values of a graph to others, by which a change spreads.

    Attributes
    ----------
    between
        The values strictly between.
    avoidable
        Those of them that, for every end, some way leads round.
    reached
        Whether a way leads to every end.
    ordered
        All values of the graph that can carry a change, in its order.
    """

    def __init__(self, graph: fx.Graph, starts: Iterable[fx.Node], ends: Iterable[fx.Node]) -> None:
        self._starts, self._ends = starts, ends = frozenset(starts), frozenset(ends)
        self.ordered = nodes = [node for node in graph.nodes if carries(node)]
        coming = _counts(nodes, starts, forward=True)
        self.between: set[fx.Node] = set()
        needed: set[fx.Node] = set()
        self.reached = True
        for end in ends:
            going = _counts(nodes, frozenset([end]), forward=False)
            ways = coming.get(end, 0)
            self.reached = self.reached and bool(ways)
            for node in nodes:
                through = coming.get(node, 0) * going.get(node, 0)
                if through and node not in starts and node not in ends:
                    self.between.add(node)
                    if through == ways:
                        needed.add(node)
        self.avoidable = self.between - needed

    def screening(self, held: set[fx.Node]) -> set[fx.Node]:
        """Return those of some values between that must be held for all of them to have no effect on the ends.

        The others are what they would be anyway, or nothing that they lead to is computed from them.
        """
        used = held & _spread(self._ends, held, forward=False)
        # In this order: what leads to a held value alone is out of use, and must not count as screening it.
        return used & _spread(self._starts, used, forward=True)


class SiteWays:
    """The ways from some sites of a graph to others, by the sites' names.

    Attributes
    ----------
    between
        The sites strictly between, in the order in which a forward pass ends them.
    avoidable
        Those of them that, for every end, some way leads round.
    reached
        Whether a way leads to every end.
    norms
        Names of the norms between whose scale can be held.
    """

    def __init__(self, ways: Ways, values: Mapping[str, fx.Node], batch: Any) -> None:
        self._ways = ways
        self._values = values
        self.between = tuple(name for name, node in values.items() if node in ways.between)
        self.avoidable = frozenset(name for name in self.between if values[name] in ways.avoidable)
        self.reached = ways.reached
        self.norms = tuple(node.name for node in ways.ordered if node in ways.between and is_norm(node, batch))

    def screening(self, held: Iterable[str]) -> tuple[str, ...]:
        """Return those of some sites between that must be held for none of them to change the ends."""
        names = tuple(held)
        nodes = self._ways.screening({self._values[name] for name in names})
        return tuple(name for name in names if self._values[name] in nodes)


def carries(node: fx.Node) -> bool:
    """Whether a change can go through a node: it is no size, no weight and no input."""
    value = node.meta.get("val")
    return node.op == "call_function" and not isinstance(value, int | torch.SymInt)


def _counts(nodes: list[fx.Node], ends: frozenset[fx.Node], *, forward: bool) -> dict[fx.Node, int]:
    """Count the ways from some values to each, or from each to them: whole numbers of any length, so exactly."""
    found: dict[fx.Node, int] = {}
    for node in nodes if forward else reversed(nodes):
        beside = node.all_input_nodes if forward else node.users
        count = int(node in ends) + sum(found.get(each, 0) for each in beside)
        if count:
            found[node] = count
    return found


def _spread(first: frozenset[fx.Node], held: set[fx.Node], *, forward: bool) -> set[fx.Node]:
    """Return the values that ways from some values, or to them, come to before or at a held one."""
    found, waiting = set(first), list(first)
    while waiting:
        node = waiting.pop()
        if node in held and node not in first:
            continue
        for each in node.users if forward else node.all_input_nodes:
            if each not in found and carries(each):
                found.add(each)
                waiting.append(each)
    return found
