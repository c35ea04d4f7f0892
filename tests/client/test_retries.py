"""Which calls are made again, when, and what their callers see in the end."""

import random
import time

import grpc
import numpy as np
import pytest
from client.fake_server import Failure, predict_message
from client.test_errors import failure
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2
from pellucid import errors
from pellucid.errors import OverloadedError, TimedOutError, UnavailableError
from pellucid.retries import RetryPolicy, Tries
from pellucid.v1 import explanation_service_pb2

ROW = {"age": 40, "colour": "red"}
UNAVAILABLE, EXHAUSTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED
CANCELLED = grpc.StatusCode.CANCELLED


def longest(low, high):
    return high


def pushback(milliseconds):
    return (("grpc-retry-pushback-ms", str(milliseconds)),)


def retry_info(seconds):
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(round(seconds * 1e9))
    return error_details_pb2.RetryInfo(retry_delay=delay)


def test_pauses_double_up_to_two_seconds():
    tries = Tries(RetryPolicy(draw=longest))

    pauses = [tries.pause_seconds(UnavailableError("gone"), 1000) for _ in range(8)]

    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2, 2, 2]


def test_pauses_are_drawn_from_nothing_on_so_that_callers_spread():
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    policy = RetryPolicy(draw=random.Random(seed).uniform)

    pauses = [Tries(policy, retries=9).pause_seconds(UnavailableError("gone"), 1000) for _ in range(2000)]

    # Uniform in [0, 2]: a tenth of the pauses in each fifth of a second, give or take 6 standard deviations of 0.7 %.
    shares = np.histogram(pauses, bins=10, range=(0, 2))[0] / len(pauses)
    np.testing.assert_allclose(shares, 0.1, atol=0.042)


def test_the_servers_time_is_the_least_and_callers_spread_beyond_it():
    tries = Tries(RetryPolicy(draw=longest))

    pauses = [tries.pause_seconds(OverloadedError("full", retry_after_seconds=5), 1000) for _ in range(3)]

    assert pauses == [5.1, 5.2, 5.4]


def test_a_pause_leaves_half_of_what_is_left_to_the_try_after_it():
    tries = Tries(RetryPolicy(draw=longest), retries=9)

    assert tries.pause_seconds(UnavailableError("gone"), 1.5) == 0.75
    assert tries.pause_seconds(OverloadedError("full", retry_after_seconds=5), 6) == 5.5


@pytest.mark.parametrize(
    ("error", "remaining_seconds"),
    [
        (OverloadedError("full", retry_after_seconds=5), 5.05),
        (OverloadedError("full", retry_after_seconds=5), 2),
        (UnavailableError("gone"), 0.05),
        (UnavailableError("gone"), -1),
        (OverloadedError("more than the device has"), 1000),
        (UnavailableError("gone for good", retriable=False), 1000),
        (errors.InvalidRequestError("wrong"), 1000),
        (errors.FatalRequestError("it ended two workers"), 1000),
        (errors.PellucidError("internal error"), 1000),
        (errors.CancelledError("cancelled"), 1000),
        (TimedOutError("refused", metadata={"stage": "refused"}, request_id="r"), 1000),
    ],
    ids=str,
)
def test_what_cannot_help_or_does_not_fit_the_deadline_is_not_tried(error, remaining_seconds):
    with pytest.raises(errors.PellucidError) as caught:
        Tries(RetryPolicy()).pause_seconds(error, remaining_seconds)

    assert caught.value is error


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_no_more_retries_are_made_than_asked_for(limit):
    tries, error = Tries(RetryPolicy(limit)), UnavailableError("gone")
    allowed = [tries.pause_seconds(error, 1000) for _ in range(limit)]

    assert len(allowed) == limit
    with pytest.raises(UnavailableError):
        tries.pause_seconds(error, 1000)


def test_thousands_of_retries_are_no_trouble():
    assert 0 <= RetryPolicy().backoff_seconds(100_000) <= 2


def test_without_waiting_for_a_connection_nobody_answers_three_times_more_and_then_it_is_told():
    tries = Tries(RetryPolicy(persistent=False, draw=longest))
    pauses = [tries.pause_seconds(UnavailableError("no connection"), 1000) for _ in range(3)]

    with pytest.raises(UnavailableError, match="no connection"):
        tries.pause_seconds(UnavailableError("no connection"), 1000)
    assert sum(pauses) < 1
    assert tries.pause_seconds(UnavailableError("starting", request_id="r"), 1000) > 0


def test_a_deadline_that_passes_after_a_refusal_tells_both():
    tries = Tries(RetryPolicy())
    tries.pause_seconds(OverloadedError("full", retry_after_seconds=1, request_id="r", metadata={"a": "b"}), 10)

    with pytest.raises(TimedOutError, match=r"^No answer\. An earlier try was refused: full$") as caught:
        tries.pause_seconds(TimedOutError("No answer.", metadata={"transport": "t"}), 0)

    assert caught.value.metadata == {"a": "b", "transport": "t"}
    assert (caught.value.retry_after_seconds, caught.value.request_id) == (1, "r")
    assert isinstance(caught.value.__cause__, OverloadedError)


@pytest.mark.parametrize(
    "refusal",
    [
        Failure(UNAVAILABLE),
        Failure(UNAVAILABLE, trailing=pushback(0)),
        Failure(EXHAUSTED, trailing=pushback(0)),
        failure(UNAVAILABLE, "UNAVAILABLE", pushback="0"),
        failure(EXHAUSTED, "OVERLOADED", retry_info(0), pushback="0"),
        failure(EXHAUSTED, "OVERLOADED", retry_info(0), pushback=None),
        Failure(CANCELLED),
    ],
    ids=["lost", "pushed back", "proxy", "no worker", "full", "full without trailer", "stopping"],
)
def test_a_refused_call_is_made_again_until_it_succeeds(hurried, server, refusal):
    server.failures["Predict"].extend([refusal] * 7)

    prediction = hurried.predict("table", ROW)

    assert prediction.top[0][0].label == "[owl]"
    assert len(server.requests["Predict"]) == 8


@pytest.mark.parametrize(
    "refusal",
    [
        Failure(UNAVAILABLE, trailing=pushback(-1)),
        Failure(UNAVAILABLE, trailing=pushback("soon")),
        Failure(EXHAUSTED),
        Failure(EXHAUSTED, trailing=pushback(-1)),
        Failure(grpc.StatusCode.INVALID_ARGUMENT, trailing=pushback(0)),
        Failure(CANCELLED, trailing=pushback(-1)),
        failure(CANCELLED, "CANCELLED", pushback=None, stage="running"),
        failure(EXHAUSTED, "OVERLOADED", pushback="-1"),
        failure(grpc.StatusCode.INTERNAL, "FATAL_REQUEST", pushback=None),
        failure(grpc.StatusCode.DEADLINE_EXCEEDED, "TIMED_OUT", pushback=None, stage="refused"),
        failure(EXHAUSTED, "OVERLOADED", retry_info(31), pushback="31000"),
    ],
    ids=[
        "no",
        "unreadable",
        "too large",
        "no room",
        "wrong",
        "stopping for good",
        "left",
        "no room at all",
        "fatal",
        "refused",
        "beyond the deadline",
    ],
)
def test_what_no_retry_helps_is_sent_once(hurried, server, pauses, refusal):
    server.failures["Predict"].append(refusal)

    with pytest.raises(errors.PellucidError) as caught:
        hurried.predict("table", ROW)

    assert caught.value.code is refusal.code
    assert len(server.requests["Predict"]) == 1
    assert pauses == []


def test_the_pushback_of_the_trailer_is_the_least_pause(hurried, server, pauses):
    server.failures["Predict"].extend([Failure(EXHAUSTED, trailing=pushback(700)), Failure(UNAVAILABLE)])

    hurried.predict("table", ROW)

    first, second = pauses
    assert 0.7 <= first <= 0.8
    assert 0 <= second <= 0.2


def test_the_longer_of_trailer_and_details_is_waited_for(hurried, server, pauses):
    server.failures["Predict"].append(failure(EXHAUSTED, "OVERLOADED", retry_info(2), pushback="500"))
    server.failures["Predict"].append(failure(EXHAUSTED, "OVERLOADED", retry_info(0.5), pushback="3000"))

    hurried.predict("table", ROW)

    assert [int(pause) for pause in pauses] == [2, 3]


def test_the_pause_is_really_made(client, server):
    arrivals = []
    server.replies["Predict"], made = lambda *_: arrivals.append(time.monotonic()) or made, server.replies["Predict"]
    refused = failure(EXHAUSTED, "OVERLOADED", retry_info(0.05), pushback="50")
    server.failures["Predict"].append(refused)
    began = time.monotonic()

    client.predict("table", ROW)

    assert arrivals[0] - began >= 0.05


def test_no_retry_is_made_where_none_is_wanted(server, connect, pauses):
    client = connect(server.address, retries=0, pauses=pauses)
    server.failures["Predict"].append(Failure(UNAVAILABLE))

    with pytest.raises(UnavailableError):
        client.predict("table", ROW)

    assert len(server.requests["Predict"]) == 1


def test_all_tries_of_a_call_have_one_deadline(hurried, server):
    server.failures["Predict"].extend([Failure(UNAVAILABLE, trailing=pushback(4000))] * 4)

    hurried.predict("table", ROW, timeout=20)

    # gRPC rounds deadlines up on their way, by 1 % at most.
    assert all(left <= 1.01 * (20 - 4 * number) for number, left in enumerate(server.remaining["Predict"]))
    assert len(server.remaining["Predict"]) == 5


def test_a_server_that_always_refuses_is_asked_until_the_deadline_and_not_beyond(hurried, server, pauses):
    server.failures["Predict"].extend([failure(UNAVAILABLE, "UNAVAILABLE", retry_info(1), pushback="1000")] * 100)

    with pytest.raises(UnavailableError) as caught:
        hurried.predict("table", ROW, timeout=20)

    # The last second is too short for the second that the server asks for.
    assert 18 < sum(pauses) < 20
    assert 7 <= len(server.requests["Predict"]) <= 20
    assert caught.value.retry_after_seconds == 1


def test_a_large_picture_is_sent_again_as_it_was(hurried, server):
    server.failures["Predict"].append(Failure(UNAVAILABLE))
    picture = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)

    hurried.predict("photos", picture)

    first, second = server.requests["Predict"]
    assert first.inputs["image"].tensor.data == second.inputs["image"].tensor.data == picture.tobytes()


def test_every_kind_of_call_is_made_again(hurried, server):
    server.failures["GetModel"].append(Failure(UNAVAILABLE))
    server.failures["Attribute"].append(Failure(UNAVAILABLE))

    hurried.attribute("table", ROW)

    assert (len(server.requests["GetModel"]), len(server.requests["Attribute"])) == (2, 2)


def test_an_explanation_that_fails_beside_a_prediction_is_not_asked_for_again(hurried, server):
    status = explanation_service_pb2.Status(code=UNAVAILABLE.value[0], message="The worker was lost.")
    failed = explanation_service_pb2.ExplanationResult(status=status)
    server.replies["Predict"] = predict_message(explanations=[failed])

    (outcome,) = hurried.predict("table", ROW, explanations=["saliency"]).explanations

    assert len(server.requests["Predict"]) == 1
    assert outcome.error.retriable
