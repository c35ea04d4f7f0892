"""The real server on the device, against the same server on the CPU."""

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from e2e.messages import attribute, failure, predict, rows, spec
from e2e.serving import serve, wait_until
from e2e.small_models import PICTURES, SCORES
from gpu.conftest import SERVED_ZOO
from gpu.models import CONVERTED, ENTROPY, ONNX_ONLY, SHIFTED, WIDE, Wide
from onnxruntime import get_available_providers
from pellucid import Client
from pellucid.errors import InvalidRequestError
from pellucid.v1 import explanation_pb2
from server.engine.models.networks import zoo_rows

pytestmark = pytest.mark.gpu

METHODS = (
    "saliency",
    "input-x-gradient",
    "integrated-gradients",
    "smoothgrad",
    "occlusion",
    "feature-ablation",
    "kernel-shap",
)
TOLERANCE = 1e-4
"""How far scores may be from the CPU's, as a share of the largest: both compute in float32, in other orders."""


def inputs(model):
    """Return one row for a model."""
    if model == SCORES:
        return {"width": 11.0, "height": 2.0, "colour": "green"}
    if model == PICTURES:
        return np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    return {name: value.numpy() for name, value in zoo_rows(model, 1, 6).items()}


def explained(client, model, method):
    plain = model in (SCORES, PICTURES) or method in ("saliency", "input-x-gradient", "smoothgrad")
    return client.attribute(model, inputs(model), method, baseline=None if plain else "zeros")


def content(attribution):
    return b"".join(np.asarray(attribution.scores[name]).tobytes() for name in sorted(attribution.scores))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", [SCORES, PICTURES, *SERVED_ZOO])
def test_every_method_gives_the_answers_of_the_cpu(client, cpu_client, model, method, record_property):
    expected, found = explained(cpu_client, model, method), explained(client, model, method)

    largest = max(np.abs(scores).max() for scores in expected.scores.values())
    for name, scores in expected.scores.items():
        record_property(f"deviation of {name}", float(np.abs(found.scores[name] - scores).max() / (largest or 1.0)))
        np.testing.assert_allclose(found.scores[name], scores, rtol=0, atol=TOLERANCE * largest)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", [SCORES, PICTURES, "recurrent", "encoder"])
def test_a_quiet_device_gives_the_same_bytes_again(client, model, method):
    explained(client, model, method)

    first, again = (explained(client, model, method) for _ in range(2))

    assert content(first) == content(again)


@pytest.mark.parametrize("model", [PICTURES, "residual", "encoder"])
def test_beside_others_answers_are_those_of_a_quiet_device(client, model, record_property):
    quiet = explained(client, model, "integrated-gradients")
    with ThreadPoolExecutor(8) as pool:
        beside = list(pool.map(lambda _: explained(client, model, "integrated-gradients"), range(24)))

    # A product's terms may be added in another order in a batch of another size.
    record_property("share of equal bytes", sum(content(each) == content(quiet) for each in beside) / len(beside))
    for each in beside:
        for name, scores in quiet.scores.items():
            largest = np.abs(scores).max()
            np.testing.assert_allclose(each.scores[name], scores, rtol=0, atol=1e-5 * largest)


def test_float32_is_not_shortened(client, record_property):
    values = np.random.default_rng(1).normal(size=(16, 512)).astype(np.float32)
    expected = values.astype(np.float64) @ Wide().linear.weight.detach().double().numpy().T

    found = client.predict(WIDE, values).outputs["output"]

    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    record_property("error", error)
    assert error < 3e-6


@pytest.mark.parametrize("model", [CONVERTED, ONNX_ONLY])
def test_onnx_files_are_served_beside_the_device(client, device, model):
    found = client.predict(model, np.array([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 2.0]], np.float32))

    assert found.outputs["output"][:, 0].tolist() == [10.0, 9.0]
    without = model == ONNX_ONLY and "CUDAExecutionProvider" not in get_available_providers()
    assert found.receipt.runtime.device == ("cpu" if without else device)


def test_two_models_side_by_side_answer_as_each_does_alone(client):
    models = (PICTURES, "recurrent")
    alone = {model: explained(client, model, "smoothgrad") for model in models}
    with ThreadPoolExecutor(8) as pool:
        beside = list(pool.map(lambda number: explained(client, models[number % 2], "smoothgrad"), range(16)))

    for number, each in enumerate(beside):
        for name, scores in alone[models[number % 2]].scores.items():
            np.testing.assert_allclose(each.scores[name], scores, rtol=0, atol=1e-5 * np.abs(scores).max())


def test_a_number_beyond_a_table_is_the_callers_mistake_and_does_not_stay(client, server):
    pid, good = server.worker_pid(), np.array([[1, 2], [17, 18]])
    first = client.predict(SHIFTED, good).outputs["output"]

    for beyond in (19, 1000, -2):
        with pytest.raises(InvalidRequestError, match="beyond a table"):
            client.predict(SHIFTED, np.array([[1, beyond]]))

    np.testing.assert_array_equal(client.predict(SHIFTED, good).outputs["output"], first)
    assert server.worker_pid() == pid


def test_a_cancelled_explanation_leaves_the_device_within_a_chunk(server):
    explanation = spec("kernel-shap", samples=16384)
    explanation.baseline.kind = explanation_pb2.BASELINE_KIND_ZEROS
    request = attribute(WIDE, {"x": rows(np.ones((16, 512), np.float32))}, explanation)
    wait_until(lambda: not server.busy(), seconds=30, what="the device is idle")
    call = server.explanations.Attribute.future(request)
    wait_until(server.busy, seconds=30, what="the device is busy")

    assert call.cancel()

    wait_until(lambda: not server.busy(), seconds=2, what="the device is idle")


def test_a_worker_whose_context_is_lost_is_replaced(cuda, repository, tmp_path):
    good = {"x": np.ones((1, 3), np.float32), "kind": np.array([2])}
    only = tmp_path / "repository"
    only.mkdir()
    (only / ENTROPY).symlink_to(repository / ENTROPY, target_is_directory=True)
    with (
        serve(only, tmp_path, {"PELLUCID_POOL__DEVICES": cuda}, as_users_do=True) as running,
        Client(running.address) as client,
    ):
        first = client.predict(ENTROPY, good).outputs["output"]
        pid = running.worker_pid()

        ended = threading.Event()
        error = failure(lambda: _predict_beyond(running, ended))

        assert ended.is_set()
        assert error.code() is grpc.StatusCode.INTERNAL
        np.testing.assert_array_equal(client.predict(ENTROPY, good).outputs["output"], first)
        assert running.worker_pid() != pid
        assert running.lines("DeviceLostError")


def _predict_beyond(running, ended):
    values = {"x": rows(np.ones((1, 3), np.float32)), "kind": rows(np.array([7]))}
    try:
        return running.explanations.Predict(predict(ENTROPY, values), timeout=120)
    finally:
        ended.set()
