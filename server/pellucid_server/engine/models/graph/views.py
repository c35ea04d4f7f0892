"""Where the axes of a value go when it is reordered and reshaped: told by their symbolic sizes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch import fx

from pellucid_server.engine.models.graph.sizes import expression

aten = torch.ops.aten

SAME_FORM = frozenset({aten.alias, aten.clone, aten.contiguous, aten.detach, aten.dropout, aten.to, aten._to_copy})
"""Operators whose value has the axes of their operand."""

_RESHAPES = frozenset(
    {aten.reshape, aten.view, aten._unsafe_view, aten.flatten, aten.unflatten, aten.squeeze, aten.unsqueeze}
)
MADE_ANEW = -1
"""The axis that a linear operator makes."""


@dataclass(frozen=True, slots=True)
class Factor:
    """A part of an axis of the value at the start: all of it, or one factor of its size.

    `step` is by how many places of that axis the next place of the factor is further on.
    """

    axis: int
    size: Any
    step: Any = 1


Axes = tuple[tuple[Factor, ...], ...]
"""What each axis of a value is made of, the outermost factor first."""


def axes_of(node: fx.Node) -> Axes:
    """Return the axes of a value as they are at its start."""
    return tuple((Factor(axis, expression(size)),) for axis, size in enumerate(node.meta["val"].shape))


def axes_behind(axes: Axes, source: fx.Node, node: fx.Node) -> Axes | None:
    """Return the axes of `node`'s value, whose operand `source` has these; None where they cannot be followed."""
    follow = _FOLLOWED.get(getattr(node.target, "overloadpacket", None))
    return follow(axes, node) if follow is not None and node.args and node.args[0] is source else None


def _permuted(axes: Axes, node: fx.Node) -> Axes:
    order: Any = node.args[1]
    return tuple(axes[int(axis)] for axis in order)


def _transposed(axes: Axes, node: fx.Node) -> Axes:
    order = list(axes)
    first, second = (int(str(axis)) for axis in node.args[1:3])
    order[first], order[second] = order[second], order[first]
    return tuple(order)


def _projected(axes: Axes, node: fx.Node) -> Axes:
    return (*axes[:-1], (Factor(MADE_ANEW, expression(node.meta["val"].shape[-1])),))


def _in_another_shape(axes: Axes, node: fx.Node) -> Axes | None:
    return _reshaped(axes, [expression(size) for size in node.meta["val"].shape])


def _reshaped(axes: Axes, sizes: Sequence[Any]) -> Axes | None:
    """Share the factors of all axes out among axes of other sizes, innermost first.

    Factors of size 1 go to the axis that the one outside them goes to.
    """
    waiting = [factor for axis in axes for factor in axis]
    found: list[tuple[Factor, ...]] = []
    for size in reversed(sizes):
        left, taken = size, list[Factor]()
        while left != 1:
            if not waiting:
                return None
            factor = waiting.pop()
            more, less = _quotient(left, factor.size), _quotient(factor.size, left)
            if factor.size == 1:
                taken.insert(0, factor)
            elif more is not None:
                taken.insert(0, factor)
                left = more
            elif less is not None:
                taken.insert(0, Factor(factor.axis, left, factor.step))
                waiting.append(Factor(factor.axis, less, factor.step * left))
                left = 1
            else:
                return None
        found.insert(0, tuple(taken))
    return tuple(found) if all(factor.size == 1 for factor in waiting) else None


def _quotient(size: Any, by: Any) -> Any:
    """Return how many times `by` goes into `size`, None if that is no whole number for all sizes."""
    found = sympy.sympify(size) / sympy.sympify(by)
    return found if found.is_integer and found.is_positive else None


_FOLLOWED: dict[Any, Callable[[Axes, fx.Node], Axes | None]] = {
    **dict.fromkeys(SAME_FORM, lambda axes, node: axes),
    **dict.fromkeys(_RESHAPES, _in_another_shape),
    aten.linear: _projected,
    aten.permute: _permuted,
    aten.transpose: _transposed,
}
"""What becomes of the axes of an operator's first argument, by operator."""
