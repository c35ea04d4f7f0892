"""What a worker reports of a traced request: when it did what, on `time.monotonic()`'s clock."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Attribute = str | int | float | bool

WORK = "work"
"""Name of the first span of every report: from the start of the work to its end."""

METHOD = "pellucid.method"
"""Attribute: the name of a method of explanation."""

BATCH = "batch"
"""Name of a device batch's span."""

MOST_LINKS = 16
"""Most other requests that a batch's span names."""


@dataclass(frozen=True, slots=True)
class WorkerSpan:
    """One piece of work. Worker and front are on one machine, so that their monotonic clocks are one."""

    name: str
    parent: int
    """Number of the span that it is part of; 0 for the first, and numbers begin with 1."""
    began: float
    ended: float
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    """Nothing of the caller's: counts, kinds, and names that the server serves."""
    error: str = ""
    """The reason, if it failed."""
    batch: int = 0
    """Number of the device batch among its worker's; 0 if it is none."""
    links: tuple[str, ...] = ()
    """Trace contexts of other requests whose rows were in the batch."""
