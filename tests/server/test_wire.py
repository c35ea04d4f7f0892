import dataclasses

import numpy as np
import pytest
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

    assert set(wire._CLASSES.values()) == classes
