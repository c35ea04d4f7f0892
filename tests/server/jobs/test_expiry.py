"""Which jobs are removed: those whose time is over, and for room those that ended first."""

import pytest
from pellucid_server.jobs.expiry import expired, expires_at
from pellucid_server.jobs.records import CANCELLED, DONE, FAILED, RUNNING
from pellucid_server.settings.jobs import JobsConfig
from server.jobs.conftest import record

MIB = 1 << 20


def ended(number, at, size_bytes=0, state=DONE):
    return record(number, state=state, ended=float(at), size_bytes=size_bytes)


def numbers(records, now=1000.0, **settings):
    return [each.removeprefix("job-") for each in expired(records, JobsConfig(**settings), now=now)]


def test_jobs_whose_time_is_over_are_removed_those_that_ended_first_before_others():
    records = [ended(0, 950), ended(1, 890, state=FAILED), ended(2, 910), ended(3, 100, state=CANCELLED)]

    assert numbers(records, keep_seconds=100) == ["3", "1"]
    assert numbers(records, keep_seconds=100, now=1010.0) == ["3", "1", "2"]
    assert numbers(records, keep_seconds=100, now=1009.0) == ["3", "1"]


def test_without_a_time_jobs_are_kept():
    records = [ended(0, 1)]

    assert numbers(records, keep_seconds=0, now=1e12) == []
    assert expires_at(records[0], JobsConfig(keep_seconds=0)) is None


def test_a_job_that_has_not_ended_never_expires():
    running = record(0, state=RUNNING, size_bytes=100 * MIB)

    assert numbers([running], now=1e12, most_bytes=MIB, most_jobs=1) == []
    assert expires_at(running, JobsConfig()) is None


@pytest.mark.parametrize(
    ("most_mib", "removed"), [(10, []), (9, ["0"]), (7, ["0"]), (6, ["0", "1"]), (4, ["0", "1"]), (3, ["0", "1", "2"])]
)
def test_as_many_make_room_as_it_takes(most_mib, removed):
    # Those of the jobs that have not ended count too.
    sizes = {0: 3, 1: 3, 2: 1}
    records = [ended(number, number, size * MIB) for number, size in sizes.items()]
    records.append(record(3, state=RUNNING, size_bytes=3 * MIB))

    assert numbers(reversed(records), now=5.0, most_bytes=most_mib * MIB) == removed


def test_no_more_jobs_are_kept_than_may_be():
    records = [ended(number, number) for number in range(5)] + [record(9)]

    assert numbers(records, now=5.0, most_jobs=3) == ["0", "1"]


def test_when_a_job_is_removed_is_known_from_its_end_on():
    assert expires_at(ended(0, 50), JobsConfig(keep_seconds=30)) == 80
