import itertools
import math

import numpy as np
import pytest
import torch
from captum.attr import ShapleyValues
from pellucid_server.engine.asking import registry
from pellucid_server.errors import InvalidRequestError, TimedOutError
from server.engine.methods.closed_forms import Formula, tensor_question
from server.engine.methods.networks import PICTURE, cnn, mlp, multi_layer, score

SEEDS = range(60)


def by_permutations(function, x, baselines):
    """Average what each element adds over every order in which elements can come: the definition."""
    found = np.zeros(len(x))
    for order in itertools.permutations(range(len(x))):
        rows = np.array(baselines, np.float64)
        before = float(function({"x": torch.from_numpy(rows)}).mean())
        for element in order:
            rows[:, element] = x[element]
            after = float(function({"x": torch.from_numpy(rows)}).mean())
            found[element] += after - before
            before = after
    return found / math.factorial(len(x))


def tangled(inputs):
    """Eighteen elements that act in pairs and threes, with kinks."""
    x = inputs["x"]
    return torch.relu(x[:, :6] * x[:, 6:12] - x[:, 12:]).sum(1) + torch.tanh(x.sum(1) / 4) + x[:, 0] * x[:, 5] * x[:, 9]


def eighteen(seed):
    return tensor_question(np.linspace(-1.5, 2, 18)[np.random.default_rng(17).permutation(18)], 0.1, seed=seed)


@pytest.mark.parametrize("rows", [1, 4])
def test_it_is_the_average_over_all_orders(explain, rows):
    module, source = mlp(), np.random.default_rng(16)
    x, baselines = source.normal(size=6).astype(np.float32), source.normal(size=(rows, 6)).astype(np.float32)

    answer = explain("kernel-shap", Formula(score(module, 0), block=37), tensor_question(x, baselines))

    expected = by_permutations(score(module, 0), x, baselines)
    np.testing.assert_allclose(answer.group_scores, expected, atol=1e-7)
    np.testing.assert_array_equal(answer.group_standard_errors, np.zeros(6))


@pytest.mark.parametrize(("baseline", "expected"), [(0.0, (76.667, 196.667, 116.667)), (20.0, (0, 120, 40))])
def test_captums_own_numbers(explain, baseline, expected):
    handle = Formula(lambda inputs: multi_layer(inputs["x"]))

    answer = explain("kernel-shap", handle, tensor_question([20, 50, 30], baseline))

    np.testing.assert_allclose(answer.scores["x"], expected, rtol=1e-5)


def test_a_pictures_groups_are_captums_with_the_same_regions(explain):
    module, x = cnn(), np.random.default_rng(18).normal(size=PICTURE).astype(np.float32)
    question = tensor_question(x, modality="image")

    answer = explain("kernel-shap", Formula(score(module, 2)), question, regions="grid", segments=6)

    mask = torch.from_numpy(np.tile(answer.groups["x"], (3, 1, 1))).long()[None]
    oracle = ShapleyValues(module)
    expected = oracle.attribute(torch.from_numpy(x).double()[None], target=2, feature_mask=mask)[0].numpy()
    np.testing.assert_allclose(answer.group_scores[answer.groups["x"]][0], expected[0], atol=1e-6)
    assert answer.scores["x"].sum() == pytest.approx(answer.group_scores.sum(), abs=1e-5)


def test_groups_that_equal_the_background_score_nothing_and_cost_nothing(explain):
    handle = Formula(lambda inputs: inputs["x"].sum(dim=1))

    answer = explain("kernel-shap", handle, tensor_question([0, 5, 2, 7], [0, 1, 2, 3]))

    np.testing.assert_allclose(answer.group_scores, [0, 4, 0, 4])
    assert handle.sizes["scores"] == [2**2]


def test_two_conditions_share_what_both_are_needed_for(explain):
    handle = Formula(lambda inputs: inputs["x"][:, 0] * inputs["x"][:, 1])
    background = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])

    answer = explain("kernel-shap", handle, tensor_question([1, 1], background))

    np.testing.assert_allclose(answer.group_scores, [0.375, 0.375])
    assert (answer.baseline_value, answer.instance_value) == (0.25, 1)
    # Every coalition with every row of the background, but the full one, where it makes no difference.
    assert handle.sizes["scores"] == [3 * 4 + 1]


def test_a_pair_of_gloves_is_worth_what_is_scarce(explain):
    # One left and two right gloves; a pair is worth 1.
    handle = Formula(
        lambda inputs: torch.minimum(inputs["x"][:, 0], torch.maximum(inputs["x"][:, 1], inputs["x"][:, 2]))
    )

    answer = explain("kernel-shap", handle, tensor_question([1, 1, 1]))

    np.testing.assert_allclose(answer.group_scores, [4 / 6, 1 / 6, 1 / 6])


@pytest.mark.parametrize("samples", [120, 512, 2108])
def test_sampled_a_linear_score_is_exact_and_known_to_be(explain, samples):
    source = np.random.default_rng(19)
    weights, x, background = source.normal(size=30), source.normal(size=30), source.normal(size=(5, 30))
    handle = Formula(lambda inputs: inputs["x"] @ torch.from_numpy(weights))

    answer = explain("kernel-shap", handle, tensor_question(x, background), samples=samples)

    change = np.float32(x).astype(float) - np.float32(background).astype(float).mean(axis=0)
    np.testing.assert_allclose(answer.group_scores, weights * change, atol=1e-6)
    assert answer.group_standard_errors.max() < 1e-6


@pytest.mark.parametrize("seed", SEEDS[::10])
def test_sampled_scores_sum_to_the_change_of_the_score(explain, seed):
    print("seed", seed)

    answer = explain("kernel-shap", Formula(tangled), eighteen(seed), samples=200)

    change = answer.instance_value - answer.baseline_value
    assert answer.group_scores.sum() == pytest.approx(change, abs=1e-9)
    assert abs(answer.signed_gap) < 1e-9


@pytest.mark.parametrize("samples", [80, 300, 2000])
def test_standard_errors_are_as_large_as_the_errors(explain, samples):
    print("seeds", SEEDS)
    exact = explain("kernel-shap", Formula(tangled), eighteen(0), samples=16384).group_scores
    answers = [explain("kernel-shap", Formula(tangled), eighteen(seed), samples=samples) for seed in SEEDS]

    errors = np.array([answer.group_scores for answer in answers]) - exact
    ratios = errors / np.array([answer.group_standard_errors for answer in answers])

    assert 0.85 < np.sqrt((ratios**2).mean()) < 1.2
    assert np.abs(errors.mean(axis=0)).max() < 5 * errors.std(axis=0).max() / np.sqrt(len(SEEDS))


def test_more_samples_make_smaller_errors(explain):
    few, many = (explain("kernel-shap", Formula(tangled), eighteen(0), samples=n) for n in (200, 3200))

    assert many.group_standard_errors.max() < few.group_standard_errors.max() / 3


def test_the_seed_decides_what_is_drawn(explain):
    first, again, other = (explain("kernel-shap", Formula(tangled), eighteen(seed), samples=200) for seed in (5, 5, 6))

    assert first.group_scores.tobytes() == again.group_scores.tobytes()
    assert (first.group_scores != other.group_scores).all()


def test_by_default_two_samples_a_group_and_2048_are_taken(explain):
    handle = Formula(tangled, block=10000)

    explain("kernel-shap", handle, eighteen(0))

    assert handle.sizes["scores"] == [2 * 18 + 2048 + 2]


def test_the_samples_that_were_left_out_are_told_and_giving_them_changes_nothing(explain):
    answer = explain("kernel-shap", Formula(tangled), eighteen(3))

    again = explain("kernel-shap", Formula(tangled), eighteen(3), **answer.resolved)

    assert answer.resolved == {"samples": 2 * 18 + 2048}
    assert again.group_scores.tobytes() == answer.group_scores.tobytes()


def test_too_few_samples_are_refused_with_how_many_would_do(explain):
    with pytest.raises(InvalidRequestError, match="is 71; it must be at least 72 for 18 varying groups") as caught:
        explain("kernel-shap", Formula(tangled), eighteen(0), samples=71)

    assert caught.value.metadata == {"field": 'parameters["samples"]'}


def test_a_tables_columns_are_the_players(explain):
    columns = np.array([0, 1, 1, 1, 2], np.int32)
    question = tensor_question([0.5, 0, 1, 0, 2.0], [0, 1, 0, 0, 1.0], modality="tabular", groups=columns)
    handle = Formula(lambda inputs: inputs["x"][:, 0] * (inputs["x"][:, 2] - inputs["x"][:, 1]) + inputs["x"][:, 4])

    answer = explain("kernel-shap", handle, question)

    # The score goes from 0 * -1 + 1 to 0.5 * 1 + 2; with the first column alone, to 0.5 * -1 + 1.
    np.testing.assert_allclose(answer.group_scores, [0, 0.5, 1], atol=1e-12)
    np.testing.assert_allclose(answer.scores["x"], [0, 0.5 / 3, 0.5 / 3, 0.5 / 3, 1], rtol=1e-6)


def hurried(forward_seconds):
    return Formula(tangled, seconds=1.0, forward_seconds=forward_seconds)


@pytest.mark.parametrize("forward_seconds", [0.0022, 0.001, 0.0006])
def test_near_the_deadline_it_answers_with_the_coalitions_so_far(explain, forward_seconds):
    handle = hurried(forward_seconds)

    answer = explain("kernel-shap", handle, eighteen(1))

    evaluated = answer.resolved["evaluated"]
    # What is left beside the reserve, 0.1 s and at most 3 ms for the regression, is too little for another pair.
    assert 0.1 <= handle.seconds_left() < 0.103 + 2 * forward_seconds
    assert sum(handle.sizes["scores"]) == evaluated + 2
    assert 4 * 18 <= evaluated < 2 * 18 + 2048
    assert answer.partial
    assert f"time for {evaluated} of the 2084 coalitions" in answer.warnings[0]
    assert handle.shares[-1] == pytest.approx(evaluated / 2084)
    assert sorted(handle.shares) == handle.shares


def picture_of_tiles():
    """Return a question about a picture of 8 x 8 even tiles, which are its superpixels."""
    tiles = np.random.default_rng(3).permutation(64).reshape(8, 8).astype(np.float32) + 1
    return tensor_question(np.kron(tiles, np.ones((3, 12, 12), np.float32)), modality="image")


@pytest.mark.parametrize("forward_seconds", [0.005, 0.01])
def test_a_picture_of_more_regions_than_there_is_time_for_is_refused_before_a_row_is_evaluated(
    explain, forward_seconds
):
    handle = Formula(lambda inputs: inputs["x"].sum((1, 2, 3)), seconds=1.0, forward_seconds=forward_seconds)
    method = registry.lookup("kernel-shap")
    known = method.cost(method.resolve({"segments": 64}), picture_of_tiles()).lowest.forward

    with pytest.raises(TimedOutError, match="varying groups needs at least") as caught:
        explain("kernel-shap", handle, picture_of_tiles(), segments=64)

    assert handle.sizes["scores"] == []
    assert caught.value.metadata["stage"] == "refused"
    needed = float(caught.value.metadata["needed_seconds"])
    # Before the regions are found, fewer are counted on, for which there might have been time.
    assert needed > max(1.0, 0.8 * forward_seconds * known)


def test_what_turns_out_too_slow_for_the_least_answer_is_given_up_long_before_the_deadline(explain):
    class Slower(Formula):
        def least_seconds(self, rows):
            return super().least_seconds(rows) / 4

    handle = Slower(tangled, seconds=1.0, forward_seconds=0.004)

    with pytest.raises(TimedOutError, match=r"18 varying groups needs 282 more coalitions, 1\.1\d s or more"):
        explain("kernel-shap", handle, eighteen(1))

    assert sum(handle.sizes["scores"]) == 378 - 282 + 2
    assert handle.seconds_left() > 0.5


def test_the_largest_design_has_a_partial_answer_within_a_second(explain):
    weights = torch.from_numpy(np.random.default_rng(20).normal(size=512))
    handle = Formula(lambda inputs: inputs["x"] @ weights, seconds=1.0, forward_seconds=0.0002)

    answer = explain("kernel-shap", handle, tensor_question(np.ones(512)), samples=16384)

    # At least 1024 pairs make a design; a fifth of a second is kept for its regression, and a tenth to answer.
    assert 2 * 1500 < answer.resolved["evaluated"] < 16384
    assert handle.seconds_left() > 0.17
    assert answer.partial
    np.testing.assert_allclose(answer.group_scores, weights, atol=1e-6)


@pytest.mark.parametrize("forward_seconds", [0.0022, 0.001, 0.0006])
def test_the_coalitions_that_there_was_time_for_make_the_same_answer_again(explain, forward_seconds):
    answer = explain("kernel-shap", hurried(forward_seconds), eighteen(2))

    again = explain("kernel-shap", Formula(tangled, block=50), eighteen(2), **answer.resolved)

    np.testing.assert_allclose(again.group_scores, answer.group_scores, rtol=1e-6)
    np.testing.assert_allclose(again.group_standard_errors, answer.group_standard_errors, rtol=1e-6)
    assert again.resolved == answer.resolved
    assert (again.partial, again.warnings) == (False, ())


def test_a_partial_answer_still_sums_to_the_change_of_the_score(explain):
    answer = explain("kernel-shap", hurried(0.002), eighteen(3))

    change = answer.instance_value - answer.baseline_value
    exact = tangled({"x": torch.from_numpy(np.stack([eighteen(3).inputs["x"], np.full(18, 0.1, np.float32)])).double()})
    assert change == pytest.approx(float(exact[0] - exact[1]))
    assert answer.group_scores.sum() == pytest.approx(change, abs=1e-9)


@pytest.mark.parametrize(("samples", "evaluated"), [(2084, 378), (2084, 800), (300, 80), (2084, 2000)])
def test_standard_errors_of_a_part_are_as_large_as_the_errors(explain, samples, evaluated):
    print("seeds", SEEDS)
    exact = explain("kernel-shap", Formula(tangled), eighteen(0), samples=16384).group_scores
    settings = {"samples": samples, "evaluated": evaluated}
    answers = [explain("kernel-shap", Formula(tangled), eighteen(seed), **settings) for seed in SEEDS]

    errors = np.array([answer.group_scores for answer in answers]) - exact
    ratios = errors / np.array([answer.group_standard_errors for answer in answers])

    assert 0.85 < np.sqrt((ratios**2).mean()) < 1.2


def test_time_enough_makes_the_whole_answer(explain):
    quiet = explain("kernel-shap", Formula(tangled), eighteen(4))
    timed = explain("kernel-shap", Formula(tangled, seconds=600.0, forward_seconds=0.001), eighteen(4))

    np.testing.assert_allclose(timed.group_scores, quiet.group_scores, rtol=1e-9)
    assert (timed.partial, timed.warnings, timed.resolved) == (False, (), quiet.resolved)


def test_a_whole_game_is_not_cut(explain):
    # All 2^6 coalitions take 1.2 s, if the pace is right: the deadline's error is then the evaluation's to raise.
    handle = Formula(score(mlp(), 0), seconds=1.0, forward_seconds=0.019)

    answer = explain("kernel-shap", handle, tensor_question(np.arange(1, 7)))

    assert handle.sizes["scores"] == [2**6]
    assert not answer.partial


def test_a_whole_game_that_takes_far_longer_than_there_is_is_refused_at_once(explain):
    handle = Formula(score(mlp(), 0), seconds=1.0, forward_seconds=0.1)

    with pytest.raises(TimedOutError, match="6 varying groups needs at least 64 rows forward"):
        explain("kernel-shap", handle, tensor_question(np.arange(1, 7)))

    assert handle.sizes["scores"] == []


@pytest.mark.parametrize("evaluated", [376, 381, 2086])
def test_parts_that_are_no_design_are_refused(explain, evaluated):
    with pytest.raises(InvalidRequestError, match=r"must be an even number in \[378, 2084\]") as caught:
        explain("kernel-shap", Formula(tangled), eighteen(0), evaluated=evaluated)

    assert caught.value.metadata == {"field": 'parameters["evaluated"]'}


def test_parts_of_a_whole_game_are_refused(explain):
    with pytest.raises(InvalidRequestError, match="all coalitions fit into the samples"):
        explain("kernel-shap", Formula(score(mlp(), 0)), tensor_question(np.arange(1, 7)), evaluated=20)


def test_with_far_more_time_than_it_takes_all_coalitions_are_evaluated_together(explain):
    handle, unhurried = Formula(tangled, seconds=120.0, forward_seconds=0.0001, block=5000), Formula(tangled)

    answer = explain("kernel-shap", handle, eighteen(1))

    assert handle.sizes["scores"] == [2086]
    assert not answer.partial
    np.testing.assert_array_equal(answer.group_scores, explain("kernel-shap", unhurried, eighteen(1)).group_scores)


@pytest.mark.parametrize(
    ("players", "rows", "samples"),
    [(12, 1, 2072), (12, 400, 2072), (12, 1000, 1048), (12, 3000, 349), (40, 60_000, 160), (2, 200_000, 16)],
)
def test_the_default_number_of_samples_gives_way_to_a_large_background(players, rows, samples):
    question = tensor_question(np.ones(players), np.zeros((rows, players)))
    method = registry.lookup("kernel-shap")

    cost = method.cost(method.resolve({}), question)

    evaluated = min(2**players, samples // 2 * 2 + 2)
    assert cost.forward == (evaluated - 1) * rows + 1


def test_more_rows_than_are_of_use_are_refused_with_what_makes_them(explain):
    question = tensor_question(np.ones(20), np.zeros((4096, 20)))

    with pytest.raises(InvalidRequestError) as caught:
        explain("kernel-shap", Formula(tangled), question, samples=16384)

    assert "16386 coalitions, each with 4096 baseline rows, are 67112961 rows" in caught.value.message
    assert "fewer baseline rows" in caught.value.message
    assert caught.value.metadata == {"field": 'parameters["samples"]'}


@pytest.mark.parametrize("evaluated", [378, 800, 2084])
def test_the_cost_of_a_part_is_what_runs(explain, evaluated):
    handle, method = Formula(tangled), registry.lookup("kernel-shap")

    cost = method.cost(method.resolve({"evaluated": evaluated}), eighteen(0))
    explain("kernel-shap", handle, eighteen(0), evaluated=evaluated)

    assert sum(handle.sizes["scores"]) == cost.forward == evaluated + 2
    assert cost.lowest.forward == 378 + 2


@pytest.mark.parametrize(
    ("elements", "evaluated", "message"),
    [
        (18, 376, r"must be an even number in \[378, 2084\]"),
        (18, 381, r"must be an even number in \[378, 2084\]"),
        (18, 2086, r"must be an even number in \[378, 2084\]"),
        (6, 20, "all coalitions fit into the samples"),
    ],
)
def test_a_part_that_does_not_run_has_no_cost(elements, evaluated, message):
    method = registry.lookup("kernel-shap")
    question = tensor_question(np.arange(1, elements + 1))

    with pytest.raises(InvalidRequestError, match=message):
        method.cost(method.resolve({"evaluated": evaluated}), question)


def test_a_part_is_refused_for_its_own_rows_and_not_for_those_of_its_design():
    # All of the samples would be 16386 * 4096 rows, which are refused.
    method = registry.lookup("kernel-shap")
    question = tensor_question(np.ones(40), np.zeros((4096, 40)))
    smallest = method.resolve({"samples": 16384, "evaluated": 2000})

    assert method.cost(smallest, question).forward == 2001 * 4096 + 1
    with pytest.raises(InvalidRequestError, match=r"4002 coalitions, .*; lower parameters\[\"evaluated\"\]"):
        method.cost(method.resolve({"samples": 16384, "evaluated": 4000}), question)
