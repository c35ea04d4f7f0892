import itertools
import struct
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pellucid_server import frames, wire
from pellucid_server.frames import FRAME_BYTES, GREETING, HEAD, FrameError, GreetingError, Inbox, Outbox, Sending
from pellucid_server.vocabulary.messages import Cancel, Done, Part, Progress
from pellucid_server.vocabulary.results import RequestTiming
from server.named import one_array

TIMING = RequestTiming(0.0, 0.0, 0, 0)


def part(request_number, count, number=0):
    return Part(request_number, number, one_array("x", np.arange(count, dtype=np.uint8)))


def left(outbox):
    """Return what leaves an outbox, as one piece for each time that it is asked."""
    return [b"".join(map(bytes, buffers)) for buffers in iter(outbox.take, [])]


def fed(inbox, data):
    """Give an inbox as much as it takes at a time; return the messages."""
    found = []
    view = memoryview(data)
    while view:
        room = inbox.buffer()
        count = min(len(room), len(view))
        room[:count] = view[:count]
        view = view[count:]
        found += inbox.received(count)
    return found


def order(messages):
    return [(message.request_number, type(message).__name__) for message in messages]


def same(found, sent):
    return wire.encode(found) == wire.encode(sent)


def test_a_small_message_leaves_before_the_rest_of_a_large_one():
    outbox = Outbox()
    outbox.put(part(1, 5 * FRAME_BYTES))
    sent = [b"".join(outbox.take())]

    outbox.put(Cancel(2))
    sent += left(outbox)

    assert [type(message) for message in fed(Inbox(), b"".join(sent[:2]))] == [Cancel]
    assert order(fed(Inbox(), b"".join(sent))) == [(2, "Cancel"), (1, "Part")]


def test_no_frame_carries_more_than_a_mebibyte_and_large_messages_take_turns():
    outbox = Outbox()
    outbox.put(part(1, 3 * FRAME_BYTES))
    outbox.put(part(2, 2 * FRAME_BYTES))

    heads = [HEAD.unpack_from(piece) for piece in left(outbox)[1:]]

    assert [stream for _, _, stream in heads] == [2, 1, 2, 1, 2, 1][: len(heads)]
    assert all(0 < length <= FRAME_BYTES for length, _, _ in heads)


def test_messages_of_one_request_do_not_overtake_one_another():
    outbox = Outbox()
    outbox.put(part(1, 2 * FRAME_BYTES))
    outbox.put(Done(1, TIMING))
    outbox.put(part(2, FRAME_BYTES))

    found = [message for message in order(fed(Inbox(), b"".join(left(outbox)))) if message[0] == 1]

    assert found == [(1, "Part"), (1, "Done")]


def test_a_large_array_is_sent_from_its_own_memory_and_read_into_one_buffer():
    array = np.arange(3 * FRAME_BYTES, dtype=np.uint8)
    outbox = Outbox()
    outbox.put(Part(1, 0, one_array("x", array)))
    buffers = list(itertools.chain.from_iterable(iter(outbox.take, [])))

    assert sum(np.shares_memory(np.frombuffer(buffer, np.uint8), array) for buffer in buffers) >= 3
    (found,) = fed(Inbox(), b"".join(buffers))
    np.testing.assert_array_equal(found.body.arrays["x"].values, array)
    assert not found.body.arrays["x"].values.flags.writeable
    assert found.body.arrays["x"].values.base is not None


@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([0, 1, 255, 256, 3000, 9001])), max_size=8),
    st.lists(st.integers(1, 5000), min_size=1, max_size=20),
    st.integers(0, 3),
)
@settings(deadline=None)
def test_messages_come_back_equal_and_in_order_of_each_request_however_they_are_cut(messages, cuts, taken):
    sent = [part(number, size, position) for position, (number, size) in enumerate(messages)]
    with mock.patch.object(frames, "FRAME_BYTES", 1000):
        found = carried(sent, itertools.cycle(cuts), taken)

    assert len(found) == len(sent)
    for number in (1, 2, 3):
        pairs = zip(of(found, number), of(sent, number), strict=True)
        assert all(same(one, other) for one, other in pairs)


def carried(sent, sizes, taken):
    """Carry messages over, taking some while others are put in, and cutting the bytes to sizes."""
    outbox, inbox, data = Outbox(), Inbox(), b""
    for position, message in enumerate(sent):
        outbox.put(message)
        if position % (taken + 1) == 0:
            data += b"".join(outbox.take())
    data += b"".join(left(outbox))
    found = []
    while data:
        room = inbox.buffer()
        count = min(len(room), len(data), next(sizes))
        room[:count], data = data[:count], data[count:]
        found += inbox.received(count)
    return found


def of(messages, number):
    return [message for message in messages if message.request_number == number]


@given(st.lists(st.integers(0, 300), max_size=6), st.lists(st.integers(1, 200), min_size=1))
def test_a_socket_that_takes_little_at_a_time_gets_all_bytes_in_order(sizes, taken):
    sending, counts, got = Sending(), itertools.cycle(taken), b""
    buffers = [bytes([number]) * size for number, size in enumerate(sizes)]
    sending.add([buffer for buffer in buffers if buffer])

    while sending:
        piece = b"".join(sending.next())[: next(counts)]
        got += piece
        sending.sent(len(piece))

    assert got == b"".join(buffers)


def begun(length, total, stream=1):
    return GREETING + HEAD.pack(length, total, stream)


@pytest.mark.parametrize(
    "data",
    [
        begun(0, 0),
        begun(FRAME_BYTES + 1, FRAME_BYTES + 1),
        begun(20, 10),
        begun(10, 2 * FRAME_BYTES),
        begun(FRAME_BYTES, 1 << 40),
        begun(FRAME_BYTES, 2 * FRAME_BYTES) + bytes(FRAME_BYTES) + HEAD.pack(FRAME_BYTES, 3 * FRAME_BYTES, 1),
        begun(FRAME_BYTES, 2 * FRAME_BYTES) + bytes(FRAME_BYTES) + HEAD.pack(8, 8, 1),
        begun(4, 4) + b"\xff\xff\xff\xff",
        begun(1, 1) + b"\xc1",
        b"".join([GREETING, *(HEAD.pack(FRAME_BYTES, 1 << 32, stream) for stream in range(1))])
        + bytes(FRAME_BYTES)
        + b"".join(HEAD.pack(FRAME_BYTES, 1 << 32, stream) + bytes(FRAME_BYTES) for stream in (1, 2, 3, 4)),
    ],
    ids=[
        "empty",
        "long frame",
        "longer than its message",
        "short frame",
        "huge message",
        "another length",
        "cut in",
        "long header",
        "nothing",
        "many huge messages",
    ],
)
def test_what_no_end_sends_is_refused(data):
    with pytest.raises(FrameError):
        fed(Inbox(), data)


def test_bytes_of_the_message_are_not_quoted_when_it_cannot_be_decoded():
    packed = struct.pack("<I", 8) + b"\xa6secret" + b"x"

    with pytest.raises(FrameError) as caught:
        fed(Inbox(), begun(len(packed), len(packed)) + packed)

    assert "secret" not in str(caught.value)


def test_an_end_of_another_schema_is_refused_before_any_message():
    other = GREETING[:-32] + b"0123456789abcdef" * 2

    with pytest.raises(GreetingError, match="of the schema 01234567, ours of the schema"):
        fed(Inbox(), other + HEAD.pack(1, 1, 0))


def test_an_end_that_does_not_greet_is_refused_at_its_first_bytes():
    with pytest.raises(GreetingError, match="without a schema"):
        fed(Inbox(), struct.pack("<I", 300))


def test_a_greeting_may_arrive_byte_by_byte():
    inbox = Inbox()
    found = [fed(inbox, bytes([byte])) for byte in GREETING]

    assert found == [[]] * len(GREETING)
    assert order(fed(inbox, HEAD.pack(*2 * (len(wire.encode(Cancel(4))),), 4) + wire.encode(Cancel(4)))) == [
        (4, "Cancel")
    ]


def test_progress_of_one_request_waits_for_no_other():
    outbox = Outbox()
    outbox.put(part(1, 58 << 20))
    outbox.take()
    outbox.put(Progress(2, 0.5))

    assert order(fed(Inbox(), GREETING + bytes(outbox.take()[0]))) == [(2, "Progress")]
    assert frames.MOST_BUFFERS < 1024
