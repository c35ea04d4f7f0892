"""The jobs that ended two worker processes, so that they are not let near a third."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable

from pellucid_server import wire
from pellucid_server.errors import FatalRequestError
from pellucid_server.jobs import Job

_MOST_JOBS = 64
_MEMORY_SECONDS = 600.0


class FatalJobs:
    """Remembers the digests of the last 64 such jobs, each for 10 minutes.

    Parameters
    ----------
    clock
        Tells the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def add(self, job: Job) -> str:
        """Remember a job, and return its digest for the log."""
        key = digest(job)
        self._until.pop(key, None)
        self._until[key] = self._clock() + _MEMORY_SECONDS
        if len(self._until) > _MOST_JOBS:
            self._until.popitem(last=False)
        return key.hex()

    def knows(self, job: Job) -> bool:
        """Tell whether an equal job is remembered; free while none is."""
        if not self._until:
            return False
        now = self._clock()
        while self._until and next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)
        return bool(self._until) and digest(job) in self._until


def fatal_error() -> FatalRequestError:
    """Return what the caller of such a job reads."""
    return FatalRequestError(
        "Two worker processes ended while they worked on this request. It is not tried again; do not send it again."
    )


def digest(job: Job) -> bytes:
    """Return what only equal jobs have in common."""
    return hashlib.sha256(wire.encode(job)).digest()
