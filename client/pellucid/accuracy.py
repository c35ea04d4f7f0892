"""How good an answer is, measured while it was made."""

from dataclasses import dataclass
from typing import Any

from pellucid.v1 import explanation_pb2


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How good an explanation is, measured while it was made; None where the method does not say.

    Attributes
    ----------
    signed_gap
        The scores' sum minus the change of the target's score, in units of the score.
    absolute_gap
        The absolute gaps of the method's parts added up, in units of the score.
    tolerance, absolute_tolerance
        The largest |signed gap| and the largest absolute gap that the method worked to, as shares of |the score's
        change|; None if it had none to work to.
    tolerance_met
        Whether both gaps were within their tolerances; None if there was none to work to.
    standard_error
        The largest standard error of a group's score, of methods that sample.
    warnings
        What a reader should know, in sentences.
    partial
        Whether the deadline cut the work short; the receipt's parameters then say on what it rests.
    """

    signed_gap: float | None
    absolute_gap: float | None
    tolerance: float | None
    tolerance_met: bool | None
    standard_error: float | None
    warnings: tuple[str, ...]
    partial: bool = False
    absolute_tolerance: float | None = None

    @property
    def tolerance_text(self) -> str:
        """The tolerances and whether they were met, for people; empty if there were none."""
        if self.tolerance is None:
            return ""
        absolute = "" if self.absolute_tolerance is None else f" (absolute {self.absolute_tolerance:g})"
        return f"tolerance {self.tolerance:g}{absolute} {'met' if self.tolerance_met else 'not met'}"


def read_accuracy(message: explanation_pb2.Accuracy) -> Accuracy:
    """Read an accuracy off a reply."""
    return Accuracy(
        signed_gap=_optional(message, "signed_gap"),
        absolute_gap=_optional(message, "absolute_gap"),
        tolerance=_optional(message, "tolerance"),
        tolerance_met=_optional(message, "tolerance_met"),
        standard_error=_optional(message, "standard_error"),
        warnings=tuple(message.warnings),
        partial=message.partial,
        absolute_tolerance=_optional(message, "absolute_tolerance"),
    )


def _optional(message: explanation_pb2.Accuracy, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None
