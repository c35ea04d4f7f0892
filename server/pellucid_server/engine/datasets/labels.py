"""Labels as a data set has them become classes of a model, or numbers."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from pellucid_server.engine.asking.studies import Decision
from pellucid_server.engine.datasets.cells import as_number
from pellucid_server.engine.datasets.opening import DataSetError
from pellucid_server.errors import UnsupportedError
from pellucid_server.vocabulary.descriptions import OutputInfo

_MOST_SHOWN = 10


def decision(output: OutputInfo, model: str) -> Decision:
    """Say how an output is compared with labels.

    Raises
    ------
    UnsupportedError
        It is neither classes nor one number per row.
    """
    size = math.prod(output.shape)
    if len(output.shape) > 1 or size < 1:
        raise UnsupportedError(
            f"Output {output.name!r} of {model} has rows of the shape {output.shape}; it must have one number per row, "
            "or one for each class.",
            subject=f"models/{model}",
        )
    if output.kind == "values":
        if size > 1:
            raise UnsupportedError(
                f"Output {output.name!r} of {model} has {size} values per row, which model.toml does not call classes; "
                "set its kind there to logits, sigmoid-logits or probabilities.",
                subject=f"models/{model}",
            )
        return Decision(output.name, "number", unit=output.unit)
    if size == 1:
        name = output.labels[0] if output.labels else "1"
        kind = "half" if output.kind == "probabilities" else "sign"
        return Decision(output.name, kind, (f"not {name}" if output.labels else "0", name))
    return Decision(output.name, "highest", output.labels or tuple(map(str, range(size))))


class Labels:
    """Reads labels for a decision; `classes` is `[classes]` of the data set, or None."""

    def __init__(self, decision: Decision, classes: Mapping[str, str | int] | None) -> None:
        self._number = decision.kind == "number"
        self._size = len(decision.classes)
        counts = Counter(decision.classes)
        self._twice = {name for name, times in counts.items() if times > 1}
        self._index = {name: index for index, name in enumerate(decision.classes)}
        self._named = {} if classes is None else dict(classes)

    def read(self, value: Any) -> int | float:
        """Return the class's index, or the number, of a label.

        Raises
        ------
        DataSetError
            It is none; the message goes on from the row's place, and does not say what the label is.
        """
        if self._number:
            return _number(value)
        text = as_text(value)
        mapped = self._named.get(text, text)
        if isinstance(mapped, int):
            return self._within(mapped)
        if mapped in self._twice:
            raise DataSetError("the label is the name of two classes; give its index in [classes].")
        if mapped in self._index:
            return self._index[mapped]
        if mapped.isascii() and mapped.isdecimal() and len(mapped) < 10:
            return self._within(int(mapped))
        names = ", ".join(map(repr, [*self._index][:_MOST_SHOWN]))
        more = ", and more" if len(self._index) > _MOST_SHOWN else ""
        raise DataSetError(f"the label is none of the model's ({names}{more}); name its class in [classes].")

    def _within(self, index: int) -> int:
        if index >= self._size:
            raise DataSetError(f"the label stands for no class; those of the model are 0 to {self._size - 1}.")
        return index


def as_text(value: Any) -> str:
    """Write a cell as a text: whole numbers without a point, flags as "true" and "false", nothing as ""."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    return str(value)


def _number(value: Any) -> float:
    try:
        found = as_number(value)
    except ValueError as error:
        raise DataSetError("the label must be a number, as the model predicts one.") from error
    if not math.isfinite(found):
        raise DataSetError("the label must be finite.")
    return found
