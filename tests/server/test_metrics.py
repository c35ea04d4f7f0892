import pytest
from pellucid_server.jobs import JobTiming
from pellucid_server.metrics import Metrics, RequestRecorder
from prometheus_client import CollectorRegistry, generate_latest

LABELS = {"rpc": "Predict", "method": "", "model": "m", "code": "OK"}


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def recorder(registry):
    return RequestRecorder(Metrics.on(registry))


def record(recorder, seconds, timing):
    recorder.record("Predict", method="", model="m", code="OK", seconds=seconds, timing=timing)


def test_each_request_adds_to_the_series_of_its_labels(recorder, registry):
    record(recorder, 0.5, JobTiming(0.125, 0.25, 3, 4))
    record(recorder, 1.5, JobTiming(0.125, 0.5, 1, 0))

    sample = registry.get_sample_value
    assert sample("pellucid_request_seconds_sum", LABELS) == 2.0
    assert sample("pellucid_request_seconds_count", LABELS) == 2
    assert sample("pellucid_queue_seconds_sum", LABELS) == 0.25
    assert sample("pellucid_compute_seconds_sum", LABELS) == 0.75
    assert sample("pellucid_rows_evaluated_total", {"model": "m", "kind": "forward"}) == 4
    assert sample("pellucid_rows_evaluated_total", {"model": "m", "kind": "backward"}) == 4


def test_a_request_that_no_worker_finished_has_no_compute_time(recorder, registry):
    record(recorder, 0.5, None)

    assert registry.get_sample_value("pellucid_request_seconds_count", LABELS) == 1
    assert registry.get_sample_value("pellucid_compute_seconds_count", LABELS) == 0


def test_two_sets_of_collectors_do_not_meet(recorder, registry):
    other = CollectorRegistry()
    Metrics.on(other)

    record(recorder, 0.5, None)

    assert other.get_sample_value("pellucid_request_seconds_count", LABELS) is None


def test_names_carry_their_units(registry):
    Metrics.on(registry)

    lines = generate_latest(registry).decode().splitlines()
    families = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    counts = {"pellucid_requests_in_flight", "pellucid_jobs_pending"}
    assert {name for name in families - counts if not name.endswith(("_seconds", "_total", "_created"))} == set()
