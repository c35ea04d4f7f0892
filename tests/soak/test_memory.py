"""Growth is found by its slope, which these samples have by construction."""

import numpy as np
import pytest

from soak import memory
from soak.processes import FRONT, WORKER, Sample

MIB = 1 << 20


def samples(
    kind: str,
    pid: int,
    *,
    begin: float,
    seconds: int,
    growth: float = 0.0,
    at_first: float = 100.0,
    noise_mib: float = 1.0,
) -> list[Sample]:
    """Return a sample a second of a process that grows by so many MiB a minute, with some noise."""
    print("seed 0")
    noise = noise_mib * np.random.default_rng(0).normal(size=seconds)
    return [
        Sample(begin + second, pid, kind, int((at_first + growth * second / 60 + noise[second]) * MIB), 20, 10)
        for second in range(seconds)
    ]


@pytest.mark.parametrize("growth", [-3.0, 0.0, 5.0])
def test_the_slope_is_found_through_noise(growth: float) -> None:
    found, error = memory.mib_per_minute(samples(FRONT, 1, begin=1000.0, seconds=600, growth=growth))

    assert found == pytest.approx(growth, abs=0.1)
    # Of independent noise of 1 MiB: its deviation over that of the times.
    assert error == pytest.approx(60 / (np.sqrt(600) * 600 / np.sqrt(12)), rel=0.4)


@pytest.mark.parametrize(("growth", "held"), [(0.0, True), (5.0, False)])
def test_a_front_that_grows_is_seen(growth: float, held: bool) -> None:
    front = samples(FRONT, 1, begin=0.0, seconds=600, growth=growth)

    verdict = memory.memory(front, warm_at=0.0, calm_from=500.0)[0]

    assert verdict.held is held


def test_what_a_front_takes_to_get_warm_is_not_growth() -> None:
    warming = samples(FRONT, 1, begin=0.0, seconds=100, growth=100.0)
    warm = samples(FRONT, 1, begin=100.0, seconds=500, at_first=266.0)

    assert memory.memory([*warming, *warm], warm_at=0.0, calm_from=500.0)[0].held


@pytest.mark.parametrize(("growth", "held"), [(0.0, True), (5.0, False)])
def test_a_worker_is_judged_by_its_last_and_longest_life(growth: float, held: bool) -> None:
    lives = [samples(WORKER, pid, begin=20.0 * pid, seconds=20, growth=300.0) for pid in range(10)]
    last = samples(WORKER, 99, begin=200.0, seconds=300, growth=growth)

    verdict = memory.memory([each for life in [*lives, last] for each in life], warm_at=0.0, calm_from=200.0)[1]

    assert verdict.held is held


@pytest.mark.parametrize(("growth", "held"), [(0.0, True), (20.0, True), (100.0, False)])
def test_what_a_worker_takes_for_a_batch_hides_a_slope_only_as_far_as_it_must(growth: float, held: bool) -> None:
    # Batches take and leave some 200 MiB: over two minutes 20 MiB a minute may be chance, 100 cannot.
    life = samples(WORKER, 1, begin=0.0, seconds=260, growth=growth, noise_mib=100.0)

    assert memory.memory(life, warm_at=0.0, calm_from=0.0)[1].held is held


def test_workers_that_hold_more_in_every_life_are_seen() -> None:
    alike = [samples(WORKER, pid, begin=20.0 * pid, seconds=20) for pid in range(10)]
    larger = [samples(WORKER, pid, begin=20.0 * pid, seconds=20, at_first=100.0 + 5 * pid) for pid in range(10)]

    assert memory.memory([each for life in alike for each in life], warm_at=0.0, calm_from=0.0)[2].held
    assert not memory.memory([each for life in larger for each in life], warm_at=0.0, calm_from=0.0)[2].held


def test_a_run_of_seconds_is_not_judged() -> None:
    front = samples(FRONT, 1, begin=0.0, seconds=30, growth=100.0)

    assert "not judged" in memory.memory(front, warm_at=0.0, calm_from=0.0)[0].figures


@pytest.mark.parametrize(
    ("descriptors", "threads", "held"), [(24, 14, True), (40, 14, False), (24, 40, False)], ids=str
)
def test_handles_that_stay_are_seen(descriptors: int, threads: int, held: bool) -> None:
    before, after = Sample(0.0, 1, FRONT, MIB, 20, 10), Sample(9.0, 1, FRONT, MIB, descriptors, threads)

    assert memory.handles([before], [after]).held is held
