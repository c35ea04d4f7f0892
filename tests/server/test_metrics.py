from collections import Counter
from pathlib import Path

import pytest
from pellucid_server.metrics import Metrics, ModelsCollector, PoolRecorder, RequestRecorder
from pellucid_server.vocabulary.descriptions import BrokenModel, ModelInfo
from pellucid_server.vocabulary.messages import Hello
from pellucid_server.vocabulary.requests import ModelKey
from pellucid_server.vocabulary.results import RequestTiming
from prometheus_client import CollectorRegistry, generate_latest

PAGE = Path(__file__).parents[2] / "docs" / "operating.md"

LABELS = {"rpc": "Predict", "method": "", "model": "m", "code": "OK"}


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def metrics(registry):
    return Metrics.on(registry)


@pytest.fixture
def recorder(metrics):
    return RequestRecorder(metrics)


@pytest.fixture
def pool_recorder(metrics):
    return PoolRecorder(metrics, devices=("cpu", "cuda:0"), classes=("predictions", "bulk"))


def record(recorder, seconds, timing):
    recorder.record("Predict", method="", model="m", code="OK", seconds=seconds, timing=timing)


def test_each_request_adds_to_the_series_of_its_labels(recorder, registry):
    record(recorder, 0.5, RequestTiming(0.125, 0.25, 3, 4))
    record(recorder, 1.5, RequestTiming(0.125, 0.5, 1, 0))

    sample = registry.get_sample_value
    assert sample("pellucid_request_seconds_sum", LABELS) == 2.0
    assert sample("pellucid_request_seconds_count", LABELS) == 2
    assert sample("pellucid_queue_seconds_sum", LABELS) == 0.25
    assert sample("pellucid_compute_seconds_sum", LABELS) == 0.75


def rows(registry, name):
    kinds = ("forward", "backward")
    return [registry.get_sample_value(f"pellucid_{name}_total", {"model": "m", "kind": kind}) for kind in kinds]


def test_rows_of_every_request_are_counted_and_those_for_nobody_twice(pool_recorder, registry):
    pool_recorder.worked("m", RequestTiming(0.0, 0.0, 3, 4), wasted=False)
    pool_recorder.worked("m", RequestTiming(0.0, 0.0, 5, 0), wasted=True)

    assert rows(registry, "rows_evaluated") == [8, 4]
    assert rows(registry, "rows_wasted") == [5, 0]


def test_rows_of_a_result_that_reached_nobody_are_wasted(recorder, registry):
    recorder.wasted("m", RequestTiming(0.0, 0.0, 3, 4))

    assert rows(registry, "rows_wasted") == [3, 4]


def test_a_model_without_rows_is_no_label(pool_recorder, registry):
    pool_recorder.worked("m", RequestTiming(0.1, 0.2, 0, 0), wasted=True)

    assert rows(registry, "rows_evaluated") == rows(registry, "rows_wasted") == [None, None]


def test_what_befalls_workers_and_requests_is_counted(pool_recorder, registry):
    pool_recorder.restarted("cpu")
    pool_recorder.lost("cuda:0", "hang")
    pool_recorder.retried()
    pool_recorder.refused("bulk", "bytes")

    sample = registry.get_sample_value
    assert sample("pellucid_worker_restarts_total", {"device": "cpu"}) == 1
    assert sample("pellucid_worker_losses_total", {"device": "cuda:0", "cause": "hang"}) == 1
    assert sample("pellucid_requests_retried_total") == 1
    assert sample("pellucid_requests_refused_total", {"class": "bulk", "cause": "bytes"}) == 1


def test_what_may_happen_has_its_series_before_it_does(pool_recorder, registry):
    samples = [each for family in registry.collect() for each in family.samples if each.name.endswith("_total")]

    assert {sample.value for sample in samples} == {0.0}
    assert Counter(sample.name for sample in samples) == {
        "pellucid_worker_restarts_total": 2,
        "pellucid_worker_losses_total": 2 * 3,
        "pellucid_requests_retried_total": 1,
        "pellucid_requests_refused_total": 2 * 4,
    }


def test_the_queue_is_shown_by_class_as_it_is_when_looked_at(metrics, registry):
    waiting = {"predictions": (0, 0, 0), "bulk": (2, 30, 400)}
    metrics.show_queue(["predictions", "bulk"], lambda: waiting)

    waiting["predictions"] = (1, 5, 60)

    names = ("pellucid_queue_requests", "pellucid_queue_rows", "pellucid_queue_bytes")
    shown = [[registry.get_sample_value(name, {"class": each}) for name in names] for each in waiting]
    assert shown == [[1, 5, 60], [2, 30, 400]]


def test_every_collector_is_in_the_operators_table(metrics, registry):
    names = {line.split()[2] for line in generate_latest(registry).decode().splitlines() if line.startswith("# TYPE")}
    table = PAGE.read_text("utf-8")

    assert {name for name in names if not name.endswith("_created") and f"`{name}`" not in table} == set()


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
    counts = {
        "pellucid_requests_in_flight",
        "pellucid_requests_pending",
        "pellucid_queue_requests",
        "pellucid_queue_rows",
    }
    units = ("_seconds", "_bytes", "_total", "_created")
    assert {name for name in families - counts if not name.endswith(units)} == set()


def test_models_are_counted_by_state_and_broken_ones_named(registry):
    said = [None]
    registry.register(ModelsCollector(lambda: said[0]))
    before = registry.get_sample_value("pellucid_models", {"state": "serving"})
    served = ModelInfo(ModelKey("m", 1, ""), "", (), (), (), (), "graph", None, 0, False)

    said[0] = Hello((served,), (), "cpu", (BrokenModel("n", 2, "It is damaged."), BrokenModel("o", 0, "It is empty.")))

    assert before == 0
    assert registry.get_sample_value("pellucid_models", {"state": "serving"}) == 1
    assert registry.get_sample_value("pellucid_models", {"state": "broken"}) == 2
    assert registry.get_sample_value("pellucid_model_broken", {"model": "n", "version": "2"}) == 1
