import numpy as np
import pytest
from pellucid_server.engine.asking.question import Feature, Question
from pellucid_server.engine.methods.shared.groups import LIMIT, Groups, coalition_values, grid, group, superpixels
from pellucid_server.errors import InvalidRequestError
from server.engine.methods.closed_forms import TARGET, Formula, tensor_question


def mixed():
    """A picture, a table with a column of three elements, and a tensor of flags."""
    return Question(
        inputs={
            "photo": np.ones((3, 8, 8), np.float32),
            "table": np.array([1, 0, 1, 0], np.float32),
            "flags": np.array([[True, False]]),
        },
        baselines={
            "photo": np.zeros((1, 3, 8, 8), np.float32),
            "table": np.array([[1, 1, 0, 0]], np.float32),
            "flags": np.array([[[False, False]]]),
        },
        target=TARGET,
        features={
            "photo": Feature("image", True),
            "table": Feature("tabular", True, groups=np.array([0, 1, 1, 1], np.int32)),
            "flags": Feature("tensor", False),
        },
    )


def handle(inputs):
    return inputs["photo"].sum(dim=(1, 2, 3)) + 1000 * inputs["table"][:, 2] + 5000 * inputs["flags"].sum(dim=(1, 2))


def test_groups_are_numbered_across_pictures_tables_and_tensors():
    groups = group(Formula(handle), mixed(), segments=4, regions="grid")

    assert groups.count == 4 + 2 + 2
    assert groups.labels["photo"].shape == (1, 8, 8)
    np.testing.assert_array_equal(np.unique(groups.labels["photo"]), [0, 1, 2, 3])
    np.testing.assert_array_equal(groups.labels["table"], [4, 5, 5, 5])
    np.testing.assert_array_equal(groups.labels["flags"], [[6, 7]])


def test_only_groups_that_differ_from_some_baseline_row_vary():
    question = mixed()
    groups = group(Formula(handle), question, segments=4, regions="grid")

    np.testing.assert_array_equal(groups.varying(question.inputs, question.baselines), [0, 1, 2, 3, 5, 6])


def test_a_score_is_spread_in_equal_shares_over_channels_and_columns():
    question = mixed()
    groups = group(Formula(handle), question, segments=4, regions="grid")

    found = groups.spread(np.arange(8.0), question.inputs)

    np.testing.assert_allclose(found["photo"][:, 7, 7], np.full(3, 3 / (3 * 16)))
    np.testing.assert_allclose(found["table"], [4, 5 / 3, 5 / 3, 5 / 3])
    assert sum(values.sum() for values in found.values()) == pytest.approx(sum(range(8)))


@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_a_coalitions_value_is_the_mean_over_the_baseline_rows(block):
    question = tensor_question([1.0, 2.0, 3.0], [[0.0, 10.0, 20.0], [0.5, 30.0, 40.0]])
    groups = Groups({"x": np.array([0, 0, 1], np.int32)}, 2)
    present = np.array([[False, False], [True, False], [False, True], [True, True]])
    formula = Formula(lambda inputs: inputs["x"].sum(dim=1), block=block)

    found = coalition_values(formula, question, groups, present)

    np.testing.assert_allclose(found, [(30 + 70.5) / 2, 3 + 30, (10 + 30.5) / 2 + 3, 6])
    assert sum(formula.sizes["scores"]) == 3 * 2 + 1
    assert formula.shares[-1] == 1


def test_elements_keep_their_type_in_every_coalition():
    question = mixed()
    groups = group(Formula(handle), question, segments=4, regions="grid")

    found = coalition_values(Formula(handle), question, groups, np.array([[False] * 8, [True] * 8]))

    np.testing.assert_allclose(found, [0, 3 * 64 + 1000 + 5000])


def test_as_many_groups_as_the_limit_are_taken():
    assert group(Formula(handle), tensor_question(np.zeros(LIMIT)), segments=50, regions="grid").count == LIMIT


def test_one_group_more_is_refused():
    with pytest.raises(InvalidRequestError, match=r"'x' of shape \[513\]\) have 513 groups") as caught:
        group(Formula(handle), tensor_question(np.zeros(LIMIT + 1)), segments=50, regions="grid")

    assert caught.value.metadata == {"field": "method"}


@pytest.mark.parametrize(
    ("height", "width", "segments", "across", "down"),
    [(224, 224, 49, 7, 7), (100, 400, 16, 8, 2), (7, 7, 1, 1, 1), (3, 3, 512, 3, 3), (1, 9, 4, 6, 1)],
)
def test_a_grid_has_near_square_tiles(height, width, segments, across, down):
    tiles = grid(height, width, segments)

    assert tiles.shape == (height, width)
    assert tiles.max() + 1 == len(np.unique(tiles)) == across * down
    assert len(np.unique(tiles[0])) == across
    assert len(np.unique(tiles[:, 0])) == down


def test_superpixels_follow_the_edges_of_a_picture():
    picture = np.zeros((3, 96, 96), np.float32)
    rows, columns = np.mgrid[:96, :96]
    inside = (rows - 40) ** 2 + (columns - 50) ** 2 < 30**2
    picture[:, inside] = np.array([[2.0], [-1.0], [0.5]])

    labels = superpixels(picture, 40)

    shares = np.bincount(labels.ravel(), inside.ravel()) / np.bincount(labels.ravel())
    assert 20 <= labels.max() + 1 <= 60
    assert np.minimum(shares, 1 - shares).max() < 0.1


@pytest.mark.parametrize("shape", [(3, 64, 48), (1, 30, 30)])
def test_superpixels_are_numbered_without_gaps_and_come_out_the_same_again(shape):
    columns = np.sin(np.arange(shape[2]) / 5)[np.newaxis, np.newaxis]
    picture = (columns * np.linspace(-3, 1, shape[1])[:, np.newaxis] * np.ones(shape)).astype(np.float32)

    first, second = (superpixels(picture, 20) for _ in range(2))

    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.int32
    assert len(np.unique(first)) == first.max() + 1


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 2, 2), (3, 1, 1)])
def test_a_picture_without_regions_is_cut_into_a_grid(shape):
    noise = np.random.default_rng(23).normal(size=shape).astype(np.float32)

    labels = superpixels(noise, 50)

    np.testing.assert_array_equal(labels, grid(shape[1], shape[2], 50))
