"""The trace that a call is part of."""

import subprocess
import sys

import pytest
from opentelemetry import trace
from pellucid import errors, trace_context

ROW = {"age": 40, "colour": "red"}
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GIVEN = f"00-{TRACE}-{SPAN}-01"


def span(flags=1):
    context = trace.SpanContext(int(TRACE, 16), 0xAB, False, trace.TraceFlags(flags))
    return trace.use_span(trace.NonRecordingSpan(context))


def test_a_call_outside_of_a_trace_says_nothing_of_one(client, server):
    client.predict("table", ROW)

    assert "traceparent" not in server.metadata[-1]


def test_every_call_within_the_statement_is_part_of_the_trace(client, server):
    with trace_context(GIVEN):
        client.predict("table", ROW, priority="bulk")
        client.attribute("table", ROW)

    assert {each["traceparent"] for each in server.metadata} == {GIVEN}
    client.predict("table", ROW)
    assert "traceparent" not in server.metadata[-1]


@pytest.mark.parametrize("flags", [0, 1])
def test_the_current_span_goes_with_a_call(client, server, flags):
    with span(flags):
        client.predict("table", ROW)

    assert server.metadata[-1]["traceparent"] == f"00-{TRACE}-00000000000000ab-0{flags}"


def test_what_is_said_goes_before_the_current_span_and_the_clients_metadata_before_all(server, connect, client):
    with span(), trace_context(GIVEN):
        client.predict("table", ROW)
        assert server.metadata[-1]["traceparent"] == GIVEN
        connect(server.address, metadata={"traceparent": "mine"}).predict("table", ROW)

    assert server.metadata[-1]["traceparent"] == "mine"


@pytest.mark.parametrize(
    "wrong", [7, "", "nonsense", f"01-{TRACE}-{SPAN}-01", f"00-{'0' * 32}-{SPAN}-01", GIVEN.upper(), GIVEN + "\n"]
)
def test_a_malformed_context_is_refused(wrong):
    with pytest.raises(errors.InvalidRequestError, match="traceparent"), trace_context(wrong):
        pytest.fail("the statement was entered")


def test_without_opentelemetry_there_is_no_current_span():
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from pellucid.tracing import current, trace_context\n"
        f"assert current() == ''\nwith trace_context({GIVEN!r}): assert current() == {GIVEN!r}"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
