"""When a method saves where it stands."""

import time

from pellucid_server.vocabulary.findings import State

_SECONDS = 2.0
_BYTES_PER_SECOND = 2 << 20
"""Of states, on average."""


class SaveTimer:
    """Due the first time at once, and then every two seconds, or less often where states are large."""

    def __init__(self) -> None:
        self._next = -float("inf")

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() >= self._next

    def wait_for(self, state: State) -> None:
        """Count the time to the next one from now, when this one is saved."""
        self._next = time.monotonic() + (_SECONDS and max(_SECONDS, state.size_bytes / _BYTES_PER_SECOND))
