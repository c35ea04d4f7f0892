"""How answers in a stream end before their last part: closed, cancelled, interrupted."""

import asyncio
import contextlib
import gc
import signal
import subprocess
import sys
import threading

import pytest
from client.fake_server import effects_message, part_message
from pellucid import Client, Zero, errors
from pellucid.aio import AsyncClient

ROW = {"age": 40, "colour": "red"}
SECONDS = 30


class Stream:
    """Sends a part, then waits until the call is cancelled; reports both."""

    def __init__(self):
        self.waiting, self.cancelled = threading.Event(), threading.Event()

    def __call__(self, request, context):
        # A call that has ended already takes no callback.
        context.add_callback(self.cancelled.set) or self.cancelled.set()
        yield part_message(0, 0.5, tables={"effects": effects_message(["conv[0]"], [1.0])})
        self.waiting.set()
        self.cancelled.wait(SECONDS)


@pytest.fixture
def stream(server):
    """Have Ablate answered by a stream that does not end."""
    server.replies["Ablate"] = Stream()
    return server.replies["Ablate"]


def test_closing_the_iterator_cancels_the_call_on_the_server(client, stream):
    parts = client.ablate_parts("table", ROW, Zero("conv[*]"))
    assert next(parts).tables["effects"]["site"][0] == "conv[0]"

    parts.close()

    assert stream.cancelled.wait(SECONDS)


def test_an_iterator_that_is_dropped_cancels_the_call_on_the_server(server, stream):
    with Client(server.address) as client:
        for _ in client.ablate_parts("table", ROW, Zero("conv[*]")):
            break
        gc.collect()

        assert stream.cancelled.wait(SECONDS)


def test_an_iterator_that_is_closed_before_its_first_part_asks_nothing(client, server):
    client.ablate_parts("table", ROW, Zero("conv[*]")).close()

    assert not server.requests["Ablate"]


def test_what_a_loop_over_parts_raises_leaves_the_client_usable(client, server, stream):
    with (
        contextlib.suppress(ArithmeticError),
        contextlib.closing(client.ablate_parts("table", ROW, Zero("conv[*]"))) as parts,
    ):
        next(parts)
        raise ArithmeticError
    assert stream.cancelled.wait(SECONDS)

    assert client.predict("table", ROW).top[0][0].label == "[owl]"


async def test_cancelling_the_task_cancels_the_call_on_the_server(server, stream):
    async with AsyncClient(server.address) as client:
        task = asyncio.create_task(client.ablate("table", ROW, Zero("conv[*]")))
        await asyncio.to_thread(stream.waiting.wait, SECONDS)

        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(stream.cancelled.wait, SECONDS)


async def test_leaving_an_async_loop_under_aclosing_cancels_the_call_on_the_server(server, stream):
    async with AsyncClient(server.address) as client:
        async with contextlib.aclosing(client.ablate_parts("table", ROW, Zero("conv[*]"))) as parts:
            async for _ in parts:
                break

        assert await asyncio.to_thread(stream.cancelled.wait, SECONDS)


async def test_closing_the_asyncio_client_ends_its_streams_with_an_error_of_its_own(server, stream):
    client = AsyncClient(server.address)
    task = asyncio.create_task(client.ablate("table", ROW, Zero("conv[*]")))
    await asyncio.to_thread(stream.waiting.wait, SECONDS)

    await client.close()

    with pytest.raises(errors.CancelledError, match="The client is closed"):
        await asyncio.wait_for(task, 10)


def test_closing_the_blocking_client_ends_the_streams_of_other_threads(server, stream):
    client, caught = Client(server.address), []

    def ask():
        with pytest.raises(errors.CancelledError, match="The client is closed") as found:
            client.ablate("table", ROW, Zero("conv[*]"))
        caught.append(found)

    thread = threading.Thread(target=ask)
    thread.start()
    assert stream.waiting.wait(SECONDS)

    client.close()

    thread.join(10)
    assert len(caught) == 1


def test_a_closed_client_says_that_it_is(client):
    client.close()

    with pytest.raises(errors.CancelledError, match="The client is closed"):
        client.ablate("table", ROW, Zero("conv[*]"))


INTERRUPTED = """
import signal, sys
from pellucid import Client, Zero

# The process that starts this in the background may have it ignore interruptions.
signal.signal(signal.SIGINT, signal.default_int_handler)

def show(share, seconds_left):
    print("part", flush=True)

with Client({address!r}) as client:
    try:
        client.ablate("table", {row!r}, Zero("conv[*]"), progress=show)
    except KeyboardInterrupt as error:
        kept = error
        print("interrupted", flush=True)
        sys.stdin.read()
"""


def test_ctrl_c_ends_a_stream_and_its_work_on_the_server(server, stream):
    command = [sys.executable, "-c", INTERRUPTED.format(address=server.address, row=ROW)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "part\n"
            assert stream.waiting.wait(SECONDS)

            process.send_signal(signal.SIGINT)

            assert process.stdout.readline() == "interrupted\n"
            # The process lives on, and keeps the interruption as a notebook does.
            assert stream.cancelled.wait(SECONDS)
        finally:
            process.kill()
