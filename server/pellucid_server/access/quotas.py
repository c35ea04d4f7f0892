"""How much of its quota each identity has used."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from pellucid_server.access.policy import Identity
from pellucid_server.errors import QuotaExceededError

QUOTAS = ("requests_per_second", "rows_per_minute", "concurrent_requests")
"""What can run out."""

_BUSY_SECONDS = 0.25
"""When a caller with too many requests at once should try again; when one of them ends is not known."""


@dataclass(slots=True)
class _Bucket:
    """An allowance that fills up with time."""

    level: float
    at: float

    def fill(self, now: float, *, rate: float, most: float) -> None:
        self.level = min(most, self.level + (now - self.at) * rate)
        self.at = now


@dataclass(slots=True)
class _Use:
    """What an identity has used."""

    requests: _Bucket
    rows: _Bucket
    running: int = 0


class Quotas:
    """Counts what identities use; a policy that is read anew finds the counts as they were.

    Parameters
    ----------
    clock
        A monotonic time in seconds.
    on_refusal
        Called with the name of the identity and of the quota.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        on_refusal: Callable[[str, str], None] = lambda identity, quota: None,
    ) -> None:
        self._clock = clock
        self._on_refusal = on_refusal
        self._uses: dict[str, _Use] = {}

    def enter(self, identity: Identity) -> None:
        """Count a request that begins.

        Raises
        ------
        QuotaExceededError
            The identity has used up what it may; the request is not counted.
        """
        quota, now = identity.quota, self._clock()
        use = self._uses.get(identity.name) or self._begin(identity, now)
        if quota.concurrent_requests is not None and use.running >= quota.concurrent_requests:
            what = f"{quota.concurrent_requests} requests at once"
            raise self._exceeded(identity, "concurrent_requests", what, _BUSY_SECONDS)
        if quota.rows_per_minute is not None:
            rate = quota.rows_per_minute / 60
            use.rows.fill(now, rate=rate, most=float(quota.rows_per_minute))
            if use.rows.level <= 0:
                what = f"{quota.rows_per_minute} evaluation rows a minute"
                raise self._exceeded(identity, "rows_per_minute", what, (1 - use.rows.level) / rate)
        if quota.requests_per_second is not None:
            rate = quota.requests_per_second
            use.requests.fill(now, rate=rate, most=quota.burst)
            if use.requests.level < 1:
                what = f"{rate:g} requests a second"
                raise self._exceeded(identity, "requests_per_second", what, (1 - use.requests.level) / rate)
            use.requests.level -= 1
        use.running += 1

    def leave(self, identity: Identity) -> None:
        """Count a request that has ended."""
        self._uses[identity.name].running -= 1

    def charge(self, identity: Identity, rows: int) -> None:
        """Count the evaluation rows of a request, which are known once it is done; so the level may be below 0."""
        if identity.quota.rows_per_minute is not None:
            use = self._uses.get(identity.name) or self._begin(identity, self._clock())
            use.rows.level -= rows

    def _begin(self, identity: Identity, now: float) -> _Use:
        quota = identity.quota
        use = _Use(_Bucket(quota.burst, now), _Bucket(float(quota.rows_per_minute or 0), now))
        self._uses[identity.name] = use
        return use

    def _exceeded(self, identity: Identity, quota: str, what: str, seconds: float) -> QuotaExceededError:
        self._on_refusal(identity.name, quota)
        wait = max(seconds, 0.001)
        return QuotaExceededError(
            f"The identity {identity.name} may have {what}, and has used that up; try again in {wait:.3f} s.",
            identity=identity.name,
            quota=quota,
            retry_after_seconds=f"{wait:.3f}",
        )
