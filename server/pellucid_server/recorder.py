"""The flight recorder: memory that outlives a worker process and says which requests it was busy with.

When a worker dies, its requests are done again elsewhere; but the one that it died over would end the next
worker too. So a worker notes, in a file in memory that it shares with the front, whose Python it runs, whose
rows are on the device and whose pictures are being decoded; after its death the front reads what was last
noted. Writing is a store to memory: a note costs less than a microsecond.
"""

import mmap
import os
import tempfile
from collections.abc import Iterable

import numpy as np

MOST_DEVICE_REQUESTS = 1024
"""Requests in one device batch that are noted; further ones are not."""

_PYTHON = 0
_COUNT = 1
_THREADS = slice(2, 34)
_DEVICE = 34
_LENGTH = _DEVICE + MOST_DEVICE_REQUESTS
_BYTES = 8 * _LENGTH


class Recorder:
    """One worker's notes; `descriptor` is of a file made by `new_record`, and is taken over."""

    def __init__(self, descriptor: int) -> None:
        with open(descriptor, "r+b", buffering=0) as file:
            self._memory = mmap.mmap(file.fileno(), _BYTES)
        self._notes = np.frombuffer(self._memory, np.int64)

    def close(self) -> None:
        """Let go of the memory, as if nothing had been noted; harmless if that was done."""
        # The memory cannot be closed while an array shows it.
        self._notes = np.zeros(_LENGTH, np.int64)
        self._memory.close()

    def python(self, request_number: int) -> None:
        """Note whose Python runs now; 0 for nobody's."""
        self._notes[_PYTHON] = request_number

    def device(self, request_numbers: Iterable[int]) -> None:
        """Note whose rows the device works on now; none for nobody's."""
        found = tuple(request_numbers)[:MOST_DEVICE_REQUESTS]
        # The count last: notes that are half written name nobody who was not there.
        self._notes[_COUNT] = 0
        self._notes[_DEVICE : _DEVICE + len(found)] = found
        self._notes[_COUNT] = len(found)

    def offloaded(self, thread: int, request_number: int) -> None:
        """Note whose work a thread beside the hub does; `thread` is in [0, 32), 0 is nobody's request."""
        self._notes[_THREADS][thread] = request_number

    def suspects(self) -> frozenset[int]:
        """Return the ids of the requests that the worker was busy with."""
        device = self._notes[_DEVICE : _DEVICE + int(self._notes[_COUNT])]
        noted = (self._notes[_PYTHON : _PYTHON + 1], self._notes[_THREADS], device)
        return frozenset(int(request_number) for part in noted for request_number in part if request_number)

    def still_at(self, request_number: int) -> bool:
        """Tell whether the device, or a thread beside the hub, is at work for a request, ended or not."""
        device = self._notes[_DEVICE : _DEVICE + int(self._notes[_COUNT])]
        return bool((device == request_number).any() or (self._notes[_THREADS] == request_number).any())


def new_record() -> int:
    """Return the descriptor of an empty record, which the caller closes."""
    with tempfile.TemporaryFile() as file:
        file.truncate(_BYTES)
        return os.dup(file.fileno())
