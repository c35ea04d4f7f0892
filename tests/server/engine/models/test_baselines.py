"""What absence looks like."""

import math
import re

import numpy as np
import pytest
from pellucid_server.engine.asking.question import Feature
from pellucid_server.engine.models.inputs.baselines import (
    baseline_rows,
    baseline_warnings,
    blurred,
    default_kind,
    medoid,
)
from pellucid_server.errors import InvalidRequestError, UnsupportedError
from scipy import ndimage

TENSOR, IMAGE, TABLE = Feature("tensor", True), Feature("image", True), Feature("tabular", True)
WHOLE = Feature("tensor", False)
MASK = Feature("tensor", False, mask=True)
RAW_TABLE = Feature(
    "tabular", True, groups=np.arange(2, dtype=np.int32), columns=("radius", "area"), uncentred=("radius", "area")
)
CODED_TABLE = Feature(
    "tabular",
    True,
    groups=np.array([0, 1, 1, 1], np.int32),
    columns=("age", "status"),
    coded=np.array([False, True, True, True]),
    uncentred=("age", "status"),
)
ROW = np.array([1, 2, 3], np.float32)
BACKGROUND = np.array([[0, 2, 4], [4, 2, 0], [5, 5, 5], [-1, -1, -1]], np.float32)


def baseline(kind, rows, features, background=None, sigma=10.0):
    return baseline_rows(
        kind, rows, features=features, background=background or {}, sigma=sigma, field="explanation.baseline"
    )


NO_ROW, ROWS = False, True


@pytest.mark.parametrize(
    ("features", "background", "one", "many"),
    [
        ({"x": TENSOR}, NO_ROW, "zeros", "zeros"),
        ({"x": TENSOR}, ROWS, "mean", "background"),
        ({"x": WHOLE}, ROWS, "medoid", "background"),
        ({"x": TABLE}, NO_ROW, "zeros", "zeros"),
        ({"x": TABLE}, ROWS, "mean", "background"),
        ({"x": RAW_TABLE}, NO_ROW, "", ""),
        ({"x": RAW_TABLE}, ROWS, "mean", "background"),
        ({"x": CODED_TABLE}, NO_ROW, "", ""),
        ({"x": CODED_TABLE}, ROWS, "medoid", "background"),
        ({"x": IMAGE}, NO_ROW, "zeros", "zeros"),
        ({"x": IMAGE}, ROWS, "zeros", "background"),
        ({"x": IMAGE, "y": TABLE}, ROWS, "mean", "background"),
        ({"x": IMAGE, "y": RAW_TABLE}, NO_ROW, "", ""),
        ({"x": TENSOR, "y": MASK}, ROWS, "mean", "background"),
        ({"x": TENSOR, "y": MASK}, NO_ROW, "zeros", "zeros"),
    ],
)
def test_the_default_is_a_background_where_there_is_one_and_never_a_row_that_means_nothing(
    features, background, one, many
):
    assert default_kind(features, has_background=background, many=False) == one
    assert default_kind(features, has_background=background, many=True) == many


def test_without_anything_sensible_to_compare_with_the_columns_and_what_to_give_are_named():
    with pytest.raises(UnsupportedError) as caught:
        baseline("", {"x": ROW}, {"x": RAW_TABLE})

    assert "zero is the mean of columns 'radius', 'area' of input 'x'" in caught.value.message
    assert "GIVEN" in caught.value.message
    assert "model.toml" in caught.value.message


def test_the_default_of_rows_of_another_length_than_the_backgrounds_is_that_without_a_background():
    kind, rows = baseline("", {"x": ROW[:2]}, {"x": TENSOR}, {"x": BACKGROUND})

    assert (kind, rows["x"].tolist()) == ("zeros", [[0, 0]])


@pytest.mark.parametrize("kind", ["zeros", "mean", "medoid", "background"])
def test_masks_are_left_as_they_are_in_every_baseline_that_is_made(kind):
    flags = np.array([True, False, True])
    background = {"x": BACKGROUND, "m": np.zeros((4, 3), np.bool_)}

    _, rows = baseline(kind, {"m": flags, "x": ROW}, {"m": MASK, "x": TENSOR}, background)

    assert list(rows) == ["m", "x"]
    assert rows["m"].tolist() == [flags.tolist()] * len(rows["x"])


def distance(row, other):
    """Between rows of a number and a column of three categories: in standard deviations, and 2 for a change."""
    return ((row[0] - other[0]) / NUMBERS.std()) ** 2 + 2 * (tuple(row[1:]) != tuple(other[1:]))


NUMBERS = np.array([3.0, 1.0, 100.0, 2.0, 1.5, 2.5, 4.0])
STATES = np.eye(3)[[0, 1, 0, 0, 2, 0, 1]]


@pytest.mark.parametrize("turn", range(7))
def test_the_medoid_is_the_row_with_the_smallest_sum_of_distances(turn):
    rows = np.roll(np.column_stack([NUMBERS, STATES]), turn, axis=0)
    sums = [sum(distance(row, other) for other in rows) for row in rows]

    found = medoid({"x": rows}, {"x": CODED_TABLE})["x"]

    assert found.tolist() == [rows[int(np.argmin(sums))].tolist()]


def test_of_whole_numbers_the_medoid_shares_the_most_with_the_others():
    codes = np.array([[1, 5], [2, 5], [2, 7], [2, 5], [3, 7]])

    assert medoid({"x": codes}, {"x": WHOLE})["x"].tolist() == [[2, 5]]


def test_of_rows_that_are_equally_close_the_first_is_the_medoid():
    rows = np.array([[1.0], [-1.0], [1.0], [-1.0]], np.float32)

    assert medoid({"x": rows}, {"x": TENSOR})["x"].tolist() == [[1.0]]


def test_one_row_that_never_changes_is_its_own_medoid():
    found = medoid({"x": BACKGROUND[:1]}, {"x": TENSOR})

    assert found["x"].tolist() == BACKGROUND[:1].tolist()


@pytest.mark.parametrize(
    ("kind", "features", "parts"),
    [
        ("zeros", {"x": TABLE}, []),
        ("zeros", {"x": TENSOR}, []),
        ("zeros", {"x": RAW_TABLE}, ["'radius', 'area' of input 'x';"]),
        ("zeros", {"x": CODED_TABLE}, ["'age', 'status' of input 'x', and it is no category"]),
        ("mean", {"x": CODED_TABLE}, ["a mean of categories in column 'status'"]),
        ("medoid", {"x": CODED_TABLE}, []),
        ("background", {"x": CODED_TABLE}, []),
        ("given", {"x": CODED_TABLE, "m": MASK}, []),
        ("background", {"x": TENSOR, "m": MASK}, ["Input 'm' is a mask of others"]),
        ("", {"x": CODED_TABLE, "m": MASK}, []),
    ],
)
def test_a_baseline_that_means_nothing_is_warned_of(kind, features, parts):
    found = baseline_warnings(kind, features)

    assert len(found) == len(parts)
    assert all(part in warning for part, warning in zip(parts, found, strict=True))


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


@pytest.mark.parametrize("sigma", [0.3, 2.0, 40.0])
@pytest.mark.parametrize("shape", [(2, 3, 7, 12), (1, 1, 1, 5)])
def test_pictures_are_blurred_as_scipy_blurs_them(shape, sigma):
    rows = np.random.default_rng(3).normal(size=shape).astype(np.float32)

    expected = ndimage.gaussian_filter(rows.astype(np.float64), (0, 0, sigma, sigma), mode="nearest")
    np.testing.assert_allclose(blurred(rows, sigma), expected, rtol=1e-5, atol=1e-6)
    assert blurred(rows, sigma).dtype == np.float32


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
    with pytest.raises(InvalidRequestError, match="'median'; it must be one of: zeros, mean, medoid, blur, background"):
        baseline("median", {"x": ROW}, {"x": TENSOR})


@pytest.mark.parametrize("kind", ["mean", "medoid", "background"])
def test_zeros_are_not_advised_where_zero_means_nothing(kind):
    with pytest.raises(UnsupportedError) as caught:
        baseline(kind, {"x": ROW[:2]}, {"x": RAW_TABLE})

    assert "set the baseline to GIVEN, or add a background" in caught.value.message


@pytest.mark.parametrize(
    ("kind", "features", "background", "advice"),
    [
        ("blur", RAW_TABLE, None, "GIVEN."),
        ("blur", RAW_TABLE, BACKGROUND, "MEAN, MEDOID or GIVEN."),
        ("blur", CODED_TABLE, BACKGROUND, "MEDOID or GIVEN."),
        ("blur", TENSOR, None, "ZEROS or GIVEN."),
        ("blur", TENSOR, BACKGROUND, "ZEROS, MEAN, MEDOID or GIVEN."),
        ("blur", RAW_TABLE, BACKGROUND[:, :2], "GIVEN."),
        ("mean", RAW_TABLE, BACKGROUND[:, :2], "GIVEN."),
        ("medoid", RAW_TABLE, BACKGROUND[:, :2], "GIVEN."),
        ("background", TENSOR, BACKGROUND[:, :2], "ZEROS or GIVEN."),
        ("mean", RAW_TABLE, None, "GIVEN, or add"),
        ("mean", TENSOR, None, "ZEROS or GIVEN, or add"),
        ("medoid", RAW_TABLE, None, "GIVEN, or add"),
    ],
)
def test_a_baseline_that_cannot_be_made_is_refused_with_those_that_mean_something(kind, features, background, advice):
    with pytest.raises(UnsupportedError) as caught:
        baseline(kind, {"x": ROW}, {"x": features}, {} if background is None else {"x": background})

    assert re.search(rf"[Ss]et (the baseline|it) to {advice}", caught.value.message), caught.value.message


def test_another_input_in_raw_units_keeps_zeros_from_being_advised():
    with pytest.raises(UnsupportedError, match="set the baseline to GIVEN, or add"):
        baseline("mean", {"a": ROW, "x": ROW}, {"a": TENSOR, "x": RAW_TABLE})
