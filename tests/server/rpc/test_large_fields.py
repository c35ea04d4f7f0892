"""Large fields that are taken out of a message: it reads as if they had been left in."""

import dataclasses
import random

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from pellucid.tensors import to_tensor
from pellucid.v1 import explanation_pb2, explanation_service_pb2, input_pb2
from pellucid_server.errors import InvalidRequestError
from pellucid_server.rpc import codec, large_fields
from pellucid_server.rpc.large_fields import LEAST_BYTES, has_more_fields, take_out
from pellucid_server.settings.sections import LimitsConfig
from pellucid_server.wire import encode

ROWS = np.random.default_rng(0).random((2, LEAST_BYTES // 4), np.float32)
LIMITS = LimitsConfig()


def large_request() -> explanation_service_pb2.AttributeRequest:
    """A request with a large value in each field that can have one."""
    flags = np.arange(2 * LEAST_BYTES).reshape(2, -1) % 3 == 0
    inputs = {
        "x": input_pb2.Input(tensor=to_tensor(ROWS)),
        "y": input_pb2.Input(tensor=to_tensor(flags)),
        "z": input_pb2.Input(pictures=input_pb2.Pictures(encoded=[b"a" * LEAST_BYTES, b"small"])),
    }
    baseline = explanation_pb2.Baseline(
        kind="BASELINE_KIND_GIVEN", inputs={"x": input_pb2.Input(tensor=to_tensor(-ROWS[:1]))}
    )
    spec = explanation_pb2.ExplanationSpec(method="saliency", baseline=baseline, seed=7)
    spec.parameters["mask"].tensor.CopyFrom(to_tensor(ROWS.astype(np.float64)))
    return explanation_service_pb2.AttributeRequest(
        model=explanation_pb2.ModelSpec(name="m", version=3), inputs=inputs, explanation=spec
    )


def read(data: bytes, *, out: bool) -> bytes:
    """Read a request's bytes, with its large fields taken out or left in, into the bytes that a worker gets."""
    rest, large = take_out(data, explanation_service_pb2.AttributeRequest) if out else (data, large_fields.NONE)
    request = explanation_service_pb2.AttributeRequest.FromString(rest)
    asked = codec.attribute_request(request, LIMITS, large)
    # The order of a map's entries is protobuf's own.
    return encode(dataclasses.replace(asked, inputs=dict(sorted(asked.inputs.items()))))


def test_a_request_reads_alike_with_its_large_fields_taken_out() -> None:
    data = large_request().SerializeToString()

    rest, large = take_out(data, explanation_service_pb2.AttributeRequest)

    assert sorted(map(len, large.taken.values())) == sorted(
        [ROWS.nbytes, 2 * LEAST_BYTES, LEAST_BYTES, ROWS.nbytes // 2, 2 * ROWS.nbytes]
    )
    assert len(rest) < 1000
    assert read(data, out=True) == read(data, out=False)


def test_what_is_taken_out_is_not_copied() -> None:
    data = large_request().SerializeToString()
    rest, large = take_out(data, explanation_service_pb2.AttributeRequest)
    request = codec.attribute_request(explanation_service_pb2.AttributeRequest.FromString(rest), LIMITS, large)

    assert np.shares_memory(request.inputs["x"].array, np.frombuffer(data, np.uint8))
    assert not request.inputs["x"].array.flags.writeable


def test_the_last_of_two_values_of_a_field_counts_as_it_does_for_protobuf() -> None:
    first, second = large_request(), large_request()
    second.inputs["x"].tensor.CopyFrom(to_tensor(ROWS + 1))
    data = first.SerializeToString() + second.SerializeToString()

    assert read(data, out=True) == read(data, out=False)


def test_an_error_in_a_field_that_was_taken_out_is_the_same() -> None:
    request = large_request()
    broken = ROWS.copy()
    broken[1, 5] = np.nan
    request.inputs["x"].tensor.CopyFrom(to_tensor(broken))
    short = large_request()
    short.inputs["x"].tensor.shape[1] += 1
    flag = large_request()
    flag.inputs["y"].tensor.data = b"\2" * (2 * LEAST_BYTES)

    for wrong in (request, short, flag):
        messages = []
        for out in (True, False):
            with pytest.raises(InvalidRequestError) as caught:
                read(wrong.SerializeToString(), out=out)
            messages.append((caught.value.message, caught.value.metadata))
        assert messages[0] == messages[1]


def test_a_message_without_large_fields_is_left_as_it_is() -> None:
    request = large_request()
    request.ClearField("inputs")
    request.ClearField("explanation")
    data = request.SerializeToString()

    assert take_out(data, explanation_service_pb2.AttributeRequest) == (data, large_fields.NONE)


def test_a_message_of_very_many_fields_is_left_to_protobuf() -> None:
    rows = [input_pb2.Row(cells={"width": input_pb2.Cell(number=1.0)})] * 20_000
    request = large_request()
    request.inputs["table"].table.rows.extend(rows)
    data = request.SerializeToString()

    assert take_out(data, explanation_service_pb2.AttributeRequest)[0] is data


def test_damaged_messages_fail_or_read_as_they_do_for_protobuf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_fields, "LEAST_BYTES", 1)
    whole = large_request()
    for name in ("x", "y"):
        whole.inputs[name].tensor.CopyFrom(to_tensor(ROWS[:, :3]))
    whole.inputs["z"].pictures.encoded[0] = b"abc"
    whole.explanation.parameters["mask"].tensor.CopyFrom(to_tensor(ROWS[0, :2]))
    whole.explanation.baseline.inputs["x"].tensor.CopyFrom(to_tensor(ROWS[:1, :3]))
    data = whole.SerializeToString(deterministic=True)
    draw = random.Random(5)
    outcomes = {"read": 0, "refused": 0, "undecodable": 0}

    for _ in range(4000):
        damaged = bytearray(data)
        for _ in range(draw.randint(1, 2)):
            at = draw.randrange(len(damaged))
            match draw.randrange(3):
                case 0:
                    damaged[at] = draw.randrange(256)
                case 1:
                    del damaged[at : at + draw.randint(1, 4)]
                case _:
                    damaged[at:at] = draw.randbytes(draw.randint(1, 3))
        found = []
        for out in (True, False):
            try:
                found.append(("read", read(bytes(damaged), out=out)))
            except DecodeError:
                found.append(("undecodable", b""))
            except InvalidRequestError as error:
                found.append(("refused", error.message.encode()))
        assert found[0] == found[1], bytes(damaged)
        outcomes[found[0][0]] += 1

    assert min(outcomes.values()) > 30, outcomes


@pytest.mark.parametrize(("entries", "more"), [(7, False), (8, True), (1 << 20, True)])
def test_fields_are_counted_without_a_parse_and_without_those_of_messages_inside(entries: int, more: bool) -> None:
    one = bytes([5 << 3 | 2, 4]) + b"\x0a\x02ab"

    assert has_more_fields(one * entries, 7) is more
    # What is no message is the parser's to answer for.
    assert not has_more_fields(one * 7 + b"\xff" * 20, 8)
