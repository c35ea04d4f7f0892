"""Requests as any gRPC client makes them, and the details of errors."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from pellucid.tensors import to_tensor
from pellucid.v1 import explanation_pb2, explanation_service_pb2, input_pb2

TABLE_MODEL, PICTURE_MODEL, TREES_MODEL = "breast-cancer", "efficientnet-lite0", "diabetes"

DIABETES_ROW: dict[str, float | str] = {
    "age": 59.0,
    "sex": "2",
    "body mass index": 32.1,
    "blood pressure": 101.0,
    "total cholesterol": 157.0,
    "low-density lipoproteins": 93.2,
    "high-density lipoproteins": 38.0,
    "cholesterol ratio": 4.0,
    "log triglycerides": 4.8598,
    "blood sugar": 87.0,
}
"""The first row of the diabetes set, for the demo's trees."""

DETAILS: Mapping[str, type[Message]] = {
    kind.DESCRIPTOR.full_name: kind
    for kind in (
        error_details_pb2.BadRequest,
        error_details_pb2.ErrorInfo,
        error_details_pb2.PreconditionFailure,
        error_details_pb2.RequestInfo,
        error_details_pb2.ResourceInfo,
        error_details_pb2.RetryInfo,
    )
}


def param(value: bool | int | float | str) -> explanation_pb2.ParamValue:
    kinds = {bool: "flag", int: "integer", float: "real", str: "text"}
    return explanation_pb2.ParamValue(**{kinds[type(value)]: value})


def spec(method: str, /, *, seed: int = 0, tolerance: float | None = None, **parameters: Any) -> Any:
    return explanation_pb2.ExplanationSpec(
        method=method,
        seed=seed,
        tolerance=tolerance,
        parameters={name: param(value) for name, value in parameters.items()},
    )


def rows(values: npt.ArrayLike) -> input_pb2.Input:
    return input_pb2.Input(tensor=to_tensor(np.asarray(values)))


def pictures(*encoded: bytes) -> input_pb2.Input:
    return input_pb2.Input(pictures=input_pb2.Pictures(encoded=encoded))


def table_rows(table: Sequence[Mapping[str, float | str]]) -> input_pb2.Input:
    def cell(value: float | str) -> input_pb2.Cell:
        return input_pb2.Cell(category=value) if isinstance(value, str) else input_pb2.Cell(number=value)

    entries = [input_pb2.Row(cells={name: cell(value) for name, value in row.items()}) for row in table]
    return input_pb2.Input(table=input_pb2.Table(rows=entries))


def predict(model: str, inputs: Mapping[str, input_pb2.Input], **fields: Any) -> Any:
    return explanation_service_pb2.PredictRequest(model=explanation_pb2.ModelSpec(name=model), inputs=inputs, **fields)


def attribute(model: str, inputs: Mapping[str, input_pb2.Input], explanation: Any) -> Any:
    return explanation_service_pb2.AttributeRequest(
        model=explanation_pb2.ModelSpec(name=model), inputs=inputs, explanation=explanation
    )


def long_request(*, rows: int) -> Any:
    """Return an attribution that takes some tenths of a second for each row: it evaluates 800,000 coalitions."""
    explanation = spec("kernel-shap", samples=16384)
    explanation.baseline.kind = explanation_pb2.BASELINE_KIND_BACKGROUND
    inputs = {"features": input_pb2.Input(tensor=to_tensor(np.ones((rows, 30))))}
    return attribute(TABLE_MODEL, inputs, explanation)


def failure(call: Callable[[], Any]) -> grpc.RpcError:
    """Return the error that `call` must end with."""
    try:
        reply = call()
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"the call was answered with {reply}")


def details(error: grpc.RpcError) -> dict[str, Any]:
    """Return the details of a status by the names of their types, such as "BadRequest"."""
    status = rpc_status.from_call(error)
    return {} if status is None else unpacked(status.details)


def unpacked(packed: Sequence[Any]) -> dict[str, Any]:
    found = {}
    for each in packed:
        kind = DETAILS[each.type_url.rpartition("/")[2]]
        found[kind.DESCRIPTOR.name] = kind.FromString(each.value)
    return found


def violated_fields(error: grpc.RpcError) -> list[str]:
    return [violation.field for violation in details(error)["BadRequest"].field_violations]
