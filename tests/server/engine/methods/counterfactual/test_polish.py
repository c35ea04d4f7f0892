"""A candidate that no single change taken back makes nearer, made nearer by exchanges."""

import numpy as np
from pellucid_server.engine.methods.counterfactual.columns import space_of
from pellucid_server.engine.methods.counterfactual.judge import Judge
from pellucid_server.engine.methods.counterfactual.polish import polish
from pellucid_server.engine.methods.counterfactual.pool import Pool
from pellucid_server.engine.methods.counterfactual.sparsify import refine
from pellucid_server.engine.models.files.manifest import ColumnManifest
from server.engine.methods.networks_of_rows import Network, linear, table_row

COLUMNS = tuple(ColumnManifest(name, 0.0, 1.0) for name in "pqr")
ROW = {"p": 0.0, "q": 0.0, "r": 0.0}


def made(function, budget=5000):
    question = table_row(COLUMNS, ROW)
    space = space_of(question, 3)
    return space, Pool(Judge(Network(function), question, budget), space, "l1")


def test_a_change_of_a_weak_column_is_exchanged_for_one_of_the_strongest():
    space, pool = made(linear([1.0, 3.0, 0.5], -3.0))
    begun = refine(pool, space, np.array([3.2, 0.0, 0.0]))
    assert begun is not None

    found = polish(pool, space, begun, np.zeros(3, bool))

    # By L1 the nearest row moves the column of the largest weight alone, to 3 / 3.
    np.testing.assert_allclose(found.values, [0, 1.0, 0], atol=0.011)


def test_frozen_columns_stay_as_they_are():
    space, pool = made(linear([1.0, 3.0, 2.0], -3.0))
    begun = refine(pool, space, np.array([3.2, 0.0, 0.0]))
    assert begun is not None

    found = polish(pool, space, begun, np.array([False, True, False]))

    np.testing.assert_allclose(found.values, [0, 0, 1.5], atol=0.011)


def test_the_nearest_candidate_stays_what_it_is():
    space, pool = made(linear([1.0, 3.0, 0.5], -3.0))
    begun = refine(pool, space, np.array([0.0, 1.2, 0.0]))
    assert begun is not None

    assert polish(pool, space, begun, np.zeros(3, bool)).values.tolist() == begun.values.tolist()
