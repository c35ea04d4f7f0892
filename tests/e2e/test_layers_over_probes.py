"""activations and projection through the real server: a labelled table, and pictures."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from e2e.messages import PICTURE_MODEL, TABLE_MODEL, param
from e2e.serving import LONG_SECONDS, Server, serve
from pellucid import Client
from pellucid.findings import Findings
from pellucid.findings_messages import read_findings
from pellucid.v1 import dissection_pb2, explanation_pb2, explanation_service_pb2, input_pb2
from PIL import Image
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness

Floats = npt.NDArray[np.float64]

LABELS = ("malignant", "benign")
_TOML = """
kind = "table"
data = "rows.csv"
label = "diagnosis"
"""


@pytest.fixture(scope="module")
def labels() -> list[str]:
    return [LABELS[label] for label in load_breast_cancer().target]


@pytest.fixture(scope="module")
def served(
    models: Path, table: Floats, columns: tuple[str, ...], labels: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server of the table model and a labelled data set for it."""
    folder = tmp_path_factory.mktemp("sets")
    (folder / "models").mkdir()
    (folder / "models" / TABLE_MODEL).symlink_to(models / TABLE_MODEL, target_is_directory=True)
    tumours = folder / "datasets" / "tumours"
    tumours.mkdir(parents=True)
    (tumours / "dataset.toml").write_text(_TOML)
    with (tumours / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "diagnosis"])
        writer.writerows([*row, label] for row, label in zip(table.tolist(), labels, strict=True))
    with serve(folder / "models", tmp_path_factory.mktemp("probes")) as running:
        yield running


@pytest.fixture(scope="module")
def output(served: Server, table: Floats, columns: tuple[str, ...]) -> Floats:
    """What `Predict` says of each row, (569, 2)."""
    with Client(served.address) as client:
        rows = [dict(zip(columns, row, strict=True)) for row in table.tolist()]
        return np.asarray(client.predict(TABLE_MODEL, rows).outputs["output"], np.float64)


def dissect(
    server: Server, method: str, *layers: str, model: str = TABLE_MODEL, probe: Any = None, **parameters: Any
) -> Findings:
    """Ask, and return all parts as one."""
    request = explanation_service_pb2.DissectRequest(
        model=explanation_pb2.ModelSpec(name=model),
        method=method,
        layers=[dissection_pb2.LayerUnits(layer=layer) for layer in layers],
        probe=probe or dissection_pb2.Probe(dataset="tumours"),
        parameters={name: param(value) for name, value in parameters.items()},
    )
    parts = [
        read_findings(each.findings)
        for each in server.explanations.Dissect(request, timeout=LONG_SECONDS)
        if each.HasField("findings")
    ]
    return Findings(
        arrays={name: each for part in parts for name, each in part.arrays.items()},
        tables={name: each for part in parts for name, each in part.tables.items()},
        pictures={name: each for part in parts for name, each in part.pictures.items()},
        warnings=tuple(text for part in parts for text in part.warnings),
    )


def numbers(found: Findings, table: str, name: str) -> npt.NDArray[Any]:
    return np.array([line[name] for line in found.tables[table]])


def test_activations_of_the_output_are_the_predictions(served: Server, output: Floats, labels: list[str]) -> None:
    found = dissect(served, "activations", "classifier", top=3)

    units = "classifier/units"
    np.testing.assert_allclose(numbers(found, units, "mean"), output.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(numbers(found, units, "deviation"), output.std(0), rtol=1e-4)
    np.testing.assert_allclose(numbers(found, units, "median"), np.median(output, 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(numbers(found, units, "maximum"), output.max(0), rtol=1e-4)
    assert numbers(found, units, "class").tolist() == ["malignant", "benign"]
    rates = np.maximum(output, 0)
    means = np.stack([rates[np.array(labels) == label].mean(0) for label in LABELS])
    wanted = (means.max(0) - means.min(0)) / means.sum(0)
    np.testing.assert_allclose(numbers(found, units, "selectivity"), wanted, rtol=1e-4)
    for unit in range(2):
        lines = [line for line in found.tables["classifier/top"] if line["unit"] == unit]
        best = np.sort(output[:, unit])[::-1][:3]
        np.testing.assert_allclose([line["value"] for line in lines], best, rtol=1e-4)
        assert [line["name"] for line in lines] == [f"row {line['row']}" for line in lines]
    assert numbers(found, "layers", "participation_ratio")[0] == pytest.approx(
        np.trace(np.cov(output.T)) ** 2 / np.square(np.cov(output.T)).sum(), rel=1e-3
    )


@pytest.mark.parametrize("algorithm", ["pca", "tsne"])
def test_a_projection_of_the_output_is_that_of_the_predictions(
    served: Server, output: Floats, labels: list[str], algorithm: str
) -> None:
    found = dissect(served, "projection", "classifier", algorithm=algorithm, iterations=250)

    coordinates = np.asarray(found.arrays["classifier/coordinates"].values)
    figures = {line["figure"]: line["value"] for line in found.tables["quality"]}
    assert figures["rows"] == 569
    assert figures["trustworthiness"] == pytest.approx(trustworthiness(output, coordinates), abs=1e-3)
    assert numbers(found, "rows", "label").tolist() == labels
    picture = Image.open(io.BytesIO(found.pictures["classifier/thumbnails"].data))
    assert picture.size == (800, 800)
    if algorithm == "pca":
        wanted = np.abs(PCA(2).fit_transform(output))
        np.testing.assert_allclose(np.abs(coordinates), wanted, atol=1e-4 * np.abs(output).max())


def test_maps_of_pictures_are_drawn_and_border_and_centre_compared(server: Server, cat: bytes) -> None:
    with Client(server.address) as client:
        layers = [each for each in client.model(PICTURE_MODEL).layers if each.cuttable and len(each.shape) == 3]
    layer = layers[len(layers) // 2]
    turned = io.BytesIO()
    Image.open(io.BytesIO(cat)).rotate(90).save(turned, "PNG")
    name = next(iter(input_names(server)))
    pictures = input_pb2.Input(pictures=input_pb2.Pictures(encoded=[cat, turned.getvalue()]))

    found = dissect(
        server,
        "activations",
        layer.name,
        model=PICTURE_MODEL,
        probe=dissection_pb2.Probe(inputs={name: pictures}),
        maps=2,
    )

    assert len(found.tables[f"{layer.name}/units"]) == layer.shape[0]
    assert {line["positions"] for line in found.tables[f"{layer.name}/positions"]} == {"border", "centre"}
    drawn = [each for title, each in found.pictures.items() if "maps of" in title]
    assert len(drawn) == 2
    assert Image.open(io.BytesIO(drawn[0].data)).size == (drawn[0].width, drawn[0].height)


def input_names(server: Server) -> list[str]:
    with Client(server.address) as client:
        return [each.name for each in client.model(PICTURE_MODEL).inputs]
