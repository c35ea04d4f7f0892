"""How calls end before their answer: cancelled, interrupted, cut off from the server, closed."""

import asyncio
import contextlib
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from client.fake_server import Failure, attribute_message, table_attribution
from client.forwarder import Forwarder
from pellucid import Client, errors
from pellucid.aio import AsyncClient
from pellucid.channels import channel_options

ROW = {"age": 40, "colour": "red"}
SECONDS = 30


class Handler:
    """Answers when the call is cancelled, and tells of both."""

    def __init__(self):
        self.arrived, self.cancelled = threading.Event(), threading.Event()

    def __call__(self, request, context):
        # A call that has ended already takes no callback.
        context.add_callback(self.cancelled.set) or self.cancelled.set()
        self.arrived.set()
        self.cancelled.wait(SECONDS)
        return attribute_message(table_attribution())


@pytest.fixture
def handler(server):
    """Have Attribute answered by a handler that waits."""
    server.replies["Attribute"] = Handler()
    return server.replies["Attribute"]


@pytest.fixture
def forwarder(server):
    """Put a network before the server."""
    made = Forwarder(int(server.address.rpartition(":")[2]))
    yield made
    made.close()


async def happened(event):
    return await asyncio.to_thread(event.wait, SECONDS)


async def test_cancelling_the_task_cancels_the_call_on_the_server(server, handler):
    async with AsyncClient(server.address) as client:
        task = asyncio.create_task(client.attribute("table", ROW))
        await happened(handler.arrived)

        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        assert await happened(handler.cancelled)


async def test_a_timeout_around_a_call_cancels_it_on_the_server(server, handler):
    async with AsyncClient(server.address) as client:
        with pytest.raises(TimeoutError) as caught:
            await _until(handler.arrived, client.attribute("table", ROW))

        assert not isinstance(caught.value, errors.PellucidError)
        assert await happened(handler.cancelled)


async def test_one_of_several_calls_is_cancelled_alone(server, handler):
    async with AsyncClient(server.address) as client:
        task = asyncio.create_task(client.attribute("table", ROW))
        await happened(handler.arrived)

        task.cancel()

        assert (await client.predict("table", ROW)).top[0][0].label == "[owl]"


async def test_a_task_that_waits_between_two_tries_is_cancelled_at_once_and_asks_no_more(server):
    server.failures["Attribute"].append(_pushed_back(20_000))
    async with AsyncClient(server.address) as client:
        task = asyncio.create_task(client.attribute("table", ROW))
        await asyncio.to_thread(_wait_for, lambda: server.requests["Attribute"])

        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 10)
    assert len(server.requests["Attribute"]) == 1


@pytest.mark.parametrize("wait_seconds", [0, 20], ids=["running", "between two tries"])
async def test_closing_the_asyncio_client_ends_its_calls_with_an_error_of_its_own(server, handler, wait_seconds):
    server.failures["Attribute"].extend([_pushed_back(wait_seconds * 1000)] * (wait_seconds > 0))
    client = AsyncClient(server.address)
    task = asyncio.create_task(client.attribute("table", ROW))
    await asyncio.to_thread(_wait_for, lambda: server.requests["Attribute"])

    await client.close()

    with pytest.raises(errors.CancelledError, match="The client is closed"):
        await asyncio.wait_for(task, 10)


@pytest.mark.parametrize("wait_seconds", [0, 20], ids=["running", "between two tries"])
def test_closing_the_blocking_client_ends_the_calls_of_other_threads(server, handler, wait_seconds):
    server.failures["Attribute"].extend([_pushed_back(wait_seconds * 1000)] * (wait_seconds > 0))
    client, caught = Client(server.address), []

    def ask():
        with pytest.raises(errors.CancelledError, match="The client is closed") as found:
            client.attribute("table", ROW)
        caught.append(found)

    thread = threading.Thread(target=ask)
    thread.start()
    _wait_for(lambda: server.requests["Attribute"])

    client.close()

    thread.join(10)
    assert len(caught) == 1


ASKED = {
    "predict": lambda client: client.predict("table", ROW),
    "attribute": lambda client: client.attribute("table", ROW),
    "models": lambda client: client.models(),
    "wait_until_ready": lambda client: client.wait_until_ready(),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_a_closed_client_says_that_it_is(client, ask):
    client.close()
    client.close()

    with pytest.raises(errors.CancelledError, match="The client is closed; make another one to call again"):
        ask(client)


def test_ctrl_c_ends_a_call_and_its_work_on_the_server(server, handler):
    with _calling(server.address) as process:
        assert process.stdout.readline() == "waiting\n"
        assert handler.arrived.wait(SECONDS)

        process.send_signal(signal.SIGINT)

        assert process.stdout.readline() == "interrupted\n"
        assert handler.cancelled.wait(SECONDS)


def test_ctrl_c_ends_the_wait_between_two_tries(server, handler):
    server.failures["Attribute"].append(_pushed_back(20_000))
    with _calling(server.address) as process:
        _wait_for(lambda: server.requests["Attribute"])

        process.send_signal(signal.SIGINT)

        assert "interrupted\n" in process.stdout
    assert len(server.requests["Attribute"]) == 1


def test_a_server_that_vanishes_without_a_word_is_noticed(forwarder, handler, connect):
    hasty = {"grpc.keepalive_time_ms": 200, "grpc.keepalive_timeout_ms": 200, "grpc.http2.ping_timeout_ms": 200}
    client = connect(forwarder.address, retries=0, options=hasty)
    threading.Thread(target=lambda: handler.arrived.wait(SECONDS) and forwarder.fall_silent()).start()

    with pytest.raises(errors.UnavailableError, match="or it was lost"):
        client.attribute("table", ROW, timeout=60)


def test_a_call_whose_connection_breaks_is_made_again_on_the_next_one(server, forwarder, handler, connect):
    port = int(forwarder.address.rpartition(":")[2])
    with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as stack:

        def restart():
            handler.arrived.wait(SECONDS)
            forwarder.close()
            stack.callback(Forwarder(int(server.address.rpartition(":")[2]), listen_on=port).close)

        restarted = pool.submit(restart)
        found = connect(forwarder.address).attribute("table", ROW)

        restarted.result()
    assert found.by_column == {"age": 2.0, "colour": -0.5}
    assert len(server.requests["Attribute"]) == 2


def test_such_a_server_is_noticed_soon_enough_to_ask_another_and_pinged_no_more_often_than_it_allows():
    options = dict(channel_options("example.com:443", None))

    assert options["grpc.keepalive_time_ms"] + options["grpc.http2.ping_timeout_ms"] <= 30_000
    assert options["grpc.keepalive_timeout_ms"] == options["grpc.http2.ping_timeout_ms"]
    assert options["grpc.keepalive_time_ms"] >= 10_000
    assert options["grpc.keepalive_permit_without_calls"] == 0


CALLING = """
import linecache, signal, sys, threading
from pellucid import Client

def tell():
    # In its first moment, before gRPC has returned it to anybody, a call cannot be cancelled.
    here, pause = "", threading.Event()
    while "next_event" not in here:
        pause.wait(0.01)
        frame = sys._current_frames()[threading.main_thread().ident]
        here = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    print("waiting", flush=True)

# Who starts this in the background may have told it to take no notice.
signal.signal(signal.SIGINT, signal.default_int_handler)
with Client({address!r}) as client:
    # What the model's inputs are called is asked for now, so that the next call is the only one to wait for.
    client.predict("table", {row!r})
    threading.Thread(target=tell, daemon=True).start()
    try:
        client.attribute("table", {row!r})
    except KeyboardInterrupt as error:
        kept = error
        print("interrupted", flush=True)
        sys.stdin.read()
"""


@contextlib.contextmanager
def _calling(address):
    """Have another process call Attribute, and tell when it waits for the reply.

    It keeps an interruption, as a notebook keeps the last error.
    """
    program = CALLING.format(address=address, row=ROW)
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def _until(event, call):
    """Await a call under a timeout that runs out when the event happens."""
    async with asyncio.timeout(None) as limit:
        waiting = asyncio.create_task(happened(event))
        waiting.add_done_callback(lambda _: limit.reschedule(0))
        await call


def _pushed_back(milliseconds):
    return Failure(grpc.StatusCode.UNAVAILABLE, "no worker", (("grpc-retry-pushback-ms", str(milliseconds)),))


def _wait_for(condition):
    """Look until it holds; the server's own threads offer nothing to wait on."""
    patience, end = threading.Event(), time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        patience.wait(0.005)
