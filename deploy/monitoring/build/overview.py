"""The overview: rows in the order in which a request passes through."""

from deploy.monitoring.build.names import FAILED, MODEL, OBJECTIVES, PREDICTING, RATE, SITE, above, quantile
from deploy.monitoring.build.page import Page, Row
from deploy.monitoring.build.panels import HALF, THIRD, Query, heat, lines, number

_PREDICT = f'{MODEL}, rpc=~"{PREDICTING}"'
_ABOVE = "A quantile above the last bucket, 20 minutes, is not drawn; the number of such requests is under Errors."


def overview() -> Page:
    """Return the dashboard that one looks at first."""
    return Page(
        "pellucid-overview",
        "Pellucid: overview",
        "Traffic, refusals, queue, workers and devices, compute, jobs and errors, as a request meets them.",
        (_state(), _traffic(), _refusals(), _queue(), _workers(), _compute(), _jobs(), _errors()),
        since="now-3h",
    )


def _state() -> Row:
    firing = f'count(ALERTS{{alertname=~"Pellucid.*", alertstate="firing", {SITE}}}) or vector(0)'
    return Row(
        "State",
        (
            number("Alerts firing", "Alerts of Pellucid that fire now.", Query(firing), bad_from=1),
            number(
                "Servers",
                "Servers that Prometheus reads.",
                Query(f"count(pellucid_requests_in_flight{{{SITE}}})"),
            ),
            number("Workers up", "Workers that are ready.", Query(f"sum(pellucid_worker_up{{{SITE}}})")),
            number(
                "Workers down",
                "Workers that are lost, hung or starting.",
                Query(f"sum(1 - pellucid_worker_up{{{SITE}}})"),
                bad_from=1,
            ),
            number(
                "Model versions served",
                "Counted on each server and added up.",
                Query(f'sum(pellucid_models{{{SITE}, state="serving"}})'),
            ),
            number(
                "Model versions broken",
                "Those that could not be loaded.",
                Query(f'sum(pellucid_models{{{SITE}, state="broken"}})'),
                bad_from=1,
            ),
        ),
    )


def _traffic() -> Row:
    return Row(
        "Traffic",
        (
            lines(
                "Requests",
                "Requests that ended, per second. Each request counts once, refused ones included.",
                (Query(f"sum by (rpc) (rate(pellucid_request_seconds_count{{{MODEL}}}[{RATE}]))", "{{rpc}}"),),
                unit="reqps",
                stacked=True,
            ),
            lines(
                "Calls at the gRPC layer",
                "Calls that began. What is here and not under Requests never arrived whole, or is still running.",
                (
                    Query(
                        f"sum by (grpc_method) (rate(grpc_server_call_started_total{{{SITE}}}[{RATE}]))",
                        "{{grpc_method}}",
                    ),
                ),
                unit="reqps",
            ),
            lines(
                "In flight",
                "Requests that have arrived and are not answered, and those that workers have.",
                (
                    Query(f"sum(pellucid_requests_in_flight{{{SITE}}})", "in flight"),
                    Query(f"sum(pellucid_requests_pending{{{SITE}}})", "at the workers"),
                ),
                unit="short",
            ),
            lines(
                "Bytes received",
                "Bytes of request messages as they came over the wire.",
                (
                    Query(
                        "sum by (grpc_method) (rate(grpc_server_call_rcvd_total_compressed_message_size_bytes_sum"
                        f"{{{SITE}}}[{RATE}]))",
                        "{{grpc_method}}",
                    ),
                ),
                unit="Bps",
            ),
            lines(
                "Bytes sent",
                "Bytes of replies as they went over the wire.",
                (
                    Query(
                        "sum by (grpc_method) (rate(grpc_server_call_sent_total_compressed_message_size_bytes_sum"
                        f"{{{SITE}}}[{RATE}]))",
                        "{{grpc_method}}",
                    ),
                ),
                unit="Bps",
            ),
            lines(
                "Requests that never arrived whole",
                "Too large, or the caller left while sending. They are in no other panel of requests.",
                (Query(f"sum by (rpc) (rate(pellucid_requests_unread_total{{{SITE}}}[{RATE}]))", "{{rpc}}"),),
                unit="reqps",
            ),
        ),
    )


def _refusals() -> Row:
    by = "sum by (class, cause)"
    return Row(
        "Refusals",
        (
            lines(
                "Refused requests",
                "By class and bound: rows, bytes or seconds of the queue, or the call's deadline.",
                (Query(f"{by} (rate(pellucid_requests_refused_total{{{SITE}}}[{RATE}]))", "{{class}}: {{cause}}"),),
                unit="reqps",
                span=THIRD,
            ),
            lines(
                "Share of requests that were refused",
                "Refusals for lack of room (not those for a deadline) among all requests, over 10 minutes.",
                (Query(f"pellucid:refused:ratio_rate10m{{{SITE}}}", "{{namespace}}"),),
                unit="percentunit",
                span=THIRD,
                limit=0.01,
            ),
            lines(
                "Requests beyond quotas",
                "Requests that were refused because their identity had used up its quota. Empty without quotas.",
                (
                    Query(
                        f"sum by (identity, quota) (rate(pellucid_quota_refusals_total{{{SITE}}}[{RATE}]))",
                        "{{identity}}: {{quota}}",
                    ),
                ),
                unit="reqps",
            ),
        ),
    )


def _queue() -> Row:
    return Row(
        "Queue",
        (
            lines(
                "Backlog",
                "Seconds of work that wait, by class: about what the next request of the class would wait.",
                (Query(f"max by (class) (pellucid_backlog_seconds{{{SITE}}})", "{{class}}"),),
                unit="s",
            ),
            lines(
                "Requests that wait",
                "Requests that wait for a place on a worker.",
                (Query(f"sum by (class) (pellucid_queue_requests{{{SITE}}})", "{{class}}"),),
                unit="short",
                stacked=True,
            ),
            lines(
                "Time in the queue, p95",
                "From arrival to the start of the work on a worker. " + _ABOVE,
                (Query(quantile(0.95, "pellucid_queue_seconds", MODEL, "rpc"), "{{rpc}}"),),
                unit="s",
            ),
            lines(
                "Rows that wait",
                "Evaluation rows of the requests that wait; `queue_rows` of the class bounds them for each worker.",
                (Query(f"sum by (class) (pellucid_queue_rows{{{SITE}}})", "{{class}}"),),
                unit="short",
            ),
            lines(
                "Bytes that wait",
                "Bytes of the requests that wait; `queue_bytes` of the class bounds them for each worker.",
                (Query(f"sum by (class) (pellucid_queue_bytes{{{SITE}}})", "{{class}}"),),
                unit="bytes",
            ),
            lines(
                "Sent again",
                "Requests that were sent to a worker again after theirs was lost.",
                (Query(f"sum(rate(pellucid_requests_retried_total{{{SITE}}}[{RATE}]))", "sent again"),),
                unit="reqps",
            ),
        ),
    )


def _workers() -> Row:
    batch = f"sum by (le) (increase(pellucid_batch_rows_bucket{{{SITE}}}[{RATE}]))"
    losses = f"sum by (device, cause) (increase(pellucid_worker_losses_total{{{SITE}}}[{RATE}]))"
    restarts = f"sum by (device) (increase(pellucid_worker_restarts_total{{{SITE}}}[{RATE}]))"
    return Row(
        "Workers and devices",
        (
            lines(
                "Workers one by one",
                "1 for a worker that is ready, 0 for one that is not.",
                (Query(f"pellucid_worker_up{{{SITE}}}", "{{instance}} {{device}} {{worker}}"),),
                unit="short",
                most=1,
            ),
            lines(
                "Losses and restarts",
                "Workers that ended unasked (exit, hang, start), and workers that were started again.",
                (Query(losses, "lost on {{device}}: {{cause}}"), Query(restarts, "restarted on {{device}}")),
                unit="short",
            ),
            lines(
                "Memory of the workers",
                "Memory of each worker's process.",
                (Query(f"pellucid_worker_memory_bytes{{{SITE}}}", "{{instance}} {{device}} {{worker}}"),),
                unit="bytes",
            ),
            lines(
                "Device busy",
                "Share of the time in which the device works, averaged over the workers. A device that stays at 100 % "
                "is the bottleneck.",
                (
                    Query(
                        f"avg by (instance, device) (rate(pellucid_device_busy_seconds_total{{{SITE}}}[{RATE}]))",
                        "{{instance}} {{device}}",
                    ),
                ),
                unit="percentunit",
                span=HALF,
                most=1,
                limit=0.95,
            ),
            heat(
                "Rows per batch",
                "How full batches are. Many batches of one row mean that requests are too few to fill the device.",
                batch,
                unit="short",
            ),
        ),
    )


def _compute() -> Row:
    rows = f"sum by (kind) (rate(pellucid_rows_evaluated_total{{{MODEL}}}[{RATE}]))"
    return Row(
        "Compute",
        (
            lines(
                "Latency of predictions",
                "From arrival to the reply's being ready. " + _ABOVE,
                tuple(
                    Query(quantile(share, "pellucid_request_seconds", f'{_PREDICT}, code="OK"'), name, exemplars=True)
                    for share, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
                ),
                unit="s",
            ),
            lines(
                "Time on the worker, p95",
                "From the start of the work to its end. " + _ABOVE,
                (Query(quantile(0.95, "pellucid_compute_seconds", MODEL, "rpc"), "{{rpc}}"),),
                unit="s",
            ),
            lines(
                "Rows evaluated",
                "Rows per second that went through models, by kind of evaluation.",
                (Query(rows, "{{kind}}"),),
                unit="rowsps",
                stacked=True,
            ),
            heat(
                "Latency of predictions, all of them",
                "Each cell is one of the histogram's buckets and counts its requests. The topmost is everything above "
                "20 minutes.",
                f"sum by (le) (increase(pellucid_request_seconds_bucket{{{_PREDICT}}}[{RATE}]))",
                unit="s",
                span=24,
            ),
        ),
    )


def _jobs() -> Row:
    return Row(
        "Jobs",
        (
            lines(
                "Jobs by state",
                "Jobs that wait or run; servers without a folder for jobs have none.",
                (Query(f'sum by (state) (pellucid_jobs{{{SITE}, state=~"queued|running"}})', "{{state}}"),),
                unit="short",
                stacked=True,
            ),
            lines(
                "Ends of jobs",
                "Jobs that ended, by outcome.",
                (Query(f"sum by (outcome) (increase(pellucid_jobs_ended_total{{{SITE}}}[{RATE}]))", "{{outcome}}"),),
                unit="short",
            ),
            lines(
                "Stored",
                "Bytes of all jobs of a server; `most_bytes` of the section `jobs` bounds them.",
                (Query(f"sum by (instance) (pellucid_jobs_bytes{{{SITE}}})", "{{instance}}"),),
                unit="bytes",
            ),
        ),
    )


def _errors() -> Row:
    count = "pellucid_request_seconds_count"
    return Row(
        "Errors",
        (
            lines(
                "Requests by code",
                "Requests per second that did not end with OK.",
                (Query(f'sum by (rpc, code) (rate({count}{{{MODEL}, code!="OK"}}[{RATE}]))', "{{rpc}}: {{code}}"),),
                unit="reqps",
            ),
            lines(
                "Share that failed",
                "Requests that ended with a code that counts against the objectives, among all that were not "
                f"cancelled. The codes: {FAILED.replace('|', ', ')}.",
                (
                    Query(
                        f'(sum by (rpc) (rate({count}{{{MODEL}, code=~"{FAILED}"}}[{RATE}])) or '
                        f"0 * sum by (rpc) (rate({count}{{{MODEL}}}[{RATE}]))) / "
                        f'sum by (rpc) (rate({count}{{{MODEL}, code!="CANCELLED"}}[{RATE}]))',
                        "{{rpc}}",
                    ),
                ),
                unit="percentunit",
            ),
            lines(
                "Speed at which error budgets burn",
                "1 uses up the budget in exactly 30 days; an alert pages above 14.4 over an hour.",
                tuple(
                    Query(
                        f'pellucid:slo_bad:ratio_rate1h{{{SITE}, slo="{each.name}"}} / {each.allowed:g}',
                        "{{namespace}} {{slo}}",
                    )
                    for each in OBJECTIVES
                ),
                unit="short",
                limit=14.4,
            ),
            number(
                "Above 20 minutes",
                "Requests of the time range that took longer than the last bucket. No quantile says how much longer: "
                "the log does.",
                Query(above("pellucid_request_seconds", MODEL), "requests"),
                bad_from=1,
            ),
            number(
                "Certificates: days left",
                "Days until the first certificate expires.",
                Query(f"min((pellucid_tls_certificate_expiry_seconds{{{SITE}}} - time()) / 86400)", "days"),
                unit="d",
            ),
        ),
    )
