"""What the server's own page has: each metric with its labels, and the edges of the histograms' buckets."""

_REQUEST = "rpc method model version code"
_SECONDS = (
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0,
)  # fmt: skip
_SHARES = (1e-6, 1e-5, 1e-4, 1e-3, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
HISTOGRAMS = {
    "pellucid_request_seconds": (_REQUEST, _SECONDS),
    "pellucid_queue_seconds": (_REQUEST, _SECONDS),
    "pellucid_compute_seconds": (_REQUEST, _SECONDS),
    "pellucid_batch_rows": ("device kind", tuple(float(1 << n) for n in range(15))),
    "pellucid_approximation_error": ("method model", _SHARES),
    "pellucid_completeness_gap": ("method model", _SHARES),
    "grpc_server_call_duration_seconds": ("grpc_method grpc_status", (1200.0,)),
    "grpc_server_call_sent_total_compressed_message_size_bytes": ("grpc_method grpc_status", (1.0,)),
    "grpc_server_call_rcvd_total_compressed_message_size_bytes": ("grpc_method grpc_status", (1.0,)),
}
OTHERS = {
    "pellucid_requests_in_flight": "",
    "pellucid_requests_pending": "",
    "pellucid_requests_unread_total": "rpc",
    "pellucid_requests_refused_total": "class cause",
    "pellucid_requests_retried_total": "",
    "pellucid_rows_evaluated_total": "model kind",
    "pellucid_rows_wasted_total": "model kind",
    "pellucid_queue_requests": "class",
    "pellucid_queue_rows": "class",
    "pellucid_queue_bytes": "class",
    "pellucid_backlog_seconds": "class",
    "pellucid_explanations_total": "method model tolerance",
    "pellucid_worker_up": "device worker",
    "pellucid_worker_restarts_total": "device",
    "pellucid_worker_losses_total": "device cause",
    "pellucid_worker_memory_bytes": "device worker",
    "pellucid_device_busy_seconds_total": "device worker",
    "pellucid_models": "state",
    "pellucid_model_info": "model version digest",
    "pellucid_model_broken": "model version",
    "pellucid_model_loads_total": "model outcome",
    "pellucid_attribution_share_sum_total": "model column",
    "pellucid_attribution_shares_total": "model",
    "pellucid_tls_certificate_expiry_seconds": "use",
    "grpc_server_call_started_total": "grpc_method",
}


def series() -> dict[str, frozenset[str]]:
    """Return the labels of each series by its name."""
    found = {name: frozenset(labels.split()) for name, labels in OTHERS.items()}
    for name, (labels, _) in HISTOGRAMS.items():
        plain = frozenset(labels.split())
        found |= {f"{name}_bucket": plain | {"le"}, f"{name}_count": plain, f"{name}_sum": plain}
    return found


def edges() -> dict[str, tuple[float, ...]]:
    """Return the finite edges of each histogram's buckets."""
    return {name: bounds for name, (_, bounds) in HISTOGRAMS.items()}
