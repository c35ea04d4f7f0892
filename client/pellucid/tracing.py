"""The trace that a call belongs to: what the caller says, or the current span of OpenTelemetry if that is in use."""

import contextlib
import re
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from pellucid.checks import checked_text, shortened
from pellucid.errors import invalid

TRACE_KEY = "traceparent"
"""Metadata key of the trace context, as W3C has it."""

_FORM = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)

_given: ContextVar[str] = ContextVar("pellucid trace context", default="")


@contextlib.contextmanager
def trace_context(traceparent: str) -> Iterator[None]:
    """Make the calls that begin within the `with` statement, in this thread or task, part of a trace.

    Where an application uses OpenTelemetry and a span is current, calls are part of its trace without this.

    Parameters
    ----------
    traceparent
        The W3C trace context, such as "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".

    Raises
    ------
    InvalidRequestError
        It is malformed.
    """
    text = checked_text(traceparent, TRACE_KEY)
    if not _FORM.fullmatch(text):
        what = "it must be 00, a trace's 32, a span's 16 and the flags' 2 hexadecimal digits, with - between them"
        raise invalid(TRACE_KEY, f"is {shortened(text)}; {what}")
    token = _given.set(text)
    try:
        yield
    finally:
        _given.reset(token)


def current() -> str:
    """Return the trace context of calls that begin now, empty if they belong to no trace."""
    return _given.get() or _current_span()


def _current_span() -> str:
    # Unless the program has imported OpenTelemetry, no span is current; importing it takes longer than a call.
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return ""
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return ""
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
