"""Answers at the corners, through the real server: what they compare with, which class, and numbers that are none."""

import itertools
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from e2e import corner_models
from e2e.corner_models import (
    ATTENDED,
    CENTRED,
    CORNERS,
    COUPLED,
    DOUBLE,
    GRADES,
    MASKED,
    PEOPLE,
    PEOPLE_BACKGROUND,
    RAW,
    ROOTS,
    SIGNS,
    people_score,
)
from e2e.serving import Server, serve
from pellucid import Client
from pellucid.errors import InvalidRequestError, PellucidError, UnsupportedError

Floats = npt.NDArray[np.float64]

COMPARING = ("integrated-gradients", "occlusion", "feature-ablation", "kernel-shap")
PERSON = {"age": 52.0, "status": "widowed"}
PERSON_ROW = np.array([1.2, 0, 0, 1])
BACKGROUND = PEOPLE_BACKGROUND.astype(np.float64)
COLUMN_ELEMENTS = ([0], [1, 2, 3])
SERIES = np.array([[2.0, 1.0, -4.0]], np.float32)


@pytest.fixture(scope="module")
def corners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the models at the corners."""
    repository = corner_models.write_corners(tmp_path_factory.mktemp("repository"))
    with serve(repository, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def client(corners: Server) -> Iterator[Client]:
    with Client(corners.address) as connected:
        yield connected


def shapley(
    score: Callable[[Floats], Floats], row: Floats, baselines: Floats, players: Sequence[Sequence[int]]
) -> list[float]:
    """Average what each player adds over all orders, a coalition's worth being the mean over the baseline rows."""

    def worth(present: tuple[int, ...]) -> float:
        rows = baselines.copy()
        for player in present:
            rows[:, players[player]] = row[players[player]]
        return float(score(rows).mean())

    added = [0.0] * len(players)
    orders = list(itertools.permutations(range(len(players))))
    for order in orders:
        for place, player in enumerate(order):
            added[player] += (worth(order[: place + 1]) - worth(order[:place])) / len(orders)
    return added


@pytest.mark.parametrize("method", COMPARING)
def test_a_table_in_raw_units_without_background_is_not_compared_with_zeros(client: Client, method: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        client.attribute(RAW, {"radius": 14.0, "area": 600.0}, method)

    assert caught.value.code.name == "FAILED_PRECONDITION"
    assert "columns 'radius', 'area' of input 'x'" in str(caught.value)
    assert "GIVEN" in str(caught.value)
    assert "background" in str(caught.value)


def test_what_must_be_given_stands_beside_the_methods_that_are_allowed(client: Client) -> None:
    capabilities = client.model(RAW).capabilities

    lacking = {each.method for each in capabilities if each.reason}
    attributing = {each.name for each in client.methods() if each.rpc == "attribute"}
    assert all(each.rows for each in capabilities if each.method in attributing)
    assert all(each.allowed for each in capabilities)
    assert lacking == set(COMPARING)
    assert all("GIVEN" in each.reason for each in capabilities if each.reason)
    assert not any(each.reason for each in client.model(CENTRED).capabilities)


@pytest.mark.parametrize("method", COMPARING)
def test_zeros_are_the_default_where_the_columns_say_that_zero_is_their_mean(client: Client, method: str) -> None:
    found = client.attribute(CENTRED, {"radius": 17.5, "area": 700.0}, method, target="a")

    assert found.receipt.baseline == "zeros"
    assert found.by_column == pytest.approx({"radius": 1.0, "area": 0.0}, abs=1e-6)
    assert found.accuracy.warnings == ()


@pytest.mark.parametrize("method", COMPARING)
def test_zeros_that_are_asked_for_are_given_with_a_warning(client: Client, method: str) -> None:
    raw = client.attribute(RAW, {"radius": 14.0, "area": 600.0}, method, target="a", baseline="zeros")
    people = client.attribute(PEOPLE, PERSON, method, baseline="zeros")

    assert raw.by_column["radius"] == pytest.approx(14.0)
    assert "'radius', 'area'" in raw.accuracy.warnings[0]
    assert any("no category of a one-hot column" in warning for warning in people.accuracy.warnings)


def test_input_x_gradient_says_what_it_takes_for_absence(client: Client) -> None:
    (warning,) = client.attribute(RAW, {"radius": 14.0, "area": 600.0}, "input-x-gradient").accuracy.warnings

    assert "compares with zero" in warning
    assert "'radius', 'area'" in warning


def test_kernel_shap_compares_with_the_whole_background_by_default(client: Client) -> None:
    expected = shapley(people_score, PERSON_ROW, BACKGROUND, COLUMN_ELEMENTS)
    of_the_mean = shapley(people_score, PERSON_ROW, BACKGROUND.mean(0, keepdims=True), COLUMN_ELEMENTS)

    found = client.attribute(PEOPLE, PERSON, "kernel-shap")
    mean = client.attribute(PEOPLE, PERSON, "kernel-shap", baseline="mean")

    assert found.receipt.baseline == "background"
    assert list(found.by_column.values()) == pytest.approx(expected, abs=1e-5)
    assert list(mean.by_column.values()) == pytest.approx(of_the_mean, abs=1e-5)
    # What the default was before says something else of the status.
    assert abs(expected[1] - of_the_mean[1]) > 0.3
    assert any("a mean of categories in column 'status'" in warning for warning in mean.accuracy.warnings)


@pytest.mark.parametrize("method", ["integrated-gradients", "occlusion", "feature-ablation"])
def test_methods_with_one_baseline_compare_a_table_of_categories_with_a_real_row(client: Client, method: str) -> None:
    default = client.attribute(PEOPLE, PERSON, method)
    given = client.attribute(PEOPLE, PERSON, method, baseline={"age": 40.0, "status": "married"})

    assert default.receipt.baseline == "medoid"
    assert default.receipt.baseline_digest == given.receipt.baseline_digest
    assert default.by_column == given.by_column


def test_several_baseline_rows_can_be_given_and_average_like_a_background(client: Client) -> None:
    rows = [{"age": 40.0, "status": "married"}, {"age": 60.0, "status": "widowed"}, {"age": 20.0, "status": "single"}]
    values = np.array([[0.0, 1, 0, 0], [2.0, 0, 0, 1], [-2.0, 0, 1, 0]])

    found = client.attribute(PEOPLE, PERSON, "kernel-shap", baseline=rows)
    fewer = client.attribute(PEOPLE, PERSON, "kernel-shap", baseline=rows[:2])

    expected = shapley(people_score, PERSON_ROW, values, COLUMN_ELEMENTS)
    assert found.receipt.baseline == "given"
    assert list(found.by_column.values()) == pytest.approx(expected, abs=1e-5)
    assert found.baseline_output_value == pytest.approx(people_score(values).mean(), abs=1e-5)
    assert found.receipt.baseline_digest != fewer.receipt.baseline_digest


@pytest.mark.parametrize("method", ["integrated-gradients", "occlusion", "feature-ablation"])
def test_a_method_with_one_baseline_refuses_several_and_says_which_takes_them(client: Client, method: str) -> None:
    rows = [{"age": 40.0, "status": "married"}, {"age": 60.0, "status": "widowed"}]

    with pytest.raises(InvalidRequestError, match=r"has 2 rows.*kernel-shap"):
        client.attribute(PEOPLE, PERSON, method, baseline=rows)


@pytest.mark.parametrize("baseline", ["zeros", "mean", "medoid", "background"])
def test_the_receipts_baseline_makes_the_answer_again(client: Client, baseline: str) -> None:
    first = client.attribute(PEOPLE, PERSON, "kernel-shap", baseline=baseline)
    again = client.attribute(PEOPLE, PERSON, "kernel-shap", baseline=first.receipt.baseline)

    assert again.by_column == first.by_column
    assert again.receipt.baseline_digest == first.receipt.baseline_digest


def test_coalitions_times_baseline_rows_show_in_the_costs_and_are_bounded(client: Client) -> None:
    rows = {each.method: each.rows for each in client.model(PEOPLE).capabilities}
    many = np.zeros((4096, 3), np.float32) - np.arange(1, 4097, dtype=np.float32)[:, None]
    wide = {"series": np.ones((1, 3), np.float32), "mask": np.ones((1, 3), np.bool_)}
    given = {"series": many, "mask": np.ones((4096, 3), np.bool_)}

    found = client.attribute(MASKED, wide, "kernel-shap", baseline=given)

    assert rows["kernel-shap"] == 3 * len(PEOPLE_BACKGROUND) + 1
    assert found.receipt.work.rows_forward == 7 * 4096 + 1
    with pytest.raises(InvalidRequestError, match="4097 rows"):
        client.attribute(MASKED, wide, "kernel-shap", baseline={name: _longer(value) for name, value in given.items()})


def _longer(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate([rows, rows[:1]])


@pytest.mark.parametrize("method", COMPARING)
@pytest.mark.parametrize(("model", "name"), [(MASKED, "mask"), (ATTENDED, "attention_mask")])
def test_a_mask_is_held_and_what_it_has_is_explained(client: Client, method: str, model: str, name: str) -> None:
    mask = np.array([[1, 1, 0]]).astype(np.bool_ if model == MASKED else np.int64)

    found = client.attribute(model, {"series": SERIES, name: mask}, method)

    # The mean of the first two: each adds half of itself to the zero of the baseline.
    np.testing.assert_allclose(found.scores["series"], [1.0, 0.5, 0.0], atol=1e-6)
    np.testing.assert_array_equal(found.scores[name], np.zeros(3))
    assert any(f"Input '{name}'" in warning and "held at its value" in warning for warning in found.accuracy.warnings)


def test_a_mask_that_the_caller_switches_off_leaves_no_answer(client: Client) -> None:
    inputs = {"series": SERIES, "mask": np.ones((1, 3), np.bool_)}
    nothing = {"series": 0 * SERIES, "mask": np.zeros((1, 3), np.bool_)}

    with pytest.raises(InvalidRequestError, match="the score nan at row 0 of the baseline") as caught:
        client.attribute(MASKED, inputs, "kernel-shap", baseline=nothing)

    assert caught.value.metadata["field"] == "explanation.baseline"


@pytest.mark.parametrize(
    ("model", "x", "method", "part"),
    [
        (ROOTS, [0.0, 1.0, 4.0], "saliency", "not finite for 1 of the 3 elements of input 'x', first inf at index [0]"),
        (ROOTS, [0.0, 1.0, 4.0], "input-x-gradient", "first inf at index [0]"),
        (ROOTS, [0.0, 1.0, 4.0], "smoothgrad", "nan near row 0 of inputs"),
        (SIGNS, [1.0, -2.0, 3.0], "integrated-gradients", "the score nan at row 0 of the baseline"),
        (SIGNS, [1.0, -2.0, 3.0], "kernel-shap", "no finite score for 7 of the 8 rows"),
        (SIGNS, [1.0, -2.0, 3.0], "occlusion", "the score nan"),
        (SIGNS, [1.0, -2.0, 3.0], "feature-ablation", "the score nan"),
    ],
)
def test_numbers_that_are_none_are_refused_with_where_they_came_up(
    client: Client, model: str, x: list[float], method: str, part: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        client.attribute(model, np.array([x], np.float32), method)

    assert part in str(caught.value)
    assert "max_rows" not in str(caught.value)


def test_with_a_baseline_that_has_signs_there_is_an_answer(client: Client) -> None:
    found = client.attribute(
        SIGNS, np.array([[1.0, -2.0, 3.0]], np.float32), "kernel-shap", baseline=-np.ones((1, 3), np.float32)
    )

    np.testing.assert_allclose(found.scores["x"], [2.0, 0.0, 2.0], atol=1e-6)


def test_integrated_gradients_of_roots_from_zero_need_no_slope_where_nothing_moves(client: Client) -> None:
    found = client.attribute(ROOTS, np.array([[0.0, 1.0, 4.0]], np.float32), tolerance=0.001)

    np.testing.assert_allclose(found.scores["x"], [0.0, 1.0, 2.0], rtol=2e-3)


@pytest.mark.parametrize("method", ["saliency", "integrated-gradients", "kernel-shap", "occlusion"])
def test_scores_beyond_single_precision_are_refused_or_come_in_double(client: Client, method: str) -> None:
    x = np.array([[2.0, 1.0]])

    with pytest.raises(InvalidRequestError, match=r"reach 3e\+200, which float32 cannot hold.*FLOAT64"):
        client.attribute(DOUBLE, x, method)
    found = client.attribute(DOUBLE, x, method, dtype="float64").scores["x"]

    assert found.dtype == np.float64
    np.testing.assert_allclose(np.abs(found), [1e200 if method == "saliency" else 2e200, 3e200])


@pytest.mark.parametrize("scale", [1e6, 1e-9])
def test_half_precision_refuses_what_it_would_clip_or_flush(client: Client, scale: float) -> None:
    row = np.array([[1.0, scale, 1.0]], np.float32)

    with pytest.raises(InvalidRequestError, match=r"which float16 cannot hold.*FLOAT32"):
        client.attribute(CORNERS, row, "input-x-gradient", target="b", dtype="float16")

    assert client.attribute(CORNERS, row, "input-x-gradient", target="b").scores["x"][1] == np.float32(scale)


NEAR = {
    "a hair": ([1000.0, 1000.005, 1.0], "b"),
    "a hair the other way": ([1000.005, 1000.0, 1.0], "a"),
    "equal": ([3.0, 3.0, 1.0], "a"),
    "zeros of both signs": ([-0.0, 0.0, 1.0], "a"),
    "negative": ([-1000.005, -1000.0, 1.0], "b"),
    "huge": ([3.0e38, 3.1e38, 1.0], "b"),
}


@pytest.mark.parametrize(("row", "label"), NEAR.values(), ids=NEAR)
def test_the_class_that_is_explained_is_the_one_that_is_predicted(client: Client, row: list[float], label: str) -> None:
    x = np.array([row], np.float32)

    prediction = client.predict(CORNERS, x, explanations=["saliency"])
    alone = client.attribute(CORNERS, x, "saliency")

    assert prediction.top[0][0].label == label
    assert prediction.explanations[0].attribution.label == label
    assert alone.label == label
    assert alone.top[0].label == label


@pytest.mark.parametrize(
    ("row", "part"),
    [([1.0, 1.0, 0.0], "The score of row 0 of inputs is inf"), ([1.0, 0.0, 0.0], "has NaN in 1 of its 2 values")],
    ids=["infinity", "NaN"],
)
def test_where_the_highest_is_no_number_nothing_else_is_explained_in_its_place(
    client: Client, row: list[float], part: str
) -> None:
    x = np.array([row], np.float32)

    prediction = client.predict(CORNERS, x, explanations=["saliency"])
    with pytest.raises(InvalidRequestError) as caught:
        client.attribute(CORNERS, x, "saliency")

    assert part in str(caught.value)
    error = prediction.explanations[0].error
    assert isinstance(error, PellucidError)
    assert part in str(error)


def test_a_prediction_that_is_no_number_is_given_and_said(client: Client) -> None:
    prediction = client.predict(CORNERS, np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0]], np.float32))

    np.testing.assert_array_equal(prediction.outputs["output"][1:], [[1, math.inf], [1, math.nan]])
    assert [row[0].label for row in prediction.top] == ["a", "b", "a"]
    assert [each.probability for each in (*prediction.top[1], *prediction.top[2])] == [None, None, None]
    assert len(prediction.warnings) == 2
    assert "Output 'output' of row 1 is not finite for 1 of its 2 values, first inf" in prediction.warnings[0]
    assert "2 warnings" in repr(prediction)


def test_the_command_writes_json_that_every_reader_takes(corners: Server, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.array([[1, 1, 0], [1, 0, 0]], np.float32))
    command = [str(Path(sys.executable).parent / "pellucid"), "predict", CORNERS, str(tmp_path / "rows.npy"), "--json"]

    done = subprocess.run(
        [*command, "--address", corners.address], capture_output=True, text=True, timeout=120, check=True
    )

    found = json.loads(done.stdout, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert found["outputs"]["output"] == [[1.0, "Infinity"], [1.0, "NaN"]]
    assert len(found["warnings"]) == 2


def test_the_command_takes_baseline_rows_from_a_file(corners: Server, tmp_path: Path) -> None:
    (tmp_path / "baseline.json").write_text('[{"radius": 1, "area": 2}, {"radius": 3, "area": 2}]')
    command = [str(Path(sys.executable).parent / "pellucid"), "attribute", RAW, "--row", "radius=14", "--row", "area=6"]
    command += ["--method", "kernel-shap", "--target", "a", "--baseline", str(tmp_path / "baseline.json"), "--json"]

    done = subprocess.run(
        [*command, "--address", corners.address], capture_output=True, text=True, timeout=120, check=True
    )

    (found,) = json.loads(done.stdout)
    assert found["inputs"]["x"]["scores"] == pytest.approx([12.0, 0.0])


@pytest.mark.parametrize("level", corner_models.LEVELS)
@pytest.mark.parametrize("seed", range(3))
def test_smoothgrad_leaves_category_codes_alone(client: Client, level: str, seed: int) -> None:
    found = client.attribute(GRADES, {"age": 52.0, "level": level}, "smoothgrad", seed=seed)

    assert found.by_column["level"] == 0.0
    # The slope of a sine at 1.2, smoothed by a Gaussian of 0.15 of 8 standard deviations.
    assert found.by_column["age"] == pytest.approx(math.cos(1.2) * math.exp(-(1.2**2) / 2), abs=0.3)
    assert any("No noise was added to column 'level'" in warning for warning in found.accuracy.warnings)


def test_integrated_gradients_say_which_column_has_no_gradient_and_stop(client: Client) -> None:
    found = client.attribute(GRADES, {"age": 52.0, "level": "top"}, baseline={"age": 40.0, "level": "low"})

    assert found.receipt.work.rows_backward < 50
    assert found.accuracy.tolerance_met is False
    assert found.by_column == pytest.approx({"age": math.sin(1.2), "level": 0.0}, abs=0.01)
    warnings = " ".join(found.accuracy.warnings)
    assert "Along the path column 'level' of input 'x' takes values between categories" in warnings
    assert "The gradient of column 'level' of input 'x' was 0 at all points" in warnings


def test_kernel_shap_gives_the_column_without_a_gradient_its_share(client: Client) -> None:
    found = client.attribute(
        GRADES, {"age": 52.0, "level": "top"}, "kernel-shap", baseline={"age": 40.0, "level": "low"}
    )

    assert found.by_column == pytest.approx({"age": math.sin(1.2), "level": 3.0}, abs=1e-5)


@pytest.mark.parametrize("method", ["saliency", "smoothgrad", "integrated-gradients", "feature-ablation"])
def test_rows_that_depend_on_one_another_are_explained_by_themselves_which_is_said(client: Client, method: str) -> None:
    rows = np.array([[1, 2, 3], [3, 2, 1]], np.float32)

    prediction = client.predict(COUPLED, rows, explanations=[method])

    # Together the rows have the mean 2, 2, 2; each by itself is its own mean.
    np.testing.assert_array_equal(prediction.outputs["output"], [[12], [12]])
    for found in (*prediction.explanations[0].attributions, *client.attribute_rows(COUPLED, rows, method)):
        assert found.instance_output_value == 14
        (warning,) = [text for text in found.accuracy.warnings if "depend on one another" in text]
        assert "the explained score, 14, is of this row by itself" in warning
        assert "Predict evaluates all 2 rows together" in warning


def test_a_row_that_is_sent_alone_has_one_score_and_needs_no_such_warning(client: Client) -> None:
    row = np.array([[1, 2, 3]], np.float32)

    prediction = client.predict(COUPLED, row, explanations=["saliency"])

    found = prediction.explanations[0].attribution
    assert prediction.outputs["output"].tolist() == [[found.instance_output_value]] == [[14]]
    assert found.accuracy.warnings == ()


@pytest.mark.parametrize("method", ["saliency", "input-x-gradient", "smoothgrad", "occlusion", "feature-ablation"])
def test_an_answer_without_a_tolerance_has_none_to_report(client: Client, method: str) -> None:
    accuracy = client.attribute(CENTRED, {"radius": 15.0, "area": 700.0}, method).accuracy

    assert (accuracy.tolerance, accuracy.absolute_tolerance, accuracy.tolerance_met) == (None, None, None)


def test_both_tolerances_of_integrated_gradients_are_stated_and_kept(client: Client) -> None:
    row = np.array([[4.0, 9.0, 2.0]], np.float32)

    found = client.attribute(ROOTS, row, "integrated-gradients", tolerance=0.002)

    change = found.instance_output_value - float(found.baseline_output_value or 0)
    assert change == pytest.approx(5 + math.sqrt(2))
    accuracy = found.accuracy
    assert (accuracy.tolerance, accuracy.tolerance_met) == (0.002, True)
    assert accuracy.absolute_tolerance == pytest.approx(0.01)
    assert abs(accuracy.signed_gap or 0) <= 0.002 * change
    assert (accuracy.absolute_gap or 0) <= 0.01 * change
