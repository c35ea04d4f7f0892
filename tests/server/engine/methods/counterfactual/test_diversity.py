"""Which of several are chosen."""

import itertools

import numpy as np
from pellucid_server.engine.methods.counterfactual.diversity import diverse
from pellucid_server.engine.methods.counterfactual.projection import distances


def test_the_nearest_comes_first_and_near_copies_do_not_follow():
    changes = np.array([[1.0, 0.0], [1.01, 0.0], [1.02, 0.0], [0.0, 1.3]])

    assert diverse(changes, distances(changes, "l1"), 2, "l1") == ([0, 3], 0)


def test_what_is_very_far_counts_less_than_what_differs_a_little():
    changes = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -40.0]])

    assert diverse(changes, distances(changes, "l1"), 2, "l1") == ([0, 1], 0)


def test_where_numbers_of_changes_count_the_same_columns_are_no_second_answer():
    changes = np.array([[1.0, 2.0, 0.0], [1.1, 1.9, 0.0], [0.0, 1.0, 1.0]])

    assert diverse(changes, distances(changes, "l0"), 3, "l0") == ([0, 2], 0)


def test_no_more_are_chosen_than_there_are():
    changes = np.array([[1.0, 0.0], [0.0, 2.0]])

    assert sorted(diverse(changes, distances(changes, "l2"), 9, "l2")[0]) == [0, 1]
    assert diverse(np.zeros((0, 2)), np.zeros(0), 3, "l1") == ([], 0)


def test_the_pair_is_the_best_with_the_nearest_by_brute_force():
    source = np.random.default_rng(1)
    changes = source.normal(size=(12, 4))
    sizes = distances(changes, "l1")
    (first, second), _ = diverse(changes, sizes, 2, "l1")

    least = sizes.min()
    quality = np.exp(-(sizes - least) / (2 * least))
    between = np.array([[np.abs(a - b).sum() for a in changes] for b in changes])
    kernel = np.outer(quality, quality) / (1 + between / least)
    volumes = {
        (a, b): np.linalg.det(kernel[np.ix_([a, b], [a, b])])
        for a, b in itertools.permutations(range(12), 2)
        if a == first
    }
    assert (first, second) == max(volumes, key=volumes.__getitem__)
