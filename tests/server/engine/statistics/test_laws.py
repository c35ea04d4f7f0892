"""The laws of statistics, for every one: parts as the whole, halves merged, states that go on."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pellucid_server.engine.statistics
import pytest
from pellucid_server.engine.statistics.class_means import ClassMeans
from pellucid_server.engine.statistics.covariance import Covariance
from pellucid_server.engine.statistics.moments import Moments
from pellucid_server.engine.statistics.overlap import Overlap
from pellucid_server.engine.statistics.quantiles import UpperTail
from pellucid_server.engine.statistics.ranges import Ranges
from pellucid_server.engine.statistics.sample import Sample
from pellucid_server.engine.statistics.top_examples import TopExamples

Summary = Callable[[Any], Sequence[Any]]


@dataclass(frozen=True)
class Case:
    """A statistic: a fresh one, arguments of `update` for some batches, and what two of them are compared by."""

    make: Callable[[], Any]
    batches: Sequence[tuple[Any, ...]]
    summary: Summary
    exact_merge: bool = False
    """Whether halves merged are the whole bit for bit; else to rounding."""
    tolerance: float = 1e-12


def values(seed, *shape):
    return np.random.default_rng(seed).normal(3, 2, shape).astype(np.float32)


COUNTS = (5, 1, 0, 7, 12, 3)


def numbered():
    """Row numbers and rows of four columns, with ties, in batches of `COUNTS`."""
    first = 0
    for seed, count in enumerate(COUNTS):
        yield np.arange(first, first + count), np.round(values(seed, count, 4))
        first += count


def overlaps(seed):
    """Arguments of `Overlap.update` for three pictures of 50 pixels, of two groups."""
    source = np.random.default_rng(seed)
    for _ in range(3):
        on, present = np.sort(source.permutation(4)[:3]), np.sort(source.permutation(3)[:2])
        units, concepts = source.integers(1, 50, 3), source.integers(1, 50, 2)
        both = np.minimum(units[:, None], concepts) // source.integers(1, 4, (3, 2))
        yield (50, np.unique(np.array([0, 0, 1])[present]), on, units, present, concepts, both)


def tops(seed, count):
    """Arguments of `TopExamples.update` with many equal values."""
    source = np.random.default_rng(seed)
    found = source.integers(0, 4, (3, count)).astype(np.float32)
    return found, np.arange(count) + 10 * seed, source.integers(0, 9, (3, count))


CASES = {
    ClassMeans: Case(
        lambda: ClassMeans(4, 3),
        [(["cat", "", "hen", "ape", "bee"][: len(rows)] * 3, np.repeat(rows, 3, 0)) for _, rows in numbered()][:2]
        + [(["hen"] * len(rows), rows) for _, rows in numbered()],
        lambda found: (found.counts, found.means, found.overfull),
    ),
    Covariance: Case(
        lambda: Covariance(4),
        [(rows,) for _, rows in numbered()],
        lambda found: (found.count, found.mean, found.matrix),
    ),
    Ranges: Case(
        lambda: Ranges(4),
        [(rows.T - 3,) for _, rows in numbered()],
        lambda found: (found.minimum, found.maximum, found.positive),
        exact_merge=True,
    ),
    Sample: Case(
        lambda: Sample(4, 9, seed=-3),
        list(numbered()),
        lambda found: (found.keys, found.values),
        exact_merge=True,
    ),
    Moments: Case(
        lambda: Moments(4),
        [(values(seed, 4, count),) for seed, count in enumerate((5, 1, 0, 7, 12, 3))],
        lambda found: (found.count, found.mean, found.variance),
    ),
    Overlap: Case(
        lambda: Overlap(4, np.array([0, 0, 1])),
        [picture for seed in range(2) for picture in overlaps(seed)],
        lambda found: (found.intersections, found.unit_areas, found.pixels, found.pictures, found.iou_error()),
        exact_merge=True,
    ),
    TopExamples: Case(
        lambda: TopExamples(3, 6),
        [tops(seed, count) for seed, count in enumerate((5, 1, 0, 7, 2, 9))],
        lambda found: (found.values, found.rows, found.positions),
        exact_merge=True,
    ),
    UpperTail: Case(
        lambda: UpperTail(4, 9),
        [(np.round(values(seed, 4, count)),) for seed, count in enumerate((5, 1, 0, 7, 300, 3))],
        lambda found: (found.value(), found.value(4), found.above(found.value()), found.rank_error),
        exact_merge=True,
    ),
}


def found_statistics():
    package = pellucid_server.engine.statistics
    for entry in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        for _, kind in inspect.getmembers(importlib.import_module(entry.name), inspect.isclass):
            if kind.__module__ == entry.name and {"update", "merge", "state", "from_state"} <= set(vars(kind)):
                yield kind


def updated(case, batches):
    found = case.make()
    for batch in batches:
        found.update(*batch)
    return found


def equal(one, other):
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other, strict=True))


def near(one, other, tolerance):
    return all(
        np.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True) for a, b in zip(one, other, strict=True)
    )


def test_every_statistic_has_its_case():
    kinds = [kind for kind in found_statistics() if kind.__name__ != "Statistic"]
    assert {kind.__name__ for kind in kinds} == {kind.__name__ for kind in CASES}


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_two_halves_merged_are_the_whole(kind):
    case = CASES[kind]
    whole = case.summary(updated(case, case.batches))
    for split in range(len(case.batches) + 1):
        merged = updated(case, case.batches[:split])
        merged.merge(updated(case, case.batches[split:]))
        if case.exact_merge:
            assert equal(case.summary(merged), whole), split
        else:
            assert near(case.summary(merged), whole, case.tolerance), split


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_what_goes_on_from_a_state_is_the_same_bit_for_bit(kind):
    case = CASES[kind]
    whole = case.summary(updated(case, case.batches))
    for split in range(len(case.batches) + 1):
        resumed = kind.from_state(updated(case, case.batches[:split]).state())
        for batch in case.batches[split:]:
            resumed.update(*batch)
        assert equal(case.summary(resumed), whole), split


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
def test_a_state_stays_as_it_is_when_the_statistic_goes_on(kind):
    case = CASES[kind]
    found = updated(case, case.batches[:1])
    state = found.state()
    before = {name: array.copy() for name, array in state.items()}
    for batch in case.batches[1:]:
        found.update(*batch)
    assert all(np.array_equal(state[name], before[name], equal_nan=True) for name in before)
