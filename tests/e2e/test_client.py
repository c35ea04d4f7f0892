"""The Python clients, on the real server."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
from e2e.messages import DIABETES_ROW, PICTURE_MODEL, TABLE_MODEL, TREES_MODEL
from e2e.serving import Server, wait_until
from matplotlib.figure import Figure
from pellucid import Client, ExplanationSpec
from pellucid.aio import AsyncClient
from pellucid.errors import (
    InvalidRequestError,
    MessageTooLargeError,
    NotFoundError,
    TimedOutError,
    UnavailableError,
    UnsupportedError,
)
from PIL import Image

Floats = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as connected:
        yield connected


def test_a_picture_is_taken_as_a_file_its_bytes_an_image_and_pixels(client: Client, cat: bytes, cat_file: Path) -> None:
    pixels = skimage.data.chelsea()
    forms = [cat_file, str(cat_file), cat, Image.fromarray(pixels), pixels]

    predictions = [client.predict(PICTURE_MODEL, form) for form in forms]

    assert {prediction.receipt.input_digest for prediction in predictions} == {predictions[0].receipt.input_digest}
    assert predictions[0].top[0][0].name == "tiger cat"
    assert predictions[0].top[0][0].probability == pytest.approx(0.385, abs=0.01)


def test_a_dict_is_a_tables_row_and_scores_come_back_by_column(
    client: Client, table: Floats, columns: tuple[str, ...]
) -> None:
    row = dict(zip(columns, table[0].tolist(), strict=True))

    found = client.attribute(TABLE_MODEL, row, "integrated-gradients", steps=64, target="malignant")

    assert tuple(found.by_column) == columns
    assert found.label == "malignant"
    change = found.instance_output_value - (found.baseline_output_value or 0.0)
    assert sum(found.by_column.values()) == pytest.approx(change, rel=0.01)


def test_rows_of_a_table_with_categories_are_explained_one_by_one(client: Client) -> None:
    rows = [DIABETES_ROW, {**DIABETES_ROW, "sex": "1"}]

    first, second = client.attribute_rows(TREES_MODEL, rows, ExplanationSpec("kernel-shap", {"samples": 2000}))

    values = client.predict(TREES_MODEL, rows).outputs["progression"][:, 0]
    assert [first.instance_output_value, second.instance_output_value] == pytest.approx(values.tolist(), rel=1e-6)
    assert first.by_column["sex"] != second.by_column["sex"]


def test_scores_of_a_layers_values_have_its_name_and_sum_to_what_it_changes(client: Client, table: Floats) -> None:
    answer = client.attribute(TABLE_MODEL, table[:1], at="hidden2", tolerance=0.01)

    (name,) = answer.inputs
    assert name == "hidden2"
    assert answer.inputs[name].scores.shape == (64,)
    change = answer.instance_output_value - answer.baseline_output_value
    assert answer.inputs[name].scores.sum() - answer.accuracy.signed_gap == pytest.approx(change, abs=1e-5)
    again = client.attribute(TABLE_MODEL, table[:1], **answer.receipt.parameters, tolerance=answer.receipt.tolerance)
    assert again.inputs[name].scores.tobytes() == answer.inputs[name].scores.tobytes()


def test_a_layer_that_there_is_not_is_refused_with_those_that_there_are(client: Client, table: Floats) -> None:
    with pytest.raises(InvalidRequestError, match=r"has no layer 'hidden3'; .*'hidden2', 'hidden1'") as caught:
        client.attribute(TABLE_MODEL, table[:1], at="hidden3")

    assert list(caught.value.violations) == ['explanation.parameters["at"]']


def test_a_picture_of_the_result_is_drawn(client: Client, cat_file: Path, tmp_path: Path) -> None:
    found = client.attribute(PICTURE_MODEL, cat_file, "saliency")

    figure = found.plot()

    assert isinstance(figure, Figure)
    figure.savefig(tmp_path / "overlay.png")
    assert Image.open(tmp_path / "overlay.png").convert("RGB").getcolors(256) is None, "an overlay has many colours"


def test_the_asyncio_client_gets_the_same_answers(
    client: Client, server: Server, table: Floats, columns: tuple[str, ...]
) -> None:
    rows = [dict(zip(columns, values.tolist(), strict=True)) for values in table[:8]]

    async def at_once() -> list[dict[str, float]]:
        async with AsyncClient(server.address) as asynchronous:
            found = await asyncio.gather(*(asynchronous.attribute(TABLE_MODEL, row, "kernel-shap") for row in rows))
        return [each.by_column for each in found]

    together = asyncio.run(at_once())

    one_by_one = [client.attribute(TABLE_MODEL, row, "kernel-shap").by_column for row in rows]
    for found, expected in zip(together, one_by_one, strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_catalogue_comes_as_objects(client: Client) -> None:
    assert [summary.name for summary in client.models()] == [TABLE_MODEL, TREES_MODEL, PICTURE_MODEL]
    assert client.model(TREES_MODEL).inputs[0].columns[1].categories == ("1", "2")
    assert "integrated-gradients" in {method.name for method in client.methods()}


def test_a_field_at_fault_is_named_and_the_request_is_in_the_log(client: Client, server: Server, table: Floats) -> None:
    with pytest.raises(InvalidRequestError, match=r"must be in \[1, 1024\]") as caught:
        client.attribute(TABLE_MODEL, table[:1], "integrated-gradients", steps=5000)

    assert list(caught.value.violations) == ['explanation.parameters["steps"]']
    assert server.lines(f"id={caught.value.request_id}")


REFUSALS: dict[str, tuple[Callable[[Client], Any], type[Exception], str]] = {
    "unknown model": (lambda client: client.predict("resnet", np.ones((1, 30))), NotFoundError, "No model 'resnet'"),
    "unknown method": (
        lambda client: client.attribute(TABLE_MODEL, np.ones((1, 30)), "salience"),
        NotFoundError,
        "Did you mean 'saliency'",
    ),
    "no gradients": (
        lambda client: client.attribute(TREES_MODEL, DIABETES_ROW, "saliency"),
        UnsupportedError,
        "gradients",
    ),
    "deadline": (
        lambda client: client.attribute_rows(
            TABLE_MODEL,
            np.ones((64, 30)),
            ExplanationSpec("kernel-shap", {"samples": 16384}, baseline="background"),
            timeout=0.3,
        ),
        TimedOutError,
        r"deadline|within 0\.3 s",
    ),
}


@pytest.mark.parametrize(("call", "kind", "words"), REFUSALS.values(), ids=REFUSALS.keys())
def test_errors_are_typed(client: Client, call: Callable[[Client], Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        call(client)


def test_a_class_that_the_server_does_not_have_is_named_with_those_it_has(client: Client, table: Floats) -> None:
    with pytest.raises(InvalidRequestError, match="no class 'urgent' of requests; there are: predictions") as caught:
        client.predict(TABLE_MODEL, table[:1], priority="urgent")

    assert list(caught.value.violations) == ['metadata["x-pellucid-priority"]']


def test_a_caller_and_a_class_change_nothing_but_the_turn(client: Client, server: Server, table: Floats) -> None:
    with Client(server.address, caller="reports of the night", priority="bulk") as patient:
        found = patient.predict(TABLE_MODEL, table[:1])

    np.testing.assert_equal(dict(found.outputs), dict(client.predict(TABLE_MODEL, table[:1]).outputs))


def test_a_cancelled_task_leaves_the_server_idle(server: Server, table: Floats) -> None:
    spec = ExplanationSpec("kernel-shap", {"samples": 16384}, baseline="background")

    async def cancelled() -> None:
        async with AsyncClient(server.address) as asynchronous:
            task = asyncio.create_task(asynchronous.attribute_rows(TABLE_MODEL, np.repeat(table[:1], 64, 0), spec))
            await asyncio.to_thread(wait_until, server.busy, seconds=30, what="the worker has the request")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(cancelled())

    wait_until(lambda: not server.busy(), seconds=30, what="the worker is idle")


def test_a_request_too_large_is_told_from_a_server_that_is_busy(client: Client) -> None:
    with pytest.raises(MessageTooLargeError):
        client.predict(PICTURE_MODEL, np.zeros((112, 3, 224, 224), np.float32))


def test_no_server_is_said_to_be_none() -> None:
    with Client("127.0.0.1:9", wait_for_ready=False) as lost, pytest.raises(UnavailableError, match=r"127\.0\.0\.1:9"):
        lost.models(timeout=10)
