"""A finished span, in plain words: what is exported of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from pellucid_server.vocabulary.spans import Attribute


class SpanKind(Enum):
    """What a span is to those around it."""

    SERVER = "server"
    """It answers a call from elsewhere."""
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened during a span; `time_ns` is since 1970."""

    name: str
    time_ns: int
    attributes: Mapping[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """A finished span; ids are hexadecimal, times in nanoseconds since 1970."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty for the first span of a trace."""
    began_ns: int
    ended_ns: int
    attributes: Mapping[str, Attribute]
    kind: SpanKind = SpanKind.INTERNAL
    events: tuple[Event, ...] = ()
    links: tuple[str, ...] = ()
    """Trace contexts, as `traceparent` has them."""
    error: str = ""
    """Why it failed; empty if it did not."""
    remote_parent: bool = False
    """Whether its parent is of another process."""
