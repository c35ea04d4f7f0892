"""Which jobs have been kept for long enough."""

from collections.abc import Iterable

from pellucid_server.jobs.records import JobRecord
from pellucid_server.settings.jobs import JobsConfig


def expired(records: Iterable[JobRecord], config: JobsConfig, *, now: float) -> list[str]:
    """Return the ids of jobs to remove, those that ended first before others; only jobs that have ended are.

    Parameters
    ----------
    now
        The Unix time.
    """
    known = list(records)
    ended = sorted((each for each in known if each.ended is not None), key=lambda each: (each.ended or 0.0, each.id))
    total = sum(each.size_bytes for each in known)
    count, found = len(ended), list[str]()
    for each in ended:
        end = expires_at(each, config)
        if (end is None or end > now) and total <= config.most_bytes and count <= config.most_jobs:
            break
        found.append(each.id)
        total -= each.size_bytes
        count -= 1
    return found


def expires_at(record: JobRecord, config: JobsConfig) -> float | None:
    """Return the Unix time from which on a job is removed; None if it has not ended, or is kept."""
    if record.ended is None or not config.keep_seconds:
        return None
    return record.ended + config.keep_seconds
