import contextlib
import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pellucid_server import wire
from pellucid_server.vocabulary import descriptions, findings, messages, requests, results

RECEIPT = results.Receipt(
    model=requests.ModelKey("m", 3, "ab"),
    input_digest="cd",
    runtime=results.Runtime("graph", "", "cpu", "float32", {"torch": "2.13"}),
    work=results.Work(1, 2, (results.BatchShape("forward", 4, 1),)),
    parameters={"steps": 8, "share": 0.5, "exact": True, "grouping": "grid"},
)

MESSAGES = [
    messages.Cancel(7),
    messages.Start(
        1, requests.PredictRequest(requests.ModelKey("m"), {"x": requests.PicturesInput((b"\x00\xff", b""))}), 12.5
    ),
    messages.Start(
        2,
        requests.AttributeRequest(
            requests.ModelKey("m", 2),
            {"row": requests.TableInput(({"age": 3.0, "city": "Rome"},)), "text": requests.TextsInput(("ü",))},
            requests.ExplanationSpec(
                "saliency", target=requests.TargetSpec(contrast=requests.Outcome(label="b")), tolerance=0.1
            ),
        ),
        None,
    ),
    messages.Done(
        1, results.RequestTiming(0.1, 0.2, 3, 4), failure=results.Failure("NOT_FOUND", "no", {"resource_name": "x"})
    ),
    messages.Done(1, results.RequestTiming(0.1, 0.2, 3, 4), result=results.PredictResult({}, RECEIPT)),
    messages.WorkerSettings("cpu", "models", 1, 2, 0.05, 1 << 28),
    messages.Refused("no model"),
    messages.Progress(4, 0.25),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_equal(message):
    assert wire.decode(wire.encode(message)) == message


@pytest.mark.parametrize("kind", ["?", "u1", "i1", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8"])
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 4)])
def test_an_array_comes_back_with_its_type_shape_and_bytes(kind, shape):
    count = int(np.prod(shape))
    array = (np.arange(count) % 2).astype(kind).reshape(shape)

    back = wire.decode(wire.encode(requests.TensorInput(array))).array

    assert back.dtype == array.dtype
    assert back.shape == shape
    assert back.tobytes() == array.tobytes()
    assert back.flags.aligned


def test_arrays_that_are_not_contiguous_come_back_in_row_major_order():
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T

    np.testing.assert_array_equal(wire.decode(wire.encode(requests.TensorInput(array))).array, array)


def test_what_a_request_may_not_hold_is_refused():
    with pytest.raises(TypeError, match="object cannot cross"):
        wire.encode(requests.TensorInput(object()))
    with pytest.raises(TypeError, match="array of object"):
        wire.encode(requests.TensorInput(np.array([None])))


def test_a_frame_is_the_length_and_the_message():
    data = wire.frame(messages.Cancel(1))

    assert wire.LENGTH.unpack(data[:4]) == (len(data) - 4,)
    assert wire.decode(data[4:]) == messages.Cancel(1)


def test_every_class_of_the_vocabulary_has_a_code_of_its_own():
    classes = {
        kind
        for module in (descriptions, findings, messages, requests, results)
        for kind in vars(module).values()
        if isinstance(kind, type) and dataclasses.is_dataclass(kind)
    }

    assert set(wire.CODES) == classes


@pytest.mark.parametrize("kind", [">f4", ">i8", "<f2", "?"])
@pytest.mark.parametrize("shape", [(0, 3), (63,), (64,), (65,), (31, 33)])
def test_arrays_beside_the_header_come_back_aligned_and_read_only(kind, shape):
    array = (np.arange(int(np.prod(shape))) % 2).astype(kind).reshape(shape)
    other = np.arange(777, dtype=np.uint8)

    back = wire.decode(bytearray(wire.encode((requests.TensorInput(array), other, array.T)))[:])

    for found, sent in zip((back[0].array, back[1], back[2]), (array, other, array.T), strict=True):
        assert found.dtype == sent.dtype
        assert found.flags.aligned
        assert not found.flags.writeable
        np.testing.assert_array_equal(found, sent)


def test_encoding_copies_no_large_array_and_decoding_neither():
    array = np.arange(1000.0)
    data = wire.encode(requests.TensorInput(array))

    assert any(np.shares_memory(np.frombuffer(piece, np.uint8), array) for piece in wire.pieces(array))
    assert np.shares_memory(wire.decode(data).array, np.frombuffer(data, np.uint8))


def test_large_pictures_travel_beside_the_header_and_come_back_as_bytes():
    pictures = requests.PicturesInput((bytes(range(256)) * 100, b"small", b"y" * 257))

    assert any(piece is pictures.encoded[0] for piece in wire.pieces(pictures))
    assert wire.decode(wire.encode(pictures)) == pictures


def test_a_failed_encoding_leaves_nothing_behind_for_the_next():
    with pytest.raises(TypeError):
        wire.encode((np.arange(1000.0), object()))

    np.testing.assert_array_equal(wire.decode(wire.encode(np.arange(100.0))), np.arange(100.0))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, arrays(st.sampled_from(["<f4", ">i2", "?", "<u8"]), array_shapes(min_dims=0, max_side=20)))
def test_whatever_the_vocabulary_is_made_of_comes_back_equal(value, array):
    found, back = wire.decode(wire.encode((value, requests.TensorInput(array))))

    assert found == value
    assert back.array.dtype == array.dtype
    assert back.array.shape == array.shape
    assert back.array.tobytes() == array.tobytes()


@given(st.integers(0, 400), st.integers(0, 255))
def test_damaged_messages_raise_and_never_do_anything_else(place, byte):
    data = bytearray(wire.encode((MESSAGES[2], np.arange(100, dtype=np.float32))))
    data[place % len(data)] = byte

    with contextlib.suppress(Exception):
        wire.decode(data)
    with pytest.raises(Exception, match=r"."):
        wire.decode(data[:3])


def test_the_fingerprint_is_of_the_classes_fields_and_codes(monkeypatch):
    before = wire.fingerprint()
    codes = dict(wire.CODES)
    codes[messages.Cancel] = 99
    monkeypatch.setattr(wire, "CODES", codes)

    assert len(before) == 32
    assert wire.fingerprint() != before


def test_codes_stay_as_they_were():
    assert wire.CODES[requests.TensorInput] == 10
    assert wire.CODES[results.Box] == 40
    assert wire.CODES[messages.Done] == 108
    assert len(set(wire.CODES.values())) == len(wire.CODES)
    assert all(10 <= code <= 127 for code in wire.CODES.values())
