"""Who is told what happens in the pool: a base whose methods do nothing."""

from pellucid_server.vocabulary.results import RequestTiming


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
        """Hear that a class had no room for a request: `cause` is "rows", "bytes", "seconds" or "deadline"."""

    def model_changed(self, model: str, outcome: str) -> None:
        """Hear what came of a version of a model while it is served: "loaded", "failed" or "unloaded"."""
