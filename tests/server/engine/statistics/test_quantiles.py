"""Upper quantiles of units: against sorting, exact and as a sketch."""

import numpy as np
import pytest
from pellucid_server.engine.statistics.quantiles import UpperTail


def batches(values, size):
    return (values[:, first : first + size] for first in range(0, values.shape[1], size))


def taken(values, rank, *, size=500, **settings):
    found = UpperTail(len(values), rank, **settings)
    for batch in batches(values, size):
        found.update(batch)
    return found


def ranks(values, threshold):
    """The rank of the threshold from the top, as a range where values are equal."""
    return (values > threshold[:, None]).sum(1) + 1, (values >= threshold[:, None]).sum(1)


def orders(seed, count):
    """Values of units whose large ones come first, last, in the middle, or anywhere."""
    source = np.random.default_rng(seed)
    values = np.sort(source.normal(size=(4, count)).astype(np.float32), axis=1)
    values[1] = values[1, ::-1]
    values[2] = np.concatenate([values[2, ::2], values[2, 1::2][::-1]])
    source.shuffle(values[3])
    return values


@pytest.mark.parametrize("rank", [1, 2, 50, 999, 20_000])
def test_up_to_half_the_capacity_it_is_the_value_of_that_rank(rank):
    values = orders(1, 20_000)

    found = taken(values, rank, capacity=40_000)

    assert found.exact
    np.testing.assert_array_equal(found.value(), np.sort(values, axis=1)[:, -rank])
    np.testing.assert_array_equal(found.above(found.value()), rank - 1)


@pytest.mark.parametrize("count", [3000, 40_000])
@pytest.mark.parametrize("rank", [300, 1500, 2999])
@pytest.mark.parametrize("size", [7, 1000])
def test_a_sketch_is_off_by_no_more_ranks_than_it_says(count, rank, size):
    values = orders(2, count)

    found = taken(values, rank, size=size, capacity=128)

    low, high = ranks(values, found.value())
    assert not found.exact
    assert 0 < found.rank_error < count / 10
    assert (low - found.rank_error <= rank).all()
    assert (rank <= high + found.rank_error).all()


def test_a_sketch_is_as_a_rule_far_better_than_its_bound():
    values = orders(3, 100_000)

    found = taken(values, 5000, capacity=1024)

    low, _ = ranks(values, found.value())
    assert np.abs(low - 5000).max() < 5000 * 0.02
    assert sum(level.nbytes for level in found.state().values()) < 4 * 1024 * 6 * 4


def test_halves_of_a_sketch_that_are_merged_keep_to_the_bound():
    values = orders(4, 20_000)
    found, other = taken(values[:, :9000], 900, capacity=128), taken(values[:, 9000:], 900, capacity=128)

    found.merge(other)

    low, high = ranks(values, found.value())
    assert (low - found.rank_error <= 900).all()
    assert (high + found.rank_error >= 900).all()


def test_a_sketch_that_goes_on_from_its_state_is_the_same_bit_for_bit():
    values = orders(5, 20_000)
    whole = taken(values, 2000, capacity=128, seed=7)

    resumed = UpperTail.from_state(taken(values[:, :5000], 2000, capacity=128, seed=7).state())
    for batch in batches(values[:, 5000:], 500):
        resumed.update(batch)

    np.testing.assert_array_equal(resumed.value(), whole.value())
    assert resumed.rank_error == whole.rank_error


def test_an_answer_is_never_below_the_floor_that_was_known_before():
    values = orders(6, 9000)
    found = UpperTail(4, 40, capacity=100)
    floors = []
    for batch in batches(values, 100):
        found.update(batch)
        floors.append(found.floor.copy())

    assert (np.diff(floors, axis=0) >= 0).all()
    assert (found.value() >= floors[-1]).all()
    assert (floors[-1] > -np.inf).all()


def test_equal_values_and_too_few_of_them():
    found = UpperTail(2, 3)
    found.update(np.array([[1, 1, 1, 1, 5], [2, 2, -np.inf, -np.inf, -np.inf]]))

    np.testing.assert_array_equal(found.value(), [1, -np.inf])
    np.testing.assert_array_equal(found.value(1), [5, 2])
    np.testing.assert_array_equal(found.above(np.array([1, 0], np.float32)), [1, 2])


def test_values_one_by_one_are_as_those_of_an_array():
    values = orders(7, 500)
    found = UpperTail(4, 20)
    found.take(np.repeat([0, 2, 3], 500), values[[0, 2, 3]].reshape(-1))

    wanted = np.sort(values, axis=1)[:, -20]
    wanted[1] = -np.inf
    np.testing.assert_array_equal(found.value(), wanted)


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"rank": 1, "capacity": 3}])
def test_wrong_sizes_are_refused(wrong):
    with pytest.raises(ValueError, match="at least"):
        UpperTail(1, **wrong)
