"""Linear operators that read a layer's value: what they make of it changes by one unit's part when one unit does.

A convolution or linear operator W gives W(v + d) = W v + W_c d, where d is what unit c changes by. With W v at hand, a
row takes as many multiplications as one unit needs, and not as many as all of them do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.nn import functional

aten = torch.ops.aten

_RANKS = {aten.linear.default: None, aten.conv1d.default: 3, aten.conv2d.default: 4}
"""Operators that may be taps, and the axes of what they are given; None for any number from 2 on."""

_LEAST_SHARE = 2.0**-8
"""Where a changed value is so much smaller than the unchanged one, digits cancelled: it is made anew."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where a convolution over pictures puts its window, each a pair (height, width)."""

    window: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def pointwise(self) -> bool:
        """Whether each place of the result is of the same place of the value."""
        return (self.window, self.stride, self.padding) == ((1, 1), (1, 1), (0, 0))


@dataclass(frozen=True, slots=True, eq=False)
class Tap:
    """A linear operator that reads the value of a layer, and nothing else that is computed.

    Attributes
    ----------
    node
        The operator.
    weight, bias
        Its weight, (features, units) or (channels, units, *window), and what it adds.
    geometry
        A convolution's; None for a linear operator.
    """

    node: fx.Node
    weight: torch.Tensor
    bias: torch.Tensor | None
    geometry: Geometry | None

    @property
    def unit_axis(self) -> int:
        """Return the axis of the layer's value, with the rows on axis 0, that it adds up over; -1 for the last."""
        return -1 if self.geometry is None else 1

    def whole(self, values: torch.Tensor) -> torch.Tensor:
        """Return what the operator makes of whole values, (n, *shape)."""
        operator: Any = self.node.target
        found: torch.Tensor = operator(values, self.weight, self.bias, *self.node.args[3:])
        return found

    def changed(self, made: torch.Tensor, units: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
        """Return what the operator makes of values of which one unit each is changed.

        Parameters
        ----------
        made
            What it makes of the unchanged values: of one for all, or of each, (1 or n, *shape).
        units, changes
            Which unit is changed, (n,) int64, and by how much, (n, *positions).
        """
        columns = self.weight.index_select(1, units)
        if self.geometry is None:
            return torch.addcmul(made, _beside(columns.t(), changes.ndim), changes.unsqueeze(-1))
        flat = made.ndim == 3
        changes = (changes.unsqueeze(1) if flat else changes).unsqueeze(1)
        found = self._convolved(made.unsqueeze(2) if flat else made, columns, changes)
        return found.squeeze(2) if flat else found

    def _convolved(self, made: torch.Tensor, columns: torch.Tensor, changes: torch.Tensor) -> torch.Tensor:
        """Return (n, channels, height, width) of changes, (n, 1, height, width), in the layout of `made`."""
        geometry = self.geometry
        assert geometry is not None  # noqa: S101 - asked of convolutions alone
        count, (channels, height, width) = len(changes), made.shape[1:]
        columns = columns.movedim(1, 0).reshape(count, channels, -1)
        last = made.is_contiguous(memory_format=torch.channels_last)
        if geometry.pointwise:
            parts = made.permute(0, 2, 3, 1), columns.movedim(2, 1).unsqueeze(1), changes.permute(0, 2, 3, 1)
            if last:
                return torch.addcmul(parts[0], parts[1].contiguous(), parts[2]).permute(0, 3, 1, 2)
            return torch.addcmul(made, columns.unsqueeze(-1), changes)
        # (n, window, places)
        windows = functional.unfold(changes, geometry.window, geometry.dilation, geometry.padding, geometry.stride)
        if last:
            before = made.permute(0, 2, 3, 1).reshape(len(made), -1, channels).expand(count, -1, -1)
            found = torch.baddbmm(before, windows.transpose(1, 2), columns.transpose(1, 2))
            return found.reshape(count, height, width, channels).permute(0, 3, 1, 2)
        before = made.reshape(len(made), channels, -1).expand(count, -1, -1)
        return torch.baddbmm(before, columns, windows).reshape(count, channels, height, width)


def find_taps(node: fx.Node, tensors: Mapping[str, torch.Tensor], unit_axis: int) -> tuple[Tap, ...]:
    """Return the linear operators that read the value of a node alone, and add up over an axis of it.

    `unit_axis` counts without the rows. A value that is returned, too, has other readers beside these.
    """
    value = node.meta["val"]
    if value.dtype not in (torch.float32, torch.float64) or value.ndim < 2:
        return ()
    found = (_tap(user, node, tensors) for user in node.users)
    wanted = {tap: tap.unit_axis % value.ndim == unit_axis + 1 for tap in found if tap is not None}
    return tuple(tap for tap, fits in wanted.items() if fits)


def _tap(user: Any, node: fx.Node, tensors: Mapping[str, torch.Tensor]) -> Tap | None:
    if user.op != "call_function" or user.target not in _RANKS or user.kwargs:
        return None
    arguments: tuple[Any, ...] = (*user.args, None)
    value, weight, bias = arguments[:3]
    rank, ndim = _RANKS[user.target], node.meta["val"].ndim
    constants = [each for each in (weight, bias) if each is not None]
    if value is not node or any(not isinstance(each, fx.Node) or each.op != "get_attr" for each in constants):
        return None
    kernel = tensors[str(weight.target)]
    shift = None if bias is None else tensors[str(bias.target)]
    if rank is None:
        return Tap(user, kernel, shift, None) if kernel.ndim == 2 else None
    geometry = _geometry(user, kernel)
    return None if rank != ndim or geometry is None else Tap(user, kernel, shift, geometry)


def _geometry(node: Any, weight: torch.Tensor) -> Geometry | None:
    """Read where a convolution puts its window; None if it has groups, so that a unit is not in all that it makes."""
    defaults: tuple[Any, ...] = ((1,), (0,), (1,), 1)
    given = tuple(node.args[3:])
    stride, padding, dilation, groups = (*given, *defaults[len(given) :])
    if groups != 1 or not all(isinstance(each, int) for part in (stride, padding, dilation) for each in part):
        return None
    window = tuple(weight.shape[2:])
    if len(window) == 1:
        return Geometry((1, window[0]), (1, stride[0]), (0, padding[0]), (1, dilation[0]))
    return Geometry(*((part[0], part[-1]) for part in (window, stride, padding, dilation)))


def _beside(columns: torch.Tensor, ndim: int) -> torch.Tensor:
    """Return (n, features) with axes between them, to go with changes of so many axes."""
    return columns.reshape(len(columns), *(1,) * (ndim - 1), columns.shape[1])


def cancelled(made: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Return which changed values, (n,), are not to be trusted: they lost digits, or are no finite numbers.

    `made` are the unchanged ones, one for all or one for each.
    """
    sizes = _sizes(found)
    return ~((sizes >= _LEAST_SHARE * _sizes(made)) & torch.isfinite(sizes))


def _sizes(values: torch.Tensor) -> torch.Tensor:
    """Return the root of the sum of squares of each row, (n,)."""
    order = sorted(range(1, values.ndim), key=values.stride, reverse=True)
    found: torch.Tensor = torch.linalg.vector_norm(values.permute(0, *order).reshape(len(values), -1), dim=1)
    return found
