"""Each way to look for candidates by itself."""

import numpy as np
import pytest
import torch
from pellucid_server.engine.methods.counterfactual.columns import space_of
from pellucid_server.engine.methods.counterfactual.judge import Judge
from pellucid_server.engine.methods.counterfactual.pool import Pool
from pellucid_server.engine.methods.counterfactual.searches import descend, inherit, scan, spheres
from pellucid_server.engine.models.files.manifest import ColumnManifest
from server.engine.methods.networks_of_rows import Network, linear, table_row

COLUMNS = (*(ColumnManifest(name, 0.0, 1.0, -10.0, 10.0) for name in "pqr"), ColumnManifest("c", categories=("a", "b")))
ROW = {"p": 0.0, "q": 0.0, "r": 0.0, "c": "a"}
NONE = np.zeros(4, bool)


def made(function, budget=5000, distance="l1", **options):
    question = table_row(COLUMNS, ROW, **options)
    judge, space = Judge(handle := Network(function), question, budget), space_of(question, 3)
    return handle, judge, space, Pool(judge, space, distance)


def test_a_scan_moves_one_column_at_a_time_inside_its_bounds_and_tries_every_category():
    handle, _, space, pool = made(linear([1, 1, 1, 0, 0], -5.0))
    scan(pool, space, 1000)

    looked = np.concatenate([rows["x"] for rows in handle.evaluated])
    assert ((looked[:, :3] != 0).sum(axis=1) + looked[:, 4] == 1).all()
    assert (np.abs(looked[:, :3]) <= 10).all()
    assert looked[:, 4].sum() == 1
    assert len(handle.evaluated) == 1


@pytest.mark.parametrize("most", [1, 7, 50])
def test_a_scan_of_many_columns_keeps_to_its_share(most):
    handle, _, space, pool = made(linear([1, 1, 1, 0, 0], -5.0))
    scan(pool, space, most)

    assert sum(handle.sizes["scores"]) <= 4 * most


@pytest.mark.parametrize(("distance", "expected"), [("l1", [0, 2, 0]), ("l0", [0, 2, 0]), ("l2", [0.4, 0.8, 0])])
def test_a_descent_on_a_linear_score_ends_at_the_closed_form(distance, expected):
    weights = [1, 2, 0, 0, 0]
    _, judge, space, pool = made(linear(weights, -4.0 if distance != "l2" else -2.0), distance=distance)
    descend(pool, judge, space, space.start, distance, None, NONE)

    np.testing.assert_allclose(pool.valid[0][:3], expected, atol=2e-3)


def test_a_descent_on_a_curved_score_ends_where_it_is_nearest():
    def function(inputs):
        score = inputs["x"][:, 0] ** 2 + inputs["x"][:, 1] - 1.0
        return torch.stack([torch.zeros_like(score), score], dim=1)

    _, judge, space, pool = made(function, distance="l2")
    descend(pool, judge, space, space.start, "l2", None, NONE)

    # On q = 1 - p^2 the distance from 0 is smallest where p^2 = 1/2, and stationary at p = 0; a unit is 20.
    assert 20 * pool.best() in (pytest.approx(0.75**0.5, rel=0.02), pytest.approx(1.0, rel=0.02))


def test_frozen_columns_are_left_alone():
    for search in ("descend", "spheres", "inherit"):
        handle, judge, space, pool = made(linear([2, 1, 1, 0, 0], -4.0))
        frozen, source = np.array([True, False, False, False]), np.random.default_rng(1)
        if search == "descend":
            descend(pool, judge, space, space.start, "l1", None, frozen)
        elif search == "spheres":
            spheres(pool, space, source, frozen)
        else:
            inherit(pool, space, source, frozen)
        assert len(pool.valid), search
        assert all((rows["x"][:, 0] == 0).all() for rows in handle.evaluated)


def test_spheres_grow_until_some_are_valid_and_no_farther():
    handle, _, space, pool = made(linear([1, 1, 1, 0, 0], -3.0))
    spheres(pool, space, np.random.default_rng(2), NONE)

    lengths = [np.sqrt(np.square(rows["x"][:, :3]).sum(axis=1)).max() for rows in handle.evaluated]
    assert len(pool.valid)
    assert max(lengths) < 4 * 3.0
    assert lengths[0] < 0.0625 * 20 * 1.1


def test_spheres_of_a_score_without_end_stop():
    handle, _, space, pool = made(linear([0, 0, 0, 0, 0], -3.0), budget=10**6)
    spheres(pool, space, np.random.default_rng(3), NONE)

    assert sum(handle.sizes["scores"]) < 5000


def test_inheritance_finds_what_takes_several_columns_and_a_category():
    def function(inputs):
        x = inputs["x"]
        score = torch.minimum(torch.minimum(x[:, 0], -x[:, 1]), 8 * x[:, 4]) - 2.0
        return torch.stack([torch.zeros_like(score), score], dim=1)

    _, _, space, pool = made(function)
    inherit(pool, space, np.random.default_rng(4), NONE)

    p, q, _, category = pool.valid[0]
    assert p >= 2
    assert q <= -2
    assert category == 1
    assert pool.best() < 8
