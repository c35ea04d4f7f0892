"""What absence looks like."""

import math

import numpy as np
import pytest
from pellucid_server.engine.models.baselines import baseline_rows, blurred
from pellucid_server.engine.question import Feature
from pellucid_server.errors import InvalidRequestError, UnsupportedError

TENSOR, IMAGE, TABLE = Feature("tensor", True), Feature("image", True), Feature("tabular", True)
WHOLE = Feature("tensor", False)
ROW = np.array([1, 2, 3], np.float32)
BACKGROUND = np.array([[0, 2, 4], [4, 2, 0], [5, 5, 5], [-1, -1, -1]], np.float32)


def baseline(kind, rows, features, background=None, sigma=10.0):
    return baseline_rows(
        kind, rows, features=features, background=background or {}, sigma=sigma, field="explanation.baseline"
    )


@pytest.mark.parametrize(
    ("features", "background", "kind"),
    [
        ({"x": TENSOR}, {}, "zeros"),
        ({"x": TENSOR}, {"x": BACKGROUND}, "zeros"),
        ({"x": TABLE}, {}, "zeros"),
        ({"x": TABLE}, {"x": BACKGROUND}, "mean"),
    ],
)
def test_the_default_is_the_mean_of_a_tables_background_and_zeros_otherwise(features, background, kind):
    assert baseline("", {"x": ROW}, features, background)[0] == kind


def test_the_default_of_a_picture_is_zeros():
    kind, rows = baseline("", {"x": np.ones((3, 2, 2), np.float32)}, {"x": IMAGE})

    assert kind == "zeros"
    assert rows["x"].tolist() == np.zeros((1, 3, 2, 2)).tolist()


def test_zeros_have_the_rows_type():
    _, rows = baseline("zeros", {"x": ROW, "i": np.array([7])}, {"x": TENSOR, "i": WHOLE})

    assert (rows["x"].dtype, rows["x"].tolist()) == (np.float32, [[0, 0, 0]])
    assert (rows["i"].dtype, rows["i"].tolist()) == (np.int64, [[0]])


def test_the_mean_is_the_mean_of_the_background():
    _, rows = baseline("mean", {"x": ROW}, {"x": TABLE}, {"x": BACKGROUND})

    assert (rows["x"].dtype, rows["x"].tolist()) == (np.float32, [[2, 2, 2]])


def test_the_mean_of_whole_numbers_is_the_most_frequent_and_the_least_of_several():
    background = {"i": np.array([[1, 9], [1, 3], [8, 3], [8, 9]])}

    _, rows = baseline("mean", {"i": np.array([0, 0])}, {"i": WHOLE}, background)

    assert (rows["i"].dtype, rows["i"].tolist()) == (np.int64, [[1, 3]])


def test_the_mean_of_a_picture_without_background_is_its_own_mean_colour():
    picture = np.array([[[0, 4]], [[1, 2]], [[-3, 3]]], np.float32)

    _, rows = baseline("mean", {"x": picture}, {"x": IMAGE})

    assert (rows["x"].dtype, rows["x"].tolist()) == (np.float32, [[[[2, 2]], [[1.5, 1.5]], [[0, 0]]]])


def test_the_background_is_given_row_by_row():
    kind, rows = baseline("background", {"x": ROW}, {"x": TABLE}, {"x": BACKGROUND})

    assert kind == "background"
    assert rows["x"].tolist() == BACKGROUND.tolist()


def test_a_point_is_blurred_into_a_gaussian_in_its_channel_alone():
    picture = np.zeros((2, 41, 41), np.float32)
    picture[1, 20, 20] = 1

    _, rows = baseline("blur", {"x": picture}, {"x": IMAGE}, sigma=3.0)

    assert rows["x"].shape == (1, 2, 41, 41)
    assert rows["x"].dtype == np.float32
    assert (rows["x"][0, 0] == 0).all()
    weights = np.array([math.exp(-(d**2) / 18) for d in range(-12, 13)])
    weights /= weights.sum()
    np.testing.assert_allclose(rows["x"][0, 1, 8:33, 8:33], np.outer(weights, weights), atol=1e-7)


def test_rows_are_blurred_apart_and_a_flat_picture_stays_flat():
    rows = np.stack([np.zeros((1, 5, 5)), np.ones((1, 5, 5))]).astype(np.float32)

    np.testing.assert_allclose(blurred(rows, 4.0), rows, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "feature", "part"),
    [
        ("blur", TABLE, "Input 'x' is no picture"),
        ("mean", TENSOR, "no background rows, whose mean would be the baseline of input 'x'"),
        ("background", TENSOR, "no background rows to compare with"),
    ],
)
def test_a_baseline_that_the_model_cannot_give_is_refused_with_the_remedy(kind, feature, part):
    with pytest.raises(UnsupportedError) as caught:
        baseline(kind, {"x": ROW}, {"x": feature})

    assert part in caught.value.message
    assert "ZEROS" in caught.value.message


@pytest.mark.parametrize("kind", ["mean", "background"])
def test_a_background_of_another_length_than_the_row_is_refused(kind):
    with pytest.raises(UnsupportedError, match=r"shape \(3,\) for input 'x', and this row is \(2,\)"):
        baseline(kind, {"x": ROW[:2]}, {"x": TENSOR}, {"x": BACKGROUND})


@pytest.mark.parametrize("sigma", [0.0, -1.0, 100.5, math.nan])
def test_a_blur_out_of_range_is_refused(sigma):
    with pytest.raises(InvalidRequestError) as caught:
        baseline("blur", {"x": np.zeros((1, 2, 2), np.float32)}, {"x": IMAGE}, sigma=sigma)

    assert caught.value.metadata["field"] == "explanation.baseline.blur_sigma"


def test_an_unknown_kind_is_refused():
    with pytest.raises(InvalidRequestError, match="'median'; it must be one of: zeros, mean, blur, background"):
        baseline("median", {"x": ROW}, {"x": TENSOR})
