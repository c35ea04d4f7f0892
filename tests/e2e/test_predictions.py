"""Predictions of the demo models, held to what their makers and plain numpy say."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import skimage.data
from e2e.messages import (
    DIABETES_ROW,
    PICTURE_MODEL,
    TABLE_MODEL,
    TREES_MODEL,
    attribute,
    pictures,
    predict,
    rows,
    spec,
    table_rows,
)
from e2e.serving import Server
from pellucid.tensors import from_tensor
from pellucid.v1 import explanation_service_pb2
from PIL import Image
from sklearn.datasets import load_breast_cancer, load_diabetes, load_sample_image


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


PHOTOGRAPHS = {
    "tiger cat": skimage.data.chelsea,
    "espresso": skimage.data.coffee,
    "palace": lambda: load_sample_image("china.jpg"),
    "tripod": lambda: np.stack([skimage.data.camera()] * 3, axis=-1),
}


@pytest.mark.parametrize(("label", "load"), PHOTOGRAPHS.items(), ids=PHOTOGRAPHS.keys())
def test_a_photograph_is_named_for_what_it_shows(server: Server, label: str, load: Callable[[], Any]) -> None:
    reply = server.explanations.Predict(predict(PICTURE_MODEL, {"image": pictures(png(load()))}))

    assert reply.outputs["output"].top[0].classes[0].label == label


def test_a_picture_file_and_its_pixels_and_a_prepared_tensor_are_predicted_alike(server: Server, cat: bytes) -> None:
    pixels = skimage.data.chelsea()
    # The demo network's preprocessing, by Pillow: 300 pixels are the short side, of which 224/256 is kept.
    side, (left, top) = 300 * 224 / 256, ((451 - 300 * 224 / 256) / 2, (300 - 300 * 224 / 256) / 2)
    crop = Image.fromarray(pixels).resize((224, 224), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    prepared = ((np.asarray(crop, np.float32) - 127) / 128).transpose(2, 0, 1)

    replies = [
        server.explanations.Predict(predict(PICTURE_MODEL, {"image": given}))
        for given in (pictures(cat), rows(pixels[np.newaxis]), rows(prepared[np.newaxis]))
    ]

    by_file, by_pixels, by_tensor = (from_tensor(reply.outputs["output"].values) for reply in replies)
    np.testing.assert_array_equal(by_file, by_pixels)
    np.testing.assert_allclose(by_tensor, by_pixels, atol=0.05 * np.abs(by_pixels).max())
    assert by_tensor.argmax() == by_pixels.argmax() == 282


def test_a_large_request_is_answered_as_its_rows_are_one_by_one(server: Server) -> None:
    seed = 12
    prepared = np.random.default_rng(seed).normal(size=(3, 3, 224, 224)).astype(np.float32)
    whole = predict(PICTURE_MODEL, {"image": rows(prepared)})
    # Above this size a request is read when there is room, and decoded off the event loop.
    assert whole.ByteSize() > 1 << 20

    reply = server.explanations.Predict(whole)

    alone = [server.explanations.Predict(predict(PICTURE_MODEL, {"image": rows(row[None])})) for row in prepared]
    expected = np.concatenate([from_tensor(each.outputs["output"].values) for each in alone])
    found = from_tensor(reply.outputs["output"].values)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max(), seed


def test_probabilities_are_the_softmax_of_the_logits_and_come_highest_first(server: Server, cat: bytes) -> None:
    reply = server.explanations.Predict(predict(PICTURE_MODEL, {"image": pictures(cat)}, top_k=1000))

    logits = from_tensor(reply.outputs["output"].values)[0].astype(np.float64)
    classes = reply.outputs["output"].top[0].classes
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(
        [each.probability for each in classes], expected[[each.index for each in classes]], rtol=1e-9
    )
    assert [each.index for each in classes] == np.argsort(-logits, kind="stable").tolist()


def test_the_tables_network_is_right_on_nineteen_of_twenty_rows(server: Server, table: npt.NDArray[np.float64]) -> None:
    reply = server.explanations.Predict(predict(TABLE_MODEL, {"features": rows(table)}))

    found = from_tensor(reply.outputs["output"].values).argmax(axis=1)
    assert (found == load_breast_cancer().target).mean() > 0.95


def test_named_cells_and_a_tensor_of_the_same_row_are_predicted_alike(
    server: Server, table: npt.NDArray[np.float64], columns: tuple[str, ...]
) -> None:
    # Backwards, because cells go by their names.
    cells = dict(reversed([*zip(columns, map(float, table[7]), strict=True)]))

    named = server.explanations.Predict(predict(TABLE_MODEL, {"features": table_rows([cells])}))
    plain = server.explanations.Predict(predict(TABLE_MODEL, {"features": rows(table[7:8])}))

    assert named.outputs["output"].values == plain.outputs["output"].values
    assert named.receipt.input_digest == plain.receipt.input_digest


def test_trees_are_served_as_onnx_runtime_runs_them(server: Server, models: Path) -> None:
    values = load_diabetes(scaled=False).data[0]
    coded = np.array([[values[0], values[1] - 1, *values[2:]]], np.float32)
    session = onnxruntime.InferenceSession(
        models / TREES_MODEL / "1" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    expected = session.run(None, {"features": coded})[0]

    reply = server.explanations.Predict(predict(TREES_MODEL, {"features": table_rows([DIABETES_ROW])}))

    np.testing.assert_allclose(from_tensor(reply.outputs["progression"].values), expected, rtol=1e-6)


def test_the_receipts_digest_is_taken_over_the_models_files(server: Server, models: Path) -> None:
    folder = models / PICTURE_MODEL
    files = {"../labels.txt": folder / "labels.txt", "../model.toml": folder / "model.toml"}
    files |= {name: folder / "1" / name for name in ("model.onnx", "model.pt2")}
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n" for name, path in sorted(files.items())]

    reply = server.explanations.Predict(predict(PICTURE_MODEL, {"image": rows(np.zeros((1, 3, 224, 224), np.float32))}))

    assert reply.receipt.model.digest == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_a_prediction_and_its_explanation_come_in_one_reply(server: Server, table: npt.NDArray[np.float64]) -> None:
    row = {"features": rows(table[:1])}
    alone = server.explanations.Attribute(attribute(TABLE_MODEL, row, spec("saliency")))

    reply: explanation_service_pb2.PredictResponse = server.explanations.Predict(
        predict(TABLE_MODEL, row, explanations=[spec("saliency")])
    )

    together = reply.explanations[0].explanation.attributions[0]
    np.testing.assert_allclose(
        from_tensor(together.inputs["features"].scores),
        from_tensor(alone.explanation.attributions[0].inputs["features"].scores),
        rtol=1e-5,
    )
    assert together.receipt.input_digest == alone.explanation.attributions[0].receipt.input_digest


def test_a_prediction_stands_though_its_explanation_does_not_fit_the_deadline(server: Server, cat: bytes) -> None:
    request = predict(PICTURE_MODEL, {"image": pictures(cat)})
    request.explanations.append(spec("integrated-gradients", steps=1024))

    reply = server.explanations.Predict(request, timeout=4)

    (explanation,) = reply.explanations
    assert reply.outputs["output"].top[0].classes[0].label == "tiger cat"
    assert explanation.status.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
