"""Handlers that answer with a stream, behind the boundary and a real gRPC server."""

import asyncio

import grpc
import pytest
from pellucid.v1 import explanation_pb2 as pb
from pellucid.v1 import explanation_service_pb2 as service_pb
from pellucid.v1 import explanation_service_pb2_grpc
from pellucid_server.errors import NotFoundError, UnavailableError
from pellucid_server.rpc.handlers import GuardedHandlers
from pellucid_server.rpc.service import EXPLANATION_SERVICE
from server.rpc.conftest import TIMING, reached

REQUEST = service_pb.DissectRequest(model=pb.ModelSpec(name="iris"))


class Servicer:
    """Sends shares of progress, then does as `end` says."""

    def __init__(self):
        self.shares = (0.25, 0.5)
        self.end = None
        """An error to raise, an event to wait for, or None to end well."""
        self.waiting = asyncio.Event()
        self.closed = asyncio.Event()
        self.calls = []

    async def Dissect(self, request, call):
        self.calls.append(call)
        try:
            for share in self.shares:
                yield service_pb.DissectResponse(progress={"share": share})
            self.waiting.set()
            await self._end(call)
        finally:
            self.closed.set()

    async def _end(self, call):
        match self.end:
            case BaseException():
                raise self.end
            case asyncio.Event():
                await self.end.wait()
        call.timing = TIMING

    Predict = Attribute = Ablate = None


@pytest.fixture
async def servicer():
    return Servicer()


@pytest.fixture
async def dissect(servicer, boundary):
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((GuardedHandlers(EXPLANATION_SERVICE, servicer, boundary),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield explanation_service_pb2_grpc.ExplanationServiceStub(channel).Dissect
    await server.stop(0)


async def received(call):
    """Everything that a call brings: the shares, then its end."""
    shares = []
    try:
        async for message in call:
            shares.append(message.progress.share)
    except grpc.aio.AioRpcError as error:
        return shares, error
    return shares, None


def code_counts(registry):
    samples = [sample for family in registry.collect() for sample in family.samples]
    ends = [sample for sample in samples if sample.name == "pellucid_request_seconds_count"]
    return {(sample.labels["rpc"], sample.labels["code"]): sample.value for sample in ends}


async def test_messages_arrive_in_order_and_the_request_is_recorded_once(dissect, servicer, boundary, registry, lines):
    call = dissect(REQUEST, metadata=[("x-request-id", "mine-7")])

    shares, error = await received(call)

    await asyncio.wait_for(boundary.idle(), 20)
    assert (shares, error) == ([0.25, 0.5], None)
    assert dict(await call.trailing_metadata())["x-request-id"] == "mine-7"
    assert code_counts(registry) == {("Dissect", "OK"): 1}
    (line,) = lines()
    assert (line["id"], line["code"], line["model"], line["rows_forward"]) == ("mine-7", "OK", "iris", 3)


async def test_messages_are_sent_as_they_come(dissect, servicer):
    servicer.end = asyncio.Event()
    call = dissect(REQUEST)

    first = await asyncio.wait_for(call.read(), 20)

    assert first.progress.share == 0.25
    assert not servicer.closed.is_set()
    servicer.end.set()
    assert [(await call.read()).progress.share, await call.read()] == [0.5, grpc.aio.EOF]


async def test_an_error_after_messages_arrives_with_its_details(dissect, servicer, registry):
    servicer.end = NotFoundError("No layer 'x'.", resource_type="layer", resource_name="x")

    shares, error = await received(dissect(REQUEST))

    assert shares == [0.25, 0.5]
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "No layer 'x'.")
    assert "grpc-status-details-bin" in dict(error.trailing_metadata())
    assert code_counts(registry) == {("Dissect", "NOT_FOUND"): 1}


async def test_a_bug_shows_the_caller_nothing(dissect, servicer, registry, caplog):
    servicer.end = KeyError("secret")

    _, error = await received(dissect(REQUEST))

    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert "KeyError: 'secret'" in caplog.text
    assert code_counts(registry) == {("Dissect", "INTERNAL"): 1}


async def test_a_caller_who_leaves_closes_the_handler(dissect, servicer, boundary, registry, lines):
    servicer.end = asyncio.Event()
    call = dissect(REQUEST)
    await asyncio.wait_for(servicer.waiting.wait(), 20)

    call.cancel()

    await asyncio.wait_for(servicer.closed.wait(), 20)
    await asyncio.wait_for(boundary.idle(), 20)
    assert [line["code"] for line in lines()] == ["CANCELLED"]
    assert code_counts(registry) == {("Dissect", "CANCELLED"): 1}


async def test_a_deadline_that_passes_closes_the_handler(dissect, servicer, boundary, registry):
    servicer.end = asyncio.Event()

    shares, error = await received(dissect(REQUEST, timeout=0.5))

    await asyncio.wait_for(servicer.closed.wait(), 20)
    await asyncio.wait_for(boundary.idle(), 20)
    assert (shares, error.code()) == ([0.25, 0.5], grpc.StatusCode.DEADLINE_EXCEEDED)
    assert code_counts(registry) == {("Dissect", "DEADLINE_EXCEEDED"): 1}


async def test_a_stream_is_given_up_with_a_word(dissect, servicer, boundary, registry):
    servicer.end = asyncio.Event()
    call = dissect(REQUEST)
    await asyncio.wait_for(servicer.waiting.wait(), 20)

    boundary.give_up(UnavailableError("Closing.", retry_after_seconds="0.050"))

    shares, error = await received(call)
    await asyncio.wait_for(boundary.idle(), 20)
    assert shares == [0.25, 0.5]
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "Closing.")
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "50"
    assert servicer.closed.is_set()
    assert code_counts(registry) == {("Dissect", "UNAVAILABLE"): 1}


async def test_a_handler_is_closed_before_its_request_ends(dissect, servicer, boundary, registry, fault_folder):
    (fault_folder / "replying").write_text("hold")
    call = dissect(REQUEST)
    await reached(fault_folder, "replying")

    call.cancel()

    await asyncio.wait_for(boundary.idle(), 20)
    assert servicer.closed.is_set()
    assert code_counts(registry) == {("Dissect", "CANCELLED"): 1}


class GoneContext:
    """A call whose caller is gone before the server has heard of it: sending fails."""

    def invocation_metadata(self):
        return ()

    def peer(self):
        return "unix:"

    def time_remaining(self):
        return None

    def set_trailing_metadata(self, metadata):
        pass

    async def read(self):
        return b""

    async def write(self, data):
        raise grpc.aio.InternalError("Failed operations")


async def test_a_send_that_fails_is_a_caller_who_left(servicer, boundary, registry):
    async def in_grpcs_task():
        boundary.enter("Dissect")
        await boundary.guard_stream("Dissect", service_pb.DissectRequest, servicer.Dissect)(None, GoneContext())

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(in_grpcs_task())

    assert code_counts(registry) == {("Dissect", "CANCELLED"): 1}
    assert servicer.closed.is_set()


async def test_a_caller_who_stops_reading_and_leaves_closes_the_handler(dissect, servicer, boundary, registry):
    # More than the flow control of HTTP/2 lets through: the server waits in a send.
    servicer.shares = tuple(0.5 for _ in range(100_000))
    call = dissect(REQUEST)
    await asyncio.wait_for(call.read(), 20)

    call.cancel()

    await asyncio.wait_for(servicer.closed.wait(), 20)
    await asyncio.wait_for(boundary.idle(), 20)
    assert not servicer.waiting.is_set()
    assert code_counts(registry) == {("Dissect", "CANCELLED"): 1}
