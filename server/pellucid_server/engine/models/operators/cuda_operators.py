"""Operators that need care on a CUDA device, where they do not do what they do on a CPU.

A lookup beyond its table is an error on a CPU; on CUDA it ends the process's use of the device. So its indices are
compared with the table first, and what is raised is what the CPU raises. A recurrent network that is not being trained
has no backward pass in cuDNN; torch's own kernels have.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch._ops import OpOverload

aten = torch.ops.aten

Operator = Callable[..., Any]

_RECURRENT = (aten.lstm, aten.gru, aten.rnn_tanh, aten.rnn_relu)

_INDEX_BEHIND_AXIS = (
    aten.gather,
    aten.index_add,
    aten.index_copy,
    aten.index_fill,
    aten.index_select,
    aten.scatter,
    aten.scatter_add,
    aten.scatter_reduce,
)
"""Operators of a table, an axis of it and places on that axis."""

_INDEX_LIST = (aten.index, aten._unsafe_index, aten.index_put, aten._unsafe_index_put)
"""Operators of a table and places on its axes, each None where all of the axis is taken."""


def careful(target: Any, run: Operator) -> Operator:
    """Return `run`, which calls the operator `target`, with the care that it needs on CUDA; `run` itself if none."""
    packet = getattr(target, "overloadpacket", None) if isinstance(target, OpOverload) else None
    if packet in _RECURRENT:
        return _without_cudnn(run)
    if packet in (*_INDEX_BEHIND_AXIS, *_INDEX_LIST, aten.embedding, aten.one_hot, aten.take):
        return _within(run, packet)
    return run


def _without_cudnn(run: Operator) -> Operator:
    def call(*args: Any, **kwargs: Any) -> Any:
        if not on_cuda(args[0]) or not torch.is_grad_enabled():
            return run(*args, **kwargs)
        # A CUDA device has one thread, which the setting is for.
        with torch.backends.cudnn.flags(enabled=False, allow_tf32=False):
            return run(*args, **kwargs)

    return _named(call, run)


def _within(run: Operator, packet: Any) -> Operator:
    def call(*args: Any, **kwargs: Any) -> Any:
        if on_cuda(args[0]):
            for index, least, most in indices(packet, args):
                require_within(index, least, most)
        return run(*args, **kwargs)

    return _named(call, run)


def _named(call: Operator, run: Operator) -> Operator:
    """Give a function a name of its own: in generated code, fx spells what has torch's as torch's own operator."""
    call.__name__ = call.__qualname__ = f"careful_{getattr(run, '__name__', 'operator')}".replace(".", "_")
    return call


def on_cuda(tensor: torch.Tensor) -> bool:
    """Whether a tensor is on a CUDA device."""
    return tensor.is_cuda


def require_within(index: torch.Tensor, least: int, most: int) -> None:
    """Check that all numbers are in [least, most].

    Raises
    ------
    IndexError
        One is not, in words like those of a CPU.
    """
    if bool(((index < least) | (index > most)).any()):
        raise IndexError("index out of range in self")


def indices(packet: Any, args: Sequence[Any]) -> Iterator[tuple[torch.Tensor, int, int]]:
    """Yield each tensor of places among an operator's arguments, with the lowest and the highest that there is."""
    if packet is aten.embedding:
        yield args[1], 0, args[0].shape[0] - 1
    elif packet is aten.take:
        yield args[1], -args[0].numel(), args[0].numel() - 1
    elif packet is aten.one_hot:
        if len(args) > 1 and args[1] > 0:
            yield args[0], 0, args[1] - 1
    elif packet in _INDEX_LIST:
        yield from _listed(args[0], args[1])
    elif args[0].ndim:
        yield args[2], 0, args[0].shape[args[1]] - 1


def _listed(table: torch.Tensor, places: Sequence[torch.Tensor | None]) -> Iterator[tuple[torch.Tensor, int, int]]:
    axis = 0
    for index in places:
        if index is None:
            axis += 1
        elif index.dtype in (torch.bool, torch.uint8):
            # A mask takes as many axes as it has; torch compares its lengths with theirs.
            axis += index.ndim
        else:
            yield index, -table.shape[axis], table.shape[axis] - 1
            axis += 1
