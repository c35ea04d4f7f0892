"""What the pool tells of itself, for whoever measures it."""

from pellucid_server.jobs import JobTiming


class Observer:
    """Told of what happens in the pool; this one keeps nothing."""

    def restarted(self, device: str) -> None:
        """Be told that a worker is started again."""

    def lost(self, device: str, cause: str) -> None:
        """Be told that a worker process has ended unasked; `cause` is "exit", "hang" or "start"."""

    def retried(self) -> None:
        """Be told that a job of a lost worker is sent to a worker again."""

    def worked(self, model: str, timing: JobTiming, wasted: bool) -> None:
        """Be told that a worker is done with a job; `wasted` is whether nobody gets a result from it."""

    def refused(self, priority: str, cause: str) -> None:
        """Be told that a job of a class was not taken; `cause` is "rows", "bytes", "seconds" or "deadline"."""
