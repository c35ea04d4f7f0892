"""What is known of a job."""

from dataclasses import dataclass

from pellucid_server.vocabulary.requests import ModelKey
from pellucid_server.vocabulary.results import Failure

QUEUED, RUNNING, DONE, FAILED, CANCELLED = STATES = ("queued", "running", "done", "failed", "cancelled")
"""What a job can be at."""

ENDED = (DONE, FAILED, CANCELLED)
"""The states in which nothing changes any more."""


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job, without its request and its answer.

    Attributes
    ----------
    id
        Random, 32 hexadecimal digits.
    key
        What equal requests of one owner have in common, 64 hexadecimal digits; empty for a job that none may join.
    owner
        Name of the identity that submitted it; empty on a server without identities.
    shared
        Whether other identities may join it and read its answer.
    pinned
        Whether it was submitted. Others go on only while a caller follows them.
    verb, method
        The RPC whose request it does, and the request's method.
    model
        The version, with its digest, that it runs on.
    dataset, dataset_digest
        The request's data set; both empty without one.
    priority
        The class of requests that it runs in.
    created, started, ended
        Unix times in seconds; None for what has not happened.
    share, rows_done, rows
        How far it is, as in `Progress`.
    parts, size_bytes
        Parts of the answer that are stored, and the bytes of all its files.
    resumed
        How often it went on after a worker or the server was lost.
    failure
        Why it failed; None for others.
    """

    id: str
    key: str
    owner: str
    verb: str
    method: str
    model: ModelKey
    created: float
    priority: str
    shared: bool = False
    pinned: bool = True
    dataset: str = ""
    dataset_digest: str = ""
    state: str = QUEUED
    started: float | None = None
    ended: float | None = None
    share: float = 0.0
    rows_done: int = 0
    rows: int = 0
    parts: int = 0
    size_bytes: int = 0
    resumed: int = 0
    failure: Failure | None = None

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state in ENDED

    @property
    def joinable(self) -> bool:
        """Whether an equal request joins it in place of being done again."""
        return bool(self.key) and self.state not in (FAILED, CANCELLED)
