"""A sample of rows: every row is as likely as any other, and in, or not, however rows come."""

import numpy as np
import pytest
from pellucid_server.engine.statistics.sample import Sample


def taken(keys, *, most=20, seed=0, batch=7):
    sample = Sample(1, most, seed)
    for first in range(0, len(keys), batch):
        some = keys[first : first + batch]
        chosen = sample.admitted(some)
        sample.update(some[chosen], some[chosen][:, None])
    return sample


def test_all_rows_are_in_while_there_is_room():
    sample = taken(np.arange(15))

    assert sorted(sample.keys.tolist()) == list(range(15))
    assert not sample.full
    np.testing.assert_array_equal(sample.values[:, 0], sample.keys)


@pytest.mark.parametrize("batch", [1, 7, 50, 500])
def test_which_rows_are_in_depends_neither_on_batches_nor_on_order(batch):
    keys = np.arange(500)
    plain = Sample(1, 20, 0)
    plain.update(keys, keys[:, None])

    np.testing.assert_array_equal(taken(keys, batch=batch).keys, plain.keys)
    np.testing.assert_array_equal(taken(keys[::-1], batch=batch).keys, plain.keys)


def test_every_row_is_as_likely_as_any_other():
    keys, seeds = np.arange(50), 2000

    counts = sum(np.bincount(taken(keys, most=10, seed=seed).keys, minlength=50) for seed in range(seeds))

    # Binomial, n = 2000, p = 0.2: 5 standard deviations of 17.9.
    assert np.abs(counts - 400).max() < 90


def test_pairs_of_rows_are_as_likely_as_any_others():
    keys, seeds = np.arange(12), 3000
    together = np.zeros((12, 12))
    for seed in range(seeds):
        chosen = taken(keys, most=3, seed=seed).keys
        together[np.ix_(chosen, chosen)] += 1

    # 3 * 2 / (12 * 11) of 3000: 5 standard deviations of 11.4.
    assert np.abs(together[~np.eye(12, dtype=bool)] - 3000 * 6 / 132).max() < 57


def test_the_first_rows_of_a_sample_are_a_sample():
    keys = np.arange(300)

    np.testing.assert_array_equal(taken(keys, most=40).keys[:10], taken(keys, most=10).keys)


@pytest.mark.parametrize("seed", [-1, 1 << 63, 12345])
def test_seeds_of_any_size_and_sign_survive_a_state(seed):
    whole, begun = taken(np.arange(90), seed=seed), taken(np.arange(45), seed=seed)

    resumed = Sample.from_state(begun.state())
    later = np.arange(45, 90)
    resumed.update(later, later[:, None])

    np.testing.assert_array_equal(resumed.keys, whole.keys)
    assert whole.keys.tolist() != taken(np.arange(90), seed=seed + 1).keys.tolist()
