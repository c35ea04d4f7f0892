"""Explanations: how long they take, what they cost, and how good they are."""

from deploy.monitoring.build.names import EXPLAINING, METHOD, MODEL, RATE, above, quantile
from deploy.monitoring.build.page import Page, Row
from deploy.monitoring.build.panels import THIRD, Panel, Query, heat, lines, number

_EXPLAINED = f'{METHOD}, rpc=~"{EXPLAINING}"'
_ANSWERED = f'{_EXPLAINED}, code="OK"'
_ABOVE = "A quantile above the last bucket, 20 minutes, is not drawn; the number beside counts such requests."


def explanations() -> Page:
    """Return the dashboard of latency, cost and quality of explanations."""
    return Page(
        "pellucid-explanations",
        "Pellucid: explanations",
        "Latency of explanations by method, their cost in rows and seconds of the device, and their quality.",
        (_latency(), _cost(), _quality()),
    )


def _quantile_panel(share: float) -> Panel:
    query = Query(quantile(share, "pellucid_request_seconds", _ANSWERED, "method"), "{{method}}", exemplars=True)
    return lines(
        f"Latency by method, p{share * 100:g}",
        "From arrival to the reply's being ready, of explanations that were answered. Within a bucket the value is "
        "interpolated. " + _ABOVE,
        (query,),
        unit="s",
    )


def _latency() -> Row:
    mean = "sum by (method) (rate({0}_sum{{{1}}}[{2}])) / sum by (method) (rate({0}_count{{{1}}}[{2}]))"
    return Row(
        "Latency",
        (
            _quantile_panel(0.5),
            _quantile_panel(0.95),
            _quantile_panel(0.99),
            heat(
                "Latency, all explanations",
                "Each cell is one of the histogram's buckets and counts its explanations. The topmost is everything "
                "above 20 minutes.",
                f"sum by (le) (increase(pellucid_request_seconds_bucket{{{_EXPLAINED}}}[{RATE}]))",
                unit="s",
            ),
            lines(
                "Where the time goes, on average",
                "Mean seconds in the queue and on the worker. What is left of the latency is reading, preparing and "
                "sending.",
                (
                    Query(mean.format("pellucid_queue_seconds", _EXPLAINED, RATE), "{{method}}: queue"),
                    Query(mean.format("pellucid_compute_seconds", _EXPLAINED, RATE), "{{method}}: compute"),
                ),
                unit="s",
                span=THIRD,
            ),
            number(
                "Above 20 minutes",
                "Explanations of the time range that took longer than the last bucket. No quantile says how much "
                "longer: the log does.",
                Query(above("pellucid_request_seconds", _EXPLAINED), "explanations"),
                bad_from=1,
            ),
        ),
    )


def _cost() -> Row:
    rows = "sum by (model, kind) (rate(pellucid_rows_{0}_total{{{1}}}[{2}]))"
    compute = "rate(pellucid_compute_seconds_{0}{{{1}}}[{2}])"
    spent = compute.format("sum", _EXPLAINED, RATE)
    number_of = compute.format("count", _EXPLAINED, RATE)
    return Row(
        "Cost",
        (
            lines(
                "Rows evaluated",
                "Rows per second by model and kind of evaluation, predictions included.",
                (Query(rows.format("evaluated", MODEL, RATE), "{{model}}: {{kind}}"),),
                unit="rowsps",
                stacked=True,
            ),
            lines(
                "Rows per request",
                "Rows that a model evaluates for each request, predictions included: what explanations cost.",
                (
                    Query(
                        f"sum by (model) (rate(pellucid_rows_evaluated_total{{{MODEL}}}[{RATE}])) / "
                        f"sum by (model) (rate(pellucid_compute_seconds_count{{{MODEL}}}[{RATE}]))",
                        "{{model}}",
                    ),
                ),
                unit="short",
            ),
            lines(
                "Worker seconds per explanation",
                "Mean seconds from the start of an explanation's work to its end. Explanations that run side by side "
                "share the device, so that these seconds can add up to more than the device's.",
                (Query(f"sum by (method) ({spent}) / sum by (method) ({number_of})", "{{method}}"),),
                unit="s",
            ),
            lines(
                "Worker seconds by method",
                "Seconds of work for each second: which method takes the devices' time.",
                (Query(f"sum by (method) ({spent})", "{{method}}"),),
                unit="short",
                stacked=True,
            ),
            lines(
                "Device seconds",
                "Seconds that the devices were busy, for each second, over all servers.",
                (
                    Query(
                        'sum by (device) (rate(pellucid_device_busy_seconds_total{cluster=~"$cluster", '
                        f'namespace=~"$namespace"}}[{RATE}]))',
                        "{{device}}",
                    ),
                ),
                unit="short",
            ),
            lines(
                "Wasted rows",
                "Share of the rows that were evaluated for answers nobody got: cancelled, expired or failed. "
                "Deadlines that are too short are the usual cause.",
                (Query(f"pellucid:rows_wasted:ratio_rate1h{{{MODEL}}}", "{{model}}"),),
                unit="percentunit",
                most=1,
                limit=0.25,
            ),
        ),
    )


def _quality() -> Row:
    explained = f"sum by (method, tolerance) (rate(pellucid_explanations_total{{{METHOD}}}[{RATE}]))"
    pages: list[Panel] = [
        lines(
            "Explanations by tolerance",
            "Explanations per second: those that met the tolerance that was asked for, missed it, or had none.",
            (Query(explained, "{{method}}: {{tolerance}}"),),
            unit="reqps",
            stacked=True,
        ),
        lines(
            "Share that met its tolerance",
            "Of the explanations with a tolerance, over an hour. A deadline ended those that missed it.",
            (Query(f"pellucid:tolerance_met:ratio_rate1h{{{METHOD}}}", "{{model}}: {{method}}"),),
            unit="percentunit",
            most=1,
        ),
        lines(
            "Explanations with a large error",
            "Share of the explanations whose approximation error is above 0.1, over an hour.",
            (Query(f"pellucid:approximation_error_large:ratio_rate1h{{{METHOD}}}", "{{model}}: {{method}}"),),
            unit="percentunit",
            most=1,
            limit=0.1,
        ),
    ]
    for metric, title, text in (
        (
            "pellucid_approximation_error",
            "Approximation error",
            "The relative error that each answer states of itself",
        ),
        (
            "pellucid_completeness_gap",
            "Completeness gap",
            "How far the attributions are from adding up to the change of the score, relative to it",
        ),
    ):
        quantiles = tuple(
            Query(quantile(share, metric, METHOD, "method"), f"{{{{method}}}} p{share * 100:g}")
            for share in (0.5, 0.95)
        )
        count = f"sum by (le) (increase({metric}_bucket{{{METHOD}}}[{RATE}]))"
        pages.append(
            lines(
                title, text + ". Values above the last bucket are in the heat map alone.", quantiles, unit="percentunit"
            )
        )
        pages.append(
            heat(
                f"{title}, all explanations",
                text + ", in the histogram's own buckets.",
                count,
                unit="percentunit",
                span=THIRD,
            )
        )
        pages.append(
            number(
                f"{title}: above the last bucket",
                text + ": answers beyond the last bucket in the time range.",
                Query(above(metric, METHOD), "answers"),
                span=THIRD,
                bad_from=1,
            )
        )
    return Row("Quality", tuple(pages))
