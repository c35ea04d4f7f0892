"""Holds operators to their contracts: when a model is loaded, and at every call.

Most operators of ATen check what they are given. Some do not: they read as many numbers as another argument says
there are, or index memory by a number that nothing has compared with a length. A model file can call them with
anything, so each of those has a rule (`contract_rules`). It is checked on the graph's own sizes when a model is
loaded, which gives the better message, and on the real arguments at every call, which is what safety rests on.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from pellucid_server.engine.models.operators.contract_rules import RULES, BrokenContractError, Rule

__all__ = ["BrokenContractError", "broken_contract", "checked", "mistyped"]


def broken_contract(node: fx.Node) -> str | None:
    """Say what of its operator's contract a node's arguments break, as far as its sizes tell; None if nothing."""
    if not isinstance(node.target, OpOverload):
        return None
    wrong = mistyped(node.target, node.args, node.kwargs)
    if wrong is not None:
        return wrong
    rule = _rule(node.target)
    if rule is None:
        return None
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda argument: argument.meta.get("val"))
    try:
        rule(*_in_order(node.target, args, kwargs))
    except BrokenContractError as error:
        return str(error)
    except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError):
        return "what does not fit it"
    return None


@cache
def checked(operator: Any) -> Callable[..., Any]:
    """Return an operator that checks its contract at every call; the operator itself where it has none.

    The call raises `BrokenContractError` before anything runs.
    """
    rule = _rule(operator)
    if rule is None:
        return operator  # type: ignore[no-any-return]

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            rule(*_in_order(operator, args, kwargs))
        except BrokenContractError as error:
            raise BrokenContractError(f"The operator {operator} is given {error}.") from None
        return operator(*args, **kwargs)

    call.__name__ = call.__qualname__ = f"checked_{operator}".replace(".", "_")
    return call


def _in_order(operator: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Any]:
    """Return all arguments of an operator by position, with the defaults of those that are not given."""
    rest = operator._schema.arguments[len(args) :]
    return (*args, *(kwargs.get(argument.name, argument.default_value) for argument in rest)) if rest else args


def mistyped(operator: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """Say which argument is of a kind that torch takes, and looks at no more; None if none is.

    A plain number where a type of numbers, a layout or a device belongs; or a size or place of more than 31 bits,
    with which kernels reckon until it is a small one.
    """
    for position, name, kind in _kinds(operator):
        value = args[position] if position < len(args) else kwargs.get(name)
        if kind is int:
            numbers = value if isinstance(value, list | tuple) else [value]
            far = next((number for number in numbers if isinstance(number, int) and abs(number) >= 2**31), None)
            if far is not None:
                return f"{far} as its {name}, where at most {2**31 - 1} makes sense"
        elif value is not None and not isinstance(value, kind):
            return f"{str(value)[:40]!r} as its {name}"
    return None


@cache
def _kinds(operator: OpOverload) -> tuple[tuple[int, str, type], ...]:
    """Return position, name and Python type of the arguments that are looked at for any operator."""
    kinds = []
    for position, argument in enumerate(operator._schema.arguments):
        written = str(argument.real_type)
        kind = next((kind for word, kind in _PLACED.items() if word in written), None)
        sizes = "int" in written.lower() and not operator._schema.name.startswith(_TO_ANY_END)
        if kind is not None or sizes:
            kinds.append((position, argument.name, kind or int))
    return tuple(kinds)


_PLACED = {
    "ScalarType": torch.dtype,
    "Layout": torch.layout,
    "Device": torch.device,
    "MemoryFormat": torch.memory_format,
}

_TO_ANY_END = "aten::slice"
"""Operators whose end may be the highest number of all, for a slice without one."""


def _rule(target: Any) -> Rule | None:
    if not isinstance(target, OpOverload) or target.namespace != "aten":
        return None
    return RULES.get(target._schema.name.removeprefix("aten::") + _dotted(target._schema.overload_name))


def _dotted(overload: str) -> str:
    return f".{overload}" if overload else ""
