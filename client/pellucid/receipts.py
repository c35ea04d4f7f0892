"""Receipts: everything an answer is a function of, and what it took."""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pellucid.tensors import Array, from_tensor
from pellucid.v1 import explanation_pb2

ParameterValue = bool | int | float | str | Array


@dataclass(frozen=True, slots=True)
class ModelKey:
    """A model version; `digest` is the SHA-256 over its files."""

    name: str
    version: int
    digest: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """One element of an output, by its index on each axis of a row or by its label."""

    index: tuple[int, ...]
    label: str


@dataclass(frozen=True, slots=True)
class Target:
    """The scalar that was explained; `space` is "", "logits" or "probabilities"."""

    output: str
    outcome: Outcome
    contrast: Outcome | None
    space: str


@dataclass(frozen=True, slots=True)
class BatchShape:
    """How many device batches of so many rows an answer had rows in."""

    evaluation: str
    rows: int
    batches: int


@dataclass(frozen=True, slots=True)
class Work:
    """The computing that an answer took."""

    rows_forward: int
    rows_backward: int
    batch_shapes: tuple[BatchShape, ...]


@dataclass(frozen=True, slots=True)
class Runtime:
    """What computed an answer: runtimes, device, precision, and versions of libraries by name.

    `threads` and `cpu_capability`, "AVX2" for example, say how a CPU did; they are 0 and empty where it took no part.
    """

    forward: str
    gradient: str
    device: str
    precision: str
    libraries: Mapping[str, str]
    threads: int = 0
    cpu_capability: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Receipt:
    """Everything an answer is a function of: the same receipt means the same answer, to rounding.

    `method`, `target`, `baseline` and what belongs to them are empty or None in a prediction's receipt.
    """

    model: ModelKey
    input_digest: str
    method: str
    parameters: Mapping[str, ParameterValue]
    target: Target | None
    baseline: str
    baseline_digest: str
    seed: int
    tolerance: float | None
    runtime: Runtime
    work: Work
    baseline_blur_sigma: float = 0.0
    """For a blurred baseline: the blur's standard deviation in pixels; else 0."""
    exact: bool = False
    """Whether the rows were in batches of their own, of a fixed size: then it means the same answer byte for byte."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, texts and numbers."""
        found: dict[str, Any] = plain(self)
        return found

    def to_json(self) -> str:
        """Return it as JSON, keys in a fixed order."""
        return json_text(self.to_dict(), sort_keys=True)


def plain(value: Any) -> Any:
    """Return a value made of plain dictionaries, lists, texts and numbers; arrays become nested lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {each.name: plain(getattr(value, each.name)) for each in fields if each.metadata.get("plain", True)}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(each) for each in value]
    return value


def json_text(value: Any, *, sort_keys: bool = False) -> str:
    """Write plain values as JSON; what it has no numbers for becomes "NaN", "Infinity" and "-Infinity"."""
    try:
        return json.dumps(value, allow_nan=False, sort_keys=sort_keys)
    except ValueError:
        return json.dumps(_named_numbers(value), allow_nan=False, sort_keys=sort_keys)


def _named_numbers(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: _named_numbers(each) for key, each in value.items()}
    return [_named_numbers(each) for each in value] if isinstance(value, list) else value


def read_receipt(message: explanation_pb2.Receipt) -> Receipt:
    """Read a receipt off a reply."""
    return Receipt(
        model=read_model_key(message.model),
        input_digest=message.input_digest,
        method=message.method,
        parameters={name: read_parameter(value) for name, value in sorted(message.parameters.items())},
        target=_target(message.target) if message.HasField("target") else None,
        baseline=baseline_word(message.baseline),
        baseline_digest=message.baseline_digest,
        baseline_blur_sigma=message.baseline_blur_sigma,
        seed=message.seed,
        tolerance=message.tolerance if message.HasField("tolerance") else None,
        exact=message.exact,
        runtime=_runtime(message.runtime),
        work=_work(message.work),
    )


def read_model_key(message: explanation_pb2.ModelSpec) -> ModelKey:
    """Read a model version off a reply."""
    return ModelKey(message.name, message.version, message.digest)


def read_parameter(message: explanation_pb2.ParamValue) -> ParameterValue:
    """Read a parameter's value off a reply.

    Raises
    ------
    TensorError
        It is a malformed array.
    """
    if message.WhichOneof("value") == "tensor":
        return from_tensor(message.tensor)
    value: ParameterValue = getattr(message, message.WhichOneof("value") or "text")
    return value


def baseline_word(kind: int) -> str:
    """Return the word for a kind of baseline, such as "zeros"; empty for none, its number if it is a newer server's."""
    return enum_word(explanation_pb2.BaselineKind, kind, "BASELINE_KIND_")


def enum_word(enum: Any, value: int, prefix: str) -> str:
    """Return a value of an enum as a word: without its prefix, in small letters, "-" between words."""
    if value == 0:
        return ""
    if value not in enum.values():
        return str(value)
    name: str = enum.Name(value)
    return name.removeprefix(prefix).lower().replace("_", "-")


def _target(message: explanation_pb2.Target) -> Target:
    return Target(
        output=message.output,
        outcome=read_outcome(message.outcome),
        contrast=read_outcome(message.contrast) if message.HasField("contrast") else None,
        space=enum_word(explanation_pb2.OutputSpace, message.space, "OUTPUT_SPACE_"),
    )


def read_outcome(message: explanation_pb2.Outcome) -> Outcome:
    """Read an element of an output off a reply."""
    return Outcome(tuple(message.index), message.label)


def _runtime(message: explanation_pb2.Runtime) -> Runtime:
    libraries = dict(sorted(message.libraries.items()))
    return Runtime(
        forward=message.forward,
        gradient=message.gradient,
        device=message.device,
        precision=message.precision,
        libraries=libraries,
        threads=message.threads,
        cpu_capability=message.cpu_capability,
    )


def _work(message: explanation_pb2.Work) -> Work:
    shapes = tuple(BatchShape(each.evaluation, each.rows, each.batches) for each in message.batch_shapes)
    return Work(message.rows_forward, message.rows_backward, shapes)


def read_plain_outcome(found: Any) -> Outcome | None:
    """Read an element of an output off a receipt's dictionary; None for the highest, which has no name."""
    if found is None or not (found["index"] or found["label"]):
        return None
    return Outcome(tuple(found["index"]), found["label"])


def read_plain_parameter(value: Any) -> Any:
    """Read a parameter off a receipt's dictionary: one of several numbers is a list in JSON."""
    return np.array(value) if isinstance(value, list) else value
