"""Traces through the real server and its worker, as a collector gets them."""

import itertools
import json
import secrets
import urllib.request
from collections import Counter

import grpc
import numpy as np
import pytest
from e2e import otlp, small_models
from e2e.fault_points import kill, serve_with_points, worker_pids
from e2e.messages import attribute, predict, spec, table_rows
from e2e.serving import LONG_SECONDS, serve, wait_until
from opentelemetry import trace
from pellucid import Client, tensors
from pellucid.v1 import explanation_pb2, explanation_service_pb2, input_pb2
from prometheus_client.openmetrics.parser import text_string_to_metric_families

ROW = {"width": 12.0, "height": 3.0, "colour": "green"}
INPUTS = {"features": table_rows([ROW])}
INTEGRATED = spec("integrated-gradients", steps=5)
INTEGRATED.baseline.kind = explanation_pb2.BASELINE_KIND_ZEROS
PREDICT = predict(small_models.SCORES, INPUTS)
ATTRIBUTE = attribute(small_models.SCORES, INPUTS, INTEGRATED)

EXAMPLE_TRACE, EXAMPLE_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture(scope="module")
def collector():
    with otlp.collecting() as running:
        yield running


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("repository")
    small_models.write_scores(folder)
    return folder


@pytest.fixture(scope="module")
def held(collector, repository, tmp_path_factory):
    """A server that exports its traces, and whose requests can be held."""
    settings = otlp.QUICK | {
        "PELLUCID_TRACING__ENDPOINT": collector.address,
        "PELLUCID_TRACING__SAMPLE_RATIO": "0",
        "PELLUCID_LOGGING__FORMAT": "json",
    }
    with serve_with_points(repository, tmp_path_factory.mktemp("server"), settings) as held:
        yield held


@pytest.fixture
def server(held):
    server, points = held
    wait_until(lambda: worker_pids(server), seconds=LONG_SECONDS, what="there is a worker")
    yield server
    points.release()


@pytest.fixture
def points(held):
    return held[1]


def caller(trace_id=None, span_id=EXAMPLE_SPAN, flags="01"):
    """Return the id of a new trace, and the metadata of a call in it."""
    trace_id = trace_id or secrets.token_hex(16)
    return trace_id, [("traceparent", f"00-{trace_id}-{span_id}-{flags}")]


def call(server, rpc, request, metadata, **options):
    return getattr(server.explanations, rpc)(request, metadata=metadata, timeout=LONG_SECONDS, **options)


def own(spans):
    (found,) = [span for span in spans if span.raw.kind == otlp.SERVER]
    return found


def named(spans, name):
    return [span for span in spans if span.name == name]


def assert_nested(spans):
    """Hold every span to lie within its parent, and to have one that came too."""
    by_id = {span.id: span for span in spans}
    for span in spans:
        assert span.times[0] <= span.times[1]
        if span.raw.kind != otlp.SERVER:
            parent = by_id[span.parent]
            assert parent.times[0] <= span.times[0]
            assert span.times[1] <= parent.times[1], (span.name, parent.name)


def test_the_callers_trace_goes_on_through_every_stage(server, collector):
    _, metadata = caller(EXAMPLE_TRACE)

    call(server, "Attribute", ATTRIBUTE, metadata)

    spans = collector.ended(EXAMPLE_TRACE)
    request = own(spans)
    assert request.parent == EXAMPLE_SPAN
    assert request.name == "pellucid.v1.ExplanationService/Attribute"
    assert (
        request.attributes
        | {
            "rpc.system.name": "grpc",
            "rpc.method": "pellucid.v1.ExplanationService/Attribute",
            "rpc.response.status_code": "OK",
            "pellucid.model": small_models.SCORES,
            "pellucid.method": "integrated-gradients",
            "pellucid.class": "interactive",
        }
        == request.attributes
    )
    assert not request.error
    assert request.resource["service.name"] == "pellucid"
    (work,) = named(spans, "work")
    (method,) = named(spans, "explain integrated-gradients")
    parents = {span.name: span.parent for span in spans if span.name != "batch"}
    assert parents == {
        request.name: EXAMPLE_SPAN,
        "read": request.id,
        "queue": request.id,
        "work": request.id,
        "reply": request.id,
        "prepare": work.id,
        method.name: work.id,
    }
    kinds = Counter((span.parent, span.attributes["pellucid.batch.evaluation"]) for span in named(spans, "batch"))
    assert (work.id, "forward") in kinds
    assert {parent for parent, _ in kinds} == {work.id, method.id}
    assert_nested(spans)


def test_a_client_within_a_span_calls_within_its_trace(server, collector):
    trace_id = secrets.token_hex(16)
    span = trace.NonRecordingSpan(trace.SpanContext(int(trace_id, 16), 0xAB, False, trace.TraceFlags(1)))

    with Client(server.address) as client, trace.use_span(span):
        client.predict(small_models.SCORES, ROW)

    spans = collector.wait(trace_id, lambda spans: sum(each.raw.kind == otlp.SERVER for each in spans) == 2)
    requests = [each for each in spans if each.raw.kind == otlp.SERVER]
    assert [each.name.rpartition("/")[2] for each in requests] == ["GetModel", "Predict"]
    assert {each.parent for each in requests} == {"00000000000000ab"}


def test_stages_follow_one_another(server, collector):
    trace_id, metadata = caller()

    call(server, "Predict", PREDICT, metadata)

    spans = {span.name: span for span in collector.ended(trace_id)}
    assert set(spans) == {
        "pellucid.v1.ExplanationService/Predict",
        "read",
        "queue",
        "work",
        "prepare",
        "batch",
        "reply",
    }
    order = [spans[name].times for name in ("read", "queue", "prepare", "batch", "reply")]
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(order))
    assert spans["batch"].attributes["pellucid.batch.rows"] == spans["batch"].attributes["pellucid.batch.own_rows"] == 1


def test_rows_of_requests_that_share_a_batch_are_linked(server, points, collector):
    points.arm("chunk")
    first_trace, first = caller()
    blocking = server.explanations.Predict.future(PREDICT, metadata=first, timeout=LONG_SECONDS)
    points.wait("chunk")
    callers = [caller() for _ in range(3)]
    others = [server.explanations.Predict.future(PREDICT, metadata=each, timeout=LONG_SECONDS) for _, each in callers]
    untraced = server.explanations.Predict.future(PREDICT, timeout=LONG_SECONDS)
    wait_until(
        lambda: "pellucid_requests_pending 5.0" in server.metrics(), seconds=LONG_SECONDS, what="all have arrived"
    )

    points.release()

    for each in (blocking, *others, untraced):
        each.result()
    collector.ended(first_trace)
    traces = {trace_id: collector.ended(trace_id) for trace_id, _ in callers}
    requests = {trace_id: own(spans) for trace_id, spans in traces.items()}
    batches = {trace_id: named(spans, "batch")[0] for trace_id, spans in traces.items()}
    assert len({span.attributes["pellucid.batch.id"] for span in batches.values()}) == 1
    for trace_id, batch in batches.items():
        assert batch.links == {(other, span.id) for other, span in requests.items() if other != trace_id}
        assert batch.attributes["pellucid.batch.requests"] == 4
        assert (batch.attributes["pellucid.batch.rows"], batch.attributes["pellucid.batch.own_rows"]) == (4, 1)
    (alone,) = named(collector.of(first_trace), "batch")
    assert not alone.links


@pytest.mark.parametrize(
    "header",
    [
        "00-{0}-b7ad6b7169203331-00",
        "00-{0}-0000000000000000-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "ff-{0}-b7ad6b7169203331-01",
        "00-{0}-b7ad6b7169203331-01-more",
        "nonsense {0}",
    ],
)
def test_a_trace_that_is_not_sampled_or_malformed_exports_nothing(server, collector, header):
    trace_id, seen = secrets.token_hex(16), len(collector.spans)
    after, metadata = caller()

    call(server, "Predict", PREDICT, [("traceparent", header.format(trace_id))])

    call(server, "Predict", PREDICT, metadata)
    collector.ended(after)
    assert {span.trace_id for span in collector.spans[seen:]} == {after}


def test_without_a_trace_context_the_ratio_decides(repository, collector, tmp_path):
    settings = otlp.QUICK | {"PELLUCID_TRACING__ENDPOINT": collector.address, "PELLUCID_TRACING__SAMPLE_RATIO": "1"}
    with serve(repository, tmp_path, settings | {"PELLUCID_TRACING__SERVICE_NAME": "second"}) as server:
        call(server, "Predict", PREDICT, [])
        with collector.arrived:
            assert collector.arrived.wait_for(lambda: any(second(span) for span in collector.spans), LONG_SECONDS)
        # What is left is sent before the server ends.
        call(server, "Predict", PREDICT, [])
        assert server.terminate() == 0

    roots = [span for span in collector.spans if second(span) and span.raw.kind == otlp.SERVER]
    assert [span.parent for span in roots] == ["", ""]
    assert len({span.trace_id for span in roots}) == 2


def second(span):
    return span.resource["service.name"] == "second"


def test_a_cancelled_request_shows_what_was_done_for_it(server, points, collector):
    points.arm("chunk")
    trace_id, metadata = caller()
    running = server.explanations.Attribute.future(ATTRIBUTE, metadata=metadata, timeout=LONG_SECONDS)
    points.wait("chunk")

    running.cancel()

    request = own(collector.ended(trace_id))
    assert request.error == request.attributes["error.type"] == request.attributes["rpc.response.status_code"]
    assert request.error == "CANCELLED"
    points.release()
    # The worker notices after its batch, and says then what it has done.
    spans = collector.wait(trace_id, lambda spans: bool(named(spans, "work")))
    (work,) = named(spans, "work")
    assert work.error == "CANCELLED"
    assert {span.name for span in spans} >= {"read", "queue", "prepare", "batch"}


def test_a_failed_request_says_why_in_words_of_the_server(server, collector):
    trace_id, metadata = caller()
    secret = "secret-4711"

    with pytest.raises(grpc.RpcError):
        call(server, "Predict", predict(secret, INPUTS), metadata)

    spans = collector.ended(trace_id)
    request = own(spans)
    assert request.attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert request.attributes["pellucid.model"] == "unknown"
    assert [span.error for span in named(spans, "work")] == ["NOT_FOUND"]
    assert not any(secret in str(span.raw) for span in spans)


def test_a_deadline_that_passes_is_an_error(server, points, collector):
    points.arm("chunk")
    trace_id, metadata = caller()

    with pytest.raises(grpc.RpcError):
        server.explanations.Predict(PREDICT, metadata=metadata, timeout=0.5)

    points.release()
    request = own(collector.ended(trace_id))
    assert request.error == "TIMED_OUT"
    assert request.attributes["rpc.response.status_code"] == "DEADLINE_EXCEEDED"


def test_a_lost_worker_shows_as_a_second_attempt(server, points, collector):
    points.arm("running")
    trace_id, metadata = caller()
    running = server.explanations.Predict.future(PREDICT, metadata=metadata, timeout=LONG_SECONDS)
    points.wait("running")
    (lost,) = points.reached_by("running")
    points.release()

    kill(lost)

    running.result()
    spans = collector.ended(trace_id)
    works, queues = (sorted(named(spans, name), key=lambda span: span.times) for name in ("work", "queue"))
    assert [span.error for span in works] == ["WORKER_LOST", ""]
    assert [span.attributes["pellucid.attempt"] for span in works] == [1, 2]
    assert [span.attributes["pellucid.attempt"] for span in queues] == [1, 2]
    assert works[0].attributes["pellucid.worker.pid"] == lost
    assert works[1].attributes["pellucid.worker.pid"] != lost
    assert works[0].times[1] <= queues[1].times[0] + 1000
    assert not own(spans).error
    assert_nested(spans)


def test_the_log_names_trace_and_span(server, collector):
    traced, metadata = caller()
    call(server, "Predict", PREDICT, [*metadata, ("x-request-id", traced)])
    unsampled, metadata = caller(flags="00")
    call(server, "Predict", PREDICT, [*metadata, ("x-request-id", unsampled)])
    call(server, "Predict", PREDICT, [("x-request-id", "no-trace")])

    span = own(collector.ended(traced))
    entry = line(server, traced)
    assert (entry["trace_id"], entry["span_id"]) == (traced, span.id)
    entry = line(server, unsampled)
    assert (entry["trace_id"], entry["span_id"]) == (unsampled, EXAMPLE_SPAN)
    assert not {"trace_id", "span_id"} & set(line(server, "no-trace"))


def line(server, request_id):
    wait_until(lambda: server.lines(f'"id": "{request_id}"'), seconds=LONG_SECONDS, what="the request is logged")
    (found,) = server.lines(f'"id": "{request_id}"')
    return json.loads(found)


def test_buckets_have_a_recorded_trace_as_their_example_in_openmetrics(server, collector):
    trace_id, metadata = caller()
    call(server, "Predict", PREDICT, metadata)
    collector.ended(trace_id)
    call(server, "Predict", PREDICT, caller(flags="00")[1])
    asked = urllib.request.Request(
        f"http://{server.metrics_address}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )

    with urllib.request.urlopen(asked, timeout=LONG_SECONDS) as page:
        text = page.read().decode()

    found = {
        sample.name
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.exemplar is not None and sample.exemplar.labels == {"trace_id": trace_id}
    }
    assert found >= {f"pellucid_{name}_seconds_bucket" for name in ("request", "queue", "compute")}
    assert f'trace_id="{trace_id}"' not in server.metrics()


def test_a_dead_collector_costs_its_spans_and_nothing_else(repository, tmp_path):
    settings = otlp.QUICK | {"PELLUCID_TRACING__ENDPOINT": "http://127.0.0.1:1", "PELLUCID_TRACING__QUEUE_SPANS": "20"}
    with serve(repository, tmp_path, settings | {"PELLUCID_TRACING__TIMEOUT_SECONDS": "0.2"}) as server:
        for _ in range(10):
            call(server, "Predict", PREDICT, [])
        wait_until(
            lambda: "pellucid_trace_spans_dropped_total 70.0" in server.metrics(),
            seconds=LONG_SECONDS,
            what="every span is dropped and counted",
        )
        assert server.terminate() == 0
        assert len(server.lines("tracing.endpoint")) == 1
        assert not server.lines("ERROR")


@pytest.fixture(scope="module")
def streaming(collector, table_models, tmp_path_factory):
    """A server that exports its traces, and whose worker answers `Ablate` in as many parts as it is asked for."""
    settings = otlp.QUICK | {"PELLUCID_TRACING__ENDPOINT": collector.address}
    with serve(table_models, tmp_path_factory.mktemp("streaming"), settings, worker="e2e.streaming_worker") as running:
        yield running


def parts(server, count, metadata):
    row = np.zeros((1, 30), np.float32)
    row[0, :3] = count, 800, True
    request = explanation_service_pb2.AblateRequest(
        model=explanation_pb2.ModelSpec(name="breast-cancer"),
        method="parts",
        inputs={"features": input_pb2.Input(tensor=tensors.to_tensor(row))},
    )
    return server.explanations.Ablate(request, metadata=metadata, timeout=LONG_SECONDS)


def test_a_stream_is_one_span_with_an_event_for_each_part(streaming, collector):
    trace_id, metadata = caller()

    assert len(list(parts(streaming, 5, metadata))) == 5

    spans = collector.ended(trace_id)
    request = own(spans)
    times = [event.time_unix_nano for event in request.raw.events]
    assert [event.name for event in request.raw.events] == ["part"] * 5
    assert times == sorted(times)
    assert request.times[0] < times[0] < times[-1] < request.times[1]
    assert [len(named(spans, name)) for name in ("work", "batch")] == [1, 5]
    assert_nested(spans)


def test_a_stream_that_its_caller_leaves_shows_the_parts_sent(streaming, collector):
    trace_id, metadata = caller()
    call = parts(streaming, 1_000_000, metadata)
    for _ in range(3):
        next(call)

    call.cancel()

    request = own(collector.ended(trace_id))
    assert request.error == "CANCELLED"
    # A part is noted once it is sent: that may be after the caller has it, and left.
    assert len(request.raw.events) >= 2
    spans = collector.wait(trace_id, lambda spans: bool(named(spans, "work")))
    (work,) = named(spans, "work")
    assert work.error == "CANCELLED"
    assert len(named(spans, "batch")) <= 128


def test_a_lost_worker_ends_a_stream_that_has_begun(streaming, collector):
    trace_id, metadata = caller()
    call = parts(streaming, 1_000_000, metadata)
    next(call)

    kill(streaming.worker_pid())

    with pytest.raises(grpc.RpcError):
        list(call)
    spans = collector.ended(trace_id)
    assert [span.error for span in named(spans, "work")] == ["WORKER_LOST"]
    assert own(spans).error == "UNAVAILABLE"
    assert_nested(spans)
