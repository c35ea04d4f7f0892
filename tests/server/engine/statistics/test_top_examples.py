"""The rows that units are largest in: against sorting, with ties."""

import numpy as np
from pellucid_server.engine.statistics.top_examples import TopExamples


def by_sorting(values, rows, positions, count):
    order = np.lexsort((np.broadcast_to(rows, values.shape), -values), axis=1)[:, :count]
    return (
        np.take_along_axis(values, order, 1),
        np.broadcast_to(rows, values.shape)[np.arange(len(values))[:, None], order],
        np.take_along_axis(positions, order, 1),
    )


def test_of_equal_values_the_lower_row_comes_first_in_whatever_order_rows_come():
    source = np.random.default_rng(0)
    values = source.integers(0, 5, (6, 80)).astype(np.float32)
    positions = source.integers(0, 49, (6, 80))
    rows = source.permutation(80)
    found = TopExamples(6, 7)

    for first in range(0, 80, 9):
        part = slice(first, first + 9)
        found.update(values[:, part], rows[part], positions[:, part])

    for mine, theirs in zip(
        (found.values, found.rows, found.positions), by_sorting(values, rows, positions, 7), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_with_fewer_rows_than_asked_for_the_rest_is_none():
    found = TopExamples(1, 4)
    found.update(np.array([[2.0, 3.0]], np.float32), np.array([4, 9]), np.array([[0, 1]]))

    np.testing.assert_array_equal(found.rows, [[9, 4, -1, -1]])
    np.testing.assert_array_equal(found.values, [[3, 2, -np.inf, -np.inf]])


def test_none_may_be_asked_for():
    found = TopExamples(2, 0)
    found.update(np.ones((2, 3), np.float32), np.arange(3), np.zeros((2, 3), np.int64))

    assert found.rows.shape == (2, 0)
