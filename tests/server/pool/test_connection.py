"""The front's and the worker's end of one socket, against one another."""

import asyncio
import contextlib
import os
import socket
import threading

import numpy as np
import pytest
from pellucid_server.frames import GREETING
from pellucid_server.pool.workers import connection
from pellucid_server.pool.workers.process import WorkerStartError
from pellucid_server.vocabulary.messages import Cancel, Credit, Part, Progress, Start
from pellucid_server.vocabulary.requests import ModelKey, PredictRequest, TensorInput
from pellucid_server.worker_connection import Connection
from server.named import one_array
from server.pool.conftest import until

LARGE_BYTES = 58 << 20


@pytest.fixture
async def ends():
    """The front's end, what it receives, and the worker's end."""
    ours, theirs = socket.socketpair()
    received, lost = [], []
    front = connection.Connection(received.append, lambda: lost.append(True))
    front.lost, front.received = lost, received
    front.open(ours)
    worker = Connection(os.dup(theirs.fileno()))
    theirs.close()
    with contextlib.closing(front):
        yield front, worker


def large(request_number, seed=0):
    values = np.random.default_rng(seed).integers(0, 255, LARGE_BYTES, np.uint8)
    return Start(request_number, PredictRequest(ModelKey("m"), {"x": TensorInput(values)}), None)


async def test_a_small_message_of_another_request_does_not_wait_for_a_large_one_to_the_worker(ends):
    front, worker = ends
    start = large(1)
    front.send(start)
    # The socket is full by now, as the worker reads nothing.
    for _ in range(3):
        await asyncio.sleep(0)
    front.send(Cancel(2))

    first = await asyncio.to_thread(worker.receive)
    second = await asyncio.to_thread(worker.receive)

    assert first == Cancel(2)
    np.testing.assert_array_equal(second.request.inputs["x"].array, start.request.inputs["x"].array)


async def test_a_small_message_of_another_request_does_not_wait_for_a_large_one_to_the_front(ends):
    front, worker = ends
    part = Part(1, 0, one_array("x", np.arange(LARGE_BYTES // 8, dtype=np.float64)))

    # The front reads nothing meanwhile: neither call may wait for it.
    worker.send_now(part)
    assert worker.stuck
    worker.send_now(Progress(2, 0.5))
    await until(lambda: len(front.received) == 2)

    assert front.received[0] == Progress(2, 0.5)
    np.testing.assert_array_equal(front.received[1].body.arrays["x"].values, part.body.arrays["x"].values)
    await asyncio.to_thread(worker.drain)
    assert not worker.stuck


async def test_many_threads_send_whole_messages(ends):
    front, worker = ends
    arrays = {number: np.full(200_000, number, np.float64) for number in range(1, 5)}

    def send(number):
        for position in range(10):
            worker.send_now(Part(number, position, one_array("x", arrays[number])))
            worker.send_now(Progress(number, position / 10))

    threads = [threading.Thread(target=send, args=(number,)) for number in arrays]
    [thread.start() for thread in threads]
    await until(lambda: len(front.received) == 80)
    [thread.join() for thread in threads]

    for number, array in arrays.items():
        mine = [message for message in front.received if message.request_number == number]
        assert [type(message).__name__ for message in mine] == ["Part", "Progress"] * 10
        assert all(np.array_equal(message.body.arrays["x"].values, array) for message in mine[::2])


async def test_a_front_that_is_gone_blocks_no_worker(ends):
    front, worker = ends
    front.close()
    await until(lambda: front.lost)

    worker.send_now(Part(1, 0, one_array("x", np.zeros(1 << 20))))
    await asyncio.to_thread(worker.drain)

    assert worker.receive() is None or not worker.stuck


async def test_what_is_sent_to_a_lost_worker_is_dropped(ends):
    front, _ = ends
    front.close()

    front.send(Credit(1, 2, 3))
    front.close()
    await until(lambda: front.lost)

    assert front.lost == [True]


async def test_a_worker_of_another_installation_is_refused_with_what_differs(make_pool):
    pool = make_pool(exit_seconds=0.1, environment={"FAKE_GREETING": GREETING.decode()[:-32] + "0123456789abcdef" * 2})

    with pytest.raises(WorkerStartError, match=r"different installations: .* schema 01234567, ours of the schema"):
        await pool.start()


async def test_a_worker_from_before_there_were_greetings_is_refused(make_pool):
    pool = make_pool(exit_seconds=0.1, environment={"FAKE_GREETING": "an old frame"})

    with pytest.raises(WorkerStartError, match="Start workers from the installation that the server runs from"):
        await pool.start()


async def test_what_a_worker_said_before_it_closed_its_end_is_read_though_it_cannot_be_written_to():
    ours, theirs = socket.socketpair()
    theirs.sendall(b"an old frame, long enough to be read as a greeting, which it is not".ljust(len(GREETING)))
    theirs.close()
    lost = []
    front = connection.Connection(lambda message: None, lambda: lost.append(True))

    # It is written to before it is read from.
    front.open(ours)
    front.send(Cancel(1))

    await until(lambda: lost)
    assert "different installations" in front.problem


async def test_a_front_of_another_installation_is_not_served(ends, caplog):
    ours, theirs = socket.socketpair()
    worker = Connection(os.dup(theirs.fileno()))
    theirs.close()
    ours.sendall(b"\x00\x01\x02\x03 something else")

    assert worker.first() is None
    assert "different installations" in caplog.text
    ours.close()
