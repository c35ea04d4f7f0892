"""Requests turned into requests, checked for form: what can never be valid is refused here.

What depends on a model or a method (names, shapes, capabilities) is the engine's to check. Messages
name the field by its path in the request, such as `explanations[0].target.outcome.label`.
"""

import math
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
from pellucid import tensors
from pellucid.v1 import explanation_pb2, explanation_service_pb2, input_pb2, tensor_pb2

from pellucid_server.errors import InvalidRequestError
from pellucid_server.rpc.large_fields import NONE, LargeFields
from pellucid_server.settings.sections import LimitsConfig
from pellucid_server.vocabulary import requests

BASELINES = {
    explanation_pb2.BASELINE_KIND_UNSPECIFIED: "",
    explanation_pb2.BASELINE_KIND_ZEROS: "zeros",
    explanation_pb2.BASELINE_KIND_MEAN: "mean",
    explanation_pb2.BASELINE_KIND_BLUR: "blur",
    explanation_pb2.BASELINE_KIND_GIVEN: "given",
    explanation_pb2.BASELINE_KIND_BACKGROUND: "background",
    explanation_pb2.BASELINE_KIND_MEDOID: "medoid",
}
"""Kinds of baseline, and the engine's words for them."""

SPACES = {
    explanation_pb2.OUTPUT_SPACE_UNSPECIFIED: "",
    explanation_pb2.OUTPUT_SPACE_LOGITS: "logits",
    explanation_pb2.OUTPUT_SPACE_PROBABILITIES: "probabilities",
}
"""Spaces of an output, and the engine's words for them."""

_REPLY_TYPES = {
    tensor_pb2.DATA_TYPE_UNSPECIFIED: "float32",
    tensor_pb2.DATA_TYPE_FLOAT32: "float32",
    tensor_pb2.DATA_TYPE_FLOAT16: "float16",
    tensor_pb2.DATA_TYPE_FLOAT64: "float64",
}
_DEFAULT_TOP_K, _MOST_TOP_K = 5, 1000
_LEAST_TOLERANCE = 1e-6
_MOST_BLUR_SIGMA = 100.0
_DIGEST_LENGTH = 64
_PIECE = 1 << 18

# A message compared with a shared empty one costs nothing to keep; most requests set none of these.
_NO_TARGET = requests.TargetSpec()
_NO_BASELINE = requests.BaselineSpec()
_NO_FORMAT = requests.ReplyFormat()


def predict_request(
    request: explanation_service_pb2.PredictRequest, limits: LimitsConfig, large: LargeFields = NONE
) -> requests.PredictRequest:
    """Read a Predict request.

    `large` has the fields that were taken out of it.

    Raises
    ------
    InvalidRequestError
        The request can never be valid, or asks for more than `limits`.
    """
    wanted = len(request.explanations)
    if wanted > limits.explanations:
        refuse("explanations", f"has {wanted} entries; at most {limits.explanations} are taken")
    for number, name in enumerate(request.outputs):
        if not name:
            refuse(f"outputs[{number}]", "is empty; name an output, or leave outputs out for all")
    rows_limit = min(limits.predict_rows, limits.attribute_rows) if wanted else limits.predict_rows
    return requests.PredictRequest(
        model=model_key(request.model),
        inputs=read_inputs(request.inputs, "inputs", rows_limit, large),
        outputs=tuple(request.outputs),
        top_k=_top_k(request),
        explanations=tuple(
            _explanation(spec, f"explanations[{number}]", large) for number, spec in enumerate(request.explanations)
        ),
    )


def attribute_request(
    request: explanation_service_pb2.AttributeRequest, limits: LimitsConfig, large: LargeFields = NONE
) -> requests.AttributeRequest:
    """Read an Attribute request.

    `large` has the fields that were taken out of it.

    Raises
    ------
    InvalidRequestError
        The request can never be valid, or asks for more than `limits`.
    """
    if not request.HasField("explanation"):
        refuse("explanation", "is not set; say which method to use in explanation.method")
    return requests.AttributeRequest(
        model=model_key(request.model),
        inputs=read_inputs(request.inputs, "inputs", limits.attribute_rows, large),
        explanation=_explanation(request.explanation, "explanation", large),
    )


def model_key(spec: explanation_pb2.ModelSpec) -> requests.ModelKey:
    """Read which model is meant.

    Raises
    ------
    InvalidRequestError
        The name is empty, the version negative, or the digest not one.
    """
    if not spec.name:
        refuse("model.name", "is empty; ListModels names the models that are served")
    if spec.version < 0:
        refuse("model.version", f"is {spec.version}; it must be 0, for the highest, or a version's number")
    if spec.digest and (len(spec.digest) != _DIGEST_LENGTH or set(spec.digest) - set("0123456789abcdef")):
        refuse("model.digest", f"is {shown(spec.digest)}; it must be empty or 64 lower-case hexadecimal digits")
    return requests.ModelKey(spec.name, spec.version, spec.digest)


def refuse(field: str, what: str) -> NoReturn:
    """Refuse the request: say which field is wrong, by its path, and what would be right."""
    raise InvalidRequestError(f"{field} {what}.", field=field)


def shown(text: str) -> str:
    """Quote a caller's text, cut to what fits a message."""
    return repr(text if len(text) <= _DIGEST_LENGTH else text[:_DIGEST_LENGTH] + "…")


def _path(field: str, key: str) -> str:
    return f'{field}["{key if len(key) <= _DIGEST_LENGTH else key[:_DIGEST_LENGTH] + "…"}"]'


def _top_k(request: explanation_service_pb2.PredictRequest) -> int:
    top_k: int = request.top_k if request.HasField("top_k") else _DEFAULT_TOP_K
    if not 0 <= top_k <= _MOST_TOP_K:
        refuse("top_k", f"is {top_k}; it must be in [0, {_MOST_TOP_K}]")
    return top_k


def read_inputs(
    inputs: Mapping[str, input_pb2.Input], field: str, rows_limit: int, large: LargeFields
) -> dict[str, requests.Input]:
    """Read the rows of each input; `field` is their path."""
    if not inputs:
        refuse(field, "is empty; give the rows of each of the model's inputs by its name")
    found: dict[str, requests.Input] = {}
    counts: dict[str, int] = {}
    for name, value in inputs.items():
        if not name:
            refuse(field, "has an entry without a name; GetModel names the model's inputs")
        _require_rows(_stated_rows(value), field, rows_limit)
        found[name], counts[name] = _input(value, _path(field, name), large)
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{shown(name)} has {count}" for name, count in sorted(counts.items())[:8])
        refuse(field, f"must have the same number of rows in each input; {listed}")
    _require_rows(next(iter(counts.values())), field, rows_limit)
    return found


def _stated_rows(value: input_pb2.Input) -> int:
    """Return how many rows an input has, before any is read; 1 where only reading tells."""
    kind = value.WhichOneof("value")
    found = {
        "tensor": lambda: max(next(iter(value.tensor.shape), 1), 1),
        "table": lambda: len(value.table.rows),
        "pictures": lambda: len(value.pictures.encoded),
        "texts": lambda: len(value.texts.texts),
    }
    return 1 if kind is None else found[kind]()


def _require_rows(rows: int, field: str, rows_limit: int) -> None:
    if not 1 <= rows <= rows_limit:
        refuse(field, f"has {rows} rows; it must be 1 to {rows_limit} for this request")


def _input(value: input_pb2.Input, field: str, large: LargeFields) -> tuple[requests.Input, int]:
    """Read one input, and count its rows."""
    kind = value.WhichOneof("value")
    if kind == "tensor":
        array = read_tensor(value.tensor, f"{field}.tensor", large)
        if not array.ndim:
            refuse(f"{field}.tensor.shape", "is empty; axis 0 must be the rows")
        if 0 in array.shape[1:]:
            refuse(f"{field}.tensor.shape", f"is {list(array.shape)}; no axis of a row may be empty")
        return requests.TensorInput(array), len(array)
    if kind == "table":
        rows = tuple(_row(row, f"{field}.table.rows[{number}]") for number, row in enumerate(value.table.rows))
        return requests.TableInput(rows), len(rows)
    if kind == "pictures":
        encoded = tuple(bytes(large.of(picture)) for picture in value.pictures.encoded)
        for number, picture in enumerate(encoded):
            if not picture:
                refuse(f"{field}.pictures.encoded[{number}]", "is empty; it must hold a picture file")
        return requests.PicturesInput(encoded), len(encoded)
    if kind == "texts":
        texts = tuple(value.texts.texts)
        return requests.TextsInput(texts), len(texts)
    refuse(field, "is not set; set its tensor, pictures, texts or table")


def _row(row: input_pb2.Row, field: str) -> dict[str, float | str]:
    if not row.cells:
        refuse(f"{field}.cells", "is empty; give a cell for each column")
    cells: dict[str, float | str] = {}
    for name, cell in row.cells.items():
        kind = cell.WhichOneof("value")
        if kind == "number":
            cells[name] = _finite(cell.number, field, name)
        elif kind == "category":
            cells[name] = cell.category
        else:
            refuse(_path(f"{field}.cells", name), "is not set; set its number or its category")
    return cells


def _finite(number: float, field: str, name: str) -> float:
    if not math.isfinite(number):
        refuse(_path(f"{field}.cells", name) + ".number", f"is {number}; it must be finite")
    return number


def read_tensor(tensor: tensor_pb2.Tensor, field: str, large: LargeFields) -> requests.Array:
    """Read an array, read-only; every element must be finite."""
    try:
        array = tensors.from_tensor(tensor, large.of(tensor.data))
    except tensors.TensorError as error:
        refuse(f"{field}.{error.part}", error.what)
    if array.dtype.kind == "f":
        check_finite(array, f"{field}.data")
    return array


def check_finite(array: requests.Array, field: str) -> None:
    """Refuse an array with an element that is not finite; `field` is where its elements are."""
    # In pieces: what is worked out for a whole array would be a quarter of a large message's bytes again.
    elements = array.reshape(-1)
    for start in range(0, len(elements), _PIECE):
        finite = np.isfinite(elements[start : start + _PIECE])
        if not finite.all():
            number = start + int(finite.argmin())
            place = [int(index) for index in np.unravel_index(number, array.shape)]
            refuse(field, f"has {elements[number]} at {place}; every element must be finite")


def _explanation(spec: explanation_pb2.ExplanationSpec, field: str, large: LargeFields) -> requests.ExplanationSpec:
    if not spec.method:
        refuse(f"{field}.method", "is empty; ListMethods names the methods that are installed")
    return requests.ExplanationSpec(
        method=spec.method,
        parameters={
            name: read_parameter(name, value, f"{field}.parameters", large) for name, value in spec.parameters.items()
        },
        target=read_target(spec.target, f"{field}.target") if spec.HasField("target") else _NO_TARGET,
        baseline=_baseline(spec.baseline, f"{field}.baseline", large) if spec.HasField("baseline") else _NO_BASELINE,
        seed=spec.seed,
        tolerance=_tolerance(spec, field),
        format=_format(spec.format, f"{field}.format") if spec.HasField("format") else _NO_FORMAT,
        exact=spec.exact,
    )


def read_parameter(name: str, value: explanation_pb2.ParamValue, field: str, large: LargeFields) -> requests.ParamValue:
    """Read a parameter; `field` is the path of the map that it is in."""
    if not name:
        refuse(field, "has an entry without a name; ListMethods names the method's parameters")
    where = _path(field, name)
    kind = value.WhichOneof("value")
    if kind is None:
        refuse(where, "is not set; set its integer, real, flag, text or tensor")
    if kind == "tensor":
        return read_tensor(value.tensor, f"{where}.tensor", large)
    if kind == "real" and not math.isfinite(value.real):
        refuse(f"{where}.real", f"is {value.real}; it must be finite")
    found: requests.ParamValue = getattr(value, kind)
    return found


def _tolerance(spec: explanation_pb2.ExplanationSpec, field: str) -> float | None:
    if not spec.HasField("tolerance"):
        return None
    # Written so that NaN is refused too.
    if not _LEAST_TOLERANCE <= spec.tolerance <= 1:
        refuse(f"{field}.tolerance", f"is {spec.tolerance:g}; it must be in [{_LEAST_TOLERANCE:g}, 1]")
    return float(spec.tolerance)


def read_target(target: explanation_pb2.Target, field: str) -> requests.TargetSpec:
    """Read what is to be explained."""
    contrast = read_outcome(target.contrast, f"{field}.contrast") if target.HasField("contrast") else None
    if contrast is not None and not (contrast.index or contrast.label):
        refuse(f"{field}.contrast", "is empty; set its index or its label")
    return requests.TargetSpec(
        output=target.output,
        outcome=read_outcome(target.outcome, f"{field}.outcome"),
        contrast=contrast,
        space=enum_word(target.space, SPACES, explanation_pb2.OutputSpace, f"{field}.space"),
    )


def read_outcome(outcome: explanation_pb2.Outcome, field: str) -> requests.Outcome:
    """Read which element of an output is meant."""
    index = tuple(outcome.index)
    if index and outcome.label:
        refuse(field, f"has the index {list(index[:8])} and the label {shown(outcome.label)}; set one of the two")
    if any(part < 0 for part in index):
        refuse(f"{field}.index", f"is {list(index[:8])}; no index may be negative")
    return requests.Outcome(index, outcome.label)


def _baseline(baseline: explanation_pb2.Baseline, field: str, large: LargeFields) -> requests.BaselineSpec:
    kind = enum_word(baseline.kind, BASELINES, explanation_pb2.BaselineKind, f"{field}.kind")
    sigma = baseline.blur_sigma
    if sigma and kind != "blur":
        refuse(f"{field}.blur_sigma", "is set, but kind is not BASELINE_KIND_BLUR; leave it out or set the kind")
    if not 0 <= sigma <= _MOST_BLUR_SIGMA:
        refuse(f"{field}.blur_sigma", f"is {sigma:g}; it must be in (0, {_MOST_BLUR_SIGMA:g}], or 0 for 10")
    if baseline.inputs and kind != "given":
        refuse(f"{field}.inputs", "is set, but kind is not BASELINE_KIND_GIVEN; leave it out or set the kind")
    if kind != "given":
        return requests.BaselineSpec(kind, float(sigma))
    inputs = read_inputs(baseline.inputs, f"{field}.inputs", requests.MOST_BASELINE_ROWS, large)
    return requests.BaselineSpec(kind, float(sigma), inputs)


def _format(reply: explanation_pb2.ReplyFormat, field: str) -> requests.ReplyFormat:
    data_type = enum_word(reply.data_type, _REPLY_TYPES, tensor_pb2.DataType, f"{field}.data_type")
    return requests.ReplyFormat(reply.sum_channels, data_type)


def enum_word(value: int, words: Mapping[Any, str], enum: Any, field: str) -> str:
    """Return the engine's word for a value of an enum; a value of a newer schema is unknown here."""
    if value not in words:
        sent = enum.Name(value) if value in enum.values() else value
        refuse(field, f"is {sent}; it must be one of {', '.join(enum.Name(known) for known in words)}")
    return words[value]
