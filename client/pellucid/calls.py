"""What each call sends and how its reply is read, without input or output: shared by both clients.

A flow is a generator: it yields the calls to make, is sent their replies, and returns the result. The
clients differ only in how they make a call, so that nothing is written twice.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, EncodeError, Message

from pellucid import catalogue, errors
from pellucid.accuracy import read_accuracy
from pellucid.checks import checked_list, checked_text, checked_whole, shortened
from pellucid.errors import InvalidRequestError, MessageTooLargeError, PellucidError, UnsupportedError
from pellucid.inputs import Sent, read_inputs
from pellucid.receipts import read_receipt
from pellucid.results import (
    Attribution,
    Box,
    ClassScore,
    ExplanationOutcome,
    InputAttribution,
    Prediction,
    Timing,
    TopClasses,
)
from pellucid.specs import ExplanationSpec, explanation_message
from pellucid.tensors import TensorError, from_tensor
from pellucid.v1 import explanation_pb2, explanation_service_pb2, model_service_pb2

PREDICT_SECONDS = 30.0
"""Deadline of a call that explains nothing, unless the caller sets another."""

ATTRIBUTE_SECONDS = 120.0
"""Deadline of a call that explains, unless the caller sets another."""

READY_SECONDS = 60.0
"""How long to wait for a server to be ready, unless the caller says otherwise."""

MOST_MESSAGE_BYTES = 64 * 1024 * 1024
"""Size of a request or a reply, at most; the server's default too."""

_MOST_TOP = (1 << 31) - 1
_MOST_WHOLE = (1 << 63) - 1

_EXPLANATION_WORDS = "methods' names and specifications"

EXPLANATIONS = "/pellucid.v1.ExplanationService/"
"""The path of the service that explains; the RPC's name follows."""

_MODELS = "/pellucid.v1.ModelService/"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One call to make: the RPC's path, the request, and how the reply's bytes are read."""

    path: str
    request: Message
    read: Callable[[bytes], Any]

    def serialized(self) -> bytes:
        """Return the request's bytes.

        Raises
        ------
        MessageTooLargeError
            They are more than a server takes by default; sending them would only end in retries.
        """
        try:
            size = self.request.ByteSize()
        except EncodeError as error:
            # Protobuf cannot even count beyond 2 GiB.
            raise _too_large("more than 2,147,483,648") from error
        if size > MOST_MESSAGE_BYTES:
            raise _too_large(f"{size:,}")
        return self.request.SerializeToString()

    def parsed(self, reply: bytes) -> Any:
        """Return the reply as a message.

        Raises
        ------
        PellucidError
            The bytes are none of the schema's.
        """
        with _reading():
            return self.read(reply)


@contextmanager
def _reading() -> Iterator[None]:
    """Read a reply; one that makes no sense is an error of its own."""
    try:
        yield
    except (DecodeError, TensorError) as error:
        raise errors.unreadable() from error


def _too_large(size: str) -> MessageTooLargeError:
    text = f"The request has {size} bytes; at most {MOST_MESSAGE_BYTES:,} are sent. Send fewer rows, or files"
    return MessageTooLargeError(f"{text} in place of arrays.")


Flow = Generator[Call, Any, T]
"""Yields calls, is sent their replies, returns a T."""


@dataclass(slots=True)
class Signatures:
    """Models that have been described already, so that their inputs' names are asked for once."""

    models: dict[tuple[str, int], catalogue.Model] = field(default_factory=dict)

    def get(self, name: str, version: int) -> Flow[catalogue.Model]:
        """Return a model's description, from the server the first time."""
        spec = model_spec(name, version)
        known = self.models.get((spec.name, spec.version))
        return (yield from self.refresh(name, version)) if known is None else known

    def served(self, name: str, version: int) -> Flow[catalogue.Model]:
        """Return the description of a model that is to be asked.

        Raises
        ------
        UnsupportedError
            The server could not load it.
        """
        found = yield from self.get(name, version)
        if found.state == "broken":
            # It may be mended by the next time.
            self.forget(name, version)
            raise errors.broken(found.name, found.version, found.reason)
        return found

    def known(self, name: str, version: int) -> bool:
        """Tell whether a model has been described already."""
        spec = model_spec(name, version)
        return (spec.name, spec.version) in self.models

    def refresh(self, name: str, version: int) -> Flow[catalogue.Model]:
        """Return a model's description as the server has it now."""
        request = model_service_pb2.GetModelRequest(model=model_spec(name, version))
        call = Call(_MODELS + "GetModel", request, model_service_pb2.GetModelResponse.FromString)
        reply = yield call
        with _reading():
            found = self.models[name, version] = catalogue.read_model(reply)
        return found

    def forget(self, name: str, version: int) -> None:
        """Ask the server again the next time."""
        self.models.pop((name, version), None)


def models() -> Flow[tuple[catalogue.ModelSummary, ...]]:
    """List the models."""
    request, reply = model_service_pb2.ListModelsRequest(), model_service_pb2.ListModelsResponse
    return catalogue.read_models((yield Call(_MODELS + "ListModels", request, reply.FromString)))


def methods() -> Flow[tuple[catalogue.Method, ...]]:
    """List the methods."""
    request, reply = model_service_pb2.ListMethodsRequest(), model_service_pb2.ListMethodsResponse
    found = yield Call(_MODELS + "ListMethods", request, reply.FromString)
    with _reading():
        return catalogue.read_methods(found)


def datasets() -> Flow[tuple[catalogue.Dataset, ...]]:
    """List the data sets."""
    request, reply = model_service_pb2.ListDatasetsRequest(), model_service_pb2.ListDatasetsResponse
    return catalogue.read_datasets((yield Call(_MODELS + "ListDatasets", request, reply.FromString)))


def predict_seconds(explanations: Sequence[str | ExplanationSpec]) -> float:
    """Return the deadline of a prediction, unless the caller sets another: longer where it is explained.

    Raises
    ------
    InvalidRequestError
        The explanations are no list.
    """
    return ATTRIBUTE_SECONDS if checked_list(explanations, "explanations", _EXPLANATION_WORDS) else PREDICT_SECONDS


def predict(
    signatures: Signatures,
    name: str,
    inputs: Any,
    *,
    version: int,
    outputs: Sequence[str],
    top_k: int | None,
    explanations: Sequence[str | ExplanationSpec],
) -> Flow[Prediction]:
    """Predict, and explain beside it."""
    named = checked_list(outputs, "outputs", "outputs' names")
    asked = checked_list(explanations, "explanations", _EXPLANATION_WORDS)
    specs = [_spec(each, f"explanations[{number}]") for number, each in enumerate(asked)]

    def written(described: catalogue.Model) -> tuple[Sent, explanation_service_pb2.PredictRequest]:
        sent = read_inputs(described, inputs)
        return sent, explanation_service_pb2.PredictRequest(
            model=model_spec(name, version),
            inputs=sent.messages,
            outputs=[checked_text(each, f"outputs[{number}]") for number, each in enumerate(named)],
            top_k=None if top_k is None else checked_whole(top_k, "top_k", 0, _MOST_TOP),
            explanations=[
                explanation_message(described, spec, where=f"explanations[{number}].")
                for number, spec in enumerate(specs)
            ],
        )

    described, (sent, request) = yield from written_request(signatures, name, version, written)
    call = Call(EXPLANATIONS + "Predict", request, _PREDICT_REPLY.FromString)
    reply = yield from _asked(signatures, name, version, call)
    if len(reply.explanations) != len(specs):
        raise errors.unreadable()
    with _reading():
        return _prediction(reply, described, specs, sent)


def attribute(
    signatures: Signatures, name: str, inputs: Any, spec: str | ExplanationSpec, *, version: int
) -> Flow[tuple[Attribution, ...]]:
    """Explain every row."""
    return (yield from _attributed(signatures, name, inputs, _spec(spec, "spec"), version=version))


def attribute_one(
    signatures: Signatures, name: str, inputs: Any, spec: ExplanationSpec, *, version: int
) -> Flow[Attribution]:
    """Explain the only row."""
    found = yield from _attributed(signatures, name, inputs, spec, version=version, most_rows=1)
    if len(found) != 1:
        raise errors.unreadable()
    return found[0]


def _attributed(
    signatures: Signatures, name: str, inputs: Any, spec: ExplanationSpec, *, version: int, most_rows: int | None = None
) -> Flow[tuple[Attribution, ...]]:
    def written(described: catalogue.Model) -> tuple[Sent, explanation_service_pb2.AttributeRequest]:
        sent = read_inputs(described, inputs)
        if most_rows is not None and sent.count > most_rows:
            what = f"has {sent.count} rows; attribute explains one, attribute_rows explains many"
            raise errors.invalid("inputs", what)
        return sent, explanation_service_pb2.AttributeRequest(
            model=model_spec(name, version),
            inputs=sent.messages,
            explanation=explanation_message(described, spec, where=""),
        )

    _, (sent, request) = yield from written_request(signatures, name, version, written)
    call = Call(EXPLANATIONS + "Attribute", request, _ATTRIBUTE_REPLY.FromString)
    reply = yield from _asked(signatures, name, version, call)
    with _reading():
        return _attributions(reply.explanation, _tops(reply.prediction), _timing(reply.timing), sent)


_PREDICT_REPLY = explanation_service_pb2.PredictResponse
_ATTRIBUTE_REPLY = explanation_service_pb2.AttributeResponse


def written_request(
    signatures: Signatures, name: str, version: int, write: Callable[[catalogue.Model], T]
) -> Flow[tuple[catalogue.Model, T]]:
    """Write a request by what the model takes; a refusal may mean that the model has changed since it was described.

    Raises
    ------
    PellucidError
        The request cannot be written for the model, or the model cannot be described.
    """
    known = signatures.known(name, version)
    described = yield from signatures.served(name, version)
    try:
        return described, write(described)
    except InvalidRequestError as error:
        refused = error
    if not known:
        raise refused
    signatures.forget(name, version)
    try:
        found = yield from signatures.served(name, version)
    except UnsupportedError:
        # It could not be loaded again.
        raise
    except PellucidError:
        raise refused from None
    if found == described:
        raise refused
    return found, write(found)


def _asked(signatures: Signatures, name: str, version: int, call: Call) -> Flow[Any]:
    """Make the call; a refusal may mean that the model has changed since it was described."""
    try:
        return (yield call)
    except PellucidError:
        signatures.forget(name, version)
        raise


def model_spec(name: str, version: int, digest: str = "") -> explanation_pb2.ModelSpec:
    """Write which model is meant; with a digest, the server refuses to answer by files of another.

    Raises
    ------
    InvalidRequestError
        The name or the digest is no text, or the version no whole number.
    """
    return explanation_pb2.ModelSpec(
        name=checked_text(name, "model"),
        version=checked_whole(version, "version", 0, _MOST_WHOLE),
        digest=checked_text(digest, "digest"),
    )


def _spec(given: Any, where: str) -> ExplanationSpec:
    if isinstance(given, ExplanationSpec):
        return given
    if isinstance(given, str):
        return ExplanationSpec(given)
    raise errors.invalid(where, f"is {shortened(given)}; it must be a method's name or an ExplanationSpec")


def _prediction(
    reply: explanation_service_pb2.PredictResponse,
    described: catalogue.Model,
    specs: Sequence[ExplanationSpec],
    sent: Sent,
) -> Prediction:
    # A map has no order on the wire; the model's outputs have.
    order = {output.name: number for number, output in enumerate(described.outputs)}
    outputs = dict(sorted(reply.outputs.items(), key=lambda item: order.get(item[0], len(order))))
    tops = {name: _tops(output) for name, output in outputs.items() if output.top}
    timing = _timing(reply.timing)
    return Prediction(
        outputs={name: from_tensor(output.values) for name, output in outputs.items()},
        tops=tops,
        receipt=read_receipt(reply.receipt),
        timing=timing,
        explanations=tuple(
            _outcome(result, spec.method, tops, timing, sent)
            for result, spec in zip(reply.explanations, specs, strict=True)
        ),
        warnings=tuple(reply.warnings),
    )


def _outcome(
    result: explanation_service_pb2.ExplanationResult,
    method: str,
    tops: Mapping[str, tuple[TopClasses, ...]],
    timing: Timing,
    sent: Sent,
) -> ExplanationOutcome:
    status = result.status
    if status.code:
        return ExplanationOutcome(method, (), errors.from_status(status.code, status.message, status.details))
    found = result.explanation.attributions
    output = found[0].output if found else ""
    return ExplanationOutcome(method, _attributions(result.explanation, tops.get(output, ()), timing, sent))


def _attributions(
    explanation: explanation_pb2.Explanation, tops: Sequence[TopClasses], timing: Timing, sent: Sent
) -> tuple[Attribution, ...]:
    return tuple(
        _attribution(each, tops[row] if row < len(tops) else (), timing, sent.source(row))
        for row, each in enumerate(explanation.attributions)
    )


def _attribution(
    message: explanation_pb2.Attribution, top: TopClasses, timing: Timing, sources: Mapping[str, Any]
) -> Attribution:
    receipt = read_receipt(message.receipt)
    return Attribution(
        method=receipt.method,
        inputs={name: _input_attribution(each) for name, each in sorted(message.inputs.items())},
        output=message.output,
        output_index=tuple(message.output_index),
        label=message.label,
        instance_output_value=message.instance_output_value,
        baseline_output_value=_optional(message, "baseline_output_value"),
        approximation_error=_optional(message, "approximation_error"),
        accuracy=read_accuracy(message.accuracy),
        group_scores=_optional_array(message, "group_scores"),
        group_standard_errors=_optional_array(message, "group_standard_errors"),
        top=top,
        receipt=receipt,
        timing=timing,
        sources=sources,
    )


def _input_attribution(message: explanation_pb2.InputAttribution) -> InputAttribution:
    return InputAttribution(
        scores=from_tensor(message.scores),
        columns=tuple(message.columns),
        box=_box(message.box) if message.HasField("box") else None,
        groups=_optional_array(message, "groups"),
    )


def _box(box: explanation_pb2.Box) -> Box:
    return Box(box.left, box.top, box.right, box.bottom, box.picture_width, box.picture_height)


def _tops(output: explanation_service_pb2.Output) -> tuple[TopClasses, ...]:
    return tuple(
        tuple(ClassScore(each.index, each.label, each.value, _optional(each, "probability")) for each in row.classes)
        for row in output.top
    )


def _timing(timing: explanation_service_pb2.Timing) -> Timing:
    return Timing(timing.queue_seconds, timing.compute_seconds, timing.total_seconds)


def _optional(message: Any, name: str) -> Any:
    return getattr(message, name) if message.HasField(name) else None


def _optional_array(message: Any, name: str) -> Any:
    return from_tensor(getattr(message, name)) if message.HasField(name) else None
