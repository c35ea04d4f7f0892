"""The server's processes as the operating system sees them: who there is, and what each holds, second by second."""

import os
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")

FRONT, WORKER, HELPER, OTHER = "front", "worker", "helper", "other"


@dataclass(frozen=True)
class Sample:
    """What one process held at one moment."""

    at: float
    """On `time.monotonic()`'s clock."""
    pid: int
    kind: str
    """"front", "worker", "helper" or "other"."""
    resident_bytes: int
    descriptors: int
    threads: int


def descendants(pid: int) -> list[int]:
    """Return the ids of a process's children, their children, and so on."""
    found: list[int] = []
    for child in _children(pid):
        found += [child, *descendants(child)]
    return found


def kind_of(pid: int) -> str:
    """Tell what a process below the front is."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return OTHER
    return {"pellucid-worker": WORKER, "pellucid-helper": HELPER}.get(name, OTHER)


def alive(pid: int) -> bool:
    """Tell whether a process is there and is more than its exit status."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def workers(front: int) -> list[int]:
    """Return the ids of the worker processes."""
    return [pid for pid in descendants(front) if kind_of(pid) == WORKER and alive(pid)]


class Sampler:
    """Samples a front and all processes below it, on a thread, until closed."""

    def __init__(self, front: int, *, every_seconds: float = 1.0) -> None:
        self.samples: list[Sample] = []
        self._front = front
        self._every_seconds = every_seconds
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def now(self) -> list[Sample]:
        """Return a sample of each process now."""
        return list(_sampled(self._front))

    def close(self) -> None:
        """Sample no more."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(self._every_seconds):
            self.samples += _sampled(self._front)


def of_kind(samples: Iterable[Sample], kind: str) -> list[Sample]:
    """Return the samples of processes of a kind."""
    return [each for each in samples if each.kind == kind]


def _sampled(front: int) -> Iterator[Sample]:
    for pid, kind in [(front, FRONT), *((pid, kind_of(pid)) for pid in descendants(front))]:
        try:
            resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
            descriptors = len(os.listdir(f"/proc/{pid}/fd"))
            threads = len(os.listdir(f"/proc/{pid}/task"))
        except OSError:
            # It ended while it was looked at.
            continue
        yield Sample(time.monotonic(), pid, kind, resident, descriptors, threads)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in path.read_text().split()]
        except OSError:
            continue
    return found
