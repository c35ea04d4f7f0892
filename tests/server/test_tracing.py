"""Trace contexts, and the spans that are made of what was noted of a request."""

import random
import sys
import threading
from concurrent import futures

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from pellucid_server.config import ConfigError, load
from pellucid_server.engine.tasks.spans import MOST_BATCHES, MOST_SPANS, SpanLog
from pellucid_server.tracing.context import TraceContext, chosen, new_trace_id, parse
from pellucid_server.tracing.request_trace import MOST_EVENTS, Outcome
from pellucid_server.tracing.setup import span_export
from pellucid_server.tracing.span import SpanKind
from pellucid_server.tracing.tracer import Tracer
from pellucid_server.vocabulary.messages import Done
from pellucid_server.vocabulary.results import Failure, RequestTiming
from pellucid_server.vocabulary.spans import BATCH, WORK, WorkerSpan

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TIMING = RequestTiming(0.0, 0.0, 0, 0)
OK = Outcome("OK")


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f"cc-{TRACE}-{SPAN}-01", True),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", True),
    ],
)
def test_a_trace_context_is_read_whatever_its_flags_and_later_versions_add(header, sampled):
    assert parse(header) == TraceContext(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-01.",
        f"cc-{TRACE}-{SPAN}-01.",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-0\u0661",
        f"00_{TRACE}_{SPAN}_01",
    ],
)
def test_a_malformed_trace_context_is_none(header):
    assert parse(header) is None


def test_what_is_written_is_read():
    context = TraceContext(TRACE, SPAN, True)

    assert context.header() == f"00-{TRACE}-{SPAN}-01"
    assert parse(context.header()) == context


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 1.0])
def test_a_ratio_chooses_its_share_by_the_traces_ids(ratio):
    rng = random.Random(20)
    ids = [f"{rng.getrandbits(128):032x}" for _ in range(10_000)]

    found = [each for each in ids if chosen(each, ratio)]

    assert abs(len(found) / len(ids) - ratio) <= (0.02 if 0 < ratio < 1 else 0)
    # A larger ratio chooses them too.
    assert all(chosen(each, min(1.0, ratio + 0.1)) for each in found)


def test_a_trace_that_begins_here_has_no_parent_and_an_id_of_its_own():
    spans = []
    for _ in range(2):
        Tracer(1.0, spans.extend).begin("", "a.B/C", 0.0).finish(OK)

    roots = [span for span in spans if span.kind is SpanKind.SERVER]
    assert [(span.parent_id, span.remote_parent) for span in roots] == [("", False)] * 2
    assert len({span.trace_id for span in roots}) == 2


@pytest.mark.parametrize(("flags", "recorded"), [("00", False), ("01", True)])
@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_the_callers_flag_goes_before_the_ratio(flags, ratio, recorded):
    trace = Tracer(ratio, list).begin(f"00-{TRACE}-{SPAN}-{flags}", "a.B/C", 0.0)

    assert (trace is not None) == recorded


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_without_a_readable_context_the_ratio_decides(ratio):
    trace = Tracer(ratio, list).begin(f"00-{TRACE}-{SPAN}-0", "a.B/C", 0.0)

    assert (trace is not None) == bool(ratio)


class Noted:
    """A request's trace, and the spans that it exported, by name."""

    def __init__(self):
        self.spans = []
        self.trace = Tracer(0.0, self.spans.extend).begin(f"00-{TRACE}-{SPAN}-01", "a.B/C", 1.0)

    def named(self, name):
        return [span for span in self.spans if span.name == name]


def seconds(span):
    return (span.ended_ns - span.began_ns) / 1e9


def test_a_workers_times_become_spans_beneath_the_requests_own():
    noted = Noted()
    trace = noted.trace
    trace.queued(2.0)
    trace.sent(2.5, device="cpu", pid=77)
    report = (
        WorkerSpan(WORK, 0, 3.0, 6.0),
        WorkerSpan("explain x", 1, 3.5, 6.0, {"pellucid.method": "x"}),
        WorkerSpan(BATCH, 2, 4.0, 5.0, {}, "", 9, (f"00-{'1' * 32}-{'2' * 16}-01",)),
    )

    trace.answered(6.5, Done(1, TIMING, spans=report, spans_dropped=3))
    trace.finish(OK)

    (work,), (method,), (batch,), (queue,) = (noted.named(name) for name in ("work", "explain x", "batch", "queue"))
    assert [work.parent_id, method.parent_id, batch.parent_id] == [trace.context.span_id, work.span_id, method.span_id]
    assert [seconds(span) for span in (queue, work, method, batch)] == [1.0, 3.0, 2.5, 1.0]
    assert batch.attributes["pellucid.batch.id"] == "77-9"
    assert batch.links == (f"00-{'1' * 32}-{'2' * 16}-01",)
    assert work.attributes == {
        "pellucid.device": "cpu",
        "pellucid.worker.pid": 77,
        "pellucid.attempt": 1,
        "pellucid.spans_dropped": 3,
    }
    assert {span.trace_id for span in noted.spans} == {TRACE}
    assert len({span.span_id for span in noted.spans}) == len(noted.spans)


def test_a_request_that_never_had_a_worker_shows_its_wait_alone():
    noted = Noted()
    noted.trace.queued(2.0)

    noted.trace.finish(Outcome("RESOURCE_EXHAUSTED", "OVERLOADED"))

    assert [span.name for span in noted.spans] == ["a.B/C", "read", "queue"]
    assert noted.spans[0].error == "OVERLOADED"
    assert noted.spans[0].attributes["error.type"] == "RESOURCE_EXHAUSTED"


def test_what_a_worker_did_for_a_caller_who_left_follows_once():
    noted = Noted()
    trace = noted.trace
    trace.queued(2.0)
    trace.sent(2.5, device="cpu", pid=77)
    trace.finish(Outcome("CANCELLED", "CANCELLED"))
    assert [span.name for span in noted.spans] == ["a.B/C", "read"]

    failed = Failure("CANCELLED", "", {})
    trace.answered(9.0, Done(1, TIMING, failure=failed, spans=(WorkerSpan(WORK, 0, 3.0, 8.0, error="CANCELLED"),)))

    assert [span.name for span in noted.spans[2:]] == ["queue", "work"]
    assert noted.spans[3].error == "CANCELLED"


def test_a_lost_worker_is_an_attempt_of_its_own():
    noted = Noted()
    trace = noted.trace
    trace.queued(2.0)
    trace.sent(3.0, device="cpu", pid=1)
    trace.lost(5.0)
    trace.queued(5.0)
    trace.sent(6.0, device="cpu", pid=2)
    trace.answered(9.0, Done(1, TIMING, spans=(WorkerSpan(WORK, 0, 7.0, 9.0),)))

    trace.finish(OK)

    works, queues = noted.named("work"), noted.named("queue")
    assert [(span.error, seconds(span), span.attributes["pellucid.worker.pid"]) for span in works] == [
        ("WORKER_LOST", 2.0, 1),
        ("", 2.0, 2),
    ]
    assert [(span.attributes["pellucid.attempt"], seconds(span)) for span in queues] == [(1, 1.0), (2, 2.0)]


def test_parts_are_events_and_their_number_is_bounded():
    noted = Noted()
    for _ in range(MOST_EVENTS + 5):
        noted.trace.part(10)

    noted.trace.finish(OK)

    own = noted.spans[0]
    assert [event.attributes["pellucid.part"] for event in own.events] == list(range(MOST_EVENTS))
    assert own.attributes["pellucid.parts_dropped"] == 5


def test_a_workers_report_is_bounded_and_says_what_is_missing():
    log = SpanLog("")
    log.start()
    for number in range(2 * MOST_BATCHES):
        log.batch(WorkerSpan(BATCH, 1, 1.0, 2.0, {}, "", number + 1))
    numbers = [log.begin("explain x", 0, {}) for _ in range(MOST_SPANS)]

    report = log.report("")

    assert len(report) == MOST_SPANS
    assert sum(bool(span.batch) for span in report) == MOST_BATCHES
    assert log.dropped == MOST_BATCHES + numbers.count(0)
    assert numbers.count(0) == MOST_SPANS - (MOST_SPANS - 1 - MOST_BATCHES)


def test_spans_that_have_not_ended_end_with_the_report():
    log = SpanLog("")
    log.start()
    log.begin("explain x", 0, {})

    work, method = log.report("TIMED_OUT")

    assert work.began <= method.began <= method.ended
    assert (work.error, method.parent) == ("TIMED_OUT", 1)


def test_work_that_never_began_takes_no_time():
    (work,) = SpanLog("").report("CANCELLED")

    assert 0 < work.began == work.ended


def settings(**values):
    return load(None, {"tracing": values}).tracing


def test_tracing_is_off_and_imports_nothing_unless_an_endpoint_is_set():
    assert span_export(settings(), print) is None
    assert settings().endpoint == ""


def test_an_endpoint_without_the_extra_is_refused_by_name(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)

    with pytest.raises(ConfigError, match=r"tracing\.endpoint .* pip install 'pellucid\[tracing\]'"):
        settings(endpoint="http://collector:4317")


@pytest.mark.parametrize("wrong", ["collector:4317", "ftp://collector", "http://"])
def test_an_endpoint_is_an_address(wrong):
    with pytest.raises(ConfigError, match="an endpoint begins with"):
        settings(endpoint=wrong)


def test_ids_are_not_zero_and_differ():
    ids = {new_trace_id() for _ in range(100)}

    assert len(ids) == 100
    assert all(parse(f"00-{each}-{SPAN}-01") for each in ids)


class Stuck(trace_service_pb2_grpc.TraceServiceServicer):
    """A collector that takes spans and does not answer until it is released."""

    def __init__(self):
        self.asked = threading.Event()
        self.released = threading.Event()

    def Export(self, request, context):
        self.asked.set()
        self.released.wait()
        return trace_service_pb2.ExportTraceServiceResponse()


def test_a_collector_that_does_not_answer_holds_up_neither_requests_nor_the_end():
    collector, dropped = Stuck(), []
    server = grpc.server(futures.ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    address = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        exporting = span_export(settings(endpoint=address, queue_spans=10, delay_seconds=0.01), dropped.append)
        tracer = Tracer(1.0, exporting)
        tracer.begin("", "a.B/C", 0.0).finish(OK)
        assert collector.asked.wait(60)

        for _ in range(10):
            tracer.begin("", "a.B/C", 0.0).finish(OK)
        # Of twenty spans, ten had no room; the first two are on their way.
        assert sum(dropped) == 10
        exporting.close(0.0)

        assert sum(dropped) == 22
    finally:
        collector.released.set()
        server.stop(None).wait()


def test_spans_that_wait_are_sent_at_the_end():
    dropped, collector = [], Stuck()
    collector.released.set()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    address = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        exporting = span_export(settings(endpoint=address, delay_seconds=3600), dropped.append)
        Tracer(1.0, exporting).begin("", "a.B/C", 0.0).finish(OK)

        exporting.close(60.0)

        assert collector.asked.is_set()
        assert not dropped
    finally:
        server.stop(None).wait()
