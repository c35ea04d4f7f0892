"""Traces of requests: workers report times, the front makes spans of them and exports them.

`export` alone imports OpenTelemetry, and is imported only if `tracing.endpoint` is set.
"""
