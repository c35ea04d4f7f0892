"""Words of a command line turned into values, and results into arrays for a file."""

import contextlib
import re
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from pellucid.catalogue import Model
from pellucid.cells import parsed_category, parsed_number
from pellucid.errors import invalid
from pellucid.results import Attribution, Prediction
from pellucid.specs import Element
from pellucid.tensors import Array

# More digits than the largest index has are a label's.
_INDICES = re.compile(r"\s*-?[0-9]{1,19}\s*(,\s*-?[0-9]{1,19}\s*)*")

T = TypeVar("T")


def element(word: str | None) -> Element | None:
    """Return an index, indices separated by commas, or else the word as a label; below 0 is an index that is wrong."""
    if word is None:
        return None
    if _INDICES.fullmatch(word):
        index = tuple(int(part) for part in word.split(","))
        return index if len(index) > 1 else index[0]
    return word


def parameter(word: str) -> tuple[str, bool | int | float | str | Array]:
    """Return the name and the value of NAME=VALUE; VALUE is a flag, a number, numbers with commas, or a text.

    Raises
    ------
    InvalidRequestError
        There is no "=", or no name before it.
    """
    name, value = _pair(word, "--parameter")
    if value in ("true", "false"):
        return name, value == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return name, kind(value)
    if "," in value:
        with contextlib.suppress(ValueError):
            return name, np.array([float(part) for part in value.split(",")])
    return name, value


def row_value(model: Model, word: str) -> tuple[str, float | str]:
    """Return the name and the value of COLUMN=VALUE, a number where the model's column is numeric.

    Raises
    ------
    InvalidRequestError
        There is no "=", no name before it, or no number where one is needed.
    """
    name, value = _pair(word, "--row")
    columns = {column.name: column for each in model.inputs for column in each.columns}
    if name not in columns:
        # Refused with the others that are unknown, and with those that are missing.
        return name, value
    if columns[name].categories:
        return name, parsed_category(columns[name], value)
    number = parsed_number(value)
    if number is None:
        raise invalid(f"--row {name}", f"is {value!r}; it must be a number")
    return name, number


def interval(word: str) -> tuple[str, tuple[float | None, float | None]]:
    """Return the name and the bounds of COLUMN=LOW:HIGH; a bound that is left out is None.

    Raises
    ------
    InvalidRequestError
        It is written otherwise.
    """
    # A column's name may hold "=", a bound may not.
    name, equals, value = word.rpartition("=")
    low, colon, high = value.partition(":")
    bounds = [parsed_number(each) if each.strip() else None for each in (low, high)]
    if not (name and equals and colon) or any(
        bound is None and each.strip() for bound, each in zip(bounds, (low, high), strict=True)
    ):
        raise invalid("--range", f"is {word!r}; it must be COLUMN=LOW:HIGH, such as 'mean radius=10:15'")
    return name, (bounds[0], bounds[1])


def once(option: str, pairs: Sequence[tuple[str, T]]) -> dict[str, T]:
    """Return values by name.

    Raises
    ------
    InvalidRequestError
        A name comes twice.
    """
    check_once(option, [name for name, _ in pairs])
    return dict(pairs)


def check_once(option: str, names: Sequence[str]) -> None:
    """Refuse an option that is given twice for the same name: one of them would be lost.

    Raises
    ------
    InvalidRequestError
        A name comes twice.
    """
    for place, name in enumerate(names):
        if name in names[:place]:
            raise invalid(option, f"names {name!r} twice; give it once")


def predicted_arrays(prediction: Prediction) -> dict[str, Array]:
    """Name each output's array after the output, and each explanation's after its place."""
    arrays = {f"outputs/{name}": values for name, values in prediction.outputs.items()}
    for place, outcome in enumerate(prediction.explanations):
        arrays |= {f"explanations/{place}/{key}": each for key, each in attributed_arrays(outcome.attributions).items()}
    return arrays


def attributed_arrays(attributions: Sequence[Attribution]) -> dict[str, Array]:
    """Name each array after its row and its input: "0/image" and, for groups, "0/image/groups"."""
    arrays: dict[str, Array] = {}
    for row, attribution in enumerate(attributions):
        for name, each in attribution.inputs.items():
            arrays[f"{row}/{name}"] = each.scores
            if each.groups is not None:
                arrays[f"{row}/{name}/groups"] = each.groups
        if attribution.group_scores is not None:
            arrays[f"{row}/group_scores"] = attribution.group_scores
    return arrays


def _pair(word: str, option: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals or not name:
        raise invalid(option, f"is {word!r}; it must be NAME=VALUE")
    return name, value
