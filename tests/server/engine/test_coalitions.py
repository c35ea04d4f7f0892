"""Designs of coalitions: what is evaluated, and that what is read off it solves the problem it should."""

import math

import numpy as np
import pytest
from pellucid_server.engine.methods.shared import coalitions
from pellucid_server.engine.methods.shared.coalitions import (
    Complete,
    Kept,
    Sampled,
    byte_count,
    coalition_count,
    drawn,
    estimates,
    least_coalition_count,
)

SEEDS = range(5)
SIZES = [(5, 20), (9, 100), (12, 48), (12, 2000), (13, 512), (16, 16384), (30, 512), (30, 2108), (64, 256), (200, 2448)]


def here(function, *arguments):
    return function(*arguments)


def nowhere(function, *arguments):
    raise AssertionError(f"{function} is not for the helper process")


def design(players, samples, seed, compute=here):
    return coalitions.design(players, samples, seed, compute=compute)


def values_of(plan, values, compute=nowhere):
    return plan.shapley_values(values, compute=compute)


def kernel(players, sizes):
    """The Shapley kernel, by its formula."""
    return np.array([(players - 1) / (math.comb(players, s) * s * (players - s)) for s in map(int, sizes)])


def regression(plan, values):
    """Shapley values by the conditions of optimality on single coalitions, with weights by size.

    Those of a size that is complete are from the kernel, the others what is left of its mass in equal parts.
    """
    players = plan.present.shape[1]
    inner, sizes = plan.present[1:-1].astype(float), plan.present[1:-1].sum(axis=1)
    complete = np.bincount(sizes, minlength=players) == [math.comb(players, size) for size in range(players)]
    mass = np.array([0, *((players - 1) / (size * (players - size)) for size in range(1, players))])
    rest = mass[~complete].sum() / (~complete[sizes]).sum()
    weights = np.where(complete[sizes], kernel(players, sizes), rest)
    normal = np.zeros((players + 1, players + 1))
    normal[:-1, :-1] = inner.T @ (weights[:, np.newaxis] * inner)
    normal[-1, :-1] = normal[:-1, -1] = 1
    right = np.append(inner.T @ (weights * (values[1:-1] - values[0])), values[-1] - values[0])
    return np.linalg.solve(normal, right)[:-1]


def least_of(made):
    """The coalitions of the complete sizes, and of at least 8 drawn pairs and one for each player."""
    drawn_pairs = len(made.first) - made.known
    return 2 * (made.known + min(drawn_pairs, max(8, made.present.shape[1]))) + 2


@pytest.mark.parametrize("players", range(9))
def test_with_enough_samples_every_coalition_is_there_once(players):
    present = design(players, 2**players, 0).present

    assert present.shape == (2**players, players)
    assert len({row.tobytes() for row in present}) == 2**players
    assert not present[0].any()
    assert present[-1].all()


@pytest.mark.parametrize("players", range(1, 9))
def test_exact_values_of_a_game_of_sizes_are_equal_shares(players):
    plan = design(players, 2**players, 0)

    found, errors = values_of(plan, plan.present.sum(axis=1) ** 3 + 5.0)

    np.testing.assert_allclose(found, np.full(players, players**2))
    np.testing.assert_array_equal(errors, np.zeros(players))


@pytest.mark.parametrize(("players", "samples"), SIZES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_drawn_design_has_distinct_coalitions_each_with_its_complement(players, samples, seed):
    print("seed", seed)

    present = design(players, samples, seed).present

    rows = {row.tobytes() for row in present}
    assert len(present) == len(rows) == samples // 2 * 2 + 2
    assert {(~row).tobytes() for row in present} == rows
    assert not present[0].any()
    assert present[-1].all()


@pytest.mark.parametrize(("players", "samples"), SIZES)
def test_single_players_are_always_there(players, samples):
    present = design(players, samples, 0).present

    singles = present[present.sum(axis=1) == 1]
    np.testing.assert_array_equal(singles.sum(axis=0), np.ones(players))


def test_small_sizes_are_complete_where_samples_suffice():
    present = design(12, 3000, 0).present

    counts = np.bincount(present.sum(axis=1), minlength=13)
    everything = [math.comb(12, size) for size in range(13)]
    assert counts[:5].tolist() == everything[:5]
    assert counts[6] < everything[6]


@pytest.mark.parametrize(("players", "samples"), [(40, 1000), (64, 256)])
def test_sizes_are_drawn_in_proportion_to_the_kernels_mass(players, samples):
    counts = sum(
        np.bincount(design(players, samples, seed).present.sum(axis=1), minlength=players + 1) for seed in range(400)
    )

    drawn = counts[2 : players - 1]
    masses = np.array([1 / (size * (players - size)) for size in range(2, players - 1)])
    np.testing.assert_allclose(drawn / drawn.sum(), masses / masses.sum(), rtol=0.2)


@pytest.mark.parametrize("seed", SEEDS)
def test_within_a_size_every_player_is_drawn_alike(seed):
    print("seed", seed)
    present = np.concatenate([design(16, 600, 100 * seed + step).present for step in range(60)])

    middle = present[(present.sum(axis=1) > 2) & (present.sum(axis=1) < 14)]
    np.testing.assert_allclose(middle.mean(axis=0), np.full(16, 0.5), atol=1e-12)
    together = (middle.T.astype(float) @ middle) / len(middle)
    apart = together[~np.eye(16, dtype=bool)]
    assert apart.std() < 0.02


@pytest.mark.parametrize("seed", SEEDS)
def test_the_estimate_is_the_constrained_regression_on_all_rows(seed):
    print("seed", seed)
    players, samples = 9, 120
    source = np.random.default_rng(seed)
    plan = design(players, samples, seed)
    values = source.normal(size=len(plan.present))

    found, _ = values_of(plan, values)

    np.testing.assert_allclose(found, regression(plan, values), atol=1e-9)


@pytest.mark.parametrize("samples", [60, 1000, 3600])
def test_standard_errors_know_how_much_is_left_to_draw(samples):
    seeds = range(100)
    print("seeds", seeds)
    weights = np.random.default_rng(24).normal(size=(12, 8))
    every = design(12, 2**12, 0)
    exact, _ = values_of(every, np.tanh(every.present @ weights - 0.4).sum(axis=1))

    ratios = []
    for seed in seeds:
        plan = design(12, samples, seed)
        found, errors = values_of(plan, np.tanh(plan.present @ weights - 0.4).sum(axis=1))
        ratios.append((found - exact) / errors)

    assert 0.85 < np.sqrt(np.square(ratios).mean()) < 1.15


def test_a_design_is_made_once():
    assert design(21, 400, 7) is design(21, 400, 7)
    assert design(21, 400, 7) is not design(21, 400, 8)


@pytest.mark.parametrize(("players", "samples"), [(3, 16384), (13, 16384), (30, 8192), (200, 2000)])
def test_small_designs_are_made_here(players, samples):
    assert design(players, samples, 31, nowhere).present.shape[1] == players


def test_large_designs_are_drawn_elsewhere():
    calls = []

    def elsewhere(function, *arguments):
        calls.append((function, arguments))
        return function(*arguments)

    found = design(150, 3000, 32, elsewhere)

    assert calls == [(drawn, (150, 3000, 32))]
    assert design(150, 3000, 32, nowhere) is found


def test_what_is_drawn_again_at_once_was_kept_by_the_process_that_drew_it():
    first = drawn(40, 300, 33)

    assert drawn(40, 300, 33) is first
    assert drawn(40, 300, 34) is not first


@pytest.mark.parametrize(("players", "samples"), SIZES)
def test_a_design_has_as_many_coalitions_as_are_counted(players, samples):
    made = design(players, samples, 0)

    assert coalition_count(players, samples) == len(made.present)
    assert least_coalition_count(players, samples) == least_of(made)


@pytest.mark.parametrize(("players", "samples"), [(3, 16), (11, 2070)])
def test_a_whole_game_cannot_be_cut_short(players, samples):
    assert coalition_count(players, samples) == least_coalition_count(players, samples) == 2**players


SAMPLED = [(12, 48), (12, 2000), (30, 512), (30, 2108), (64, 256), (200, 2448)]


@pytest.mark.parametrize(("players", "samples"), SAMPLED)
def test_the_sequence_has_every_pair_once_and_complete_sizes_first(players, samples):
    plan = design(players, samples, 35)

    sequence = plan.sequence(35)

    assert sorted(sequence) == list(range(samples // 2))
    sizes = plan.present[1 + sequence].sum(axis=1)
    assert set(sizes[: plan.known]).isdisjoint(sizes[plan.known :])
    np.testing.assert_array_equal(sequence, plan.sequence(35))


@pytest.mark.parametrize(("players", "samples"), SAMPLED)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_a_beginning_of_the_sequence_has_its_share_of_every_size(players, samples, share):
    plan = design(players, samples, 36)
    sizes = plan.first.sum(axis=1)[plan.sequence(36)][plan.known :]

    begun = np.bincount(sizes[: round(share * len(sizes))], minlength=players)

    # A size has its share but for one pair, and for what the other sizes' roundings shift the end by.
    assert np.abs(begun - share * np.bincount(sizes, minlength=players)).max() <= 2


@pytest.mark.parametrize("seed", SEEDS)
def test_every_player_comes_early_alike(seed):
    print("seed", seed)
    seeds = range(1000 * seed, 1000 * seed + 200)
    plans = [design(16, 200, step) for step in seeds]

    early = [plan.first[plan.sequence(step)[plan.known :][:20]] for step, plan in zip(seeds, plans, strict=True)]

    members = np.concatenate(early).mean(axis=0)
    assert members.std() < 0.08 * members.mean()


def test_all_pairs_make_the_design_itself():
    plan = design(30, 512, 37)

    part = plan.part(np.arange(256))

    np.testing.assert_array_equal(part.present, plan.present)
    assert part.known == plan.known


@pytest.mark.parametrize("seed", SEEDS)
def test_a_part_is_the_constrained_regression_on_its_rows(seed):
    print("seed", seed)
    plan = design(9, 120, seed)
    part = plan.part(np.sort(plan.sequence(seed)[:40]))
    values = np.random.default_rng(seed).normal(size=82)

    found, _ = values_of(part, values)

    np.testing.assert_allclose(found, regression(part, values), atol=1e-9)


def test_values_of_a_large_design_are_read_off_elsewhere_and_are_the_same():
    calls = []

    def elsewhere(function, *arguments):
        calls.append(function)
        return function(*arguments)

    plan = design(150, 3000, 38, elsewhere)
    part = plan.part(np.sort(plan.sequence(38)[:1400]))
    values = np.random.default_rng(38).normal(size=2 * 1400 + 2)

    found, errors = values_of(part, values, elsewhere)

    assert calls == [drawn, estimates]
    np.testing.assert_allclose(found, regression(part, values), atol=1e-9)
    assert found.sum() == pytest.approx(values[-1] - values[0], abs=1e-9)
    assert errors.min() > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_standard_errors_are_a_jackknifes_with_every_pairs_own_leverage(seed):
    print("seed", seed)
    plan = design(9, 120, seed)
    values = np.random.default_rng(seed).normal(size=122)
    pairs, drawn_pairs = plan.pairs, plan.pairs - plan.known

    def estimate(differences):
        shifted = np.concatenate([[0.0], differences, np.zeros(pairs), [0.0]])
        return regression(plan, shifted)

    # What each pair's difference adds to the values, by changing one at a time; 9 players make three strata here.
    operator = np.stack([estimate(row) for row in np.eye(pairs)], axis=1)
    signs = np.where(plan.present[1 : 1 + pairs], 1.0, -1.0)
    found = regression(plan, values)
    residuals = values[1 : 1 + pairs] - values[1 + pairs : -1] - signs @ found
    effects = (operator * residuals / (1 - np.einsum("jp,pj->j", signs, operator)))[:, plan.known :]
    sizes = plan.first[plan.known :].sum(axis=1)
    variance = np.zeros(9)
    for size in np.unique(sizes):
        chosen = effects[:, sizes == size]
        count = chosen.shape[1]
        variance += count * chosen.var(axis=1, ddof=1) * (1 - count / math.comb(9, size))

    _, errors = values_of(plan, values)

    assert drawn_pairs > 0
    np.testing.assert_allclose(errors, np.sqrt(variance), rtol=1e-6)


def test_a_small_design_is_kept_with_its_regression_and_its_values_are_the_same_bits():
    kept, values = design(9, 120, 39), np.random.default_rng(39).normal(size=122)
    bare = Sampled(kept.first, kept.known)

    assert kept.regression is not None
    assert byte_count(kept) == kept.first.nbytes + kept.regression.nbytes > 8 * byte_count(bare)
    assert [each.tobytes() for each in values_of(kept, values)] == [each.tobytes() for each in values_of(bare, values)]


def test_kept_designs_are_bounded_by_their_bytes_and_the_last_used_stay():
    designs = {(5, 32, seed): Complete.of(5) for seed in range(4)}
    size = 2**5 * 5 * (1 + 8)
    kept = Kept(3 * size)
    first, second, third, fourth = designs

    for key in (first, second, third):
        kept.put(key, designs[key])
    kept.get(first)
    kept.put(fourth, designs[fourth])

    assert {byte_count(made) for made in designs.values()} == {size}
    assert kept.byte_count == 3 * size
    assert kept.get(second) is None
    assert [kept.get(key) for key in (first, third, fourth)] == [designs[key] for key in (first, third, fourth)]


def test_a_design_beyond_the_limit_is_not_kept_and_drives_none_out():
    kept, small = Kept(1000), Complete.of(3)
    kept.put((3, 8, 0), small)

    kept.put((6, 64, 0), Complete.of(6))

    assert kept.get((6, 64, 0)) is None
    assert kept.get((3, 8, 0)) is small


def test_a_design_put_twice_counts_once():
    kept = Kept(10000)

    for _ in range(2):
        kept.put((4, 16, 0), Complete.of(4))

    assert kept.byte_count == byte_count(Complete.of(4))
