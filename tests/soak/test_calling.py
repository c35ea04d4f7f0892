"""One call's outcome, by a server that does what each request's bytes say."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from soak import calling

UNARY, STREAM = "/test/Unary", "/test/Stream"


async def answer(request: bytes, context: Any) -> bytes:
    if request == b"wait":
        await asyncio.Event().wait()
    if request == b"refuse":
        await context.abort(grpc.StatusCode.UNAVAILABLE, "not now", (("x-request-id", "a-1"), refusal()))
    if request == b"break":
        await context.abort(grpc.StatusCode.UNAVAILABLE, "no trailers")
    context.set_trailing_metadata((("x-request-id", "a-1"),))
    return request


async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
    yield b"progress"
    yield await answer(request, context)


def refusal() -> tuple[str, bytes]:
    """Return the status's details: come back after 1.5 s, and where the work was."""
    retry = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1, nanos=500_000_000))
    status = status_pb2.Status(code=14, message="not now")
    for detail in (error_details_pb2.ErrorInfo(reason="UNAVAILABLE", metadata={"stage": "queued"}), retry):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return "grpc-status-details-bin", status.SerializeToString()


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    server = grpc.aio.server()
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(answer),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=calling.OPTIONS) as opened:
        yield opened
    await server.stop(None)


async def test_an_answer_comes_with_its_bytes_and_as_the_servers_own(channel: grpc.aio.Channel) -> None:
    outcome = await calling.call(channel, UNARY, b"hello", seconds=10)

    assert (outcome.code, outcome.reply, outcome.answered) == ("OK", b"hello", True)


async def test_of_a_stream_the_last_reply_counts(channel: grpc.aio.Channel) -> None:
    outcome = await calling.call(channel, STREAM, b"hello", seconds=10, streaming=True)

    assert (outcome.code, outcome.reply, outcome.answered) == ("OK", b"hello", True)


@pytest.mark.parametrize(("path", "streaming"), [(UNARY, False), (STREAM, True)], ids=["unary", "stream"])
async def test_a_refusal_comes_with_its_details(channel: grpc.aio.Channel, path: str, streaming: bool) -> None:
    outcome = await calling.call(channel, path, b"refuse", seconds=10, streaming=streaming)

    assert (outcome.code, outcome.message, outcome.answered) == ("UNAVAILABLE", "not now", True)
    assert (outcome.retry_seconds, outcome.stage) == (1.5, "queued")


async def test_a_refusal_without_the_servers_trailers_is_not_its_own(channel: grpc.aio.Channel) -> None:
    outcome = await calling.call(channel, UNARY, b"break", seconds=10)

    assert (outcome.code, outcome.answered, outcome.retry_seconds) == ("UNAVAILABLE", False, None)


@pytest.mark.parametrize(("path", "streaming"), [(UNARY, False), (STREAM, True)], ids=["unary", "stream"])
async def test_a_caller_who_leaves_has_cancelled(channel: grpc.aio.Channel, path: str, streaming: bool) -> None:
    outcome = await calling.call(channel, path, b"wait", seconds=60, streaming=streaming, cancel_after=0.05)

    assert (outcome.code, outcome.answered) == ("CANCELLED", False)


async def test_a_deadline_that_passes_is_an_outcome(channel: grpc.aio.Channel) -> None:
    outcome = await calling.call(channel, UNARY, b"wait", seconds=0.05)

    assert outcome.code == "DEADLINE_EXCEEDED"


async def test_a_call_that_outlives_its_deadline_hangs(channel: grpc.aio.Channel) -> None:
    # A patience below zero is over before the deadline, as no call of gRPC's outlives one.
    outcome = await calling.call(channel, UNARY, b"wait", seconds=60, patience_seconds=-59.95)

    assert outcome.code == calling.HANG
