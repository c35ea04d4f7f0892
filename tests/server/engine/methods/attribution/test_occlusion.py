import numpy as np
import pytest
import torch
from captum.attr import Occlusion
from pellucid_server.engine.asking.question import Feature, Question
from pellucid_server.errors import InvalidRequestError
from server.engine.methods.closed_forms import TARGET, Formula, tensor_question
from server.engine.methods.networks import PICTURE, cnn, multi_layer, score


def by_windows(function, x, baseline, window, stride):
    """Occlude the last two axes window by window: the definition, in loops."""
    fallen, covered = np.zeros(x.shape), np.zeros(x.shape)
    whole = float(function({"x": torch.from_numpy(x).double()[None]})[0])
    tops = range(0, max(x.shape[1] - window, 0) + stride, stride)
    lefts = range(0, max(x.shape[2] - window, 0) + stride, stride)
    for top, left in ((top, left) for top in tops for left in lefts):
        changed = x.copy()
        changed[:, top : top + window, left : left + window] = baseline
        fall = whole - float(function({"x": torch.from_numpy(changed).double()[None]})[0])
        fallen[:, top : top + window, left : left + window] += fall
        covered[:, top : top + window, left : left + window] += 1
    return fallen / covered


@pytest.mark.parametrize(("baseline", "stride", "expected"), [(10.0, 1, (200, 220, 240)), (0.0, 2, (280, 280, 120))])
def test_captums_own_numbers(explain, baseline, stride, expected):
    handle = Formula(lambda inputs: multi_layer(inputs["x"]))

    answer = explain("occlusion", handle, tensor_question([20, 50, 30], baseline), window=2, stride=stride)

    np.testing.assert_allclose(answer.scores["x"], expected)


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (3, 1), (4, 2), (4, 3), (5, 5), (9, 4), (10, 7), (40, 20)])
def test_a_pictures_element_scores_the_mean_over_the_windows_that_cover_it(explain, window, stride):
    module, x = cnn(), np.random.default_rng(9).normal(size=PICTURE).astype(np.float32)
    handle = Formula(score(module, 2), block=9)

    answer = explain("occlusion", handle, tensor_question(x, 0.25, modality="image"), window=window, stride=stride)

    expected = by_windows(score(module, 2), x, 0.25, window, stride)
    np.testing.assert_allclose(answer.scores["x"], expected, rtol=1e-4, atol=1e-6)


def test_it_is_captums_on_a_picture(explain):
    module, x = cnn(), np.random.default_rng(10).normal(size=PICTURE).astype(np.float32)

    answer = explain("occlusion", Formula(score(module, 0)), tensor_question(x, modality="image"), window=4, stride=3)

    rows = torch.from_numpy(x).double()[None]
    expected = Occlusion(module).attribute(rows, (3, 4, 4), strides=(3, 3, 3), baselines=0.0, target=0)
    np.testing.assert_allclose(answer.scores["x"], expected[0].detach().numpy(), rtol=1e-4, atol=1e-6)


def test_a_photograph_takes_169_windows_by_default(explain):
    handle = Formula(lambda inputs: inputs["x"].sum(dim=(1, 2, 3)), block=16)

    explain("occlusion", handle, tensor_question(np.ones((3, 224, 224)), modality="image"))

    assert sum(handle.sizes["scores"]) == 13 * 13 + 2


def test_a_tensors_window_runs_along_every_axis(explain):
    x = np.arange(1, 7, dtype=np.float32).reshape(2, 3)

    answer = explain("occlusion", Formula(lambda inputs: inputs["x"].sum(dim=(1, 2))), tensor_question(x), window=2)

    # Windows of 2 by 2 over two rows and three columns: columns 0 and 1, and columns 1 and 2.
    np.testing.assert_allclose(answer.scores["x"], [[12, 14, 16], [12, 14, 16]])


def test_a_tables_window_runs_along_its_columns(explain):
    columns = np.array([0, 1, 1, 1, 2], np.int32)
    question = tensor_question([5, 0, 1, 0, 2.0], modality="tabular", groups=columns)
    handle = Formula(lambda inputs: inputs["x"][:, 0] + 10 * inputs["x"][:, 2] + 100 * inputs["x"][:, 4])

    single = explain("occlusion", handle, question)
    double = explain("occlusion", handle, question, window=2, stride=1)

    np.testing.assert_allclose(single.scores["x"], [5, 10 / 3, 10 / 3, 10 / 3, 200])
    np.testing.assert_allclose(double.scores["x"], [15, 37.5, 37.5, 37.5, 210])


def test_each_input_is_occluded_while_the_others_stay(explain):
    question = Question(
        inputs={"x": np.array([1, 2], np.float32), "code": np.array([3, 4], np.int64)},
        baselines={"x": np.zeros((1, 2), np.float32), "code": np.ones((1, 2), np.int64)},
        target=TARGET,
        features={"x": Feature("tensor", True), "code": Feature("tensor", False)},
    )

    answer = explain("occlusion", Formula(lambda i: i["x"].sum(1) * i["code"].sum(1), block=2), question)

    np.testing.assert_allclose(answer.scores["x"], [7, 14])
    np.testing.assert_allclose(answer.scores["code"], [6, 9])
    assert (answer.instance_value, answer.baseline_value) == (21, 0)


def test_a_stride_that_would_leave_elements_out_is_refused(explain):
    with pytest.raises(InvalidRequestError, match="is 3; it must be at most the window, 2") as caught:
        explain("occlusion", Formula(lambda i: i["x"].sum(1)), tensor_question(np.ones(9)), window=2, stride=3)

    assert caught.value.metadata == {"field": 'parameters["stride"]'}


def test_too_many_windows_are_refused_before_anything_is_evaluated(explain):
    handle = Formula(lambda inputs: inputs["x"].sum(1))

    with pytest.raises(InvalidRequestError, match=r"20000 windows on the inputs \('x' of shape \[20000\]\)") as caught:
        explain("occlusion", handle, tensor_question(np.ones(20000)))

    assert caught.value.metadata == {"field": 'parameters["window"]'}
    assert handle.sizes["scores"] == []


@pytest.mark.parametrize(
    ("shape", "modality", "given", "expected"),
    [
        ((3, 40, 40), "image", {}, {"window": 32, "stride": 16}),
        ((7,), "tensor", {}, {"window": 1, "stride": 1}),
        ((3, 40, 40), "image", {"window": 9}, {"window": 9, "stride": 5}),
        ((3, 40, 40), "image", {"stride": 20}, {"window": 32, "stride": 20}),
    ],
)
def test_the_window_that_was_used_is_told(explain, shape, modality, given, expected):
    handle = Formula(lambda inputs: inputs["x"].flatten(1).sum(1))

    answer = explain("occlusion", handle, tensor_question(np.ones(shape), modality=modality), **given)

    assert answer.resolved == expected


def test_no_one_window_is_told_where_inputs_have_different_ones(explain):
    question = Question(
        inputs={"picture": np.ones((3, 40, 40), np.float32), "x": np.ones(2, np.float32)},
        baselines={"picture": np.zeros((1, 3, 40, 40), np.float32), "x": np.zeros((1, 2), np.float32)},
        target=TARGET,
        features={"picture": Feature("image", True), "x": Feature("tensor", True)},
    )

    answer = explain("occlusion", Formula(lambda i: i["x"].sum(1) * i["picture"].sum((1, 2, 3))), question)

    assert answer.resolved == {}


def test_a_column_of_several_elements_scores_what_its_ablation_does(explain):
    columns = np.array([0, 1, 1, 1], np.int32)

    def score(inputs):
        return torch.tanh(inputs["x"] @ inputs["x"].new_tensor([0.5, 1.0, -2.0, 3.0]))

    question = tensor_question([1, 1, 0, 0], [0, 0, 1, 0], modality="tabular", groups=columns)

    occluded = explain("occlusion", Formula(score), question).scores["x"]
    ablated = explain("feature-ablation", Formula(score), question).scores["x"]

    np.testing.assert_allclose(occluded, ablated, rtol=1e-6)
    assert occluded[1:].sum() == pytest.approx(np.tanh(1.5) - np.tanh(-1.5))
