"""Whatever is sent, every call ends with an answer or an honest refusal, and the server lives on.

Set PELLUCID_FUZZ_EXAMPLES for more than CI tries, and PELLUCID_FUZZ_SEED for others.
"""

import os
import re
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from e2e import small_models
from e2e.fuzzing import (
    changed_bytes,
    changed_requests,
    messages,
    parts,
    requests_of_any_lengths,
    texts,
    valid_requests,
)
from e2e.messages import details, predict, rows, table_rows, violated_fields
from e2e.serving import LONG_SECONDS, Server, serve, wait_until
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from pellucid.tensors import from_tensor
from pellucid.v1 import explanation_service_pb2, model_service_pb2, tensor_pb2

SEED = int(os.environ.get("PELLUCID_FUZZ_SEED", "20250731"))
EXAMPLES = int(os.environ.get("PELLUCID_FUZZ_EXAMPLES", "120"))

OK, EXPIRED = grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED
INVALID, UNIMPLEMENTED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED
HONEST = {
    OK,
    EXPIRED,
    INVALID,
    UNIMPLEMENTED,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
REASONS = {
    INVALID: "INVALID_REQUEST",
    UNIMPLEMENTED: "UNIMPLEMENTED",
    EXPIRED: "TIMED_OUT",
    grpc.StatusCode.NOT_FOUND: "NOT_FOUND",
    grpc.StatusCode.FAILED_PRECONDITION: "UNSUPPORTED",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "OVERLOADED",
}
NO_MESSAGE = "The request's bytes are not a"
"""What is no message has no field to name."""

OF_PYTHON = re.compile(r"""Traceback \(most|File "[^"]+", line \d|Error\(["']""")
"""What Python writes of an exception. A caller's own text may be any word of it, as errors quote that."""

SECONDS = 2.0
"""Deadline of each call; what takes longer must end by it."""

EXPLANATIONS, MODEL_SERVICE = "/pellucid.v1.ExplanationService/", "/pellucid.v1.ModelService/"
UNARY = {
    EXPLANATIONS + "Predict": explanation_service_pb2.PredictRequest,
    EXPLANATIONS + "Attribute": explanation_service_pb2.AttributeRequest,
    MODEL_SERVICE + "ListModels": model_service_pb2.ListModelsRequest,
    MODEL_SERVICE + "GetModel": model_service_pb2.GetModelRequest,
    MODEL_SERVICE + "ListMethods": model_service_pb2.ListMethodsRequest,
}
STREAMS = {
    EXPLANATIONS + "Ablate": explanation_service_pb2.AblateRequest,
    EXPLANATIONS + "Dissect": explanation_service_pb2.DissectRequest,
}
WORKING = (explanation_service_pb2.PredictRequest, explanation_service_pb2.AttributeRequest)
RESPONSES = {
    explanation_service_pb2.PredictRequest: explanation_service_pb2.PredictResponse,
    explanation_service_pb2.AttributeRequest: explanation_service_pb2.AttributeResponse,
}
PATHS = {kind: path for path, kind in UNARY.items()}

KNOWN_ROW = {"width": 12.0, "height": 3.0, "colour": "green"}
KNOWN = predict(small_models.SCORES, {"features": table_rows([KNOWN_ROW])})

fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_models.write_repository(tmp_path_factory.mktemp("repository"))


@pytest.fixture(scope="module")
def target(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of small models, for these tests alone."""
    print(f"PELLUCID_FUZZ_SEED={SEED}")
    with serve(repository, tmp_path_factory.mktemp("fuzzed")) as running:
        yield running


def end_of(call: Callable[[], Any]) -> tuple[grpc.StatusCode, grpc.RpcError | None]:
    """Return how a call ended."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error
    return OK, None


def assert_honest(call: Callable[[], Any]) -> grpc.StatusCode:
    """Hold the end of a call to what every caller is promised, and return its code."""
    code, error = end_of(call)
    assert code in HONEST, f"{code}: {error.details() if error else ''}"
    if error is None:
        return code
    found = details(error)
    # A client's own clock may be the first to say that the deadline has passed: then there are none.
    assert found or code is EXPIRED, f"{code} without details: {error.details()}"
    assert not found or found["ErrorInfo"].reason == REASONS[code], f"{code} with {found}"
    named = code is not INVALID or violated_fields(error) != [""] or NO_MESSAGE in str(error.details())
    assert named, f"no field: {error.details()}"
    assert not OF_PYTHON.search(str(error.details()))
    return code


def assert_sound(reply: Any) -> None:
    """Hold an answer to two rows that are explained, each with finite numbers."""
    beside = [each.explanation for each in getattr(reply, "explanations", ()) if not each.status.code]
    explained = [reply.explanation] if hasattr(reply, "explanation") else beside
    assert [len(each.attributions) for each in explained] == [2] * len(explained)
    tensors = [part for part in parts(reply) if isinstance(part, tensor_pb2.Tensor)]
    assert tensors
    assert all(np.isfinite(from_tensor(tensor).astype(np.float64)).all() for tensor in tensors), reply


def unary(target: Server, path: str, data: bytes, seconds: float = SECONDS, metadata: Any = ()) -> Callable[[], bytes]:
    return lambda: target.channel.unary_unary(path)(data, timeout=seconds, metadata=metadata)


def stream(target: Server, path: str, data: bytes) -> Callable[[], list[bytes]]:
    return lambda: list(target.channel.unary_stream(path)(data, timeout=SECONDS))


@pytest.mark.parametrize(("path", "kind"), UNARY.items(), ids=[path.rpartition("/")[2] for path in UNARY])
def test_an_arbitrary_message_ends_honestly(target: Server, path: str, kind: type[Message]) -> None:
    @seed(SEED)
    @fuzzed
    @given(messages(kind))
    def hold(request: Any) -> None:
        assert_honest(unary(target, path, request.SerializeToString()))

    hold()


@pytest.mark.parametrize(("path", "kind"), STREAMS.items(), ids=[path.rpartition("/")[2] for path in STREAMS])
def test_an_arbitrary_message_to_a_stream_ends_honestly(target: Server, path: str, kind: type[Message]) -> None:
    @seed(SEED)
    @settings(fuzzed, max_examples=EXAMPLES // 6)
    @given(messages(kind))
    def hold(request: Any) -> None:
        assert assert_honest(stream(target, path, request.SerializeToString())) is not UNIMPLEMENTED

    hold()


def test_a_request_that_may_well_be_possible_ends_honestly_and_if_well_with_finite_numbers(target: Server) -> None:
    @seed(SEED)
    @fuzzed
    @given(valid_requests())
    def hold(request: Any) -> None:
        replies: list[bytes] = []
        assert_honest(lambda: replies.append(unary(target, PATHS[type(request)], request.SerializeToString())()))
        for reply in replies:
            assert_sound(RESPONSES[type(request)].FromString(reply))

    hold()


def test_a_valid_request_with_something_changed_ends_honestly(target: Server) -> None:
    @seed(SEED)
    @settings(fuzzed, max_examples=3 * EXAMPLES)
    @given(changed_requests())
    def hold(request: Any) -> None:
        assert_honest(unary(target, PATHS[type(request)], request.SerializeToString()))

    hold()


def test_rows_of_any_lengths_end_honestly(target: Server) -> None:
    @seed(SEED)
    @fuzzed
    @given(requests_of_any_lengths())
    def hold(request: Any) -> None:
        assert_honest(unary(target, PATHS[type(request)], request.SerializeToString()))

    hold()


def test_a_row_that_is_too_long_is_refused_with_what_would_be_right(target: Server) -> None:
    length = small_models.LONGEST + 1
    sent = {"series": rows(np.ones((1, length), np.float32)), "mask": rows(np.ones((1, length), np.bool_))}

    with pytest.raises(grpc.RpcError) as caught:
        target.explanations.Predict(predict(small_models.SERIES, sent), timeout=10 * SECONDS)

    assert violated_fields(caught.value) == ['inputs["series"]']
    assert caught.value.details() == 'inputs["series"] has the length 17 on axis 1; the model takes 1 to 16 there.'


def test_changed_bytes_end_honestly(target: Server) -> None:
    @seed(SEED)
    @fuzzed
    @given(st.sampled_from([PATHS[kind] for kind in WORKING]), changed_bytes())
    def hold(path: str, data: bytes) -> None:
        assert_honest(unary(target, path, data))

    hold()


@pytest.mark.parametrize("path", STREAMS, ids=[path.rpartition("/")[2] for path in STREAMS])
def test_arbitrary_bytes_to_a_stream_are_refused(target: Server, path: str) -> None:
    @seed(SEED)
    @settings(fuzzed, max_examples=EXAMPLES // 6)
    @given(st.binary(max_size=40))
    def hold(data: bytes) -> None:
        assert assert_honest(stream(target, path, data)) in {INVALID, UNIMPLEMENTED}

    hold()


keys = st.sampled_from(["x-pellucid-caller", "x-pellucid-priority", "x-request-id", "traceparent", "x-nothing"])
header_texts = st.text(string.ascii_letters + string.digits + string.punctuation + " ", max_size=200)
priorities = st.sampled_from(["predictions", "interactive", "bulk", "Bulk", "", "-1"])
metadata = st.lists(st.tuples(keys, header_texts | priorities), max_size=4)
deadlines = st.sampled_from([0.0, 0.001, 0.002, 0.005, 0.02, SECONDS])


def test_odd_metadata_and_deadlines_end_honestly(target: Server) -> None:
    @seed(SEED)
    @fuzzed
    @given(valid_requests(), metadata, deadlines)
    def hold(request: Any, pairs: list[tuple[str, str]], seconds: float) -> None:
        assert_honest(unary(target, PATHS[type(request)], request.SerializeToString(), seconds, pairs))

    hold()


def test_an_arbitrary_question_about_health_is_answered(target: Server) -> None:
    stub = health_pb2_grpc.HealthStub(target.channel)

    @seed(SEED)
    @settings(fuzzed, max_examples=EXAMPLES // 6)
    @given(texts)
    def hold(service: str) -> None:
        code, _ = end_of(lambda: stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS))
        assert code in {OK, grpc.StatusCode.NOT_FOUND}

    hold()


def test_after_all_of_it_the_same_worker_answers_as_anyone_can_work_out(target: Server) -> None:
    reply = target.explanations.Predict(KNOWN, timeout=10 * SECONDS)

    (scores,) = from_tensor(reply.outputs["output"].values)
    np.testing.assert_array_equal(scores, small_models.linear_scores(**KNOWN_ROW))
    assert 'pellucid_worker_restarts_total{device="cpu"} 0.0' in target.metrics()


def test_after_all_of_it_nothing_is_left_over(target: Server) -> None:
    wait_until(lambda: not target.busy(), seconds=LONG_SECONDS, what="no request is left")
    wait_until(
        lambda: "pellucid_requests_in_flight 0.0" in target.metrics(),
        seconds=LONG_SECONDS,
        what="no request is in flight",
    )

    # gRPC itself logs an error where a caller left while its status was on the way.
    assert target.lines(" ERROR pellucid_server") == []
