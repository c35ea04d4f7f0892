"""Tensors and pictures as one long row."""

import numpy as np
import pytest
import torch
from pellucid_server.engine.asking.counterfactuals import CounterfactualQuestion, Goal, Pixels
from pellucid_server.engine.asking.question import Feature, Target
from pellucid_server.engine.methods.counterfactual.fields import field_of, search
from pellucid_server.engine.methods.counterfactual.judge import Judge
from server.engine.methods.networks_of_rows import Network, linear, tensor_row

PIXELS = Pixels(np.array([127.5]), np.array([50.0]), 4)


def picture(levels):
    row = ((np.asarray(levels, np.float64) - 127.5) / 50.0).astype(np.float32)
    return tensor_row(row, features={"x": Feature("image", True)}, pixels={"x": PIXELS})


def found(function, question, distance, budget=5000):
    judge, field = Judge(Network(function), question, budget), field_of(question)
    return field, search(judge, field, question, distance=distance)


def test_pictures_become_levels_and_come_back_to_the_bit():
    levels = np.arange(16).reshape(1, 4, 4) * 17
    field = field_of(picture(levels))

    np.testing.assert_array_equal(field.start, levels.reshape(-1))
    np.testing.assert_array_equal(field.row(field.start)["x"], picture(levels).inputs["x"])
    assert (field.low.min(), field.high.max()) == (0, 255)


def test_masks_and_whole_numbers_are_held():
    question = CounterfactualQuestion(
        inputs={"x": np.zeros(2, np.float32), "mask": np.ones(2, np.float32), "code": np.array([1, 2])},
        target=Target("y", ((1, 1.0),)),
        goal=Goal(other_than=0),
        features={
            "x": Feature("tensor", True),
            "mask": Feature("tensor", True, mask=True),
            "code": Feature("tensor", False),
        },
    )

    field, answer = found(linear([1.0, 2.0], -2.0), question, "l1")

    assert field.names == ("x",)
    assert answer.values is not None
    np.testing.assert_allclose(answer.values, [0, 1], atol=1e-3)


def test_an_input_that_is_one_number_stays_one():
    def function(inputs):
        score = inputs["x"].sum(1) + inputs["offset"]
        return torch.stack([torch.zeros_like(score), score], dim=1)

    question = CounterfactualQuestion(
        inputs={"x": np.array([-1.0, -2.0], np.float32), "offset": np.array(-3.0, np.float32)},
        target=Target("y", ((1, 1.0),)),
        goal=Goal(other_than=0),
        features={"x": Feature("tensor", True), "offset": Feature("tensor", True)},
    )

    field, answer = found(function, question, "l2")

    assert field.row(field.start)["offset"].shape == ()
    assert answer.values is not None
    # The orthogonal projection: all three move alike.
    np.testing.assert_allclose(answer.values - field.start, [2, 2, 2], atol=1e-2)


def test_several_inputs_change_together():
    def function(inputs):
        score = inputs["a"].sum(1) + 2 * inputs["b"].sum(1) - 5.0
        return torch.stack([torch.zeros_like(score), score], dim=1)

    question = CounterfactualQuestion(
        inputs={"a": np.zeros(1, np.float32), "b": np.zeros(1, np.float32)},
        target=Target("y", ((1, 1.0),)),
        goal=Goal(other_than=0),
        features={name: Feature("tensor", True) for name in "ab"},
    )
    _, answer = found(function, question, "l2")

    assert answer.values is not None
    np.testing.assert_allclose(answer.values, [1, 2], atol=2e-3)


@pytest.mark.parametrize("distance", ["l1", "l0", "l2"])
def test_a_curved_boundary_is_met_where_no_drawn_point_is_much_nearer(distance):
    def function(inputs):
        x = inputs["x"]
        score = torch.tanh(x[:, 0]) + 0.5 * x[:, 1] ** 2 + torch.sin(x[:, 2]) - 1.2
        return torch.stack([torch.zeros_like(score), score], dim=1)

    x = np.array([0.1, 0.3, -0.2], np.float32)
    _, answer = found(function, tensor_row(x), distance)
    assert answer.values is not None
    change = answer.values - x
    size = {"l1": np.abs(change).sum(), "l0": (change != 0).sum(), "l2": np.linalg.norm(change)}[distance]

    source = np.random.default_rng(1)
    drawn = source.normal(size=(200_000, 3)) * source.uniform(0, 2, (200_000, 1)) * (source.random((200_000, 3)) < 0.6)
    valid = drawn[function({"x": torch.from_numpy(x + drawn)})[:, 1].numpy() > 0]
    sizes = {"l1": np.abs(valid).sum(1), "l0": (valid != 0).sum(1), "l2": np.linalg.norm(valid, axis=1)}[distance]
    # How many change is not continuous, and a gradient sees no lone element that has to go far.
    assert size <= 1.1 * sizes.min() + (distance == "l0")


def test_small_changes_of_a_picture_are_made_larger_until_whole_levels_suffice():
    source = np.random.default_rng(2)
    levels = source.integers(20, 230, (1, 40, 40))
    row = (levels.reshape(-1) - 127.5) / 50.0
    weights = source.normal(size=row.size)
    field, answer = found(linear(weights, -float(weights @ row) - 0.2), picture(levels), "l2")

    assert answer.values is not None
    # The projection moves no pixel by half a level; one level at the largest weights is what there is instead.
    assert 0.2 * 50.0 / np.linalg.norm(weights) * np.abs(weights).max() / np.linalg.norm(weights) < 0.5
    moved = np.flatnonzero(answer.values != field.start)
    needed = np.searchsorted(np.cumsum(np.sort(np.abs(weights))[::-1] / 50.0), 0.2) + 1
    assert needed <= len(moved) <= needed + 2


def test_a_score_without_a_slope_is_not_found():
    function = linear([0.0, 0.0], -1.0)
    _, answer = found(function, tensor_row([1.0, 2.0]), "l2")

    assert answer.values is None
