"""Folds add up in the order of rows: their bits depend neither on the split nor on the neighbours."""

import numpy as np
import pytest
import torch
from pellucid_server.engine.asking.recipe import SCORES, HostTensors
from pellucid_server.engine.evaluations.folds import Histogram, Keep, Moments, ScoresOnly, WeightedSum

COUNT = 23
SHAPES = {"a number": (), "few": (5,), "one": (1,), "many": (3, 40, 40)}
OWNERS = np.array([0] * 8 + [1] * 8 + [-1] * 2 + [2] * 5)


def results(shape, dtype=np.float32):
    source = np.random.default_rng(41)
    rows = source.normal(size=(COUNT, *shape)) * 10.0 ** source.integers(-6, 6, size=(COUNT, *(1,) * len(shape)))
    return rows.astype(dtype)


def folded(fold, rows, sizes, form=HostTensors.of):
    """Fold rows in chunks of these sizes, each of which has rows of others before and behind it."""
    found, done = fold.start(COUNT), 0
    for size in sizes:
        part = rows[done : done + size]
        chunk = torch.from_numpy(np.concatenate([np.full_like(rows[:2], 7), part, np.full_like(rows[:1], 9)]))
        scores = torch.arange(done - 2, done + size + 1, dtype=torch.float64)
        found.add(form({"x": chunk, SCORES: scores}), 2, size)
        done += size
    assert done == COUNT
    return found


SPLITS = [[COUNT], [1] * COUNT, [3, 20], [8, 8, 7], [13, 1, 9]]
FOLDS = {
    "one sum": WeightedSum(np.random.default_rng(44).random(COUNT), np.array([-1] * 2 + [0] * 20 + [-1]), 1),
    "one sum with a gap": WeightedSum(np.random.default_rng(44).random(COUNT), np.array([0] * 9 + [-1] + [0] * 13), 1),
    "sum": WeightedSum(np.random.default_rng(42).random(COUNT), OWNERS, 3),
    "moments": Moments(),
    "magnitudes": Moments(absolute=True),
}


@pytest.mark.parametrize("fold", FOLDS.values(), ids=FOLDS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("form", [HostTensors.of, dict], ids=["arrays", "tensors"])
def test_sums_have_the_same_bits_however_rows_are_split(fold, shape, dtype, form):
    rows = results(shape, dtype)

    found = [folded(fold, rows, sizes, form).result()["x"] for sizes in SPLITS]

    assert all(each.tobytes() == found[0].tobytes() for each in found)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", ["sum", "one sum", "one sum with a gap"])
def test_a_weighted_sum_adds_each_row_to_its_owner(shape, name):
    rows, fold = results(shape), FOLDS[name]

    found = folded(fold, rows, [5, 18]).result()["x"]

    for owner in range(fold.sums):
        chosen = owner == fold.owners
        weights = fold.weights[chosen].reshape(-1, *(1,) * len(shape))
        expected = (weights * rows[chosen].astype(np.float64)).sum(axis=0)
        np.testing.assert_allclose(found[owner], expected, rtol=1e-9, atol=1e-9)


def test_rows_of_no_owner_add_nothing_whatever_they_are():
    rows = results((4,))
    rows[OWNERS == -1] = np.nan

    found = folded(FOLDS["sum"], rows, [COUNT])

    assert np.isfinite(found.result()["x"]).all()
    assert found.nonfinite is None


def test_moments_are_sums_and_sums_of_squares_and_go_on_from_earlier_ones():
    rows = results((6,))

    sums, squares = folded(Moments(), rows, [4, 19]).result()["x"]
    magnitudes, _ = folded(Moments(absolute=True), rows, [4, 19]).result()["x"]

    wide = rows.astype(np.float64)
    np.testing.assert_allclose(sums, wide.sum(axis=0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(squares, (wide**2).sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(magnitudes, np.abs(wide).sum(axis=0), rtol=1e-12)
    first = Moments().start(9)
    first.add(HostTensors({"x": rows[:9]}), 0, 9)
    rest = Moments(before=first.result()).start(COUNT - 9)
    rest.add(HostTensors({"x": rows[9:]}), 0, COUNT - 9)
    assert rest.result()["x"].tobytes() == np.stack([sums, squares]).tobytes()


@pytest.mark.parametrize("fold", FOLDS.values(), ids=FOLDS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("shape", [(5,), (3, 40, 40)])
@pytest.mark.parametrize("form", [HostTensors.of, dict], ids=["arrays", "tensors"])
def test_the_first_row_that_is_not_finite_is_named(fold, value, shape, form):
    rows = results(shape)
    rows[11].reshape(-1)[3] = value
    rows[14].reshape(-1)[0] = value

    bad = folded(fold, rows, [10, 13], form).nonfinite

    assert (bad.row, bad.name) == (11, "x")
    np.testing.assert_array_equal(bad.values, rows[11])


@pytest.mark.parametrize("fold", [*FOLDS.values(), Keep(), ScoresOnly()])
def test_scores_are_kept_as_they_are(fold):
    found = folded(fold, results((2,)), [6, 17]).result()

    np.testing.assert_array_equal(found[SCORES], np.arange(COUNT))


def test_what_is_kept_is_every_row():
    rows = results((3, 2))

    np.testing.assert_array_equal(folded(Keep(), rows, [9, 14]).result()["x"], rows)


def test_beside_scores_nothing_is_kept_where_nothing_else_is_wanted():
    assert set(folded(ScoresOnly(), results((2,)), [COUNT]).result()) == {SCORES}


@pytest.mark.parametrize("per_unit", [False, True])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (3, 5, 6)])
def test_a_histogram_counts_what_numpy_counts_however_rows_are_split(shape, per_unit):
    rows = np.round(results(shape)).astype(np.float32)  # So that some lie on an edge.
    units = shape[0] if shape else 1
    edges = np.sort(np.random.default_rng(43).normal(size=(units, 7)) * 100, axis=1)
    edges[:, 3] = rows.reshape(COUNT, units, -1)[5, :, 0]
    edges = np.sort(edges, axis=1)
    fold = Histogram({"x": edges if per_unit else edges[0]})

    found = [folded(fold, rows, sizes).result()["x"] for sizes in SPLITS]

    values = rows.reshape(COUNT, units, -1).swapaxes(0, 1).reshape(units, -1).astype(np.float64)
    expected = [
        np.histogram(each, np.concatenate([[-np.inf], own, [np.inf]]))[0]
        for each, own in zip(values, edges if per_unit else [edges[0]] * units, strict=True)
    ]
    for each in found:
        np.testing.assert_array_equal(each, expected)
        assert each.sum() == rows.size


def test_a_histogram_keeps_the_scores_and_notes_what_is_no_number():
    rows = results((2, 3))
    rows[7, 1, 2] = np.nan

    found = folded(Histogram({"x": np.array([0.0])}), rows, [5, 18])

    np.testing.assert_array_equal(found.result()[SCORES], np.arange(COUNT))
    assert (found.nonfinite.row, found.nonfinite.name) == (7, "x")
    assert found.result()["x"].sum() == rows.size


def test_results_without_edges_are_not_counted():
    assert set(folded(Histogram({"y": np.array([0.0])}), results((2,)), [COUNT]).result()) == {SCORES}
