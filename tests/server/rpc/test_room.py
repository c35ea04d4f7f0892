"""When large requests are read: the bound of bytes in flight, turns, and those who leave."""

import asyncio
import gc
import random
import weakref
from collections import Counter

import grpc
import numpy as np
import pytest
from pellucid.tensors import to_tensor
from pellucid.v1 import explanation_pb2 as pb
from pellucid.v1 import explanation_service_pb2 as service_pb
from pellucid.v1 import explanation_service_pb2_grpc, input_pb2
from pellucid_server.errors import InvalidRequestError, UnavailableError
from pellucid_server.metrics import Metrics, RequestRecorder
from pellucid_server.rpc.boundary import Boundary
from pellucid_server.rpc.room import Room
from server.rpc.conftest import TIMING, predict_result, serving

MB = 1 << 20
PREDICT = "/pellucid.v1.ExplanationService/Predict"
SECONDS = 20


def body(size_bytes=0):
    """A Predict of about so many bytes."""
    rows = np.zeros((1, max(1, size_bytes // 4)), np.float32)
    inputs = {"row": input_pb2.Input(tensor=to_tensor(rows))}
    return service_pb.PredictRequest(model=pb.ModelSpec(name="iris"), inputs=inputs).SerializeToString()


class HeldPool:
    """Keeps every request until it is let go."""

    hello = None

    def __init__(self):
        self.held = []
        self.changed = asyncio.Event()

    async def run(self, request, deadline_seconds=None, *, caller="", priority="", trace=None):
        answer = asyncio.get_running_loop().create_future()
        self.held.append(answer)
        self.changed.set()
        await answer
        return predict_result(), TIMING

    async def has(self, count):
        while len(self.held) < count:
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), SECONDS)

    def let_go(self):
        self.held.pop(0).set_result(None)


@pytest.fixture
async def pool():
    return HeldPool()


@pytest.fixture
async def room():
    return Room(4 * MB, 64 * MB)


@pytest.fixture
async def boundary(pool, registry, room):
    return Boundary(RequestRecorder(Metrics.on(registry)), lambda: pool.hello, room=room)


@pytest.fixture
async def address(pool, boundary):
    async with serving(pool, boundary, most_bytes=64 * MB) as found:
        yield found


def connect(address):
    """A connection of its own, a sender of whom nothing is known."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.insecure_channel(address, options=options)


async def until(condition):
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0)


async def ended(call):
    return (await asyncio.wait_for(asyncio.gather(call, return_exceptions=True), SECONDS))[0]


def codes(registry):
    samples = [sample for family in registry.collect() for sample in family.samples]
    ends = [sample for sample in samples if sample.name == "pellucid_request_seconds_count"]
    found = Counter()
    for sample in ends:
        found[sample.labels["code"]] += sample.value
    return found


@pytest.mark.parametrize("sizes", [[3 * MB] * 8, [2 * MB] * 8, [9 * MB] * 3, [2 * MB, 9 * MB, 3 * MB, 2 * MB] * 2])
async def test_large_requests_in_flight_exceed_the_bound_by_one_at_most_and_all_are_answered(
    address, pool, room, sizes
):
    async with connect(address) as channel:
        calls = [asyncio.ensure_future(_call(channel, size)) for size in sizes]
        for _ in sizes:
            await pool.has(1)
            assert room.held_bytes <= 4 * MB + max(sizes) + 4096
            pool.let_go()
        for call in calls:
            assert await asyncio.wait_for(call, SECONDS)
    assert room.most_held_bytes <= 4 * MB + max(sizes) + 4096
    assert (room.held_bytes, room.counted_bytes, room.waiting) == (0, 0, 0)


async def _call(channel, size):
    return await channel.unary_unary(PREDICT)(body(size))


async def test_small_requests_pass_while_large_ones_wait(address, pool, room):
    async with connect(address) as large, connect(address) as small:
        before = asyncio.ensure_future(_call(small, 0))
        await pool.has(1)
        pool.let_go()
        await before
        calls = [asyncio.ensure_future(_call(large, 5 * MB)) for _ in range(4)]
        await pool.has(1)
        await until(lambda: room.waiting == 3)

        passing = asyncio.ensure_future(_call(small, 0))

        await pool.has(2)
        pool.held.pop().set_result(None)
        await asyncio.wait_for(passing, SECONDS)
        assert room.waiting == 3
        for _ in calls:
            await pool.has(1)
            pool.let_go()
        await asyncio.wait_for(asyncio.gather(*calls), SECONDS)


async def test_large_requests_are_read_in_order_of_arrival(address, pool, room):
    async with connect(address) as channel:
        calls = []
        for waiting, size in enumerate((5 * MB, 5 * MB, 2 * MB)):
            calls.append(asyncio.ensure_future(_call(channel, size)))
            await pool.has(1)
            await until(lambda waiting=waiting: room.waiting == waiting)
        order = []
        for number, call in enumerate(calls):
            call.add_done_callback(lambda _, number=number: order.append(number))
        for _ in calls:
            await pool.has(1)
            pool.let_go()
        await asyncio.wait_for(asyncio.gather(*calls), SECONDS)
    assert order == [0, 1, 2]


@pytest.mark.parametrize("end", ["cancel", "deadline", "give up"])
async def test_a_request_that_waits_for_room_ends_once_and_leaves_nothing(address, pool, room, boundary, registry, end):
    async with connect(address) as channel:
        call = channel.unary_unary(PREDICT)
        first = call(body(5 * MB))
        await pool.has(1)
        waiting = call(body(5 * MB), timeout=1 if end == "deadline" else None)
        await until(lambda: room.waiting == 1)

        if end == "cancel":
            waiting.cancel()
        elif end == "give up":
            boundary.give_up(UnavailableError("Closing.", retry_after_seconds="0.050"))
        outcome = await ended(waiting)

        await until(lambda: room.waiting == 0)
        if end == "give up":
            await ended(first)
        else:
            pool.let_go()
            await asyncio.wait_for(first, SECONDS)
        await asyncio.wait_for(boundary.idle(), SECONDS)
    if end == "deadline":
        assert outcome.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert outcome.details() == "The deadline passed before there was room to read the request."
    expected = {
        "cancel": {"OK": 1, "CANCELLED": 1},
        "deadline": {"OK": 1, "DEADLINE_EXCEEDED": 1},
        "give up": {"UNAVAILABLE": 2},
    }
    assert codes(registry) == expected[end]
    assert (room.held_bytes, room.counted_bytes) == (0, 0)


async def test_another_is_read_once_a_sender_of_nothing_has_left(address, pool, room):
    async with connect(address) as silent, connect(address) as other:
        stuck = silent.stream_unary(PREDICT)()
        await until(lambda: room.counted_bytes or room._probe is not None)

        call = asyncio.ensure_future(_call(other, 0))

        # The room takes the silent one for the largest message, which is more than its bound; a read beside it has
        # to wait until it is taken for a slow one.
        await until(lambda: room.waiting == 1)
        stuck.cancel()
        await pool.has(1)
        pool.let_go()
        await asyncio.wait_for(call, SECONDS)


async def test_a_call_without_a_message_is_answered_as_grpc_does(address, boundary, registry):
    async with connect(address) as channel:
        outcome = await ended(channel.stream_unary(PREDICT)(iter(())))

    await asyncio.wait_for(boundary.idle(), SECONDS)
    assert outcome.code() is grpc.StatusCode.UNIMPLEMENTED
    assert outcome.details() == "Predict takes exactly one request message; none came."
    assert codes(registry) == {"UNIMPLEMENTED": 1}


async def test_of_two_messages_the_first_is_answered_as_grpc_does(address, pool):
    async with connect(address) as channel:
        call = channel.stream_unary(PREDICT)(iter([body(), b"\xff"]))
        await pool.has(1)
        pool.let_go()
        assert service_pb.PredictResponse.FromString(await asyncio.wait_for(call, SECONDS)).outputs


async def test_a_refused_request_leaves_nothing_for_a_collection(address, pool, boundary):
    left = []

    async def refuse(request, *_, **__):
        left.append(weakref.ref(request.inputs["row"].array))
        raise InvalidRequestError("There is no such class.", field="priority")

    pool.run = refuse
    gc.disable()
    try:
        async with connect(address) as channel:
            await ended(channel.unary_unary(PREDICT)(body(2 * MB)))
        await asyncio.wait_for(boundary.idle(), SECONDS)
        # The call's task ends a few turns of the loop after its caller has the answer.
        await until(lambda: [kept() is None for kept in left] == [True])
    finally:
        gc.enable()


@pytest.mark.parametrize("size", [1, 2 * MB])
async def test_bytes_that_are_no_request_are_invalid(address, boundary, registry, room, size):
    async with connect(address) as channel:
        outcome = await ended(channel.unary_unary(PREDICT)(b"\xff" * size))

    await asyncio.wait_for(boundary.idle(), SECONDS)
    assert outcome.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert codes(registry) == {"INVALID_ARGUMENT": 1}
    assert room.counted_bytes == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
async def test_a_value_that_is_not_finite_is_found_in_a_large_request(address, value):
    rows = np.zeros((2, 300_000), np.float32)
    rows[1, 299_998] = value
    inputs = {"row": input_pb2.Input(tensor=to_tensor(rows))}
    request = service_pb.PredictRequest(model=pb.ModelSpec(name="iris"), inputs=inputs)
    async with connect(address) as channel:
        outcome = await ended(explanation_service_pb2_grpc.ExplanationServiceStub(channel).Predict(request))

    assert outcome.details() == f'inputs["row"].tensor.data has {value} at [1, 299998]; every element must be finite.'


async def test_a_message_above_the_limit_is_not_read_and_leaves_its_place(address, boundary, registry, room):
    async with connect(address) as channel:
        outcome = await ended(channel.unary_unary(PREDICT)(bytes(65 * MB)))

    await asyncio.wait_for(boundary.idle(), SECONDS)
    assert outcome.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert codes(registry) == {}
    assert registry.get_sample_value("pellucid_requests_unread_total", {"rpc": "Predict"}) == 1
    assert room.counted_bytes == 0


@pytest.mark.parametrize("size", [0, 3 * MB])
async def test_a_blocking_client_notices_nothing(address, pool, size):
    def ask():
        with grpc.insecure_channel(address) as channel:
            return channel.unary_unary(PREDICT)(body(size), timeout=SECONDS)

    reply = asyncio.get_running_loop().run_in_executor(None, ask)
    await pool.has(1)
    pool.let_go()

    assert service_pb.PredictResponse.FromString(await reply).outputs["kind"].values.shape == [1, 3]


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_comes_and_goes_the_bound_holds_and_nothing_is_left(seed):
    chance = random.Random(seed)
    room = Room(10 * MB, 8 * MB)
    senders = {name: chance.choice([0, 2 * MB, 5 * MB, 8 * MB]) for name in range(6)}
    tasks = [asyncio.create_task(_visit(room, chance, *chance.choice(list(senders.items())))) for _ in range(60)]
    for task in chance.sample(tasks, 15):
        await asyncio.sleep(0)
        task.cancel()

    ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), SECONDS)

    assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ends), seed
    assert sum(end is None for end in ends) >= 45
    assert room.most_held_bytes <= 18 * MB, seed
    assert (room.held_bytes, room.counted_bytes, room.waiting) == (0, 0, 0), seed


async def _visit(room, chance, sender, size):
    place = room.place(sender)
    try:
        if place.turn is not None:
            await place.turn
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        room.arrived(place, size)
        for _ in range(chance.randrange(5)):
            await asyncio.sleep(0)
    finally:
        room.leave(place)
