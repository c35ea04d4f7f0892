import dataclasses

import numpy as np
import pytest
from pellucid_server.engine.asking.question import Feature, Question
from server.engine.methods.closed_forms import TARGET, Formula, tensor_question

SEEDS = range(20)


def squares(inputs):
    return (inputs["x"] ** 2).sum(dim=1)


def test_without_noise_it_is_the_gradient(explain):
    answer = explain("smoothgrad", Formula(squares), tensor_question([1.0, -2.0, 4.0]), noise=0.0)

    np.testing.assert_allclose(answer.scores["x"], [2, -4, 8], rtol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_noise_is_a_share_of_the_inputs_own_range(explain, seed):
    print("seed", seed)
    x = np.linspace(-1, 3, 2000)

    answer = explain("smoothgrad", Formula(squares), tensor_question(x, seed=seed), samples=25, noise=0.15)

    # The gradient of a square is twice the element: what is left is twice the mean of 25 noises of 0.15 * 4.
    left = answer.scores["x"] - 2 * x.astype(np.float32)
    assert left.std() == pytest.approx(2 * 0.15 * 4 / 5, rel=0.1)
    assert abs(left.mean()) < 5 * 0.24 / np.sqrt(2000)


def test_the_noise_is_a_share_of_the_stated_ranges_where_there_are_any(explain):
    ranges = np.array([0, 1, 1000], np.float32)
    question = tensor_question(np.zeros((500, 3)), ranges=ranges)

    answer = explain("smoothgrad", Formula(lambda inputs: (inputs["x"] ** 2).sum(dim=(1, 2))), question, samples=50)

    deviations = answer.scores["x"].std(axis=0)
    np.testing.assert_allclose(deviations, 2 * 0.15 * ranges / np.sqrt(50), rtol=0.15)


def test_signs_cancel_unless_magnitudes_are_averaged(explain):
    question = tensor_question(np.zeros(400), ranges=np.ones(400, np.float32))

    signed = explain("smoothgrad", Formula(squares), question, samples=200, noise=1.0)
    magnitude = explain("smoothgrad", Formula(squares), question, samples=200, noise=1.0, absolute=True)

    assert abs(signed.scores["x"].mean()) < 0.05
    # The mean magnitude of a Gaussian is sqrt(2 / pi) of its deviation, which is 2.
    assert magnitude.scores["x"].mean() == pytest.approx(2 * np.sqrt(2 / np.pi), rel=0.02)


def test_another_seed_gives_another_answer(explain):
    first, second = (explain("smoothgrad", Formula(squares), tensor_question([1.0, 2.0], seed=s)) for s in (0, 1))

    assert (first.scores["x"] != second.scores["x"]).all()


def test_an_inputs_noise_does_not_depend_on_the_other_inputs(explain):
    alone = tensor_question([1.0, 2.0, 4.0], seed=4)
    beside = dataclasses.replace(
        alone,
        inputs={"another": np.ones(5, np.float32), **alone.inputs},
        features={"another": Feature("tensor", True), **alone.features},
    )

    one = explain("smoothgrad", Formula(squares), alone)
    two = explain("smoothgrad", Formula(squares), beside)

    np.testing.assert_array_equal(one.scores["x"], two.scores["x"])


def test_inputs_of_one_shape_have_noises_of_their_own(explain):
    question = tensor_question([1.0, 2.0, 4.0])
    twins = dataclasses.replace(
        question,
        inputs={"x": question.inputs["x"], "y": question.inputs["x"]},
        features={"x": Feature("tensor", True), "y": Feature("tensor", True)},
    )

    answer = explain("smoothgrad", Formula(lambda i: (i["x"] ** 2 + i["y"] ** 2).sum(dim=1)), twins)

    assert (answer.scores["x"] != answer.scores["y"]).all()


def test_the_noise_is_the_same_bytes_in_blocks_of_any_size(explain):
    question = tensor_question(np.linspace(0, 1, 7), seed=3)
    handles = Formula(squares), Formula(squares, block=3)

    whole, pieces = (explain("smoothgrad", handle, question, samples=11).scores["x"] for handle in handles)

    np.testing.assert_array_equal(pieces, whole)


def test_the_standard_error_is_what_the_noise_leaves_in_the_mean(explain):
    # The gradient of x1² + 3·x2² has deviations of 2 and 6 times the noise's, 0.15; the larger is reported.
    def weighted(inputs):
        return (inputs["x"] ** 2 * inputs["x"].new_tensor([1.0, 3.0])).sum(dim=1)

    question = tensor_question([1.0, 2.0], ranges=np.ones(2, np.float32))

    answer = explain("smoothgrad", Formula(weighted), question, samples=400)

    assert answer.standard_error == pytest.approx(6 * 0.15 / np.sqrt(400), rel=0.15)


def hurried(row_seconds):
    """A handle with a second left, on a question whose gradients scatter."""
    return Formula(squares, seconds=1.0, row_seconds=row_seconds)


@pytest.mark.parametrize("row_seconds", [0.3, 0.05, 0.02])
def test_near_the_deadline_it_answers_with_the_samples_so_far(explain, row_seconds):
    handle, question = hurried(row_seconds), tensor_question([1.0, -2.0, 4.0], seed=6)

    answer = explain("smoothgrad", handle, question, samples=50)

    drawn = sum(handle.sizes["gradient"])
    # The reserve is 0.1 s, and what is left beside it is too little for another row.
    assert handle.seconds_left() >= 0.1
    assert handle.seconds_left() - 0.1 < row_seconds
    assert answer.partial
    assert answer.resolved == {"samples": drawn}
    assert f"time for {drawn} of the 50 samples" in answer.warnings[0]


@pytest.mark.parametrize("block", [3, 1000])
@pytest.mark.parametrize("row_seconds", [0.3, 0.05, 0.02])
def test_the_samples_that_there_was_time_for_make_the_same_answer_again(explain, row_seconds, block):
    question = tensor_question(np.linspace(-1, 3, 40), seed=7)
    answer = explain("smoothgrad", hurried(row_seconds), question, samples=50)

    again = explain("smoothgrad", Formula(squares, block=block), question, **answer.resolved)

    np.testing.assert_allclose(again.scores["x"], answer.scores["x"], rtol=1e-6)
    assert again.standard_error == pytest.approx(answer.standard_error, rel=1e-6)
    assert not again.partial


@pytest.mark.parametrize("seed", SEEDS)
def test_the_standard_error_is_that_of_the_samples_drawn(explain, seed):
    print("seed", seed)
    # Every element's gradient is twice the element, with twice the noise: 0.3 for each sample.
    question = tensor_question(np.linspace(0, 1, 500), seed=seed)

    answer = explain("smoothgrad", hurried(0.02), question, samples=1000)

    off = answer.scores["x"] - 2 * np.linspace(0, 1, 500)
    drawn = answer.resolved["samples"]
    assert 40 <= drawn <= 45
    assert off.std() == pytest.approx(0.3 / np.sqrt(drawn), rel=0.15)
    # The reported one is the largest of 500 estimates.
    assert 1.0 < answer.standard_error / (0.3 / np.sqrt(drawn)) < 1.6


def test_time_enough_makes_the_whole_answer(explain):
    question = tensor_question([1.0, -2.0, 4.0], seed=8)

    quiet = explain("smoothgrad", Formula(squares), question)
    timed = explain("smoothgrad", Formula(squares, seconds=60.0, row_seconds=0.001), question)

    np.testing.assert_allclose(timed.scores["x"], quiet.scores["x"], rtol=1e-6)
    assert (timed.partial, timed.warnings, timed.resolved) == (False, (), {"samples": 50})


def test_with_far_more_time_than_it_takes_all_samples_are_evaluated_together(explain):
    handle = Formula(squares, seconds=120.0, row_seconds=0.001)

    answer = explain("smoothgrad", handle, tensor_question([1.0, -2.0, 4.0]), samples=50)

    assert handle.sizes["gradient"] == [50]
    assert not answer.partial


PEOPLE = Feature(
    "tabular",
    True,
    groups=np.array([0, 1, 1, 2, 3], np.int32),
    columns=("age", "sex", "level", "income"),
    coded=np.array([False, True, True, True, False]),
)
PERSON = np.array([0.5, 0, 1, 3, -1.5], np.float32)
STATED = np.array([4, 1, 1, 3, 2], np.float32)


@pytest.mark.parametrize("ranges", [None, STATED], ids=["ranges of the row", "ranges that are stated"])
def test_codes_of_categories_get_no_noise_and_numbers_do(explain, ranges):
    handle = Formula(squares)
    question = dataclasses.replace(tensor_question(PERSON), features={"x": dataclasses.replace(PEOPLE, ranges=ranges)})

    answer = explain("smoothgrad", handle, question, samples=400)

    seen = handle.latest["x"]
    np.testing.assert_array_equal(seen[:, 1:4], np.broadcast_to(PERSON[1:4], (400, 3)))
    # Of the row alone, the numbers' own range is 2: the codes do not stretch it.
    widths = np.array([2.0, 2.0]) if ranges is None else ranges[[0, 4]]
    np.testing.assert_allclose(seen[:, [0, 4]].std(axis=0), 0.15 * widths, rtol=0.1)
    assert answer.warnings == (
        "No noise was added to columns 'sex', 'level' of input 'x': no row lies between two categories.",
    )


def test_a_table_of_categories_alone_has_the_plain_gradient(explain):
    feature = dataclasses.replace(PEOPLE, coded=np.ones(5, np.bool_))
    question = dataclasses.replace(tensor_question(PERSON), features={"x": feature})

    answer = explain("smoothgrad", Formula(squares), question)

    np.testing.assert_array_equal(answer.scores["x"], 2 * PERSON)
    assert answer.standard_error == 0


def test_a_mask_of_numbers_gets_no_noise(explain):
    handle = Formula(lambda inputs: (inputs["x"] * inputs["m"]).sum(1))
    question = Question(
        inputs={"x": np.array([1.0, 2.0], np.float32), "m": np.array([1.0, 0.0], np.float32)},
        baselines={},
        target=TARGET,
        features={"x": Feature("tensor", True), "m": Feature("tensor", True, mask=True)},
    )

    answer = explain("smoothgrad", handle, question)

    assert (handle.latest["m"] == [1.0, 0.0]).all()
    assert any("Input 'm' is a mask of others: no noise" in warning for warning in answer.warnings)
