import math
import re
from pathlib import Path

import pellucid_server.engine.evaluations
import pytest
from pellucid_server.engine.device.batch_log import BatchLog, kind_of
from pellucid_server.vocabulary.messages import BATCH_BOUNDS, BatchCounts
from pellucid_server.vocabulary.results import KINDS


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log(clock):
    return BatchLog(clock)


def run(log, clock, seconds, kind, rows):
    log.began()
    clock.now += seconds
    log.ended(kind, rows)


def test_batches_are_counted_by_kind_and_size_and_only_once(log, clock):
    for rows in (1, 3, 4, 5, 16384, 16385):
        run(log, clock, 0.5, "forward", rows)
    run(log, clock, 0.5, "gradient", 2)

    busy_seconds, batches = log.take()

    bounds = [*BATCH_BOUNDS, math.inf]
    found = {each.kind: ({bounds[at]: n for at, n in enumerate(each.counts) if n}, each.rows) for each in batches}
    assert busy_seconds == 3.5
    assert found == {
        "forward": ({1: 1, 4: 2, 8: 1, 16384: 1, math.inf: 1}, 13 + 16384 + 16385),
        "gradient": ({2: 1}, 2),
    }
    assert log.take() == (0.0, ())


def test_a_batch_in_progress_counts_for_the_time_so_far(log, clock):
    log.began()
    clock.now += 2
    first = log.take()
    clock.now += 3
    log.ended("forward", 1)

    assert first == (2.0, ())
    assert log.take() == (3.0, (BatchCounts("forward", (1, *[0] * len(BATCH_BOUNDS)), 1),))


def test_two_threads_at_work_are_one_busy_device(log, clock):
    log.began()
    clock.now += 1
    log.began()
    clock.now += 1
    log.ended("forward", 1)
    clock.now += 1
    log.ended("gradient", 1)
    clock.now += 10

    assert log.take()[0] == 3.0


def test_a_batch_that_failed_was_busy_and_evaluated_nothing(log, clock):
    run(log, clock, 1.0, "forward", 0)

    assert log.take() == (1.0, ())


@pytest.mark.parametrize(
    ("kernels", "kind"),
    [
        ("forward", "forward"),
        ("gradient@fc,...", "gradient"),
        ("suffix gradient@a@b", "suffix-gradient"),
        ("unit suffix@a", "unit-suffix"),
    ],
)
def test_a_kind_names_no_layer(kernels, kind):
    assert kind_of(kernels) == kind
    assert kind in KINDS


def test_every_kind_that_an_evaluation_names_is_one_that_callers_read_of():
    sources = [
        path.read_text("utf-8") for path in Path(pellucid_server.engine.evaluations.__file__).parent.glob("*.py")
    ]
    lines = [line for source in sources for line in source.splitlines() if re.search(r"\bkind = ", line)]
    found = {kind_of(name) for line in lines for name in re.findall(r'"([a-z][a-z ]*)(?=[@"])', line)}

    assert {"forward", "suffix", "suffix-gradient", "unit", "unit-gradient"} <= found
    assert found <= set(KINDS)
