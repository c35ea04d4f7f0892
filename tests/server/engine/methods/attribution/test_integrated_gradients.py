import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients
from pellucid_server.engine.methods.shared.paths import (
    POINTS,
    InputLine,
    closed,
    first_segments,
)
from pellucid_server.errors import InvalidRequestError
from server.engine.methods.closed_forms import Formula, Trembling, tensor_question
from server.engine.methods.networks import PICTURE, cnn, mlp, score

SEEDS = range(8)


def kinks(inputs):
    """Seven kinks, up and down, at places that no rule knows of."""
    places = torch.linspace(0.13, 0.887, 7, dtype=torch.float64) ** 1.3
    slopes = torch.tensor([9, -17, 21, -26, 30, -19, 4], dtype=torch.float64)
    return (torch.relu(inputs["x"].mean(dim=1, keepdim=True) - places) * slopes).sum(dim=1)


def test_attributions_sum_to_the_change_of_the_score(explain):
    weights = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    handle = Formula(lambda inputs: (weights * inputs["x"] ** 2).sum(dim=1))

    answer = explain("integrated-gradients", handle, tensor_question([1, -2, 3]), steps=8)

    np.testing.assert_allclose(answer.scores["x"], [1, 8, 27], rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 5, 50])
@pytest.mark.parametrize(("network", "shape"), [(mlp, (6,)), (cnn, PICTURE)])
def test_with_steps_it_is_captums_with_the_same_points(explain, network, shape, steps):
    x = np.random.default_rng(11).normal(size=shape).astype(np.float32)
    module = network()

    answer = explain("integrated-gradients", Formula(score(module, 1)), tensor_question(x, 0.2), steps=steps)

    rows = torch.from_numpy(x).double()[None]
    expected = IntegratedGradients(module).attribute(rows, 0.2, target=1, n_steps=steps, method="gausslegendre")
    scale = float(expected.abs().max())
    np.testing.assert_allclose(answer.scores["x"], expected[0].detach().numpy(), rtol=1e-4, atol=2e-6 * scale)


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: torch.relu(torch.relu(a) - 1 - torch.relu(b)),
        lambda a, b: torch.relu(torch.relu(a - 1) - torch.relu(b)),
    ],
    ids=["one network", "another that computes the same"],
)
def test_what_counts_is_the_function_and_not_how_it_is_written(explain, function):
    handle = Formula(lambda inputs: function(inputs["x"][:, 0], inputs["x"][:, 1]))

    answer = explain("integrated-gradients", handle, tensor_question([3, 1], tolerance=1e-4))

    np.testing.assert_allclose(answer.scores["x"], [1.5, -0.5], atol=1e-3)


def test_exchanging_input_and_baseline_turns_the_signs(explain):
    module, x, other = mlp(), *np.random.default_rng(12).normal(size=(2, 6)).astype(np.float32)

    there = explain("integrated-gradients", Formula(score(module, 0)), tensor_question(x, other), steps=20)
    back = explain("integrated-gradients", Formula(score(module, 0)), tensor_question(other, x), steps=20)

    np.testing.assert_allclose(back.scores["x"], -there.scores["x"], rtol=1e-4, atol=1e-6)


def test_steps_beside_a_tolerance_are_refused(explain):
    question = tensor_question([1.0], tolerance=0.01)

    with pytest.raises(InvalidRequestError, match="is 8; it cannot stand beside a tolerance") as caught:
        explain("integrated-gradients", Formula(lambda inputs: inputs["x"].sum(1)), question, steps=8)

    assert caught.value.metadata == {"field": 'parameters["steps"]'}


@pytest.mark.parametrize("tolerance", [0.1, 0.01, 0.001])
def test_segments_are_halved_until_the_tolerance_is_met(explain, tolerance):
    answer = explain("integrated-gradients", Formula(kinks), tensor_question(np.ones(5), tolerance=tolerance))

    change = answer.instance_value - answer.baseline_value
    exact = kinks({"x": torch.tensor([[1.0] * 5, [0.0] * 5], dtype=torch.float64)})
    assert change == pytest.approx(float(exact[0] - exact[1]))
    assert (answer.tolerance, answer.tolerance_met) == (tolerance, True)
    assert abs(answer.signed_gap) <= tolerance * abs(change)
    assert answer.absolute_gap <= 5 * tolerance * abs(change)
    assert answer.warnings == ()
    np.testing.assert_allclose(answer.scores["x"], np.full(5, change / 5), rtol=1.01 * tolerance)


def test_without_a_tolerance_one_percent_is_met(explain):
    answer = explain("integrated-gradients", Formula(kinks), tensor_question(np.ones(5)))

    assert (answer.tolerance, answer.tolerance_met) == (0.01, True)


def test_with_steps_no_tolerance_is_spoken_of(explain):
    answer = explain("integrated-gradients", Formula(kinks), tensor_question(np.ones(5)), steps=100)

    assert (answer.tolerance, answer.tolerance_met) == (0.0, False)


def test_a_smooth_score_takes_the_first_segments_alone(explain):
    handle = Formula(lambda inputs: torch.sin(inputs["x"]).sum(dim=1))

    explain("integrated-gradients", handle, tensor_question([1.0, 2.0]))

    assert handle.sizes == {"scores": [], "gradient": [4 * POINTS + 5]}


def test_gaps_that_cancel_are_seen(explain):
    # The score rises at 0.3 of the path and falls back at 0.7, alike but for a slope: the two kinks' gaps cancel.
    def bump(inputs):
        place = inputs["x"][:, 0]
        return 10 * torch.clamp(100 * (place - 0.301), 0, 1) - 10 * torch.clamp(100 * (place - 0.689), 0, 1) + place

    question = tensor_question([1.0])
    line = InputLine(question)
    first = first_segments(Formula(bump), line)

    answer = explain("integrated-gradients", Formula(bump), question)

    gaps = np.array([segment.gap for segment in first])
    assert abs(gaps.sum()) <= 0.01
    assert np.abs(gaps).sum() > 1
    assert not closed(first, 0.01)
    assert answer.tolerance_met
    assert answer.absolute_gap <= 0.05


def test_the_segment_with_the_largest_gap_is_halved_first(explain):
    handle = Formula(lambda inputs: (torch.relu(inputs["x"] - 0.1) + 5 * torch.relu(inputs["x"] - 0.6)).sum(dim=1))

    explain("integrated-gradients", handle, tensor_question([1.0], tolerance=1e-4), max_rows=6 * POINTS)

    points = handle.latest["x"][: 2 * POINTS]
    assert points.min() > 0.5
    assert points.max() < 0.75


def test_what_the_rows_do_not_suffice_for_is_said(explain):
    handle = Formula(kinks)

    answer = explain("integrated-gradients", handle, tensor_question(np.ones(5), tolerance=1e-6), max_rows=100)

    change = answer.instance_value - answer.baseline_value
    assert 100 - 2 * POINTS < sum(handle.sizes["gradient"]) - 5 - 4 <= 100
    assert not answer.tolerance_met
    assert abs(answer.signed_gap) > 1e-6 * abs(change) or answer.absolute_gap > 5e-6 * abs(change)
    assert "96 gradient rows, all that max_rows allowed" in answer.warnings[0]
    assert (answer.partial, answer.resolved) == (False, {})


@pytest.mark.parametrize(("seconds", "reserve"), [(0.5, 0.1), (1.5, 0.15)])
def test_what_the_time_does_not_suffice_for_is_said_before_the_deadline(explain, seconds, reserve):
    handle = Formula(kinks, seconds=seconds, row_seconds=0.001)

    answer = explain("integrated-gradients", handle, tensor_question(np.ones(5), tolerance=1e-9), max_rows=65536)

    # The time is used up but for the reserve and what one more segment's halves, of 8 points and an end, would take.
    assert reserve - 0.001 <= handle.seconds_left() < reserve + 0.018
    assert not answer.tolerance_met
    assert answer.partial
    assert answer.tolerance == 1e-9
    assert "all that the deadline allowed" in answer.warnings[0]
    assert answer.scores["x"].sum() == pytest.approx(
        answer.instance_value - answer.baseline_value + answer.signed_gap, rel=1e-5
    )


def test_a_round_takes_half_of_the_time_at_most(explain):
    # Four teeth over four segments, all to be halved: 64 rows, where after the first 37 there is time for 60.
    def teeth(inputs):
        place = 4 * inputs["x"][:, 0]
        return torch.relu(place - place.floor().detach() - 0.3) + place

    handle = Formula(teeth, seconds=0.1 + 0.097, row_seconds=0.001)

    answer = explain("integrated-gradients", handle, tensor_question([1.0], tolerance=1e-9))

    assert handle.sizes["gradient"] == [37, 17 * 2, 17]
    assert not answer.tolerance_met


def test_a_first_round_that_takes_all_the_time_is_the_answer(explain):
    handle = Formula(kinks, seconds=1.0, row_seconds=0.026)

    answer = explain("integrated-gradients", handle, tensor_question(np.ones(5), tolerance=1e-9))

    assert handle.sizes["gradient"] == [4 * POINTS + 5]
    assert "with 32 gradient rows, all that the deadline allowed" in answer.warnings[0]


@pytest.mark.parametrize("seconds", [0.2, 0.5, 1.5])
def test_the_edges_of_an_answer_near_its_deadline_make_it_again(explain, seconds):
    hurried = Formula(kinks, seconds=seconds, row_seconds=0.001)
    question = tensor_question(np.linspace(0.5, 1.5, 5), tolerance=1e-9)
    answer = explain("integrated-gradients", hurried, question)

    again = explain("integrated-gradients", Formula(kinks), question, **answer.resolved)

    np.testing.assert_allclose(again.scores["x"], answer.scores["x"], rtol=1e-6)
    assert again.signed_gap == pytest.approx(answer.signed_gap, rel=1e-6)
    assert again.absolute_gap == pytest.approx(answer.absolute_gap, rel=1e-6)
    assert (again.tolerance, again.tolerance_met, again.partial) == (1e-9, False, False)
    count = len(answer.resolved["edges"]) - 1
    assert f"with {POINTS * count} gradient rows, all that the edges allowed" in again.warnings[0]


def test_a_tolerance_met_in_a_hurry_has_its_edges_told(explain):
    question = tensor_question(np.ones(5))
    hurried = Formula(kinks, seconds=0.5, row_seconds=0.001)

    answer = explain("integrated-gradients", hurried, question)
    again = explain("integrated-gradients", Formula(kinks), question, **answer.resolved)

    assert (answer.tolerance_met, answer.partial) == (True, False)
    assert (again.tolerance_met, again.warnings) == (True, ())
    np.testing.assert_allclose(again.scores["x"], answer.scores["x"], rtol=1e-6)
    assert explain("integrated-gradients", Formula(kinks), question).resolved == {}


def test_the_gaps_of_a_partial_answer_bound_its_error(explain):
    exact = kinks({"x": torch.tensor([[1.0] * 5, [0.0] * 5], dtype=torch.float64)})

    answer = explain(
        "integrated-gradients", Formula(kinks, seconds=0.25, row_seconds=0.001), tensor_question(np.ones(5))
    )

    assert answer.partial
    off = np.abs(answer.scores["x"] - float(exact[0] - exact[1]) / 5)
    # Five elements that the score treats alike share the gap.
    np.testing.assert_allclose(off, np.full(5, abs(answer.signed_gap) / 5), rtol=1e-4)


def test_given_edges_that_meet_the_tolerance_are_not_warned_of(explain):
    edges = np.linspace(0, 1, 101)

    answer = explain("integrated-gradients", Formula(kinks), tensor_question(np.ones(5)), edges=edges)

    assert answer.tolerance_met
    assert (answer.warnings, answer.resolved) == ((), {})
    assert answer.scores["x"].sum() == pytest.approx(
        answer.instance_value - answer.baseline_value + answer.signed_gap, rel=1e-5
    )


@pytest.mark.parametrize(
    "edges",
    [
        np.array([0.0, 0.5]),
        np.array([0.1, 1.0]),
        np.array([0.0, 0.5, 0.5, 1.0]),
        np.array([0.0, np.nan, 1.0]),
        np.array([[0.0, 1.0]]),
        np.array([]),
        np.array([False, True]),
        np.array(0.0),
    ],
    ids=str,
)
def test_edges_that_do_not_cut_the_path_are_refused(explain, edges):
    with pytest.raises(InvalidRequestError, match="must be numbers in one axis that ascend from 0 to 1") as caught:
        explain("integrated-gradients", Formula(kinks), tensor_question(np.ones(5)), edges=edges)

    assert caught.value.metadata == {"field": 'parameters["edges"]'}


def test_more_segments_than_the_rows_suffice_for_are_refused(explain):
    with pytest.raises(InvalidRequestError, match="makes 13 segments; max_rows, 100, suffices for 12"):
        explain(
            "integrated-gradients",
            Formula(kinks),
            tensor_question(np.ones(5)),
            edges=np.linspace(0, 1, 14),
            max_rows=100,
        )


def test_edges_beside_steps_are_refused(explain):
    with pytest.raises(InvalidRequestError, match="cannot stand beside edges"):
        explain(
            "integrated-gradients", Formula(kinks), tensor_question(np.ones(5)), edges=np.array([0.0, 1.0]), steps=8
        )


def test_time_enough_changes_nothing(explain):
    endless, timed = Formula(kinks), Formula(kinks, seconds=60.0, row_seconds=0.001)

    expected, found = (
        explain("integrated-gradients", handle, tensor_question(np.ones(5))) for handle in (endless, timed)
    )

    assert endless.sizes == timed.sizes
    assert found.scores["x"].tobytes() == expected.scores["x"].tobytes()
    assert found.tolerance_met
    assert (found.partial, found.resolved) == (False, {})


def test_a_large_gap_of_few_steps_is_said(explain):
    answer = explain(
        "integrated-gradients", Formula(lambda i: torch.relu(i["x"] - 0.6).sum(1)), tensor_question([1.0]), steps=1
    )

    assert answer.signed_gap == pytest.approx(-0.4)
    assert "ask for more steps" in answer.warnings[0]


@pytest.mark.parametrize("level", [0.0, 1e9])
def test_a_constant_score_is_met_at_once(explain, level):
    answer = explain("integrated-gradients", Trembling(lambda i: level + 0 * i["x"].sum(1), 1), tensor_question([1, 2]))

    assert answer.tolerance_met
    np.testing.assert_array_equal(answer.scores["x"], [0, 0])


def test_a_score_that_comes_back_to_where_it_began_is_still_explained(explain):
    handle = Formula(lambda inputs: inputs["x"][:, 0] ** 3 - inputs["x"][:, 1])

    answer = explain("integrated-gradients", handle, tensor_question([1.0, 1.0]))

    np.testing.assert_allclose(answer.scores["x"], [1, -1], rtol=1e-6)
    assert answer.tolerance_met


@pytest.mark.parametrize("seed", SEEDS)
def test_rounding_does_not_change_the_plan(explain, seed):
    print("seed", seed)
    handles = Formula(kinks), Trembling(kinks, seed)

    quiet, shaken = (explain("integrated-gradients", handle, tensor_question(np.ones(5))) for handle in handles)

    assert handles[0].sizes == handles[1].sizes
    assert len(handles[0].sizes["gradient"]) > 2
    np.testing.assert_allclose(shaken.scores["x"], quiet.scores["x"], rtol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_rounding_does_not_choose_among_segments_that_are_alike(explain, seed):
    print("seed", seed)

    # Four teeth over four segments: every gap is the same.
    def teeth(inputs):
        place = 4 * inputs["x"][:, 0]
        return torch.relu(place - place.floor().detach() - 0.3) + place

    handles = Formula(teeth), Trembling(teeth, seed)

    for handle in handles:
        explain(
            "integrated-gradients", handle, tensor_question([1.0], tolerance=1e-3), max_rows=4 * POINTS + 4 * POINTS
        )

    # The rows suffice for halving two of the four: the first two.
    assert handles[0].sizes == handles[1].sizes
    for handle in handles:
        assert handle.latest["x"].max() < 0.5


def test_end_points_of_pictures_only_go_forward(explain):
    x = np.random.default_rng(13).normal(size=(3, 40, 40)).astype(np.float32)
    handle = Formula(lambda inputs: torch.tanh(inputs["x"]).sum(dim=(1, 2, 3)), block=6)

    answer = explain("integrated-gradients", handle, tensor_question(x, modality="image"), steps=20)

    assert handle.sizes == {"scores": [2], "gradient": [20]}
    np.testing.assert_allclose(answer.scores["x"], np.tanh(x), rtol=1e-5, atol=1e-6)


TABLE = torch.tensor([0.0, 4.0, -2.0, 3.0, 1.0], dtype=torch.float64)


def looked_up(inputs):
    return torch.sin(inputs["x"][:, 0]) + TABLE[inputs["x"][:, 1].detach().long()]


def test_an_element_without_a_gradient_that_the_score_depends_on_is_named_in_place_of_ever_more_points(explain):
    handle = Formula(looked_up)

    answer = explain("integrated-gradients", handle, tensor_question([1.2, 4.0]))

    assert handle.rows[1] < 500
    assert not answer.tolerance_met
    np.testing.assert_allclose(answer.scores["x"], [np.sin(1.2), 0], rtol=1e-3)
    assert answer.signed_gap == pytest.approx(-1.0, abs=1e-3)
    (warning,) = answer.warnings
    assert "The gradient of 1 of the 2 elements of input 'x', the first at index [1], was 0 at all points" in warning


def test_an_element_whose_effects_cancel_at_the_ends_is_named_too(explain):
    # At 0 and at 4 the table has the same number, and others on the way.
    returning = torch.tensor([1.0, 4.0, -2.0, 3.0, 1.0], dtype=torch.float64)
    handle = Formula(lambda i: torch.sin(i["x"][:, 0]) + returning[i["x"][:, 1].detach().long()])

    answer = explain("integrated-gradients", handle, tensor_question([1.2, 4.0]))

    assert handle.rows[1] < 500
    assert "the first at index [1], was 0 at all points" in answer.warnings[0]


def test_codes_of_a_column_are_known_for_what_they_are_after_the_first_round(explain):
    handle = Formula(looked_up)
    question = tensor_question(
        [1.2, 4.0],
        modality="tabular",
        groups=np.array([0, 1], np.int32),
        columns=("age", "level"),
        coded=np.array([False, True]),
    )

    answer = explain("integrated-gradients", handle, question)

    assert handle.rows[1] == 37 + 5
    assert "column 'level' of input 'x' takes values between categories" in answer.warnings[0]
    assert "The gradient of column 'level' of input 'x' was 0 at all points" in answer.warnings[1]


def test_an_input_that_is_looked_up_as_a_whole_is_named_as_one(explain):
    handle = Formula(lambda inputs: TABLE[inputs["x"].detach().long()].sum(1) + 0 * inputs["x"].sum(1))

    answer = explain("integrated-gradients", handle, tensor_question([1.5, 3.5]))

    assert "The gradient of input 'x' was 0 at all points" in answer.warnings[0]


@pytest.mark.parametrize("threshold", [0.5, 0.99, 0.999])
def test_a_kink_beside_an_element_that_does_nothing_is_still_closed(explain, threshold):
    def kink(inputs):
        return torch.relu(inputs["x"][:, 0] - threshold) + 0 * inputs["x"][:, 1]

    answer = explain("integrated-gradients", Formula(kink), tensor_question([1.0, 1.0]))

    assert answer.tolerance_met
    np.testing.assert_allclose(answer.scores["x"], [1 - threshold, 0], rtol=0.011, atol=1e-9)
    assert answer.warnings == ()


def test_with_steps_a_large_gap_names_what_had_no_gradient(explain):
    answer = explain("integrated-gradients", Formula(looked_up), tensor_question([1.2, 4.0]), steps=16)

    assert "the gradient of 1 of the 2 elements of input 'x', the first at index [1], was 0" in answer.warnings[0]


def test_a_column_that_stays_the_same_is_not_warned_of(explain):
    question = tensor_question(
        [1.2, 4.0],
        [0.0, 4.0],
        modality="tabular",
        groups=np.array([0, 1], np.int32),
        columns=("age", "level"),
        coded=np.array([False, True]),
    )

    answer = explain("integrated-gradients", Formula(looked_up), question)

    assert answer.warnings == ()
    assert answer.tolerance_met
