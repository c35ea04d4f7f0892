"""Whether an answer is the quiet one: to rounding, or, where the deadline decides the work, to its own stated error."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2
from pellucid.tensors import TensorError, from_tensor
from pellucid.v1 import explanation_pb2, explanation_service_pb2, model_service_pb2

from soak.catalogue import Entry

TOLERANCE = 1e-5
"""Difference that rounding may make, as a share of the largest value of the array."""

ERRORS_ALLOWED = 8.0
"""Standard errors by which an answer that was cut short may differ; the estimates of few samples scatter themselves."""

GAPS_ALLOWED = 3.0
"""Gaps by which an element may differ where a tolerance was met: rounding may settle steps otherwise."""

LATE = 4
"""The gRPC code DEADLINE_EXCEEDED, as an explanation's status has it."""


def faults(entry: Entry, answer: bytes, quiet: bytes, *, hurried: bool = False) -> list[str]:
    """Return what is wrong with an answer, a sentence each; none if it is right.

    Parameters
    ----------
    hurried
        Whether its deadline was so short that an explanation beside a prediction may be late.
    """
    try:
        return list(_COMPARED[entry.rpc](entry, answer, quiet, hurried))
    except (DecodeError, TensorError) as error:
        return [f"it cannot be read: {error}"]


def partial(entry: Entry, answer: bytes) -> bool:
    """Tell whether an OK answer was cut short by its deadline."""
    if entry.rpc != "Attribute":
        return False
    return any(each.accuracy.partial for each in _attributions(answer))


def attribution_faults(
    mine: explanation_pb2.Attribution, again: explanation_pb2.Attribution, prediction: explanation_service_pb2.Output
) -> list[str]:
    """Return how an attribution differs from the same one made again; `prediction` is beside it."""
    return list(_attribution(mine, again, _margin(from_tensor(prediction.values)), cut=False))


def _attributions(answer: bytes) -> Any:
    return explanation_service_pb2.AttributeResponse.FromString(answer).explanation.attributions


def _health(entry: Entry, answer: bytes, quiet: bytes, hurried: bool) -> Iterator[str]:
    status = health_pb2.HealthCheckResponse.FromString(answer).status
    if status not in (health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING):
        yield f"health is {status}"


def _same(kind: type[Message]) -> "_Compare":
    def compare(entry: Entry, answer: bytes, quiet: bytes, hurried: bool) -> Iterator[str]:
        if kind.FromString(answer) != kind.FromString(quiet):
            yield "the description differs"

    return compare


def _model(entry: Entry, answer: bytes, quiet: bytes, hurried: bool) -> Iterator[str]:
    mine, others = (model_service_pb2.GetModelResponse.FromString(each) for each in (answer, quiet))
    for each in (mine, others):
        # Measured anew by each worker at its start.
        each.parity.ClearField("largest_difference")
    if mine != others:
        yield "the description differs"


def _predict(entry: Entry, answer: bytes, quiet: bytes, hurried: bool) -> Iterator[str]:
    mine, expected = (explanation_service_pb2.PredictResponse.FromString(each) for each in (answer, quiet))
    if set(mine.outputs) != set(expected.outputs):
        yield f"outputs are {sorted(mine.outputs)}"
        return
    for name in expected.outputs:
        yield from _output(name, mine.outputs[name], expected.outputs[name])
    if len(mine.explanations) != len(expected.explanations):
        yield f"it has {len(mine.explanations)} explanations"
        return
    for number, (one, other) in enumerate(zip(mine.explanations, expected.explanations, strict=True)):
        if one.status.code and not (hurried and one.status.code == LATE):
            yield f"explanation {number} has the status {one.status.code}, {one.status.message!r}"
        elif not one.status.code:
            yield from _explanation(entry, one.explanation, other.explanation, expected.outputs.values())


def _attribute(entry: Entry, answer: bytes, quiet: bytes, hurried: bool) -> Iterator[str]:
    mine, expected = (explanation_service_pb2.AttributeResponse.FromString(each) for each in (answer, quiet))
    yield from _output("prediction", mine.prediction, expected.prediction)
    yield from _explanation(entry, mine.explanation, expected.explanation, [expected.prediction])


def _output(name: str, mine: explanation_service_pb2.Output, expected: explanation_service_pb2.Output) -> Iterator[str]:
    values, quiet = from_tensor(mine.values), from_tensor(expected.values)
    yield from alike(f"output {name}", values, quiet)
    if values.shape != quiet.shape:
        return
    margin = _margin(quiet)
    for row, top in enumerate(mine.top):
        # The highest classes anew, from the quiet values: each must be as high as its place says.
        ranked = np.sort(quiet[row].reshape(-1))[::-1]
        for place, each in enumerate(top.classes):
            if abs(ranked[place] - quiet[row].reshape(-1)[each.index]) > margin:
                yield f"output {name}, row {row}: class {each.index} is not in place {place}"


def _explanation(
    entry: Entry,
    mine: explanation_pb2.Explanation,
    expected: explanation_pb2.Explanation,
    outputs: Iterable[explanation_service_pb2.Output],
) -> Iterator[str]:
    if len(mine.attributions) != len(expected.attributions):
        yield f"{len(mine.attributions)} rows are explained"
        return
    # A score near 0 is a sum of terms that cancel: its rounding is that of the terms, which other outputs are like.
    terms = max((_margin(from_tensor(each.values)) for each in outputs), default=0.0)
    for row, (one, other) in enumerate(zip(mine.attributions, expected.attributions, strict=True)):
        for fault in _attribution(one, other, terms, cut=one.accuracy.partial or entry.adaptive):
            yield f"row {row}: {fault}"


def _attribution(
    mine: explanation_pb2.Attribution, quiet: explanation_pb2.Attribution, terms: float, *, cut: bool
) -> Iterator[str]:
    if mine.receipt.model != quiet.receipt.model or mine.receipt.input_digest != quiet.receipt.input_digest:
        yield "the receipt is of another model or input"
    if mine.output_index != quiet.output_index:
        yield f"element {list(mine.output_index)} is explained"
    score, expected_score = (np.array([each.instance_output_value]) for each in (mine, quiet))
    # The attributions of some methods are terms of the score, too.
    more = max((_margin(from_tensor(each.scores)) for each in quiet.inputs.values()), default=0.0)
    yield from alike("the score", score, expected_score, more=max(terms, more))
    allowed = _stated_error(mine) + _stated_error(quiet) if cut else 0.0
    for name, each in quiet.inputs.items():
        if name not in mine.inputs:
            yield f"input {name} is missing"
            continue
        scores, expected = from_tensor(mine.inputs[name].scores), from_tensor(each.scores)
        yield from alike(f"scores of {name}", scores, expected, more=allowed)
    if mine.accuracy.HasField("signed_gap"):
        yield from _completeness(mine)


def _completeness(mine: explanation_pb2.Attribution) -> Iterator[str]:
    """Look whether the scores' sum misses the score's change by what the answer itself says."""
    total = sum(float(from_tensor(each.scores).astype(np.float64).sum()) for each in mine.inputs.values())
    change = mine.instance_output_value - mine.baseline_output_value
    missed, stated = abs(total - change), abs(mine.accuracy.signed_gap)
    size = max(abs(mine.instance_output_value), abs(mine.baseline_output_value), abs(total))
    if missed > stated + 10 * TOLERANCE * size:
        yield f"scores sum to {total:.6g}, the change is {change:.6g}, and the stated error is {stated:.2g}"


def _stated_error(mine: explanation_pb2.Attribution) -> float:
    """Return by how much an element may be wrong, by the answer's own account, in units of the output.

    Infinite for a path that was cut short: its gap is of the scores' sum, in which errors of elements cancel, and
    bounds none of them. Such an answer is judged by its sum, and by the same made again from its receipt.
    """
    accuracy = mine.accuracy
    if accuracy.HasField("standard_error"):
        return max(ERRORS_ALLOWED * accuracy.standard_error, GAPS_ALLOWED * accuracy.absolute_gap)
    return math.inf if accuracy.partial else GAPS_ALLOWED * accuracy.absolute_gap


def alike(what: str, mine: npt.NDArray[Any], quiet: npt.NDArray[Any], *, more: float = 0.0) -> Iterator[str]:
    """Say how an array differs from the quiet one by more than rounding, and by more than `more`."""
    if mine.shape != quiet.shape:
        yield f"{what}: the shape is {mine.shape}, not {quiet.shape}"
        return
    difference = np.abs(mine.astype(np.float64) - quiet.astype(np.float64)).max(initial=0.0)
    if not (difference <= _margin(quiet) + more and np.isfinite(difference)):
        yield f"{what}: differs by {difference:.3g}, allowed are {_margin(quiet) + more:.3g}"


def _margin(quiet: npt.NDArray[Any]) -> float:
    return TOLERANCE * float(np.abs(quiet.astype(np.float64)).max(initial=0.0))


_Compare = Callable[[Entry, bytes, bytes, bool], Iterator[str]]

_COMPARED: Mapping[str, _Compare] = {
    "Check": _health,
    "ListModels": _same(model_service_pb2.ListModelsResponse),
    "ListMethods": _same(model_service_pb2.ListMethodsResponse),
    "GetModel": _model,
    "Predict": _predict,
    "Attribute": _attribute,
}
