"""Models and versions: what is served, what is broken, what was loaded."""

from deploy.monitoring.build.names import FAILED, MODEL, RATE, SITE, quantile
from deploy.monitoring.build.page import Page, Row
from deploy.monitoring.build.panels import HALF, WHOLE, Query, lines, listing


def versions() -> Page:
    """Return the dashboard of models and their versions."""
    return Page(
        "pellucid-models",
        "Pellucid: models and versions",
        "Which versions each server has loaded, which are broken, loads and their outcomes, and traffic by version.",
        (_served(), _loads(), _use()),
    )


def _served() -> Row:
    info = f"count by (model, version, digest) (pellucid_model_info{{{MODEL}}})"
    broken = f"count by (model, version) (pellucid_model_broken{{{MODEL}}} == 1)"
    return Row(
        "Served",
        (
            listing(
                "Loaded versions",
                "One line for each digest; the value is the number of servers that have it. Two digests of one version "
                "mean that servers have different files.",
                Query(info),
            ),
            listing("Broken versions", "Versions that could not be loaded, and on how many servers.", Query(broken)),
            lines(
                "Versions by state",
                "Added up over the servers.",
                (Query(f"sum by (state) (pellucid_models{{{SITE}}})", "{{state}}"),),
                unit="short",
                span=WHOLE,
                stacked=True,
            ),
        ),
    )


def _loads() -> Row:
    return Row(
        "Loads",
        (
            lines(
                "Loads and unloads",
                "Versions that were loaded, failed to load, or were unloaded.",
                (
                    Query(
                        f"sum by (model, outcome) (increase(pellucid_model_loads_total{{{MODEL}}}[{RATE}]))",
                        "{{model}}: {{outcome}}",
                    ),
                ),
                unit="short",
                span=HALF,
            ),
            lines(
                "Memory of the workers",
                "After an unload it falls back to about what it was before the load.",
                (
                    Query(
                        f"sum by (instance, device) (pellucid_worker_memory_bytes{{{SITE}}})",
                        "{{instance}} {{device}}",
                    ),
                ),
                unit="bytes",
                span=HALF,
            ),
        ),
    )


def _use() -> Row:
    count = "pellucid_request_seconds_count"
    by = "sum by (model, version)"
    failed = f'{by} (rate({count}{{{MODEL}, version!="", code=~"{FAILED}"}}[{RATE}]))'
    total = f'{by} (rate({count}{{{MODEL}, version!=""}}[{RATE}]))'
    return Row(
        "Use",
        (
            lines(
                "Requests by version", "Requests per second.", (Query(total, "{{model}} {{version}}"),), unit="reqps"
            ),
            lines(
                "Latency by version, p95",
                "Of answered requests. A quantile above the last bucket, 20 minutes, is not drawn.",
                (
                    Query(
                        quantile(
                            0.95, "pellucid_request_seconds", f'{MODEL}, version!="", code="OK"', "model", "version"
                        ),
                        "{{model}} {{version}}",
                    ),
                ),
                unit="s",
            ),
            lines(
                "Share that failed, by version",
                "Requests with a code that counts against the objectives. Unload a new version that stands out.",
                (Query(f"({failed} or 0 * {total}) / {total}", "{{model}} {{version}}"),),
                unit="percentunit",
            ),
        ),
    )
