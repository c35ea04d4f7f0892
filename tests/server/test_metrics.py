import math
import threading
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from pellucid_server.metrics import (
    JobRecorder,
    JobsCollector,
    LoadRecorder,
    Metrics,
    ModelsCollector,
    PoolRecorder,
    RequestRecorder,
    ServedLabels,
    WorkersCollector,
)
from pellucid_server.metrics.later import Later
from pellucid_server.vocabulary.descriptions import BrokenModel, MethodInfo, ModelInfo
from pellucid_server.vocabulary.findings import Findings
from pellucid_server.vocabulary.messages import BATCH_BOUNDS, BatchCounts, Heartbeat, Hello
from pellucid_server.vocabulary.requests import ModelKey
from pellucid_server.vocabulary.results import (
    Accuracy,
    AttributeResult,
    AttributionResult,
    ExplanationOutcome,
    Failure,
    InputAttribution,
    OutputResult,
    PredictResult,
    Receipt,
    RequestTiming,
    Runtime,
    Work,
)
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

PAGE = Path(__file__).parents[2] / "docs" / "operating.md"

LABELS = {"rpc": "Predict", "method": "", "model": "m", "version": "3", "code": "OK"}
CALL = {"grpc_method": "pellucid.v1.ExplanationService/Predict", "grpc_status": "OK"}


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def metrics(registry):
    return Metrics.on(registry)


@pytest.fixture
def recorder(metrics):
    found = RequestRecorder(metrics)
    found.name_call("Predict", "pellucid.v1.ExplanationService/Predict")
    found.follow(lambda: SERVED)
    return found


@pytest.fixture
def pool_recorder(metrics):
    return PoolRecorder(metrics, devices=("cpu", "cuda:0"), classes=("predictions", "bulk"))


def served(name, version, digest=""):
    return ModelInfo(ModelKey(name, version, digest), "", (), (), (), (), "graph", None, 0, False)


SERVED = Hello((served("m", 3),), (), "cpu")


def record(recorder, seconds, timing, **more):
    recorder.record("Predict", "OK", "", "m", 0, seconds=seconds, timing=timing, **more)


def timing(*rows, queue=0.0, compute=0.0):
    return RequestTiming(queue, compute, 0, 0, rows)


def test_each_request_adds_to_the_series_of_its_labels(recorder, registry):
    record(recorder, 0.5, timing(queue=0.125, compute=0.25))
    record(recorder, 1.5, timing(queue=0.125, compute=0.5))

    sample = registry.get_sample_value
    assert sample("pellucid_request_seconds_sum", LABELS) == 2.0
    assert sample("pellucid_request_seconds_count", LABELS) == 2
    assert sample("pellucid_queue_seconds_sum", LABELS) == 0.25
    assert sample("pellucid_compute_seconds_sum", LABELS) == 0.75


def test_a_request_counts_under_the_version_that_answered_though_it_was_replaced(recorder, registry):
    record(recorder, 0.5, None, answered_by=ModelKey("m", 2))

    assert registry.get_sample_value("pellucid_request_seconds_count", {**LABELS, "version": "2"}) == 1


def test_every_note_is_recorded_once_whoever_settles_when():
    later, found = Later(), []
    stop = threading.Event()

    def read():
        while not stop.is_set():
            later.settle()

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(20_000):
        later.put((found.append, number))
        later.tidy()
    stop.set()
    reader.join()
    later.settle()

    assert [note[1] for note in found] == list(range(20_000))


def test_requests_are_recorded_in_batches_though_no_page_is_read(metrics, recorder):
    for _ in range(1000):
        recorder.started("Predict")
        record(recorder, 0.5, None)

    (child,) = metrics.request_seconds._children.values()

    assert 900 < sum(child.counts) <= 1000


def buckets(registry, name, labels):
    return {
        float(sample.labels["le"]): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == f"{name}_bucket" and {k: v for k, v in sample.labels.items() if k != "le"} == labels
    }


def test_times_from_a_millisecond_to_twenty_minutes_have_buckets_of_their_own(recorder, registry):
    for seconds in (0.0009, 0.001, 0.0011, 700.0, 1200.0, 1201.0):
        record(recorder, seconds, None)

    found = buckets(registry, "pellucid_request_seconds", LABELS)

    assert (min(found), max(found, key=lambda le: (le < math.inf, le))) == (0.001, 1200.0)
    # A bucket holds what is at most its bound, and all before it.
    assert [found[le] for le in (0.001, 0.0025, 600.0, 1200.0, math.inf)] == [2, 3, 3, 5, 6]


def test_a_call_has_grpcs_own_metrics_beside_ours(recorder, registry):
    recorder.started("Predict")
    recorder.started("Predict")
    record(recorder, 0.5, None, received_bytes=700, sent_bytes=5000)

    sample = registry.get_sample_value
    assert sample("grpc_server_call_started_total", {"grpc_method": CALL["grpc_method"]}) == 2
    assert sample("grpc_server_call_duration_seconds_sum", CALL) == 0.5
    assert sample("grpc_server_call_rcvd_total_compressed_message_size_bytes_sum", CALL) == 700
    sent = buckets(registry, "grpc_server_call_sent_total_compressed_message_size_bytes", CALL)
    assert (sent[4096.0], sent[16384.0]) == (0, 1)


def test_a_request_that_never_arrived_whole_has_ended_as_a_call(recorder, registry):
    recorder.started("Predict")

    recorder.unread("Predict", seconds=2.0)

    lost = {**CALL, "grpc_status": "CANCELLED"}
    assert registry.get_sample_value("pellucid_requests_unread_total", {"rpc": "Predict"}) == 1
    assert registry.get_sample_value("grpc_server_call_duration_seconds_sum", lost) == 2.0
    assert registry.get_sample_value("pellucid_request_seconds_count", LABELS) is None


def test_a_trace_is_the_example_of_its_bucket_where_the_page_has_examples(recorder, registry):
    record(recorder, 0.3, timing(compute=0.2), trace_id="0af7651916cd43dd8448eb211c80319c")
    record(recorder, 0.4, timing(compute=0.2))

    lines = generate_openmetrics(registry).decode().splitlines()
    examples = [line for line in lines if "# {" in line]

    (line,) = [line for line in examples if line.startswith("pellucid_request_seconds_bucket")]
    assert 'le="0.5"' in line
    assert '# {trace_id="0af7651916cd43dd8448eb211c80319c"} 0.3 ' in line
    assert "trace_id" not in generate_latest(registry).decode()


def rows(registry, name):
    kinds = ("forward", "gradient", "edited")
    return [registry.get_sample_value(f"pellucid_{name}_total", {"model": "m", "kind": kind}) for kind in kinds]


def test_rows_of_every_request_are_counted_by_kind_and_those_for_nobody_twice(pool_recorder, registry):
    pool_recorder.worked("m", timing(("forward", 3), ("gradient", 4)), wasted=False)
    pool_recorder.worked("m", timing(("forward", 5), ("edited", 7)), wasted=True)

    assert rows(registry, "rows_evaluated") == [8, 4, 7]
    assert rows(registry, "rows_wasted") == [5, None, 7]


def test_rows_of_a_result_that_reached_nobody_are_wasted(recorder, registry):
    recorder.wasted("m", timing(("forward", 3), ("gradient", 4)))

    assert rows(registry, "rows_wasted") == [3, 4, None]


def test_a_model_without_rows_is_no_label(pool_recorder, registry):
    pool_recorder.worked("m", RequestTiming(0.1, 0.2, 0, 0), wasted=True)

    assert rows(registry, "rows_evaluated") == rows(registry, "rows_wasted") == [None, None, None]


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
        "pellucid_device_busy_seconds_total": 2,
        "pellucid_worker_losses_total": 2 * 3,
        "pellucid_requests_retried_total": 1,
        "pellucid_trace_spans_dropped_total": 1,
        "pellucid_requests_refused_total": 2 * 8,
    }


def counted(**by_bound):
    """Return batch counts by bound, as `r4=2` for two batches of three or four rows."""
    return tuple(by_bound.get(f"r{bound}", 0) for bound in (*BATCH_BOUNDS, "more"))


def test_heartbeats_add_up_to_the_batches_and_the_busy_time_of_a_device(pool_recorder, registry):
    first = (BatchCounts("gradient", counted(r4=2), 7),)
    second = (BatchCounts("gradient", counted(r64=1, rmore=1), 40_050), BatchCounts("forward", counted(r1=1), 1))
    pool_recorder.beat("cuda:0", 1, Heartbeat(0.0, 0.0, 0.0, 1000, 0.5, first))
    pool_recorder.beat("cuda:0", 1, Heartbeat(0.0, 0.0, 0.0, 1000, 0.25, second))

    labels = {"device": "cuda:0", "kind": "gradient"}
    found = buckets(registry, "pellucid_batch_rows", labels)
    assert [found[le] for le in (2.0, 4.0, 64.0, 16384.0, math.inf)] == [0, 2, 3, 3, 4]
    sample = registry.get_sample_value
    assert sample("pellucid_batch_rows_sum", labels) == 40_057
    assert sample("pellucid_batch_rows_count", {"device": "cuda:0", "kind": "forward"}) == 1
    assert sample("pellucid_device_busy_seconds_total", {"device": "cuda:0", "worker": "1"}) == 0.75
    assert sample("pellucid_device_busy_seconds_total", {"device": "cpu", "worker": "0"}) == 0


@dataclass
class FakeWorker:
    device: str
    number: int
    ready: bool
    memory_bytes: int


def test_workers_are_shown_as_they_are_when_looked_at(registry):
    workers = [FakeWorker("cpu", 0, True, 123), FakeWorker("cpu", 1, False, 0), FakeWorker("cpu", 2, True, 0)]
    registry.register(WorkersCollector(lambda: workers))

    def shown(name):
        return [registry.get_sample_value(name, {"device": "cpu", "worker": each}) for each in "012"]

    assert shown("pellucid_worker_up") == [1, 0, 1]
    # Of one that has not said yet, nothing is shown: 0 would be a fall.
    assert shown("pellucid_worker_memory_bytes") == [123, None, None]


def test_the_queue_is_shown_by_class_as_it_is_when_looked_at(metrics, registry):
    waiting, backlog = {"predictions": (0, 0, 0), "bulk": (2, 30, 400)}, {"predictions": 0.0, "bulk": 12.5}
    metrics.show_queue(["predictions", "bulk"], lambda: waiting, backlog.__getitem__)

    waiting["predictions"] = (1, 5, 60)
    backlog["predictions"] = 0.5

    names = ("pellucid_queue_requests", "pellucid_queue_rows", "pellucid_queue_bytes", "pellucid_backlog_seconds")
    shown = [[registry.get_sample_value(name, {"class": each}) for name in names] for each in waiting]
    assert shown == [[1, 5, 60, 0.5], [2, 30, 400, 12.5]]


def families(registry):
    return {line.split()[2] for line in generate_latest(registry).decode().splitlines() if line.startswith("# TYPE")}


def test_every_collector_is_in_the_operators_table(metrics, registry):
    registry.register(ModelsCollector(lambda: None))
    registry.register(WorkersCollector(list))
    registry.register(JobsCollector(dict, int))
    table = PAGE.read_text("utf-8")

    assert {name for name in families(registry) if f"`{name}`" not in table} == set()


def test_jobs_are_shown_by_state_on_servers_that_take_any(registry):
    counts = [None]
    registry.register(JobsCollector(lambda: counts[0], lambda: 700))

    assert registry.get_sample_value("pellucid_jobs_bytes") is None
    counts[0] = {"queued": 2, "running": 1, "done": 0}
    assert [registry.get_sample_value("pellucid_jobs", {"state": state}) for state in counts[0]] == [2, 1, 0]
    assert registry.get_sample_value("pellucid_jobs_bytes") == 700


def test_ends_of_jobs_are_counted_and_timed_if_they_ever_began(metrics, registry):
    outcomes = ("done", "failed", "cancelled")
    recorder = JobRecorder(metrics, outcomes)

    recorder.ended("done", 30.0)
    recorder.ended("done", 90.0)
    recorder.ended("cancelled", None)

    ended = [registry.get_sample_value("pellucid_jobs_ended_total", {"outcome": each}) for each in outcomes]
    assert ended == [2, 0, 1]
    assert registry.get_sample_value("pellucid_job_seconds_sum", {"outcome": "done"}) == 120
    assert registry.get_sample_value("pellucid_job_seconds_count", {"outcome": "cancelled"}) is None


def test_a_request_that_no_worker_finished_has_no_compute_time(recorder, registry):
    record(recorder, 0.5, None)

    assert registry.get_sample_value("pellucid_request_seconds_count", LABELS) == 1
    assert registry.get_sample_value("pellucid_compute_seconds_count", LABELS) == 0


def test_two_sets_of_collectors_do_not_meet(recorder, registry):
    other = CollectorRegistry()
    Metrics.on(other)

    record(recorder, 0.5, None)

    assert other.get_sample_value("pellucid_request_seconds_count", LABELS) is None


def test_one_registry_takes_one_set_of_collectors(registry, metrics):
    with pytest.raises(ValueError, match="pellucid_request_seconds"):
        Metrics.on(registry)


def test_a_set_of_labels_is_whole(metrics):
    with pytest.raises(ValueError, match="rpc"):
        metrics.request_seconds.labels("Predict")


def test_names_carry_their_units(metrics, registry):
    counts = {
        "pellucid_requests_in_flight",
        "pellucid_requests_pending",
        "pellucid_queue_requests",
        "pellucid_queue_rows",
        "pellucid_batch_rows",
    }
    shares = {"pellucid_approximation_error", "pellucid_completeness_gap"}
    units = ("_seconds", "_bytes", "_total")
    assert {name for name in families(registry) - counts - shares if not name.endswith(units)} == set()


def test_models_are_counted_by_state_and_broken_ones_named(registry):
    said = [None]
    registry.register(ModelsCollector(lambda: said[0]))
    before = registry.get_sample_value("pellucid_models", {"state": "serving"})
    broken = (BrokenModel("n", 2, "It is damaged."), BrokenModel("o", 0, "It is empty."))

    said[0] = Hello((served("m", 1, "ab" * 32),), (), "cpu", broken)

    sample = registry.get_sample_value
    assert before == 0
    assert sample("pellucid_models", {"state": "serving"}) == 1
    assert sample("pellucid_models", {"state": "broken"}) == 2
    assert sample("pellucid_model_broken", {"model": "n", "version": "2"}) == 1
    assert sample("pellucid_model_info", {"model": "m", "version": "1", "digest": "ab" * 32}) == 1


def test_loads_are_what_has_changed_between_two_looks(metrics, registry):
    loads = LoadRecorder(metrics)
    damaged = BrokenModel("n", 2, "It is damaged.")

    def outcomes(name):
        said = ("loaded", "failed", "unloaded")
        return [registry.get_sample_value("pellucid_model_loads_total", {"model": name, "outcome": e}) for e in said]

    loads.look(None)
    assert outcomes("m") == [None] * 3
    loads.look(Hello((served("m", 1, "a"),), (), "cpu", (damaged,)))
    assert (outcomes("m"), outcomes("n")) == ([1, 0, 0], [0, 1, 0])
    # A worker was lost, and its successor says the same.
    loads.look(None)
    loads.look(Hello((served("m", 1, "a"),), (), "cpu", (damaged,)))
    assert (outcomes("m"), outcomes("n")) == ([1, 0, 0], [0, 1, 0])
    # Other files under the same version; the broken one fails in another way, and then is mended.
    loads.look(Hello((served("m", 1, "b"),), (), "cpu", (replace(damaged, reason="It is worse."),)))
    assert (outcomes("m"), outcomes("n")) == ([2, 0, 1], [0, 2, 0])
    loads.look(Hello((served("n", 2, "c"),), (), "cpu"))
    assert (outcomes("m"), outcomes("n")) == ([2, 0, 2], [1, 2, 0])


def method(name):
    return MethodInfo(name, "attribute", "", "", "", (), (), (), (), False)


def test_labels_are_what_is_served_and_one_word_for_all_else():
    broken = (BrokenModel("m", 9, ""), BrokenModel("n", 4, ""), BrokenModel("n", 5, ""))
    labels = ServedLabels(Hello((served("m", 2), served("m", 10)), (method("saliency"),), "cpu", broken))

    assert [labels.method(name) for name in ("", "saliency", "made-up")] == ["", "saliency", "unknown"]
    assert labels.model("", 0) == ("", "")
    assert labels.model("m", 2) == ("m", "2")
    # The highest version that is served, by number and not by text; a broken one only if there is no other.
    assert labels.model("m", 0) == ("m", "10")
    assert labels.model("n", 0) == ("n", "5")
    assert labels.model("m", 7) == ("m", "unknown")
    assert labels.model("made-up", 7) == labels.model("made-up", 0) == ("unknown", "unknown")


def test_before_a_worker_is_ready_every_name_is_unknown():
    labels = ServedLabels(None)

    assert (labels.method("saliency"), labels.model("m", 0)) == ("unknown", ("unknown", "unknown"))
    assert labels.model("", 0) == ("", "")


RECEIPT = Receipt(ModelKey("m", 3, "ab"), "", Runtime("", "", "cpu", "float32", {}), Work(), method="saliency")
PLAIN = Accuracy()
OUTPUT = OutputResult(np.zeros((1, 2), np.float32))


def explained(scores=(), columns=(), *, receipt=RECEIPT, accuracy=PLAIN, value=3.0, baseline=1.0, error=None):
    scored = InputAttribution(np.asarray(scores), tuple(columns))
    return AttributionResult(
        {"row": scored},
        "y",
        (0,),
        "",
        value,
        accuracy,
        receipt,
        baseline_output_value=baseline,
        approximation_error=error,
    )


def answer(*rows):
    return AttributeResult(rows, OUTPUT)


def explanations(registry):
    return [
        registry.get_sample_value(
            "pellucid_explanations_total", {"method": "saliency", "model": "m", "tolerance": tolerance}
        )
        for tolerance in ("met", "missed", "none")
    ]


def test_every_explained_row_is_counted_by_whether_its_tolerance_was_met(recorder, registry):
    met, missed = Accuracy(tolerance_met=True), Accuracy(tolerance_met=False)
    recorder.answered(answer(explained(accuracy=met), explained(accuracy=missed), explained(accuracy=met)))
    failed = ExplanationOutcome(failure=Failure("UNSUPPORTED", "", {}))
    recorder.answered(PredictResult({}, RECEIPT, (ExplanationOutcome((explained(),)), failed)))
    recorder.answered(PredictResult({}, RECEIPT))

    assert explanations(registry) == [2, 1, 1]


def test_of_an_answer_in_parts_the_last_is_the_one_explanation(recorder, registry):
    recorder.answered(Findings(accuracy=Accuracy()))
    recorder.answered(Findings(accuracy=Accuracy(), receipt=RECEIPT))

    assert explanations(registry) == [None, None, 1]


def test_errors_are_shares_of_the_scores_change(recorder, registry):
    # From 1 to 3, with parts that miss by 0.5 in all, of which 0.3 cancel.
    recorder.answered(answer(explained(accuracy=Accuracy(signed_gap=0.2, absolute_gap=0.5), error=0.1)))
    # A whole without parts has one gap.
    recorder.answered(answer(explained(accuracy=Accuracy(signed_gap=0.2), error=0.1)))
    # Nothing is promised, or the score does not change.
    recorder.answered(answer(explained(), explained(accuracy=Accuracy(signed_gap=0.2), value=1.0)))

    labels = {"method": "saliency", "model": "m"}
    sample = registry.get_sample_value
    assert sample("pellucid_approximation_error_count", labels) == 2
    assert sample("pellucid_approximation_error_sum", labels) == pytest.approx(0.2)
    assert sample("pellucid_completeness_gap_count", labels) == 2
    assert sample("pellucid_completeness_gap_sum", labels) == pytest.approx(0.25 + 0.1)


def shares(registry, model="m"):
    samples = [each for family in registry.collect() for each in family.samples]
    return {
        each.labels["column"]: each.value
        for each in samples
        if each.name == "pellucid_attribution_share_sum_total" and each.labels["model"] == model
    }


def explanations_with_shares(registry):
    return registry.get_sample_value("pellucid_attribution_shares_total", {"model": "m"})


def test_columns_have_their_share_of_each_explanation(recorder, registry):
    recorder.answered(answer(explained([1.0, -3.0], ["age", "sex"]), explained([-50.0, 50.0], ["age", "sex"])))

    assert shares(registry) == {"age": 0.75, "sex": 1.25}
    assert explanations_with_shares(registry) == 2


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_shares_are_of_any_type_of_scores(recorder, registry, kind):
    # Their sum is beyond float16.
    recorder.answered(answer(explained(np.array([60000, -60000], kind), ["age", "sex"])))

    assert shares(registry) == {"age": 0.5, "sex": 0.5}


@pytest.mark.parametrize("scores", [[0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0], [1e308, 1.7e308]])
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_an_explanation_that_has_no_shares_leaves_those_of_others(recorder, registry, scores):
    recorder.answered(answer(explained([1.0, 1.0], ["age", "sex"]), explained(scores, ["age", "sex"])))

    assert shares(registry) == {"age": 0.5, "sex": 0.5}
    assert explanations_with_shares(registry) == 1


def test_what_has_no_columns_has_no_shares(recorder, registry):
    recorder.answered(answer(explained([[1.0, 2.0], [3.0, 4.0]])))

    assert shares(registry) == {}
    assert explanations_with_shares(registry) is None


def test_columns_beyond_sixty_four_share_one_label(recorder, registry):
    columns = [f"c{number}" for number in range(70)]
    recorder.answered(answer(explained(np.ones(70), columns)))

    found = shares(registry)

    assert list(found) == [*columns[:64], "other"]
    assert found["other"] == pytest.approx(6 / 70)
    assert sum(found.values()) == pytest.approx(1)


@pytest.mark.parametrize("place", [5, 64, 69])
def test_a_column_may_be_called_other(recorder, registry, place):
    columns = [f"c{number}" for number in range(70)]
    columns[place] = "other"
    recorder.answered(answer(explained(np.ones(70), columns)))

    found = shares(registry)

    # It has the label if it is among the first, and the rest joins it.
    assert len(found) == (64 if place < 64 else 65)
    assert found["other"] == pytest.approx((7 if place < 64 else 6) / 70)
    assert sum(found.values()) == pytest.approx(1)


def test_versions_with_other_columns_stay_within_the_bound(recorder, registry):
    for version in range(1, 40):
        receipt = replace(RECEIPT, model=ModelKey("m", version, f"digest {version}"))
        columns = ["age", *(f"v{version} {number}" for number in range(3))]
        recorder.answered(answer(explained([3.0, 1.0, 0.0, 0.0], columns, receipt=receipt)))

    found = shares(registry)

    assert len(found) == 65
    assert found["age"] == pytest.approx(39 * 0.75)
    assert sum(found.values()) == pytest.approx(39)


def test_columns_of_two_inputs_share_one_whole(recorder, registry):
    each = explained([3.0], ["age"])
    more = {**each.inputs, "more": InputAttribution(np.array([1.0]), ("height",))}
    picture = {**each.inputs, "picture": InputAttribution(np.array([[1.0]]))}

    recorder.answered(answer(replace(each, inputs=more), replace(each, inputs=picture)))

    assert shares(registry) == {"age": 1.5, "height": 0.25}
