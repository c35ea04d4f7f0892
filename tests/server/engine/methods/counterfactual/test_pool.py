"""What a search keeps of what it has looked at."""

import numpy as np
import pytest
from pellucid_server.engine.methods.counterfactual.columns import space_of
from pellucid_server.engine.methods.counterfactual.judge import Judge
from pellucid_server.engine.methods.counterfactual.pool import Pool
from pellucid_server.engine.models.files.manifest import ColumnManifest
from server.engine.methods.networks_of_rows import Network, linear, table_row

COLUMNS = tuple(ColumnManifest(name, 0.0, 1.0) for name in "pq")


@pytest.fixture
def pool():
    question = table_row(COLUMNS, {"p": 0.0, "q": 0.0})
    return Pool(Judge(Network(linear([1.0, 1.0], -1.0)), question, 100), space_of(question, 3), "l1")


def test_valid_ones_are_kept_nearest_first_and_others_closest_first(pool):
    pool.look(np.array([[3.0, 0.0], [0.5, 0.0], [0.0, 2.0], [0.1, 0.1]]))

    assert pool.valid.tolist() == [[0.0, 2.0], [3.0, 0.0]]
    assert pool.near.tolist() == [[0.5, 0.0], [0.1, 0.1]]
    assert pool.best() == pytest.approx(2.0, rel=2e-3)


def test_no_more_are_looked_at_than_can_be_afforded(pool):
    looked, margins = pool.look(np.full((150, 2), 2.0))

    assert len(looked) == len(margins) == 100
    assert len(pool.look(np.ones((1, 2)))[0]) == 0


def test_copies_count_once(pool):
    pool.look(np.array([[2.0, 0.0], [2.01, 0.0], [0.0, 2.0], [1.0, 1.5]]))

    assert pool.apart(9).tolist() == [[2.0, 0.0], [0.0, 2.0], [1.0, 1.5]]
    assert len(pool.apart(2)) == 2


def test_a_pool_is_sown_with_what_leaves_columns_alone(pool):
    pool.look(np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]]))

    assert pool.sown(np.array([True, False])).valid.tolist() == [[0.0, 2.0]]


def test_an_empty_pool_has_nothing(pool):
    assert pool.best() == np.inf
    assert pool.apart(3).shape == (0, 2)
