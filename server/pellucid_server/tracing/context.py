"""W3C trace context: who called, as the metadata `traceparent` says it.

Source: W3C Recommendation "Trace Context", section 3.2, https://www.w3.org/TR/trace-context/.
"""

import os
import re
from dataclasses import dataclass

KEY = "traceparent"
"""Metadata key of the caller's trace context."""

_LENGTH = 55
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", re.ASCII)
_SAMPLED = 0x01


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A span's place: its trace, itself, and whether the trace is recorded."""

    trace_id: str
    """32 lower-case hexadecimal digits, not all of them 0."""
    span_id: str
    """16 lower-case hexadecimal digits, not all of them 0."""
    sampled: bool

    def header(self) -> str:
        """Return it as a `traceparent`."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def parse(header: str) -> TraceContext | None:
    """Read a `traceparent`; None if it is malformed, for then a trace starts anew."""
    found = _FORM.fullmatch(header[:_LENGTH])
    if found is None:
        return None
    version, trace_id, span_id, flags = found.groups()
    if version == "ff" or not trace_id.strip("0") or not span_id.strip("0"):
        return None
    rest = header[_LENGTH:]
    # Later versions may add fields at the end; this one has none.
    if rest and (version == "00" or not rest.startswith("-")):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def new_span_id() -> str:
    """Return a random id of a span."""
    while not (found := os.urandom(8)).strip(b"\0"):
        pass
    return found.hex()


def new_trace_id() -> str:
    """Return a random id of a trace."""
    while not (found := os.urandom(16)).strip(b"\0"):
        pass
    return found.hex()


def chosen(trace_id: str, ratio: float) -> bool:
    """Tell whether a trace is among the recorded share: by its id, so that equal ratios choose alike everywhere."""
    return int(trace_id[16:], 16) < round(ratio * (1 << 64))
