"""Reads what a user gives to export with: example tensors and the axes to leave open."""

import inspect
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from pellucid_server.export_trial import ExportError

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def named_arguments(module: nn.Module, example: Mapping[str, Tensor] | tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Name copies of the example's tensors by the arguments of forward, in their order, with two rows at least.

    Raises
    ------
    ExportError
        The example does not fit forward, has no rows, or something is not on the CPU.
    """
    _require_example(module, example)
    parameters = inspect.signature(module.forward).parameters
    names = [name for name, parameter in parameters.items() if parameter.kind in _NAMED]
    positional = [name for name in names if parameters[name].kind is not inspect.Parameter.KEYWORD_ONLY]
    listing = ", ".join(names)
    if isinstance(example, Mapping):
        given = dict(example)
    elif len(example) > len(positional):
        raise ExportError(
            f"The example has {len(example)} tensors, and forward {len(positional)} positional arguments with a name; "
            f"it has: {listing or 'none'}."
        )
    else:
        given = dict(zip(positional, example, strict=False))
    for name in given:
        if name not in names:
            raise ExportError(f"The example has {name!r}, which is no argument of forward; it has: {listing}.")
    for name, parameter in parameters.items():
        if name in names and name not in given and parameter.default is parameter.empty:
            raise ExportError(f"The example lacks {name!r}, an argument of forward. Give a tensor, (rows, *features).")
    for part, tensor in (*given.items(), *module.named_parameters(), *module.named_buffers()):
        if not isinstance(tensor, Tensor):
            raise ExportError(f"{part!r} is {_described(tensor)}. Give a tensor, (rows, *features){_remedy(tensor)}.")
        if tensor.device.type != "cpu":
            raise ExportError(
                f"{part!r} is on the device {str(tensor.device)!r}. Call module.cpu(), and make the example on the CPU."
            )
    return _repeated({name: given[name].detach().clone() for name in names if name in given})


def _require_example(module: nn.Module, example: object) -> None:
    if isinstance(module, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        raise ExportError("The network is a module of torch.jit, which cannot be exported. Give the nn.Module itself.")
    if hasattr(module, "_orig_mod"):
        raise ExportError(
            "The network is made by torch.compile, whose code no file can hold. Give the network that was compiled "
            "(network._orig_mod)."
        )
    if isinstance(module, _PARALLEL):
        raise ExportError(
            f"The network is wrapped in {type(module).__name__}, which shares a batch out among devices. Give the "
            "network inside (network.module), on the CPU."
        )
    if not isinstance(module, nn.Module):
        raise ExportError(f"The network is {_described(module)}; it must be a torch.nn.Module.")
    for name, part in module.named_modules():
        if isinstance(part, _PARALLEL) and getattr(part, "device_ids", None):
            raise ExportError(
                f"Layer {name!r} is wrapped in {type(part).__name__}, which shares a batch out among devices. Put the "
                "layer inside (its .module) in its place, on the CPU."
            )
    if not isinstance(example, (Mapping, tuple, list)):
        raise ExportError(
            f"The example is {_described(example)}; it must be a tuple of tensors in the order of forward's arguments, "
            f"or a dict of them by name{_remedy(example)}."
        )


def _described(value: object) -> str:
    kinds: list[tuple[type | tuple[type, ...], str]] = [
        (Tensor, "a single tensor"),
        (str, "a text"),
        (np.ndarray, "a numpy array"),
        (type(None), "None"),
    ]
    return next((name for kind, name in kinds if isinstance(value, kind)), f"of type {type(value).__name__}")


def _remedy(value: object) -> str:
    if isinstance(value, Tensor):
        return ": write (example,)"
    if isinstance(value, np.ndarray):
        return ": torch.from_numpy makes one of an array"
    if isinstance(value, str):
        return ": for a text, the tensors that its tokenizer makes"
    return ""


def _repeated(arguments: dict[str, Tensor]) -> dict[str, Tensor]:
    rows = {name: tensor.shape[0] if tensor.ndim else 0 for name, tensor in arguments.items()}
    if not rows or min(rows.values()) < 1 or len(set(rows.values())) > 1:
        listing = ", ".join(f"{name} {count}" for name, count in rows.items()) or "none"
        raise ExportError(f"The example has these rows on axis 0: {listing}. Give every input the same, 2 or more.")
    if min(rows.values()) > 1:
        return arguments
    # torch takes a length of 1 for fixed.
    return {name: tensor.repeat(2, *[1] * (tensor.ndim - 1)) for name, tensor in arguments.items()}


def dynamic_shapes(
    arguments: Mapping[str, Tensor], dynamic: Mapping[str, Mapping[int, str]]
) -> dict[str, dict[int, Dim]]:
    """Name the open axes of each input: its rows, and those asked for; one `Dim` for each name.

    Raises
    ------
    ExportError
        An input or axis does not exist, or cannot be open.
    """
    lengths: dict[str, Dim] = {}
    shapes: dict[str, dict[int, Dim]] = {name: {0: Dim("batch")} for name in arguments}
    for name, axes in dynamic.items():
        if name not in arguments:
            raise ExportError(f"A dynamic axis is asked for of {name!r}; the inputs are: {', '.join(arguments)}.")
        for axis, length in axes.items():
            shape = tuple(arguments[name].shape)
            if not 1 <= axis < len(shape) or shape[axis] < 2:
                raise ExportError(
                    f"Axis {axis} of {name!r} cannot be dynamic: the example's shape is {shape}. "
                    "It must be one of its axes other than 0, which is always, with a length of at least 2."
                )
            if not length.isidentifier() or length == "batch":
                raise ExportError(f"The dynamic axis {axis} of {name!r} is called {length!r}; use a word, not 'batch'.")
            shapes[name][axis] = lengths.setdefault(length, Dim(length))
    return shapes
