"""The nearest point of a half-space in a box, against closed forms and brute force."""

import itertools

import numpy as np
import pytest
from pellucid_server.engine.methods.counterfactual.projection import distances, nearest, ranks

FREE = np.full(4, np.inf)


def test_without_a_box_l2_is_the_orthogonal_projection():
    weights = np.array([1.0, -2.0, 0.0, 3.0])

    found = nearest(weights, 7.0, -FREE, FREE, "l2")

    np.testing.assert_allclose(found, 7.0 * weights / 14.0, rtol=1e-12)


@pytest.mark.parametrize("kind", ["l1", "l0"])
def test_without_a_box_l1_and_l0_move_the_largest_weight_alone(kind):
    found = nearest(np.array([1.0, -4.0, 0.0, 3.0]), 6.0, -FREE, FREE, kind)

    np.testing.assert_allclose(found, [0, -1.5, 0, 0])


def test_l0_moves_as_few_elements_as_it_can_where_weights_alone_would_move_more():
    high = np.array([0.1, 0.1, 5.0, np.inf])

    by_weight = nearest(np.array([10.0, 9.0, 1.0, 0.0]), 3.0, -high, high, "l1")
    by_number = nearest(np.array([10.0, 9.0, 1.0, 0.0]), 3.0, -high, high, "l0")

    assert (by_weight != 0).sum() == 3
    np.testing.assert_allclose(by_number, [0, 0, 3.0, 0])


@pytest.mark.parametrize("kind", ["l1", "l2", "l0"])
def test_where_the_box_is_too_small_it_is_the_corner_that_adds_most(kind):
    found = nearest(np.array([1.0, -2.0]), 10.0, np.array([-1.0, -1.0]), np.array([2.0, 3.0]), kind)

    np.testing.assert_allclose(found, [2.0, -1.0])


@pytest.mark.parametrize("kind", ["l1", "l2", "l0"])
def test_no_weight_moves_nothing(kind):
    np.testing.assert_array_equal(nearest(np.zeros(3), 1.0, -np.ones(3), np.ones(3), kind), np.zeros(3))


@pytest.mark.parametrize("kind", ["l1", "l2", "l0"])
def test_in_a_box_no_point_of_a_fine_grid_is_nearer(kind):
    source = np.random.default_rng(1)
    for _ in range(20):
        weights, low, high = source.normal(size=2), -source.uniform(0, 1, 2), source.uniform(0, 1, 2)
        gain = 0.6 * float(np.where(weights > 0, weights * high, weights * low).sum())
        found = nearest(weights, gain, low, high, kind)

        points = np.array(list(itertools.product(*(np.linspace(a, b, 201) for a, b in zip(low, high, strict=True)))))
        points = np.concatenate([points, points * [1, 0], points * [0, 1]])
        fits = points[points @ weights >= gain]
        assert weights @ found >= gain - 1e-9
        assert ((found >= low - 1e-12) & (found <= high + 1e-12)).all()
        assert distances(found[None], kind)[0] <= distances(fits, kind).min() + 1e-9


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_tiny_and_huge_weights_give_finite_points(size):
    weights = np.array([1.0, 2.0]) * size

    for kind in ("l1", "l2", "l0"):
        found = nearest(weights, size, -FREE[:2], FREE[:2], kind)
        np.testing.assert_allclose(weights @ found, size, rtol=1e-9)


def test_among_equal_numbers_of_changes_the_smaller_ones_rank_first():
    changes = np.array([[3.0, 0.0], [1.0, 0.0], [0.1, 0.1], [0.0, 0.0]])

    assert np.argsort(ranks(changes, "l0")).tolist() == [3, 1, 0, 2]
