"""Who is told what happens in the pool: a base whose methods do nothing."""

from pellucid_server.vocabulary.messages import Heartbeat
from pellucid_server.vocabulary.results import RequestTiming

REFUSALS = ("rows", "bytes", "seconds", "deadline", "late", "draining", "unready", "quarantined")
"""Why a request is not taken.

The bound of its class that it would exceed; its deadline, when it came ("deadline") or when its turn came ("late"); or
that the server stops, that no worker is ready, or that an equal request ended two workers.
"""


class Observer:
    """Hears of what happens in the pool; subclasses count it. Called on the event loop, so nothing may block."""

    def restarted(self, device: str) -> None:
        """Hear that a worker is about to be started again."""

    def lost(self, device: str, cause: str) -> None:
        """Hear that a worker was lost: `cause` is "exit", "hang", or "start" if it could not be started again."""

    def retried(self) -> None:
        """Hear that a request of a lost worker is sent to a worker once more."""

    def worked(self, model: str, timing: RequestTiming, wasted: bool) -> None:
        """Hear what a worker did for a request; `wasted` if nobody got a result from it."""

    def refused(self, priority: str, cause: str) -> None:
        """Hear that a request of a class was not taken; `cause` is one of `REFUSALS`."""

    def beat(self, device: str, worker: int, beat: Heartbeat) -> None:
        """Hear a heartbeat of a worker, which goes by its place among the devices."""
