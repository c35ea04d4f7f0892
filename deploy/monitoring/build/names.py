"""What the dashboards and the rules agree on: selectors, ends of histograms, objectives."""

from dataclasses import dataclass

SITE = 'cluster=~"$cluster", namespace=~"$namespace"'
"""Selects by the labels that the scrape adds. A series without them is selected while the variables are "All"."""

MODEL = f'{SITE}, model=~"$model"'
METHOD = f'{MODEL}, method=~"$method"'
PREDICTING = "Predict|ModelInfer"
"""The RPCs that predict: the service's own, and that of the Open Inference Protocol."""

EXPLAINING = "Attribute|Ablate|Dissect"
"""The RPCs that explain. An explanation asked for beside a prediction counts as `Predict`."""

RATE = "$__rate_interval"
"""Grafana's own: at least four scrapes."""

LAST_EDGES = {
    "pellucid_request_seconds": 1200.0,
    "pellucid_queue_seconds": 1200.0,
    "pellucid_compute_seconds": 1200.0,
    "pellucid_approximation_error": 1.0,
    "pellucid_completeness_gap": 1.0,
}
"""The last finite bucket edge of each histogram: above it nothing is known but the number."""

FAILED = "UNKNOWN|INTERNAL|UNAVAILABLE|DATA_LOSS|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED"
"""Codes that count against the objectives. The others are the caller's to mend, or the caller left."""

_REFUSED = "|RESOURCE_EXHAUSTED"

RUNBOOK = "https://docs.example.com/pellucid/runbook/#"
"""Where docs/runbook.md is published; replace it before the rules are loaded."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A service level objective: the share of calls that may be bad in 30 days."""

    name: str
    """Its label `slo`."""
    alert: str
    """The name of its alert."""
    bad: str
    """PromQL for the rate of bad calls, with WINDOW for the window."""
    total: str
    """PromQL for the rate of all calls that count, likewise."""
    allowed: float
    """The share of bad calls that is allowed, in (0, 1)."""
    says: str
    """What a bad call is, as the middle of a sentence."""


def _errors(rpc: str, *, refusals: bool) -> tuple[str, str]:
    count = "pellucid_request_seconds_count"
    by = "sum by (cluster, namespace)"
    bad, left_out = (FAILED, "CANCELLED") if refusals else (FAILED.replace(_REFUSED, ""), f"CANCELLED{_REFUSED}")
    total = f'{by} (rate({count}{{rpc=~"{rpc}", code!~"{left_out}"}}[WINDOW]))'
    # Without any failed call there is no such series, and 0 times the total stands for it.
    return f'{by} (rate({count}{{rpc=~"{rpc}", code=~"{bad}"}}[WINDOW]))\nor\n0 * {total}', total


def _late(rpc: str, seconds: float) -> tuple[str, str]:
    by = "sum by (cluster, namespace)"
    total = f'{by} (rate(pellucid_request_seconds_count{{rpc=~"{rpc}", code="OK"}}[WINDOW]))'
    in_time = f'{by} (rate(pellucid_request_seconds_bucket{{rpc=~"{rpc}", code="OK", le="{seconds}"}}[WINDOW]))'
    return f"{total}\n-\n{in_time}", total


PREDICTION_SECONDS, EXPLANATION_SECONDS = 0.25, 30.0
"""What answers in time take at most; edges of the buckets of `pellucid_request_seconds`."""

OBJECTIVES = (
    Objective(
        "prediction-errors",
        "PellucidPredictionErrorBudgetBurn",
        *_errors(PREDICTING, refusals=True),
        0.001,
        "predictions fail",
    ),
    Objective(
        "prediction-latency",
        "PellucidPredictionLatencyBudgetBurn",
        *_late(PREDICTING, PREDICTION_SECONDS),
        0.01,
        f"predictions take more than {PREDICTION_SECONDS:g} s",
    ),
    # Explanations may wait or be sent again later: that they are refused has an alert of its own.
    Objective(
        "explanation-errors",
        "PellucidExplanationErrorBudgetBurn",
        *_errors(EXPLAINING, refusals=False),
        0.005,
        "explanations fail",
    ),
    Objective(
        "explanation-latency",
        "PellucidExplanationLatencyBudgetBurn",
        *_late("Attribute", EXPLANATION_SECONDS),
        0.05,
        f"attributions take more than {EXPLANATION_SECONDS:g} s",
    ),
)


def quantile(share: float, metric: str, selector: str, *by: str) -> str:
    """Return PromQL for a quantile of a histogram, without points where it lies above the last bucket.

    Prometheus would give the last edge there, which is no measured value.
    """
    labels = ", ".join(("le", *by))
    rate = f"sum by ({labels}) (rate({metric}_bucket{{{selector}}}[{RATE}]))"
    return f"histogram_quantile({share:g}, {rate}) < {LAST_EDGES[metric]:g}"


def above(metric: str, selector: str, *by: str) -> str:
    """Return PromQL for how many observations of the range were above the last bucket."""
    labels = f"sum by ({', '.join(by)})" if by else "sum"
    count = f"{labels} (increase({metric}_count{{{selector}}}[$__range]))"
    inside = f'{labels} (increase({metric}_bucket{{{selector}, le="{LAST_EDGES[metric]}"}}[$__range]))'
    return f"{count} - {inside}"
