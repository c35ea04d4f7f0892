"""What callers write down: a line when a call begins and one when it has ended, so that no killed caller's is lost."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Begun:
    """A call that was made."""

    id: str
    """Its x-request-id."""
    entry: int
    """The place of its request in the catalogue."""
    plan: str
    """"patient", "hurried" for a short deadline, or "leaving" if the caller cancels it."""
    seconds: float
    """Its deadline."""
    at: float
    """When, on `time.monotonic()`'s clock, which all processes of a machine share."""


@dataclass(frozen=True)
class Ended:
    """How a call ended."""

    id: str
    code: str
    """The gRPC code; "HANG" if there was none long after the deadline."""
    at: float
    answered: bool = False
    """Whether the server itself ended the call: its trailers came."""
    retry_seconds: float | None = None
    """RetryInfo's delay."""
    stage: str = ""
    """Where a late call's work was, as the server says."""
    message: str = ""
    faults: tuple[str, ...] = ()
    """What is wrong with the answer."""
    partial: bool = False
    kept: str = ""
    """The file in which an answer that was cut short is kept, to be made again."""


@dataclass(frozen=True)
class Call:
    """A call and its end, which is None if its caller was killed."""

    begun: Begun
    ended: Ended | None


class Notebook:
    """One process's records; every line is the operating system's at once, so that SIGKILL loses none."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, record: Begun | Ended) -> None:
        """Add a line."""
        os.write(self._file, (json.dumps([type(record).__name__, asdict(record)]) + "\n").encode())


def read(paths: Iterable[Path]) -> list[Call]:
    """Return every call of these notebooks."""
    begun: dict[str, Begun] = {}
    ended: dict[str, Ended] = {}
    for path in paths:
        for line in path.read_text("utf-8").splitlines():
            kind, fields = json.loads(line)
            if kind == "Begun":
                begun[fields["id"]] = Begun(**fields)
            else:
                ended[fields["id"]] = _ended(fields)
    return [Call(each, ended.get(each.id)) for each in begun.values()]


def _ended(fields: dict[str, Any]) -> Ended:
    return Ended(**{**fields, "faults": tuple(fields["faults"])})
