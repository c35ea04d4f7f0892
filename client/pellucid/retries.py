"""When a call that failed is made again. No input or output: both clients make their tries by it.

gRPC has retries of its own, which are off: they end after five attempts, within some 1.5 s if the server names no
time, whatever the deadline is; a worker that was lost needs 5 to 10 s to come back. What gRPC does by itself for calls
that never left the machine stays on.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from pellucid.errors import PellucidError, TimedOutError, refused_until_deadline

MOST_RETRIES = 1_000_000
"""What a caller may ask for at most."""

_FIRST_SECONDS = 0.1
_MOST_SECONDS = 2.0
_MOST_DOUBLINGS = 10
# Less than this before the deadline, another try would only turn the server's words into a timeout.
_LEAST_ROOM_SECONDS = 0.1
# Without waiting for a connection, so many tries that no server answers are enough: they take a second or less.
_UNANSWERED_RETRIES = 3


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Which failures are worth another try, and after what pause.

    Attributes
    ----------
    limit
        Retries of a call, at most; None for as many as its deadline allows.
    persistent
        Whether a call that no server answers is tried as long as others; otherwise three times more.
    draw
        Returns a random number between two.
    """

    limit: int | None = None
    persistent: bool = True
    draw: Callable[[float, float], float] = random.uniform

    def backoff_seconds(self, retries: int) -> float:
        """Return a random pause after so many retries: up to 0.1 s at first, doubled each time up to 2 s.

        From 0 on ("full jitter"), so that callers who failed together do not come back together.
        """
        return self.draw(0.0, min(_MOST_SECONDS, _FIRST_SECONDS * 2 ** min(retries, _MOST_DOUBLINGS)))

    def allows(self, error: PellucidError, retries: int) -> bool:
        """Tell whether a call that failed so, after so many retries, may be made again."""
        if not error.retriable or (self.limit is not None and retries >= self.limit):
            return False
        return self.persistent or bool(error.request_id) or retries < _UNANSWERED_RETRIES


@dataclass(slots=True)
class Tries:
    """The tries of one call."""

    policy: RetryPolicy
    retries: int = 0
    refusal: PellucidError | None = None
    """What the last try failed with."""

    def pause_seconds(self, error: PellucidError, remaining_seconds: float) -> float:
        """Return how long to wait before the next try: what the server asks for at least.

        Parameters
        ----------
        error
            What the last try failed with.
        remaining_seconds
            Time until the call's deadline.

        Raises
        ------
        PellucidError
            What the caller is to see: another try makes no sense, is not allowed, or does not fit the deadline.
        """
        if isinstance(error, TimedOutError) and not error.request_id and self.refusal is not None:
            raise refused_until_deadline(error, self.refusal) from self.refusal
        least = error.retry_after_seconds or 0.0
        room = remaining_seconds - least
        if room < _LEAST_ROOM_SECONDS or not self.policy.allows(error, self.retries):
            raise error
        pause = least + min(self.policy.backoff_seconds(self.retries), room / 2)
        self.retries += 1
        self.refusal = error
        return pause
