"""Rows grown on the device are the rows that were meant, in chunks of any size."""

import numpy as np
import pytest
import torch
from pellucid_server.engine.asking.question import Feature
from pellucid_server.engine.evaluations.recipes import Masked, Noisy, Path, Picked, Rows, Windows, With
from pellucid_server.engine.methods.attribution.occlusion import Windows as Places
from server.engine.methods.closed_forms import grown

SOURCE = np.random.default_rng(31)
PICTURE = SOURCE.normal(size=(3, 5, 4)).astype(np.float32)
OTHER = SOURCE.normal(size=(2, 3, 5, 4)).astype(np.float32)
CODES = np.array([3, 1], np.int64)
LABELS = {"x": SOURCE.integers(0, 4, size=(1, 5, 4)).astype(np.int32), "code": np.array([4, 1], np.int32)}
PRESENT = np.concatenate([SOURCE.random((6, 5)) < 0.5, np.ones((1, 5), bool)])


def masked(baselines=2, present=PRESENT):
    both = {"x": OTHER[:baselines], "code": np.array([[7, 8], [9, 5]], np.int64)[:baselines]}
    return Masked({"x": PICTURE, "code": CODES}, both, LABELS, present)


def windows():
    inputs = {"x": PICTURE, "code": CODES}
    places = {
        "x": Places(Feature("image", True), PICTURE, 3, 2),
        "code": Places(Feature("tensor", False), CODES, 1, 1),
    }
    return Windows(inputs, {"x": OTHER[0], "code": np.array([7, 8])}, places)


def windows_of_a_number():
    inputs = {"x": PICTURE, "n": np.array(3.0, np.float32)}
    places = {
        "x": Places(Feature("image", True), PICTURE, 3, 2),
        "n": Places(Feature("tensor", True), inputs["n"], 1, 1),
    }
    return Windows(inputs, {"x": OTHER[0], "n": np.array(-1.0, np.float32)}, places)


RECIPES = {
    "rows": Rows({"x": SOURCE.normal(size=(7, 2)).astype(np.float32)}),
    "path": Path({"x": OTHER[0]}, {"x": PICTURE, "code": CODES}, np.array([0.0, 0.3, 1.0, 0.77, 1.0, 0.5])),
    "masks": masked(),
    "masks of one baseline": masked(1),
    "no full coalition": masked(2, PRESENT[:-1]),
    "windows": windows(),
    "windows of a number": windows_of_a_number(),
    "noise": Noisy({"x": PICTURE, "code": CODES}, {"x": np.float32(0.5)}, 3, 6),
    "noise by element": Noisy({"x": PICTURE}, {"x": np.abs(OTHER[0])}, 3, 6, 2),
    "picked": Picked({"x": OTHER, "code": np.array([[7, 8], [9, 5]])}, np.array([1, 0, 0, 1, 1])),
    "beside": With(masked(), {"n": np.arange(13)}),
    "numbers": Path({"x": np.float32(1.0)}, {"x": np.float32(3.0)}, np.array([0.5, 1.0, 0.25])),
}
every_recipe = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)


@every_recipe
@pytest.mark.parametrize("size", [1, 2, 5])
def test_chunks_of_any_size_have_the_same_bytes(recipe, size):
    whole, stage = grown(recipe), recipe.stage("cpu")

    for first in range(0, recipe.count, size):
        count = min(size, recipe.count - first)
        part = {
            name: torch.from_numpy(np.full((count, *rows.shape[1:]), 99, rows.dtype)) for name, rows in whole.items()
        }
        stage.write(part, first)
        for name, rows in part.items():
            assert rows.numpy().tobytes() == whole[name][first : first + count].tobytes()


@pytest.mark.parametrize("name", RECIPES)
def test_rows_grown_by_numpy_are_the_same_to_rounding_and_have_the_same_bytes_in_chunks_of_any_size(name):
    recipe = RECIPES[name]
    whole = grown(recipe)
    at_once = {key: np.full_like(rows, 99) for key, rows in whole.items()}
    recipe.grow(at_once, 0)

    for key, rows in whole.items():
        np.testing.assert_allclose(at_once[key], rows, rtol=3e-7, atol=1e-7)
    for size in (1, 2, 5):
        for first in range(0, recipe.count, size):
            count = min(size, recipe.count - first)
            part = {key: np.full((count, *rows.shape[1:]), 99, rows.dtype) for key, rows in whole.items()}
            recipe.grow(part, first)
            for key, rows in part.items():
                assert rows.tobytes() == at_once[key][first : first + count].tobytes()


def test_rows_that_are_put_together_have_the_same_bytes_by_numpy():
    for recipe in RECIPES.values():
        found = {key: np.empty_like(rows) for key, rows in grown(recipe).items()}
        recipe.grow(found, 0)
        if isinstance(recipe, Rows | Masked | Windows | With | Picked):
            assert all(found[key].tobytes() == rows.tobytes() for key, rows in grown(recipe).items())
        if isinstance(recipe, Path):
            for key, end in recipe.end.items():
                assert (found[key][recipe.places == 1.0] == end).all()


@every_recipe
def test_a_row_by_itself_is_the_row_among_others(recipe):
    whole = grown(recipe)

    for number in range(recipe.count):
        for name, value in recipe.row(number).items():
            np.testing.assert_array_equal(value, whole[name][number])


@every_recipe
def test_the_layout_says_what_a_row_is(recipe):
    found = grown(recipe)

    assert {name: (np.dtype(kind), shape) for name, kind, shape in recipe.layout} == {
        name: (rows.dtype, rows.shape[1:]) for name, rows in found.items()
    }
    assert {len(rows) for rows in found.values()} == {recipe.count}


def test_a_path_leads_from_its_start_to_its_very_end_and_holds_what_has_no_start():
    start = {"x": (PICTURE * 1e3).astype(np.float32)}

    rows = grown(Path(start, {"x": PICTURE, "code": CODES}, np.array([0.0, 0.25, 1.0])))

    np.testing.assert_array_equal(rows["x"][0], start["x"])
    np.testing.assert_array_equal(rows["x"][2], PICTURE)
    np.testing.assert_allclose(rows["x"][1], 0.75 * start["x"] + 0.25 * PICTURE, rtol=1e-5)
    np.testing.assert_array_equal(rows["code"], np.tile(CODES, (3, 1)))


@pytest.mark.parametrize("baselines", [1, 2])
@pytest.mark.parametrize("full", [True, False])
def test_masked_rows_have_what_is_present_of_the_row_and_the_rest_of_each_baseline(baselines, full):
    present = PRESENT if full else PRESENT[:-1]
    recipe = masked(baselines, present)

    rows = grown(recipe)

    expected = []
    for coalition in present[: len(present) - full]:
        for number in range(baselines):
            kept = coalition[np.broadcast_to(LABELS["x"], PICTURE.shape)]
            expected.append(np.where(kept, PICTURE, OTHER[number]))
    expected += [PICTURE] * full
    np.testing.assert_array_equal(rows["x"], expected)
    assert rows["code"].dtype == np.int64


def test_numbers_that_are_none_and_the_zeros_signs_are_put_together_exactly():
    row = np.array([np.inf, -0.0, np.nan, 1.0], np.float32)
    baseline = np.array([[-0.0, np.inf, 2.0, np.nan]], np.float32)
    labels = {"x": np.arange(4, dtype=np.int32)}
    present = np.array([[True, False, True, False]])

    found = grown(Masked({"x": row}, {"x": baseline}, labels, present))["x"]

    assert found.tobytes() == np.array([[np.inf, np.inf, np.nan, np.nan]], np.float32).tobytes()


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_a_baseline_of_zeros_is_put_in_with_its_sign(zero):
    row = np.array([[np.nan, -0.0, 2.0, np.inf]], np.float32)
    labels = {"x": np.arange(4, dtype=np.int32)}
    present = np.array([[True, True, False, False], [False, False, True, True]])

    found = grown(Masked({"x": row}, {"x": np.full((1, 1, 4), zero, np.float32)}, labels, present))["x"]

    assert (
        found.tobytes() == np.array([[[np.nan, -0.0, zero, zero]], [[zero, zero, 2.0, np.inf]]], np.float32).tobytes()
    )


def test_labels_with_fewer_axes_than_a_row_are_those_of_its_last_axes():
    row, baseline = np.arange(12, dtype=np.float32).reshape(3, 4), np.full((1, 3, 4), -1, np.float32)
    recipe = Masked({"x": row}, {"x": baseline}, {"x": np.array([0, 1, 1, 0], np.int32)}, np.array([[True, False]]))
    on_host = {"x": np.empty((1, 3, 4), np.float32)}

    recipe.grow(on_host, 0)

    expected = np.where([True, False, False, True], row, np.float32(-1))
    np.testing.assert_array_equal(on_host["x"][0], expected)
    np.testing.assert_array_equal(grown(recipe)["x"][0], expected)


def test_windows_cover_what_their_places_say_and_the_last_rows_are_the_baseline_and_the_row():
    recipe = windows()

    rows = grown(recipe)

    assert recipe.count == len(rows["x"]) == 4 + 2 + 2
    first = PICTURE.copy()
    first[:, :3, :3] = OTHER[0][:, :3, :3]
    np.testing.assert_array_equal(rows["x"][0], first)
    np.testing.assert_array_equal(rows["code"][4:6], [[7, 1], [3, 8]])
    np.testing.assert_array_equal(rows["x"][-2:], [OTHER[0], PICTURE])
    np.testing.assert_array_equal(rows["code"][-2:], [[7, 8], CODES])


def noise(count, *, seed=5, first=0, shape=(4,), name="x"):
    rows = grown(Noisy({name: np.zeros(shape, np.float32)}, {name: np.float32(1.0)}, seed, count, first))
    return rows[name].astype(np.float64)


def test_noise_is_normal_and_independent_between_rows_and_elements():
    found = noise(20000)

    quantiles = np.quantile(found, [0.025, 0.16, 0.5, 0.84, 0.975])
    np.testing.assert_allclose(quantiles, [-1.96, -0.9945, 0.0, 0.9945, 1.96], atol=0.03)
    np.testing.assert_allclose(np.cov(found.T), np.eye(4), atol=0.04)
    np.testing.assert_allclose(np.corrcoef(found[:-1, 0], found[1:, 0])[0, 1], 0.0, atol=0.03)
    np.testing.assert_allclose(found.mean(axis=0), 0.0, atol=0.03)


def test_noise_follows_from_the_seed_the_input_and_the_rows_number_alone():
    whole = noise(10)

    np.testing.assert_array_equal(noise(4, first=6), whole[6:])
    assert not np.array_equal(noise(10, seed=6), whole)
    assert not np.array_equal(noise(10, name="y"), whole)
    np.testing.assert_array_equal(noise(10, seed=2**64 - 1), noise(10, seed=2**64 - 1))


def test_rows_longer_than_the_table_of_normal_numbers_have_noise_too():
    found = noise(2, shape=(3_000_000,))

    np.testing.assert_allclose(found.std(axis=1), 1.0, atol=0.01)


def test_what_gets_no_noise_is_as_it_was():
    row = {"x": PICTURE, "code": CODES}

    rows = grown(Noisy(row, {"x": np.where(PICTURE > 0, np.float32(0), np.float32(1))}, 1, 3))

    np.testing.assert_array_equal(rows["x"][:, PICTURE > 0], np.tile(PICTURE[PICTURE > 0], (3, 1)))
    assert (rows["x"][:, PICTURE <= 0] != PICTURE[PICTURE <= 0]).all()
    np.testing.assert_array_equal(rows["code"], np.tile(CODES, (3, 1)))
