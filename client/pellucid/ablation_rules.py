"""What a counterfactual may do to a table's columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pellucid.checks import checked_flag, checked_list, checked_number, checked_text, shortened
from pellucid.errors import invalid
from pellucid.v1 import ablation_pb2


@dataclass(frozen=True, slots=True)
class Rule:
    """What a counterfactual may do to a table's column.

    Attributes
    ----------
    fixed
        Leave it as it is.
    minimum, maximum
        The smallest and the largest value that it may get, in the column's unit; None for what the model states.
    only_up, only_down
        It may only become larger, or only smaller.
    whole
        It takes whole numbers.
    categories
        The categories that it may get; empty for all.
    """

    fixed: bool = False
    minimum: float | None = None
    maximum: float | None = None
    only_up: bool = False
    only_down: bool = False
    whole: bool = False
    categories: Sequence[str] = ()


Fixed = Rule(fixed=True)
"""The rule for a column that a counterfactual must leave as it is."""

ColumnRule = Rule | tuple[float | None, float | None]
"""A rule, or the interval that the column's value must be in."""


def rule_message(column: str, given: Any) -> ablation_pb2.ColumnRule:
    """Write what may become of a column.

    Raises
    ------
    InvalidRequestError
        It is no rule, or a value of it is of a type that there is not.
    """
    where = f"columns[{column!r}]"
    if isinstance(given, list | tuple):
        if len(given) != 2:
            raise invalid(where, f"has {len(given)} entries; it must be the pair of minimum and maximum")
        given = Rule(minimum=given[0], maximum=given[1])
    if not isinstance(given, Rule):
        raise invalid(where, f"is {shortened(given)}; it must be Fixed, a pair of minimum and maximum, or a Rule")
    categories = checked_list(given.categories, f"{where}.categories", "categories")
    return ablation_pb2.ColumnRule(
        column=column,
        fixed=checked_flag(given.fixed, f"{where}.fixed"),
        minimum=bound(given.minimum, f"{where}.minimum"),
        maximum=bound(given.maximum, f"{where}.maximum"),
        only_up=checked_flag(given.only_up, f"{where}.only_up"),
        only_down=checked_flag(given.only_down, f"{where}.only_down"),
        whole=checked_flag(given.whole, f"{where}.whole"),
        categories=[checked_text(each, f"{where}.categories[{number}]") for number, each in enumerate(categories)],
    )


def read_rule(message: ablation_pb2.ColumnRule) -> Rule:
    """Read a rule off a reply."""
    return Rule(
        fixed=message.fixed,
        minimum=message.minimum if message.HasField("minimum") else None,
        maximum=message.maximum if message.HasField("maximum") else None,
        only_up=message.only_up,
        only_down=message.only_down,
        whole=message.whole,
        categories=tuple(message.categories),
    )


def bound(value: Any, where: str) -> float | None:
    """Return a bound; None for none.

    Raises
    ------
    InvalidRequestError
        It is no number.
    """
    return None if value is None else checked_number(value, where)
