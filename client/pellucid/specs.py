"""Explanations as callers ask for them, turned into the schema's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from pellucid.catalogue import Model
from pellucid.checks import checked_flag, checked_mapping, checked_number, checked_text, checked_whole, shortened
from pellucid.errors import invalid
from pellucid.inputs import is_file, read_inputs
from pellucid.receipts import Outcome
from pellucid.tensors import TensorError, to_tensor
from pellucid.v1 import explanation_pb2, tensor_pb2

Element = int | str | tuple[int, ...] | Outcome
"""One element of an output: a class's index, its label, an index on each axis of a row, or a receipt's `Outcome`."""

Space = Literal["logits", "probabilities"]

_KINDS = {
    "zeros": explanation_pb2.BASELINE_KIND_ZEROS,
    "mean": explanation_pb2.BASELINE_KIND_MEAN,
    "blur": explanation_pb2.BASELINE_KIND_BLUR,
    "background": explanation_pb2.BASELINE_KIND_BACKGROUND,
    "medoid": explanation_pb2.BASELINE_KIND_MEDOID,
}
_SPACES = {
    "logits": explanation_pb2.OUTPUT_SPACE_LOGITS,
    "probabilities": explanation_pb2.OUTPUT_SPACE_PROBABILITIES,
}
MOST_SEED = (1 << 64) - 1
_MOST_AXES = 32
_REPLY_TYPES = {
    "float32": tensor_pb2.DATA_TYPE_FLOAT32,
    "float16": tensor_pb2.DATA_TYPE_FLOAT16,
    "float64": tensor_pb2.DATA_TYPE_FLOAT64,
}


@dataclass(frozen=True, slots=True)
class Blur:
    """The baseline of a picture: the picture, blurred; `sigma` in pixels at model resolution, in (0, 100]."""

    sigma: float = 10.0


@dataclass(frozen=True, slots=True)
class ExplanationSpec:
    """An explanation that is asked for.

    Attributes
    ----------
    method
        The method's name, such as "integrated-gradients".
    parameters
        The method's own parameters; what is left out takes its default.
    target
        What to explain: a class's index, its label, an index on each axis; None for the highest value.
    contrast
        If set, the score is the target minus this element: why this rather than that.
    output
        The output's name; None for the model's first.
    space
        "logits" or "probabilities"; None for the output as the model gives it.
    baseline
        "zeros", "mean", "medoid", "blur" or a `Blur`, "background", or rows as for the call's inputs: one,
        or several for methods that average over a background. None for the method's default.
    seed
        Seed of everything random in the method.
    tolerance
        Error to stay below, as a share of the score's change, in [1e-6, 1]; None for the method's default.
    sum_channels
        Add a picture's attributions up over its channels.
    dtype
        "float32", "float16" for half the bytes and three digits, or "float64".
    exact
        Have no bit of the answer depend on what else the server does: rows run in batches of their own, of a fixed
        size. It takes longer, and the answer is never partial.
    """

    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    target: Element | None = None
    contrast: Element | None = None
    output: str | None = None
    space: Space | None = None
    baseline: Any = None
    seed: int = 0
    tolerance: float | None = None
    sum_channels: bool = False
    dtype: Literal["float32", "float16", "float64"] = "float32"
    exact: bool = False


def explanation_message(model: Model, spec: ExplanationSpec, *, where: str) -> explanation_pb2.ExplanationSpec:
    """Write what is asked for.

    Parameters
    ----------
    where
        What the specification is called in messages, with a dot; empty for a call's own arguments.

    Raises
    ------
    InvalidRequestError
        A value is of a type, or a word, that there is not.
    """
    parameters = checked_mapping(spec.parameters, f"{where}parameters", "values by name")
    message = explanation_pb2.ExplanationSpec(
        method=checked_text(spec.method, f"{where}method"),
        parameters={name: parameter_message(value, f"{where}{name}") for name, value in parameters.items()},
        seed=checked_whole(spec.seed, f"{where}seed", 0, MOST_SEED),
        tolerance=None if spec.tolerance is None else checked_number(spec.tolerance, f"{where}tolerance"),
        format=explanation_pb2.ReplyFormat(
            sum_channels=checked_flag(spec.sum_channels, f"{where}sum_channels"),
            data_type=word_value(spec.dtype, _REPLY_TYPES, f"{where}dtype"),
        ),
        exact=checked_flag(spec.exact, f"{where}exact"),
    )
    target = target_message(spec.target, spec.contrast, spec.output, spec.space, where)
    if target is not None:
        message.target.CopyFrom(target)
    if spec.baseline is not None:
        message.baseline.CopyFrom(_baseline(model, spec.baseline, f"{where}baseline"))
    return message


def parameter_message(value: Any, where: str) -> explanation_pb2.ParamValue:
    """Write a parameter's value.

    Raises
    ------
    InvalidRequestError
        It is no bool, number, text or array of numbers.
    """
    if isinstance(value, np.generic):
        value = value.item()
    # A bool is an int to Python: it must be asked for first.
    if isinstance(value, bool):
        return explanation_pb2.ParamValue(flag=value)
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise invalid(where, f"is {shortened(value)}; a whole number must fit 64 bits")
        return explanation_pb2.ParamValue(integer=value)
    if isinstance(value, float):
        return explanation_pb2.ParamValue(real=value)
    if isinstance(value, str):
        return explanation_pb2.ParamValue(text=checked_text(value, where))
    if isinstance(value, Mapping):
        raise invalid(where, "is a dictionary; give each parameter by its own name, as in samples=512")
    try:
        return explanation_pb2.ParamValue(tensor=to_tensor(value))
    except TensorError as error:
        what = f"is of type {type(value).__name__}; it must be a bool, a number, a text or an array of numbers"
        raise invalid(where, what) from error


def target_message(
    target: Element | None, contrast: Element | None, output: str | None, space: Space | None, where: str
) -> explanation_pb2.Target | None:
    """Write the scalar that is meant; None where all of it is left to the server.

    Raises
    ------
    InvalidRequestError
        A value is of a type, or a word, that there is not.
    """
    if target is None and contrast is None and output is None and space is None:
        return None
    return explanation_pb2.Target(
        output="" if output is None else checked_text(output, f"{where}output"),
        outcome=None if target is None else outcome_message(target, f"{where}target"),
        contrast=None if contrast is None else outcome_message(contrast, f"{where}contrast"),
        space=explanation_pb2.OUTPUT_SPACE_UNSPECIFIED
        if space is None
        else word_value(space, _SPACES, f"{where}space"),
    )


def outcome_message(element: Any, where: str) -> explanation_pb2.Outcome:
    """Write one element of an output.

    Raises
    ------
    InvalidRequestError
        It is no index, label or tuple of indices.
    """
    if isinstance(element, Outcome):
        # The request takes one of the two; with neither it is the highest, as in the receipt.
        element = element.index if element.index or not element.label else element.label
    if isinstance(element, str):
        if not element:
            raise invalid(where, "is empty; it must be a label or an index")
        return explanation_pb2.Outcome(label=checked_text(element, where))
    index = element if isinstance(element, list | tuple) else _axes(element)
    if not all(isinstance(part, int | np.integer) and not isinstance(part, bool) for part in index):
        what = "it must be an index, a label or a tuple with an index for each axis"
        raise invalid(where, f"is {_elements(index)}; {what}")
    if any(part < 0 for part in index):
        raise invalid(where, f"is {_elements(index)}; an index is counted from 0 and is never negative")
    if any(part >= 1 << 63 for part in index):
        raise invalid(where, f"is {_elements(index)}; an index must fit 64 bits")
    return explanation_pb2.Outcome(index=[int(part) for part in index])


def _axes(element: Any) -> Sequence[Any]:
    return list(np.atleast_1d(element)) if isinstance(element, np.ndarray) else [element]


def _elements(index: Sequence[Any]) -> str:
    shown = ", ".join(shortened(part) for part in index[:_MOST_AXES])
    return shown if len(index) == 1 else f"({shown})"


def _baseline(model: Model, baseline: Any, where: str) -> explanation_pb2.Baseline:
    if isinstance(baseline, Blur):
        sigma = checked_number(baseline.sigma, f"{where}.sigma")
        return explanation_pb2.Baseline(kind=explanation_pb2.BASELINE_KIND_BLUR, blur_sigma=sigma)
    if isinstance(baseline, str) and baseline in _KINDS:
        return explanation_pb2.Baseline(kind=_KINDS[baseline])
    if isinstance(baseline, str) and not is_file(baseline):
        known = ", ".join(map(repr, _KINDS))
        shown = shortened(baseline)
        raise invalid(where, f"is {shown}, which is no file; it must be one of {known}, or rows like the inputs'")
    given = read_inputs(model, baseline, where=where)
    return explanation_pb2.Baseline(kind=explanation_pb2.BASELINE_KIND_GIVEN, inputs=given.messages)


def word_value(word: Any, words: Mapping[str, Any], where: str) -> Any:
    """Return what a word stands for.

    Raises
    ------
    InvalidRequestError
        It is none of the words.
    """
    if not isinstance(word, str) or word not in words:
        raise invalid(where, f"is {shortened(word)}; it must be one of {', '.join(map(repr, words))}")
    return words[word]
