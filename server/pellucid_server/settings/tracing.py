"""Where traces of requests go."""

import importlib.util

from pydantic import Field, field_validator

from pellucid_server.settings.section import Section

_EXPORTER = "opentelemetry.exporter.otlp.proto.grpc"


class TracingConfig(Section):
    """Traces of requests, sent by OTLP; OpenTelemetry's own variables, such as OTEL_EXPORTER_OTLP_HEADERS, hold too."""

    endpoint: str = ""
    """Address of a collector for OTLP over gRPC, such as "http://collector:4317", or https; empty exports nothing."""

    sample_ratio: float = Field(default=1.0, ge=0, le=1)
    """Share of the requests without a `traceparent` that are recorded; with one, the caller decides by its flag."""

    service_name: str = Field(default="pellucid", min_length=1)
    """The service that the spans are of (`service.name`)."""

    queue_spans: int = Field(default=8192, ge=1, le=1 << 20)
    """Spans that wait to be sent; beyond it the oldest are dropped."""

    delay_seconds: float = Field(default=5.0, gt=0, le=3600)
    """Longest time that a span waits before it is sent, where the collector is there."""

    timeout_seconds: float = Field(default=10.0, gt=0, le=600)
    """Time for one message to the collector, tries again included; then its spans are dropped."""

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, endpoint: str) -> str:
        if not endpoint:
            return endpoint
        scheme, _, rest = endpoint.partition("://")
        if scheme not in {"http", "https"} or not rest:
            raise ValueError(
                'an endpoint begins with "http://", or with "https://" for TLS, such as "http://collector:4317"'
            )
        if not _installed():
            raise ValueError("traces need OpenTelemetry, which is not installed; pip install 'pellucid[tracing]'")
        return endpoint


def _installed() -> bool:
    try:
        return importlib.util.find_spec(_EXPORTER) is not None
    except ModuleNotFoundError:
        return False
