"""What becomes of the values at some sites: one small class for each kind of change."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import numpy as np

from pellucid.checks import checked_flag, checked_number, checked_whole, shortened
from pellucid.errors import invalid
from pellucid.receipts import enum_word, plain
from pellucid.sites import Sites, read_site, read_sites
from pellucid.tensors import TensorError, from_tensor, to_tensor
from pellucid.v1 import ablation_pb2, tensor_pb2

Reference = Literal["batch", "background", "dataset"]
"""Where other values come from: the call's own rows, the model's background rows, or the call's data set."""

_REFERENCES: Mapping[str, ablation_pb2.Reference] = {
    "batch": ablation_pb2.REFERENCE_BATCH,
    "background": ablation_pb2.REFERENCE_BACKGROUND,
    "dataset": ablation_pb2.REFERENCE_DATASET,
}
_MOST_DRAWS = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Intervention:
    """A change at some sites: a `Site`, its text such as "layer4[3,5-9]", or a list of those.

    Each site is changed by itself, unless the method says otherwise. Use the subclasses.
    """

    kind: ClassVar[str] = ""

    sites: Sites

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, texts and numbers; sites as their texts."""
        sites = [str(site) for site in read_sites(self.sites, "sites")]
        found: dict[str, Any] = plain(self)
        return {"kind": self.kind} | found | {"sites": sites}

    def _details(self, where: str) -> dict[str, Any]:
        """Return the fields of the message beside the sites and the kind."""
        return {}


@dataclass(frozen=True, slots=True, eq=False)
class Zero(Intervention):
    """The values become 0, whatever the layer's bias is."""

    kind = "zero"


@dataclass(frozen=True, slots=True, eq=False)
class Mean(Intervention):
    """The values become their mean over reference rows.

    Attributes
    ----------
    reference
        "batch", "background" or "dataset"; None for the data set if the call names one, else the background if the
        model has one, else the batch.
    per_position
        Take the mean at each position by itself, not over all positions of a unit.
    """

    kind = "mean"

    reference: Reference | None = None
    per_position: bool = False

    def _details(self, where: str) -> dict[str, Any]:
        return {
            "reference": _reference(self.reference, f"{where}.reference"),
            "per_position": checked_flag(self.per_position, f"{where}.per_position"),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Resample(Intervention):
    """The values become what they are in other rows, drawn at random.

    Attributes
    ----------
    reference
        As for `Mean`.
    draws
        How often, in [1, 1024]; None for 8.
    """

    kind = "resample"

    reference: Reference | None = None
    draws: int | None = None

    def _details(self, where: str) -> dict[str, Any]:
        return {
            "reference": _reference(self.reference, f"{where}.reference"),
            "draws": _draws(self.draws, f"{where}.draws"),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Noise(Intervention):
    """Gaussian noise is added.

    Attributes
    ----------
    deviation
        Its standard deviation, as a multiple of that of the layer's elements in the row; above 0.
    draws
        How often, in [1, 1024]; None for 8.
    """

    kind = "noise"

    deviation: float = 1.0
    draws: int | None = None

    def _details(self, where: str) -> dict[str, Any]:
        return {
            "value": checked_number(self.deviation, f"{where}.deviation"),
            "draws": _draws(self.draws, f"{where}.draws"),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Constant(Intervention):
    """The values become `value`: one number, one for each unit, or one for each element of the layer for one row."""

    kind = "constant"

    value: Any

    def _details(self, where: str) -> dict[str, Any]:
        if isinstance(self.value, str | bool | int | float | np.generic) or self.value is None:
            return {"value": checked_number(self.value, f"{where}.value")}
        return {"vector": _vector(self.value, f"{where}.value")}


@dataclass(frozen=True, slots=True, eq=False)
class Scale(Intervention):
    """The values are multiplied by `factor`."""

    kind = "scale"

    factor: float

    def _details(self, where: str) -> dict[str, Any]:
        return {"value": checked_number(self.factor, f"{where}.factor")}


@dataclass(frozen=True, slots=True, eq=False)
class Steer(Intervention):
    """A vector is added.

    Attributes
    ----------
    vector
        A number for each unit, or for each element of the layer for one row.
    coefficient
        What it is multiplied by.
    """

    kind = "steer"

    vector: Any
    coefficient: float = 1.0

    def _details(self, where: str) -> dict[str, Any]:
        return {
            "vector": _vector(self.vector, f"{where}.vector"),
            "value": checked_number(self.coefficient, f"{where}.coefficient"),
        }


@dataclass(frozen=True, slots=True, eq=False)
class Patch(Intervention):
    """The values become what they are in the call's `source` row."""

    kind = "patch"


KINDS: Mapping[str, type[Intervention]] = MappingProxyType(
    {each.kind: each for each in (Zero, Mean, Resample, Noise, Constant, Scale, Steer, Patch)}
)
"""The interventions by the words that the command takes."""


def intervention_message(given: Any, where: str) -> ablation_pb2.Intervention:
    """Write an intervention in the schema's terms.

    Raises
    ------
    InvalidRequestError
        It is none, or a value of it is of a type that there is not.
    """
    if not isinstance(given, Intervention) or not given.kind:
        kinds = ", ".join(each.__name__ for each in KINDS.values())
        raise invalid(where, f"is {shortened(given)}; it must be one of {kinds}, as in Zero('layer4[3]')")
    return ablation_pb2.Intervention(
        sites=[site.message for site in read_sites(given.sites, f"{where}.sites")],
        kind=f"INTERVENTION_KIND_{given.kind.upper()}",
        **given._details(where),
    )


def read_intervention(message: ablation_pb2.Intervention) -> Intervention:
    """Read an intervention off a reply; it can be sent again.

    Raises
    ------
    TensorError
        The vector is malformed, or the kind is a newer server's.
    """
    sites = tuple(read_site(each) for each in message.sites)
    vector = from_tensor(message.vector) if message.HasField("vector") else None
    value = message.value if message.HasField("value") else None
    words: dict[int, Any] = {number: word for word, number in _REFERENCES.items()}
    reference, draws = words.get(message.reference), message.draws or None
    made: Mapping[str, Callable[[], Intervention]] = {
        "zero": lambda: Zero(sites),
        "mean": lambda: Mean(sites, reference, message.per_position),
        "resample": lambda: Resample(sites, reference, draws),
        "noise": lambda: Noise(sites, 1.0 if value is None else value, draws),
        "constant": lambda: Constant(sites, (value or 0.0) if vector is None else vector),
        "scale": lambda: Scale(sites, value or 0.0),
        "steer": lambda: Steer(sites, vector, 1.0 if value is None else value),
        "patch": lambda: Patch(sites),
    }
    kind = enum_word(ablation_pb2.InterventionKind, message.kind, "INTERVENTION_KIND_") or "zero"
    if kind not in made:
        raise TensorError("data", f"has an intervention of kind {message.kind}, which this client does not know")
    return made[kind]()


def _reference(word: Any, where: str) -> ablation_pb2.Reference:
    if word is None:
        return ablation_pb2.REFERENCE_UNSPECIFIED
    if not isinstance(word, str) or word not in _REFERENCES:
        raise invalid(where, f"is {shortened(word)}; it must be one of {', '.join(map(repr, _REFERENCES))}, or None")
    return _REFERENCES[word]


def _draws(draws: Any, where: str) -> int:
    return 0 if draws is None else checked_whole(draws, where, 1, _MOST_DRAWS)


def _vector(given: Any, where: str) -> tensor_pb2.Tensor:
    try:
        array = np.asarray(given)
        if array.dtype.kind in "iuf" and array.ndim:
            # One type of number, whatever the caller's has been: the server computes with these.
            return to_tensor(array.astype(np.float64))
    except (TensorError, TypeError, ValueError, RuntimeError) as error:
        raise invalid(where, "is no array; give a number for each unit or each element of the layer") from error
    raise invalid(where, f"is {shortened(given)}; give an array with a number for each unit or element of the layer")
