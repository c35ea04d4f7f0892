"""Results turned into the replies of the explanation service."""

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from pellucid import tensors
from pellucid.v1 import explanation_pb2, explanation_service_pb2, tensor_pb2

from pellucid_server.errors import error_from_wire
from pellucid_server.rpc import status
from pellucid_server.rpc.codec import BASELINES, SPACES
from pellucid_server.vocabulary import requests, results

_BASELINE_KINDS = {word: kind for kind, word in BASELINES.items()}
_OUTPUT_SPACES = {word: space for space, word in SPACES.items()}


def predict_response(
    result: results.Result, timing: results.RequestTiming, total_seconds: float, *, request_id: str
) -> explanation_service_pb2.PredictResponse:
    """Write the reply to a Predict; `request_id` goes into the statuses of explanations that failed."""
    assert isinstance(result, results.PredictResult)  # noqa: S101 - the worker answers a request by its own kind
    return explanation_service_pb2.PredictResponse(
        outputs={name: _output(output) for name, output in result.outputs.items()},
        explanations=[_outcome(outcome, request_id) for outcome in result.explanations],
        receipt=receipt_message(result.receipt),
        timing=_timing(timing, total_seconds),
        warnings=result.warnings,
    )


def attribute_response(
    result: results.Result, timing: results.RequestTiming, total_seconds: float
) -> explanation_service_pb2.AttributeResponse:
    """Write the reply to an Attribute."""
    assert isinstance(result, results.AttributeResult)  # noqa: S101 - the worker answers a request by its own kind
    return explanation_service_pb2.AttributeResponse(
        explanation=_explanation(result.attributions),
        prediction=_output(result.prediction),
        timing=_timing(timing, total_seconds),
    )


def size_bytes(result: results.Result) -> int:
    """Return about how many bytes the reply to a request will have: those of its arrays."""
    if isinstance(result, results.PredictResult):
        outputs: Iterable[results.OutputResult] = result.outputs.values()
        attributions = [each for outcome in result.explanations for each in outcome.attributions]
    else:
        outputs, attributions = (result.prediction,), list(result.attributions)
    scores = sum(scored.scores.nbytes for each in attributions for scored in each.inputs.values())
    return scores + sum(output.values.nbytes for output in outputs)


def model_of(result: results.Result) -> requests.ModelKey | None:
    """Return the model version that made an answer."""
    if isinstance(result, results.PredictResult):
        return result.receipt.model
    return result.attributions[0].receipt.model if result.attributions else None


def model_spec(key: requests.ModelKey) -> explanation_pb2.ModelSpec:
    """Write a model version."""
    return explanation_pb2.ModelSpec(name=key.name, version=key.version, digest=key.digest)


def param_value(value: requests.ParamValue) -> explanation_pb2.ParamValue:
    """Write a parameter's value."""
    # A bool is an int to Python: it must be asked for first.
    if isinstance(value, bool):
        return explanation_pb2.ParamValue(flag=value)
    if isinstance(value, int):
        return explanation_pb2.ParamValue(integer=value)
    if isinstance(value, float):
        return explanation_pb2.ParamValue(real=value)
    if isinstance(value, str):
        return explanation_pb2.ParamValue(text=value)
    return explanation_pb2.ParamValue(tensor=tensors.to_tensor(value))


def accuracy_message(accuracy: results.Accuracy) -> explanation_pb2.Accuracy:
    """Write how good an explanation is; what was not measured is absent."""
    message = explanation_pb2.Accuracy(
        signed_gap=accuracy.signed_gap,
        absolute_gap=accuracy.absolute_gap,
        tolerance=accuracy.tolerance,
        absolute_tolerance=accuracy.absolute_tolerance,
        standard_error=accuracy.standard_error,
        warnings=accuracy.warnings,
        partial=accuracy.partial,
    )
    # The stubs have no None for a flag, though the message has.
    if accuracy.tolerance_met is not None:
        message.tolerance_met = accuracy.tolerance_met
    return message


def receipt_message(receipt: results.Receipt) -> explanation_pb2.Receipt:
    """Write what an answer is a function of."""
    return explanation_pb2.Receipt(
        model=model_spec(receipt.model),
        input_digest=receipt.input_digest,
        method=receipt.method,
        parameters={name: param_value(value) for name, value in receipt.parameters.items()},
        target=None if receipt.target is None else _target(receipt.target),
        baseline=baseline_kind(receipt.baseline),
        baseline_digest=receipt.baseline_digest,
        baseline_blur_sigma=receipt.blur_sigma,
        seed=receipt.seed,
        tolerance=receipt.tolerance,
        exact=receipt.exact,
        runtime=_runtime(receipt.runtime),
        work=_work(receipt.work),
    )


def baseline_kind(word: str) -> "explanation_pb2.BaselineKind":
    """Return the schema's value for the engine's word."""
    return _BASELINE_KINDS[word]


def _timing(timing: results.RequestTiming, total_seconds: float) -> explanation_service_pb2.Timing:
    return explanation_service_pb2.Timing(
        queue_seconds=timing.queue_seconds, compute_seconds=timing.compute_seconds, total_seconds=total_seconds
    )


def _output(output: results.OutputResult) -> explanation_service_pb2.Output:
    return explanation_service_pb2.Output(
        values=tensors.to_tensor(output.values),
        top=[
            explanation_service_pb2.TopClasses(
                classes=[
                    explanation_service_pb2.ClassScore(
                        index=each.index, label=each.label, value=each.value, probability=each.probability
                    )
                    for each in row
                ]
            )
            for row in output.top
        ],
    )


def _outcome(outcome: results.ExplanationOutcome, request_id: str) -> explanation_service_pb2.ExplanationResult:
    if outcome.failure is None:
        return explanation_service_pb2.ExplanationResult(
            status=explanation_service_pb2.Status(), explanation=_explanation(outcome.attributions)
        )
    failure = outcome.failure
    error = error_from_wire(failure.reason, failure.message, dict(failure.metadata))
    return explanation_service_pb2.ExplanationResult(status=status.to_message(error, request_id))


def _explanation(attributions: tuple[results.AttributionResult, ...]) -> explanation_pb2.Explanation:
    return explanation_pb2.Explanation(attributions=[_attribution(each) for each in attributions])


def _attribution(result: results.AttributionResult) -> explanation_pb2.Attribution:
    return explanation_pb2.Attribution(
        inputs={name: _input_attribution(each) for name, each in result.inputs.items()},
        output=result.output,
        output_index=result.output_index,
        label=result.label,
        instance_output_value=result.instance_output_value,
        baseline_output_value=result.baseline_output_value,
        approximation_error=result.approximation_error,
        accuracy=accuracy_message(result.accuracy),
        group_scores=_optional_tensor(result.group_scores),
        group_standard_errors=_optional_tensor(result.group_standard_errors),
        receipt=receipt_message(result.receipt),
    )


def _input_attribution(each: results.InputAttribution) -> explanation_pb2.InputAttribution:
    return explanation_pb2.InputAttribution(
        scores=tensors.to_tensor(each.scores),
        columns=each.columns,
        box=None if each.box is None else _box(each.box),
        groups=None if each.groups is None else tensors.to_tensor(each.groups.astype(np.int32, copy=False)),
    )


def _box(box: results.Box) -> explanation_pb2.Box:
    return explanation_pb2.Box(
        left=box.left,
        top=box.top,
        right=box.right,
        bottom=box.bottom,
        picture_width=box.picture_width,
        picture_height=box.picture_height,
    )


def _optional_tensor(array: requests.Array | None) -> tensor_pb2.Tensor | None:
    return None if array is None else tensors.to_tensor(array)


def _target(target: requests.TargetSpec) -> explanation_pb2.Target:
    return explanation_pb2.Target(
        output=target.output,
        outcome=_outcome_message(target.outcome),
        contrast=None if target.contrast is None else _outcome_message(target.contrast),
        space=_OUTPUT_SPACES[target.space],
    )


def _outcome_message(outcome: requests.Outcome) -> explanation_pb2.Outcome:
    return explanation_pb2.Outcome(index=outcome.index, label=outcome.label)


def _runtime(runtime: results.Runtime) -> explanation_pb2.Runtime:
    libraries = tuple(runtime.libraries.items())
    return _shared_runtime(
        runtime.forward,
        runtime.gradient,
        runtime.device,
        runtime.precision,
        libraries,
        runtime.threads,
        runtime.cpu_capability,
    )


@lru_cache(maxsize=64)
def _shared_runtime(
    forward: str,
    gradient: str,
    device: str,
    precision: str,
    libraries: tuple[tuple[str, str], ...],
    threads: int,
    cpu_capability: str,
) -> explanation_pb2.Runtime:
    """Make a message that many receipts have in common; it is copied into each and never changed."""
    return explanation_pb2.Runtime(
        forward=forward,
        gradient=gradient,
        device=device,
        precision=precision,
        libraries=dict(libraries),
        threads=threads,
        cpu_capability=cpu_capability,
    )


def _work(work: results.Work) -> explanation_pb2.Work:
    return explanation_pb2.Work(
        rows_forward=work.rows_forward,
        rows_backward=work.rows_backward,
        batch_shapes=[
            explanation_pb2.BatchShape(evaluation=each.evaluation, rows=each.rows, batches=each.batches)
            for each in work.batch_shapes
        ],
    )
