import dataclasses

import numpy as np
import pytest
from pellucid_server import jobs, wire

RECEIPT = jobs.Receipt(
    model=jobs.ModelKey("m", 3, "ab"),
    input_digest="cd",
    runtime=jobs.Runtime("graph", "", "cpu", "float32", {"torch": "2.13"}),
    work=jobs.Work(1, 2, (jobs.BatchShape("forward", 4, 1),)),
    parameters={"steps": 8, "share": 0.5, "exact": True, "grouping": "grid"},
)

MESSAGES = [
    jobs.Cancel(7),
    jobs.Start(1, jobs.PredictJob(jobs.ModelKey("m"), {"x": jobs.PicturesInput((b"\x00\xff", b""))}), 12.5),
    jobs.Start(
        2,
        jobs.AttributeJob(
            jobs.ModelKey("m", 2),
            {"row": jobs.TableInput(({"age": 3.0, "city": "Rome"},)), "text": jobs.TextsInput(("ü",))},
            jobs.ExplanationSpec("saliency", target=jobs.TargetSpec(contrast=jobs.Outcome(label="b")), tolerance=0.1),
        ),
        None,
    ),
    jobs.Done(1, jobs.JobTiming(0.1, 0.2, 3, 4), failure=jobs.Failure("NOT_FOUND", "no", {"resource_name": "x"})),
    jobs.Done(1, jobs.JobTiming(0.1, 0.2, 3, 4), result=jobs.PredictResult({}, RECEIPT)),
    jobs.WorkerSettings("cpu", "models", 1, 2, 0.05, 1 << 28),
    jobs.Refused("no model"),
    jobs.Progress(4, 0.25),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_equal(message):
    assert wire.decode(wire.encode(message)) == message


@pytest.mark.parametrize("kind", ["?", "u1", "i1", "<i2", "<i4", "<i8", "<f2", "<f4", "<f8"])
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 4)])
def test_an_array_comes_back_with_its_type_shape_and_bytes(kind, shape):
    count = int(np.prod(shape))
    array = (np.arange(count) % 2).astype(kind).reshape(shape)

    back = wire.decode(wire.encode(jobs.TensorInput(array))).array

    assert back.dtype == array.dtype
    assert back.shape == shape
    assert back.tobytes() == array.tobytes()
    assert back.flags.aligned


def test_arrays_that_are_not_contiguous_come_back_in_row_major_order():
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T

    np.testing.assert_array_equal(wire.decode(wire.encode(jobs.TensorInput(array))).array, array)


def test_what_a_job_may_not_hold_is_refused():
    with pytest.raises(TypeError, match="object cannot cross"):
        wire.encode(jobs.TensorInput(object()))
    with pytest.raises(TypeError, match="array of object"):
        wire.encode(jobs.TensorInput(np.array([None])))


def test_a_frame_is_the_length_and_the_message():
    data = wire.frame(jobs.Cancel(1))

    assert wire.LENGTH.unpack(data[:4]) == (len(data) - 4,)
    assert wire.decode(data[4:]) == jobs.Cancel(1)


def test_every_class_of_jobs_has_a_code_of_its_own():
    classes = {kind for kind in vars(jobs).values() if isinstance(kind, type) and dataclasses.is_dataclass(kind)}

    assert set(wire._CLASSES.values()) == classes
