"""The requests that the benchmarks under load send: the network on pictures and the one on tables."""

import io

import numpy as np
from pellucid.tensors import to_tensor
from pellucid.v1 import explanation_pb2, explanation_service_pb2, input_pb2
from PIL import Image

PICTURES, TABLES = "efficientnet-lite0", "breast-cancer"
STEPS = 50


def predict_picture() -> bytes:
    """Return a Predict of one picture, as an array."""
    return _predict(PICTURES, _picture())


def predict_photograph() -> bytes:
    """Return a Predict of one picture, as a JPEG file: blurred noise of 320 by 256 pixels."""
    coarse = np.random.default_rng(0).integers(0, 256, (8, 10, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((320, 256), Image.Resampling.BICUBIC).save(file, "JPEG")
    pictures = input_pb2.Pictures(encoded=[file.getvalue()])
    return _predict(PICTURES, {"image": input_pb2.Input(pictures=pictures)})


def predict_row() -> bytes:
    """Return a Predict of one row of a table."""
    return _predict(TABLES, _row())


def explain_picture(steps: int = STEPS) -> bytes:
    """Return integrated gradients of one picture: so many rows forward and backward."""
    spec = explanation_pb2.ExplanationSpec(method="integrated-gradients")
    spec.parameters["steps"].integer = steps
    model = explanation_pb2.ModelSpec(name=PICTURES)
    request = explanation_service_pb2.AttributeRequest(model=model, inputs=_picture(), explanation=spec)
    return bytes(request.SerializeToString())


def explain_row(steps: int = STEPS) -> bytes:
    """Return integrated gradients of one row of a table."""
    spec = explanation_pb2.ExplanationSpec(method="integrated-gradients")
    spec.parameters["steps"].integer = steps
    model = explanation_pb2.ModelSpec(name=TABLES)
    request = explanation_service_pb2.AttributeRequest(model=model, inputs=_row(), explanation=spec)
    return bytes(request.SerializeToString())


def _predict(model: str, inputs: dict[str, input_pb2.Input]) -> bytes:
    request = explanation_service_pb2.PredictRequest(model=explanation_pb2.ModelSpec(name=model), inputs=inputs)
    return bytes(request.SerializeToString())


def _picture() -> dict[str, input_pb2.Input]:
    values = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    return {"image": input_pb2.Input(tensor=to_tensor(values))}


def _row() -> dict[str, input_pb2.Input]:
    values = np.random.default_rng(0).normal(15, 3, (1, 30)).astype(np.float32)
    return {"features": input_pb2.Input(tensor=to_tensor(values))}
