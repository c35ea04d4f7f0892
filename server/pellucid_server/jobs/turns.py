"""Whose job is done next."""

from collections import Counter
from collections.abc import Iterable

from pellucid_server.jobs.job import Job


def due(jobs: Iterable[Job], capacity: int) -> list[Job]:
    """Return the jobs to begin now: those that callers follow, and of the submitted ones as many as there is room for.

    Owners take turns: the next is of the one with the fewest that are being done, and of that one the oldest.

    Parameters
    ----------
    capacity
        Submitted jobs that are done at once.
    """
    known = list(jobs)
    idle = [job for job in known if job.idle]
    found = [job for job in idle if not job.record.pinned]
    waiting = [job for job in idle if job.record.pinned]
    busy = Counter(job.record.owner for job in known if job.task is not None and job.record.pinned)
    while waiting and busy.total() < capacity:
        first = min(waiting, key=lambda job: (busy[job.record.owner], job.record.created, job.id))
        waiting.remove(first)
        busy[first.record.owner] += 1
        found.append(first)
    return found
