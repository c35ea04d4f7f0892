"""Constraints: projections are the nearest allowed points, and draws are allowed."""

import numpy as np
import pytest
from pellucid_server.engine.methods.shared.searching.constraints import Constraint
from pellucid_server.engine.methods.shared.searching.input_space import InputSpace, Part
from scipy import optimize


def space(low, high, centre=None, dtype=np.float64, **coded):
    low, high = np.array(low, dtype), np.array(high, dtype)
    middle = (low + high) / 2 if centre is None else np.array(centre, dtype)
    parts = (Part("x", 0, len(low), (len(low),), np.dtype(np.float32)),)
    return InputSpace(parts, {}, low, high, middle, **coded)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", ["box", "l2", "linf"])
def test_a_projection_is_the_nearest_point_that_is_allowed(kind, dtype):
    source = np.random.default_rng(0)
    within = space([-1, -0.3, -2, 0], [1, 0.4, 2, 0.5], [0.2, 0.0, 0.5, 0.1], dtype)
    constraint = Constraint(within, kind, 0.0 if kind == "box" else 0.7)
    points = source.normal(size=(20, 4)).astype(dtype) * 2

    found = constraint.project(points)

    assert found.dtype == dtype
    for point, projected in zip(points.astype(float), found.astype(float), strict=True):
        held = [(low, high) for low, high in zip(within.low.astype(float), within.high.astype(float), strict=True)]
        if kind == "linf":
            held = [(max(low, c - 0.7), min(high, c + 0.7)) for (low, high), c in zip(held, within.centre, strict=True)]
        ball = {"type": "ineq", "fun": lambda x: 0.49 - ((x - within.centre) ** 2).sum()}
        nearest = optimize.minimize(
            lambda x, point=point: ((x - point) ** 2).sum(),
            within.centre.astype(float),
            bounds=held,
            constraints=[ball] if kind == "l2" else [],
            options={"ftol": 1e-12},
            method="SLSQP",
        ).x
        np.testing.assert_allclose(projected, nearest, atol=2e-4)
    np.testing.assert_allclose(constraint.project(found), found, atol=1e-6)


def test_points_that_are_allowed_stay_where_they_are():
    within = space([-1, -1], [1, 1])
    points = np.array([[0.1, 0.2], [-0.3, 0.3]])

    for kind in ("box", "l2", "linf"):
        np.testing.assert_array_equal(Constraint(within, kind, 0.0 if kind == "box" else 0.5).project(points), points)


@pytest.mark.parametrize("kind", ["box", "l2", "linf"])
def test_draws_are_allowed_and_fill_what_is(kind):
    within = space([-1, -1, -1], [1, 2, 3], [0, 0, 0])
    constraint = Constraint(within, kind, 0.0 if kind == "box" else 0.8)

    drawn = constraint.draw(np.random.default_rng(1), 4000)

    np.testing.assert_allclose(constraint.project(drawn), drawn, atol=1e-12)
    if kind == "l2":
        # Of a ball, half the volume lies beyond this share of the radius.
        assert (np.linalg.norm(drawn, axis=1) > 0.8 * 0.5 ** (1 / 3)).mean() == pytest.approx(0.5, abs=0.03)
    else:
        reach = 0.8 if kind == "linf" else None
        low, high = (-reach, reach) if reach else (within.low, within.high)
        np.testing.assert_allclose(drawn.mean(0), np.broadcast_to((np.add(low, high)) / 2, 3), atol=0.06)


def test_the_steepest_way_has_the_length_1_in_the_constraints_norm():
    within = space([-1, -1, -1], [1, 1, 1])
    gradients = np.array([[3.0, -4.0, 0.0], [0.0, 0.0, 0.0], [1e-30, 0, 0], [1e200, 1e200, 0]])

    round_ball = Constraint(within, "l2", 1.0).steepest(gradients)
    box = Constraint(within, "box").steepest(gradients)

    np.testing.assert_allclose(round_ball, [[0.6, -0.8, 0], [0, 0, 0], [1, 0, 0], [0.5**0.5, 0.5**0.5, 0]])
    np.testing.assert_array_equal(box, [[1, -1, 0], [0, 0, 0], [1, 0, 0], [1, 1, 0]])


def test_categories_become_whole_ones_and_are_in_no_ball():
    within = space([-1, 0, 0, 0, 0], [1, 1, 1, 1, 4], one_hot=(np.array([1, 2, 3]),), ordinal=np.array([4]))
    points = np.array([[5.0, 0.2, 0.9, 0.3, 2.6], [0.0, 0.4, 0.4, 0.1, 9.0], [0.0, -5.0, -6.0, -7.0, -3.0]])

    rows = within.rows(points)["x"]

    np.testing.assert_array_equal(rows, [[5, 0, 1, 0, 3], [0, 1, 0, 0, 4], [0, 1, 0, 0, 0]])
    projected = Constraint(within, "l2", 0.5).project(points)
    np.testing.assert_array_equal(projected[:, 1:], points[:, 1:])
    np.testing.assert_allclose(projected[:, 0], [0.5, 0, 0])
    np.testing.assert_array_equal(within.points({"x": rows}), rows)
