"""projection: against scikit-learn on the same values, and against what can be seen by hand."""

import importlib.util
import io
import signal
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from pellucid_server.engine.methods.shared import drawings
from pellucid_server.engine.methods.shared.projecting import embeddings
from pellucid_server.engine.tasks.helpers import Helpers
from pellucid_server.engine.tasks.request_state import RequestState
from pellucid_server.errors import CancelledError, InvalidRequestError, TimedOutError, UnsupportedError
from PIL import Image
from server.engine.methods.dissection.layers import (
    Layers,
    Rows,
    column,
    found,
    pixels,
    question,
    resumed,
    together,
    yielded,
)
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness


def dense(count=120, width=7, seed=1):
    source = np.random.default_rng(seed)
    return (source.normal(size=(count, width)) @ source.normal(size=(width, width)) + 50).astype(np.float32)


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return data.data[:300].astype(np.float32), tuple(str(label) for label in data.target[:300])


def figures(answer, layer="dense"):
    table = answer.tables["quality"]
    mine = column(table, "layer") == layer
    return dict(zip(column(table, "figure")[mine].tolist(), column(table, "value")[mine].tolist(), strict=True))


def values_of(answer, name):
    return answer.arrays[name].values


def test_principal_components_are_those_of_scikit_learn():
    rows = dense()

    answer = found("projection", {"dense": rows}, components=4)

    wanted = PCA(4, svd_solver="full").fit(rows.astype(np.float64))
    signs = np.sign(wanted.components_[np.arange(4), np.abs(wanted.components_).argmax(1)])
    np.testing.assert_allclose(values_of(answer, "dense/components"), wanted.components_ * signs[:, None], atol=1e-6)
    coordinates = wanted.transform(rows.astype(np.float64)) * signs
    np.testing.assert_allclose(values_of(answer, "dense/coordinates"), coordinates, atol=1e-6 * np.abs(rows).max())
    ratios = values_of(answer, "dense/explained_variance_ratio")
    np.testing.assert_allclose(ratios, wanted.explained_variance_ratio_, atol=1e-6)
    np.testing.assert_allclose(values_of(answer, "dense/mean"), wanted.mean_, rtol=1e-6)
    variances = PCA(svd_solver="full").fit(rows.astype(np.float64)).explained_variance_
    assert figures(answer)["participation_ratio"] == pytest.approx(variances.sum() ** 2 / (variances**2).sum())
    assert figures(answer)["explained_variance"] == pytest.approx(ratios.sum())


def test_what_components_leave_over_is_the_variance_that_is_not_explained():
    rows = dense()

    answer = found("projection", {"dense": rows}, components=3)

    back = values_of(answer, "dense/coordinates") @ values_of(answer, "dense/components")
    centred = rows - values_of(answer, "dense/mean")
    left = np.square(centred - back).sum() / np.square(centred).sum()
    assert left == pytest.approx(1 - figures(answer)["explained_variance"], abs=1e-6)


def test_scaled_columns_have_a_variance_of_one():
    rows = dense() * np.array([1, 1000, 1, 1, 1, 1, 0.001], np.float32)

    answer = found("projection", {"dense": rows}, components=7, scale=True)

    wide = rows.astype(np.float64)
    wanted = PCA(7, svd_solver="full").fit((wide - wide.mean(0)) / wide.std(0))
    ratios = values_of(answer, "dense/explained_variance_ratio")
    np.testing.assert_allclose(ratios, wanted.explained_variance_ratio_, atol=1e-6)
    scaled = (rows - values_of(answer, "dense/mean")) / values_of(answer, "dense/deviation")
    again = scaled @ values_of(answer, "dense/components").T
    np.testing.assert_allclose(values_of(answer, "dense/coordinates"), again, atol=1e-5)


def test_wide_rows_have_their_components_by_random_projections_and_it_is_said():
    source = np.random.default_rng(2)
    rows = (source.normal(size=(60, 3)) @ source.normal(size=(3, 2100)) * 5 + source.normal(size=(60, 2100))).astype(
        np.float32
    )

    answer = found("projection", {"dense": rows}, components=3)

    wanted = PCA(3, svd_solver="full").fit(rows.astype(np.float64))
    np.testing.assert_allclose(np.abs(values_of(answer, "dense/components")), np.abs(wanted.components_), atol=1e-4)
    ratios = values_of(answer, "dense/explained_variance_ratio")
    np.testing.assert_allclose(ratios, wanted.explained_variance_ratio_, rtol=1e-4)
    assert any("random projections" in text for text in answer.warnings)


def test_covariances_of_many_layers_are_bounded_and_it_is_said(monkeypatch):
    monkeypatch.setattr("pellucid_server.engine.methods.shared.projecting.gathered_points.MOST_PRODUCTS", 100)
    values = {"first": dense(), "second": dense(seed=2), "third": dense(width=7, seed=3)}

    answer = found("projection", values)

    assert [text.split(":")[0] for text in answer.warnings] == ["third"]
    wanted = PCA(2, svd_solver="full").fit(values["third"].astype(np.float64))
    ratios = values_of(answer, "third/explained_variance_ratio")
    np.testing.assert_allclose(ratios, wanted.explained_variance_ratio_, rtol=1e-6)


@pytest.mark.parametrize(
    ("vectors", "wanted"),
    [
        ([[3.0, -4.0]], [[-3, 4]]),
        ([[-0.5, -0.5]], [[0.5, 0.5]]),
        ([[0.5, -0.5]], [[0.5, -0.5]]),
        ([[0.0, 0]], [[0, 0]]),
    ],
)
def test_the_largest_loading_is_positive(vectors, wanted):
    np.testing.assert_array_equal(embeddings.signed(np.array(vectors)), wanted)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_trustworthiness_is_that_of_scikit_learn_and_continuity_its_mirror(digits, metric):
    rows = digits[0]

    answer = found("projection", {"dense": rows}, metric=metric, quality_neighbours=7)

    coordinates = values_of(answer, "dense/coordinates")
    assert figures(answer)["trustworthiness"] == pytest.approx(
        trustworthiness(rows.astype(np.float64), coordinates, n_neighbors=7, metric=metric), abs=1e-9
    )
    assert figures(answer)["continuity"] == pytest.approx(_continuity(rows, coordinates, 7, metric), abs=1e-6)


def _continuity(rows, coordinates, neighbours, metric):
    """Venna and Kaski's formula as it is written: ranks in the picture of those that are neighbours in the layer."""
    wide = rows.astype(np.float64)
    if metric == "cosine":
        wide = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    count = len(wide)
    near, shown = (
        np.linalg.norm(each[:, None] - each, axis=2) + np.diag([np.inf] * count) for each in (wide, coordinates)
    )
    total = 0
    for row in range(count):
        true = set(np.argsort(near[row], kind="stable")[:neighbours].tolist())
        order = np.argsort(shown[row], kind="stable").tolist()
        rank = {other: place + 1 for place, other in enumerate(order)}
        total += sum(rank[other] - neighbours for other in true if rank[other] > neighbours)
    return 1 - 2 / (count * neighbours * (2 * count - 3 * neighbours - 1)) * total


def test_the_plane_is_trusted_fully():
    answer = found("projection", {"dense": np.random.default_rng(3).normal(size=(50, 2))})

    assert figures(answer)["trustworthiness"] == 1
    assert figures(answer)["continuity"] == 1
    assert figures(answer)["explained_variance"] == pytest.approx(1)


def test_factors_make_the_rows_again():
    source = np.random.default_rng(4)
    rows = (source.exponential(size=(80, 2)) @ source.exponential(size=(2, 6))).astype(np.float32)

    answer = found("projection", {"dense": rows}, algorithm="nmf", components=2, iterations=10_000)

    coordinates, components = values_of(answer, "dense/coordinates"), values_of(answer, "dense/components")
    assert (coordinates >= 0).all()
    assert (components >= 0).all()
    left = np.linalg.norm(rows - coordinates @ components) / np.linalg.norm(rows)
    assert left < 0.02
    assert figures(answer)["reconstruction_error"] == pytest.approx(left, rel=1e-3)
    np.testing.assert_allclose(np.linalg.norm(components, axis=1), 1)


def test_factors_of_negative_values_are_refused_with_the_row():
    rows = np.abs(dense())
    rows[40, 2] = -3

    with pytest.raises(InvalidRequestError, match="dense is -3 in column 2 of row 40"):
        found("projection", {"dense": rows}, algorithm="nmf")


def test_a_tsne_finds_the_clusters_again_and_is_the_same_for_a_seed(digits):
    rows, labels = digits
    settings = {"algorithm": "tsne", "iterations": 500, "perplexity": 15.0}

    answer = found("projection", {"dense": rows}, Rows(300, labels), **settings)
    again = found("projection", {"dense": rows}, Rows(300, labels), **settings)

    coordinates = values_of(answer, "dense/coordinates")
    assert coordinates.tobytes() == values_of(again, "dense/coordinates").tobytes()
    nearest = (np.linalg.norm(coordinates[:, None] - coordinates, axis=2) + np.diag([np.inf] * 300)).argmin(1)
    assert (np.array(labels)[nearest] == np.array(labels)).mean() > 0.9
    assert 0 < figures(answer)["kl_divergence"] < 1
    assert figures(answer)["trustworthiness"] > 0.95
    assert any("mean nothing in a t-SNE" in text for text in answer.warnings)


@pytest.mark.parametrize(
    ("settings", "rows", "text"),
    [
        ({"algorithm": "tsne"}, dense(30), 'parameters["perplexity"] is 30.0; it must be less than the 30 rows'),
        ({"algorithm": "tsne", "components": 4}, dense(), "must be in [1, 3] for tsne"),
        ({"algorithm": "tsne"}, np.ones((40, 3)), "makes the same of all rows"),
        ({"algorithm": "nmf"}, np.zeros((40, 3)), "makes the same of all rows"),
        ({"components": 8}, dense(), 'parameters["components"] is 8; it must be at most 7'),
        ({"components": 6}, dense(5), "it must be at most 5"),
        ({"reduction": "flatten"}, np.ones((1100, 4, 100, 100), np.float16), 'parameters["most_rows"] is 2000'),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_with_what_would_be_right(settings, rows, text):
    with pytest.raises(InvalidRequestError) as refused:
        found("projection", {"dense": rows}, **settings)

    assert text in refused.value.message


def test_umap_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)

    with pytest.raises(UnsupportedError, match=r"install pellucid\[umap\]"):
        found("projection", {"dense": dense()}, algorithm="umap")


@pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="umap is not installed")
def test_umap_finds_the_clusters_again(digits):
    answer = found("projection", {"dense": digits[0]}, algorithm="umap")

    assert figures(answer)["trustworthiness"] > 0.9


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_tsne_of_very_few_rows_has_an_answer(count):
    answer = found("projection", {"dense": dense(count)}, algorithm="tsne", perplexity=1.0, iterations=250)

    assert values_of(answer, "dense/coordinates").shape == (count, 2)


def test_equal_rows_have_no_variance_to_explain():
    answer = found("projection", {"dense": np.ones((9, 3))})

    assert (values_of(answer, "dense/coordinates") == 0).all()
    assert "explained_variance" not in figures(answer)
    assert any("no variance to explain" in text for text in answer.warnings)


@pytest.mark.parametrize("shape", [(1, 5), (6, 1), (1, 1)])
def test_one_row_or_one_unit_has_one_coordinate(shape):
    rows = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)

    answer = found("projection", {"dense": rows})

    np.testing.assert_allclose(values_of(answer, "dense/coordinates")[:, 0], rows[:, 0] - rows[:, 0].mean())
    assert answer.resolved == {"components": 1}


@pytest.mark.parametrize(
    ("reduction", "reduce"),
    [
        ("mean", lambda maps: maps.mean((2, 3))),
        ("max", lambda maps: maps.max((2, 3))),
        ("centre", lambda maps: maps[:, :, 1, 2]),
        ("flatten", lambda maps: maps.reshape(len(maps), -1)),
    ],
)
def test_a_rows_vector_is_what_was_asked_for(reduction, reduce):
    maps = np.random.default_rng(5).normal(size=(40, 3, 3, 5))

    answer = found("projection", {"conv": maps}, reduction=reduction)

    wanted = np.abs(PCA(2, svd_solver="full").fit_transform(reduce(maps)))
    np.testing.assert_allclose(np.abs(values_of(answer, "conv/coordinates")), wanted, atol=1e-5)


def test_positions_can_be_points_of_their_own():
    maps = np.random.default_rng(5).normal(size=(40, 3, 2, 5)).astype(np.float32)
    labels = tuple("ab"[number % 2] for number in range(40))

    answer = found("projection", {"conv": maps}, Rows(40, labels), reduction="positions", most_rows=100)

    points = maps.astype(np.float64).transpose(0, 2, 3, 1).reshape(-1, 3)
    wanted = np.abs(PCA(2, svd_solver="full").fit_transform(points)).reshape(40, 2, 5, 2)
    table = answer.tables["conv/points"]
    at = tuple(column(table, name) for name in ("row", "y", "x"))
    np.testing.assert_allclose(np.abs(values_of(answer, "conv/coordinates")), wanted[at], atol=1e-5)
    assert column(table, "label").tolist() == [labels[number] for number in at[0]]
    titles = answer.arrays["conv/coordinates"].axes[0].labels
    assert titles[0] == f"row {at[0][0]} at {at[1][0]}, {at[2][0]}"
    assert "rows" not in answer.tables
    assert any("random sample of 100 of the 400 points" in text for text in answer.warnings)


def test_parts_that_maps_are_made_of_are_found_at_their_positions():
    source = np.random.default_rng(6)
    maps = np.zeros((20, 4, 3, 3), np.float32)
    which = source.integers(2, size=(20, 3, 3))
    strength = 1 + source.random((20, 3, 3))
    # A position has units 0 and 1, or units 2 and 3.
    for part in range(2):
        maps[:, 2 * part] = maps[:, 2 * part + 1] = np.where(which == part, strength, 0)

    answer = found("projection", {"conv": maps}, algorithm="nmf", reduction="positions", components=2, maps=2)

    components = values_of(answer, "conv/components")
    order = components[:, 0].argsort()[::-1]
    np.testing.assert_allclose(components[order], np.array([[1, 1, 0, 0], [0, 0, 1, 1]]) / np.sqrt(2), atol=1e-3)
    table = answer.tables["conv/points"]
    at = tuple(column(table, name) for name in ("row", "y", "x"))
    np.testing.assert_array_equal(values_of(answer, "conv/coordinates")[:, order].argmax(1), which[at])
    drawn = answer.pictures["conv/components of row 1 (row 1)"]
    # The more, the greener.
    shown = pixels(drawn)[..., 1].astype(int)
    tile = np.stack([shown[10:63:21, 10:63:21], shown[10:63:21, 75:128:21]])[order]
    np.testing.assert_array_equal(tile[1] > tile[0], which[1] == 1)


def test_maps_of_principal_components_are_the_coordinates_of_positions():
    maps = np.random.default_rng(5).normal(size=(4, 3, 2, 5))
    handle = Layers({"conv": maps})

    answer = together(
        yielded("projection", handle.values, handle=handle, reduction="positions", components=3, maps=1, scale=True)
    )

    coordinates = values_of(answer, "conv/coordinates")[:10].T.reshape(3, 2, 5)
    wanted = drawings.map_grid(coordinates, "viridis", 64)
    np.testing.assert_array_equal(
        pixels(answer.pictures["conv/components of row 0 (row 0)"]), np.asarray(Image.open(io.BytesIO(wanted)))
    )


def test_non_negative_coordinates_are_those_of_least_squares():
    parts = np.array([[1.0, 0, 0], [0, 1, 1]])

    found_weights = embeddings.weights(np.array([[2.0, 3, 3], [-1, 1, 3], [0, 0, 0]]), parts)

    np.testing.assert_allclose(found_weights, [[2, 3], [0, 2], [0, 0]], atol=1e-12)


def test_positions_of_pictures_are_drawn_by_what_is_around_them():
    image = np.zeros((64, 64, 3), np.uint8)
    image[:32, :, 0] = image[32:, :, 2] = 250
    maps = np.array([[[[5.0], [15.0]], [[1.0], [3.0]]]])

    answer = found(
        "projection", {"conv": maps}, Rows(1, images=(image,)), reduction="positions", components=2, size=300
    )

    # The upper half is red, the lower blue; a point's thumbnail is of its half alone.
    shown = pixels(answer.pictures["conv/thumbnails"])
    assert [(shown == colour).all(2).sum() for colour in ((250, 0, 0), (0, 0, 250))] == [32 * 32] * 2


def test_a_sample_of_the_rows_has_coordinates_by_the_components_of_all():
    rows = dense(500)
    labels = tuple("ab"[number % 2] for number in range(500))

    answer = found("projection", {"dense": rows}, Rows(500, labels), most_rows=50)

    chosen = column(answer.tables["rows"], "row")
    assert len(chosen) == 50
    assert (np.diff(chosen) > 0).all()
    assert column(answer.tables["rows"], "label").tolist() == [labels[number] for number in chosen]
    whole = values_of(found("projection", {"dense": rows}), "dense/coordinates")
    np.testing.assert_allclose(values_of(answer, "dense/coordinates"), whole[chosen], rtol=1e-6, atol=1e-6)
    assert any("random sample of 50 of the 500 points" in text for text in answer.warnings)
    assert figures(answer)["rows"] == 50


@pytest.mark.parametrize(("algorithm", "reduction"), [("pca", "mean"), ("nmf", "mean"), ("pca", "positions")])
def test_what_goes_on_from_a_state_is_the_same_bit_for_bit(algorithm, reduction, monkeypatch):
    monkeypatch.setattr("pellucid_server.engine.methods.shared.save_timer._SECONDS", 0.0)
    values = {"dense": np.abs(dense(150)), "conv": np.random.default_rng(6).random((150, 3, 2, 2)).astype(np.float32)}
    probe = Rows(150, tuple("ab"[number % 2] for number in range(150)))
    settings = {"algorithm": algorithm, "reduction": reduction, "most_rows": 60}

    whole = found("projection", values, probe, **settings)
    others = resumed("projection", values, probe, **settings)

    assert len(others) == 5
    for other in others:
        assert list(other.arrays) == list(whole.arrays)
        for name, each in whole.arrays.items():
            assert other.arrays[name].values.tobytes() == each.values.tobytes()
        assert {name: each.data for name, each in other.pictures.items()} == {
            name: each.data for name, each in whole.pictures.items()
        }
        for name, table in whole.tables.items():
            for key in table.columns:
                np.testing.assert_array_equal(column(other.tables[name], key), column(table, key))


def test_rows_are_drawn_in_the_colours_of_their_classes():
    rows = np.array([[0.0, 0], [0, 0], [10, 10]])

    answer = found("projection", {"dense": rows}, Rows(3, ("cat", "cat", "hen")), size=200)

    picture = answer.pictures["dense/thumbnails"]
    shown = pixels(picture)
    assert shown.shape == (200, 200, 3)
    assert "3 points" in picture.text
    assert "2 classes" in picture.text
    # The first component runs to the right: its ends are 10 * sqrt(2) apart.
    middle = shown[95:106]
    blue, orange = (np.argwhere((middle == colour).all(2))[:, 1].mean() for colour in ((31, 119, 180), (255, 127, 14)))
    assert abs(blue - orange) > 150


def test_rows_of_pictures_are_drawn_as_thumbnails():
    colours = ((250, 0, 0), (0, 250, 0), (0, 0, 250))
    images = tuple(np.full((50, 100, 3), colour, np.uint8) for colour in colours)

    answer = found("projection", {"dense": np.array([[0.0, 0], [3, 1], [9, 0]])}, Rows(3, images=images), size=300)

    shown = pixels(answer.pictures["dense/thumbnails"])
    for colour in colours:
        # 100 by 50 pixels become 32 by 16.
        assert (shown == colour).all(2).sum() == 32 * 16


class Helped(Layers):
    """A handle that computes in a helper process, for a request that may be cancelled."""

    def __init__(self, values, helpers, request):
        super().__init__(values)
        self._helpers, self._request = helpers, request
        self.begun = threading.Event()

    def compute(self, function, *arguments):
        def check():
            if self._helpers.long._process is not None:
                self.begun.set()
            self._request.check()

        return self._helpers.call(function, arguments, check)


@pytest.fixture
def helpers():
    made = Helpers()
    yield made
    made.close()


def tsne_of_2000(helpers, request):
    """Begin a t-SNE of 10,000 iterations, which takes long; return its handle, its thread and what it raised."""
    handle, raised = Helped({"dense": dense(2000, 64)}, helpers, request), []

    def run():
        try:
            yielded("projection", handle.values, handle=handle, algorithm="tsne", iterations=10_000)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return handle, thread, raised


def test_a_tsne_whose_caller_leaves_ends_at_once(helpers):
    request = RequestState(1, None)
    handle, thread, raised = tsne_of_2000(helpers, request)
    assert handle.begun.wait(60)
    process = helpers.long._process

    request.cancelled = True
    thread.join(10)

    assert isinstance(raised[0], CancelledError)
    assert process.poll() == -signal.SIGKILL


def test_a_tsne_ends_at_its_deadline(helpers):
    _, thread, raised = tsne_of_2000(helpers, RequestState(1, time.monotonic() + 1.5))

    thread.join(15)

    assert isinstance(raised[0], TimedOutError)


def test_what_a_helper_process_computes_is_what_is_computed_here(helpers):
    values = {"dense": np.abs(dense(60))}
    for algorithm in ("pca", "nmf", "tsne"):
        asked, settings = question(values), {"algorithm": algorithm, "perplexity": 10.0, "iterations": 250}
        handle = Helped(values, helpers, RequestState(1, None))

        there = together(yielded("projection", values, asked=asked, handle=handle, **settings))

        here = together(yielded("projection", values, asked=replace(asked), **settings))
        np.testing.assert_allclose(
            values_of(there, "dense/coordinates"), values_of(here, "dense/coordinates"), rtol=1e-6, atol=1e-6
        )
        assert there.pictures.keys() == here.pictures.keys()
