"""Taking back what is not needed."""

import numpy as np
import torch
from pellucid_server.engine.methods.counterfactual.columns import space_of
from pellucid_server.engine.methods.counterfactual.judge import Judge
from pellucid_server.engine.methods.counterfactual.pool import Pool
from pellucid_server.engine.methods.counterfactual.sparsify import pull, refine
from pellucid_server.engine.models.files.manifest import ColumnManifest
from server.engine.methods.networks_of_rows import Network, linear, table_row

COLUMNS = (*(ColumnManifest(name, 0.0, 1.0) for name in "pqr"), ColumnManifest("c", categories=("a", "b")))
ROW = {"p": 0.0, "q": 0.0, "r": 0.0, "c": "a"}


def made(function, budget=5000, distance="l1", **options):
    question = table_row(COLUMNS, ROW, **options)
    space = space_of(question, 3)
    return space, Pool(Judge(Network(function), question, budget), space, distance)


def test_what_is_not_needed_goes_back_and_the_rest_to_the_boundary():
    space, pool = made(linear([1, 0.1, 0, 0, 0], -3.0))
    refined = refine(pool, space, np.array([7.123, 0.4, 5.0, 1.0]))

    assert refined is not None
    assert refined.minimal
    np.testing.assert_allclose(refined.values, [3.01, 0, 0, 0], atol=0.011)


def test_a_category_that_suffices_stays_alone():
    space, pool = made(linear([1, 0, 0, 0, 4], -3.0))
    refined = refine(pool, space, np.array([0.5, 0.0, 0.0, 1.0]))

    assert refined is not None
    assert refined.values.tolist() == [0, 0, 0, 1]


def test_a_valley_narrower_than_the_digits_is_met_with_more_of_them():
    def function(inputs):
        score = 1e-4 - (inputs["x"][:, 0] - 1.23456).abs()
        return torch.stack([torch.zeros_like(score), score], dim=1)

    space, pool = made(function)
    refined = refine(pool, space, np.array([1.23456, 0.0, 0.0, 0.0]))

    assert refined is not None
    assert refined.values[0] == np.round(refined.values[0], 6)
    assert abs(refined.values[0] - 1.23456) < 1e-4


def test_what_no_rounding_makes_valid_is_no_answer():
    space, pool = made(linear([0, 0, 0, 0, 0], -3.0))

    assert refine(pool, space, np.array([1.0, 0.0, 0.0, 0.0])) is None


def test_without_a_budget_it_is_not_known_to_be_minimal():
    space, pool = made(linear([1, 1, 1, 0, 0], -3.0), budget=30)
    refined = refine(pool, space, np.array([4.0, 4.0, 4.0, 0.0]))

    assert refined is not None
    assert not refined.minimal


def test_small_changes_are_left_out_where_others_make_up_for_them():
    space, pool = made(linear([1, 1, 0, 0, 0], -3.0))
    refined = refine(pool, space, np.array([2.98, 0.03, 0.0, 0.0]))

    assert refined is not None
    assert (refined.values != 0).sum() == 1


def test_candidates_are_pulled_straight_back_to_the_boundary():
    space, pool = made(linear([1, 1, 0, 0, 0], -3.0))
    pull(pool, space, np.array([[12.0, 0.0, 0.0, 0.0], [30.0, 30.0, 0.0, 0.0]]))

    np.testing.assert_allclose(pool.valid[0], [3, 0, 0, 0], atol=0.2)
    assert any(np.allclose(row, [1.5, 1.5, 0, 0], atol=0.5) for row in pool.valid)
