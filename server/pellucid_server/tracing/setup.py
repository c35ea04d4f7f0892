"""Brings tracing up where the settings ask for it; without that, OpenTelemetry is not imported."""

import importlib
from collections.abc import Callable, Sequence
from typing import Protocol, cast

from pellucid_server.settings.tracing import TracingConfig
from pellucid_server.tracing.span import Span

EXPORT_MODULE = "pellucid_server.tracing.export"


class SpanExport(Protocol):
    """Takes finished spans."""

    def __call__(self, spans: Sequence[Span], /) -> None:
        """Queue spans, without blocking."""
        ...

    def close(self, patience_seconds: float) -> None:
        """Send what is queued, for so long at most. Blocks."""
        ...


def span_export(config: TracingConfig, on_drop: Callable[[int], None]) -> SpanExport | None:
    """Return what spans are given to, or None if none are to be exported.

    `on_drop` is called with the number of spans that were dropped.
    """
    if not config.endpoint:
        return None
    return cast(SpanExport, importlib.import_module(EXPORT_MODULE).Exporter(config, on_drop))
