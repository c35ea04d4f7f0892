"""Probe sets through the real server: a generated one among its data sets, and pictures with masks in the request."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from e2e.serving import Server, serve
from e2e.small_models import PICTURES, write_pictures
from pellucid import Client, tensors
from pellucid.v1 import dissection_pb2, explanation_pb2, explanation_service_pb2, input_pb2
from pellucid_server.scenes.command import write_scenes
from pellucid_server.scenes.scenes import generate

ROWS, SIZE = 12, 48


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the small model for pictures, with a generated set."""
    folder = tmp_path_factory.mktemp("probe")
    write_pictures(folder / "models")
    write_scenes(folder / "datasets" / "scenes", ROWS, seed=2, size=SIZE)
    with serve(folder / "models", tmp_path_factory.mktemp("served")) as running:
        yield running


def dissect(server: Server, **probe: Any) -> list[explanation_service_pb2.DissectResponse]:
    request = explanation_service_pb2.DissectRequest(
        model=explanation_pb2.ModelSpec(name=PICTURES),
        method="activations",
        layers=[dissection_pb2.LayerUnits(layer="conv")],
        probe=dissection_pb2.Probe(**probe),
    )
    return list(server.explanations.Dissect(request, timeout=60))


def pictures() -> dict[str, input_pb2.Input]:
    pixels = np.stack([each.picture for each in generate(ROWS, 2, SIZE)])
    return {"image": input_pb2.Input(tensor=tensors.to_tensor(pixels))}


def means(responses: list[explanation_service_pb2.DissectResponse]) -> npt.NDArray[np.float64]:
    columns = {each.name: each for each in responses[0].findings.tables["conv/units"].columns}
    found: npt.NDArray[np.float64] = tensors.from_tensor(columns["mean"].numbers)
    return found


def test_the_generated_set_is_listed_with_its_concepts(served: Server) -> None:
    with Client(served.address) as client:
        (found,) = client.datasets()

    assert (found.name, found.kind, found.rows, found.state) == ("scenes", "pictures", ROWS, "ready")
    assert (found.concepts, found.categories) == (27, ("color", "texture", "shape", "ground", "position"))


def test_a_data_set_and_the_same_pictures_in_the_request_give_the_same_answer(served: Server) -> None:
    stored, sent = dissect(served, dataset="scenes"), dissect(served, inputs=pictures())

    assert np.array_equal(means(stored), means(sent))
    record, other = stored[-1].findings.dissection, sent[-1].findings.dissection
    assert (record.dataset, len(record.dataset_digest), record.masks_digest) == ("scenes", 64, "")
    assert (other.dataset, other.dataset_digest, other.masks_digest) == ("", "", "")
    assert stored[-1].progress.rows == ROWS


def test_labels_and_masks_of_the_request_are_in_the_record(served: Server) -> None:
    mask = dissection_pb2.ConceptMask(concept="red", row=1, mask=tensors.to_tensor(np.ones((SIZE, SIZE), np.bool_)))
    limited = dissect(served, inputs=pictures(), masks=[mask], rows=1)[-1].findings.dissection
    found = dissect(served, inputs=pictures(), masks=[mask])[-1].findings.dissection

    assert len(found.masks_digest) == 64
    # The only mask is of a row that is not looked at.
    assert limited.masks_digest == ""


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        ({"masks": [dissection_pb2.ConceptMask(concept="red", row=ROWS)]}, f"probe.masks[0].row is {ROWS}"),
        ({"labels": ["circle"]}, f"probe.labels has 1 entries, and there are {ROWS} rows"),
        (
            {"masks": [dissection_pb2.ConceptMask(concept="red", mask=tensors.to_tensor(np.ones((4, 8), np.bool_)))]},
            "probe.masks[0].mask is [4, 8], and the picture of row 0 is [48, 48]",
        ),
    ],
)
def test_what_does_not_fit_the_pictures_is_refused(served: Server, probe: dict[str, Any], words: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        dissect(served, inputs=pictures(), **probe)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in caught.value.details()
