"""The functions of torch by name, as torch itself lists those that work on tensors, and how each is called."""

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import torch.overrides
from server.engine.models.operator_cases import CALLS, Call, Values

PLACES = {
    "": torch,
    "Tensor": torch.Tensor,
    "nn.functional": F,
    "linalg": torch.linalg,
    "fft": torch.fft,
    "special": torch.special,
}

_CALLS: dict[str, Call] = {name: call for names, call in CALLS.items() for name in names.split()}


def listed_functions() -> set[str]:
    """Name all functions and methods that torch lists: `add`, `Tensor.add`, `nn.functional.gelu`, `special.erf`..."""
    names = set()
    for functions in torch.overrides.get_overridable_functions().values():
        for function in functions:
            name = str(torch.overrides.resolve_name(function)).removeprefix("torch.").removeprefix("functional.")
            names.add(name.removesuffix(".__get__"))
    return names


def python_operators() -> set[str]:
    """Name Python's operators, by their function in `operator`."""
    return {name for name in dir(operator) if not name.startswith("_") and callable(getattr(operator, name))}


def call(name: str) -> Callable[[Values], Any] | None:
    """Return what calls a function, or None if there is no case for it."""
    place, _, base = name.rpartition(".")
    change = place == "Tensor" and base.endswith("_") and base not in _CALLS
    made = _CALLS.get(name) or _CALLS.get(base) or (_CALLS.get(base[:-1]) if change else None)
    if made is None or place not in PLACES or (place == "Tensor" and base.startswith("_")):
        return None
    function = getattr(PLACES[place], base)

    def run(values: Values) -> Any:
        arguments = list(made(values))
        named = arguments.pop() if isinstance(arguments[-1], dict) else {}
        if place == "Tensor" and base.endswith("_"):
            arguments[0] = arguments[0].clone()
        return function(*arguments, **named)

    return run
