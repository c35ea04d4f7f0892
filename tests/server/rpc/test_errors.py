"""Every leaf of the error tree, through the real wire."""

from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from pellucid.tensors import to_tensor
from pellucid.v1 import explanation_pb2 as pb
from pellucid.v1 import explanation_service_pb2 as service_pb
from pellucid.v1 import input_pb2
from pellucid_server import errors
from pellucid_server.rpc.status import to_status
from pellucid_server.vocabulary import results
from server.rpc.conftest import predict_result

PAGE = Path(__file__).parents[3] / "docs" / "errors.md"

# The error, its code, and the detail that it has beside ErrorInfo and RequestInfo.
LEAVES = [
    (
        errors.InvalidRequestError("top_k is 7.", field="top_k"),
        "INVALID_ARGUMENT",
        error_details_pb2.BadRequest(
            field_violations=[error_details_pb2.BadRequest.FieldViolation(field="top_k", description="top_k is 7.")]
        ),
    ),
    (
        errors.NotFoundError("No model 'm'.", resource_type="model", resource_name="m"),
        "NOT_FOUND",
        error_details_pb2.ResourceInfo(resource_type="model", resource_name="m", description="No model 'm'."),
    ),
    (
        errors.UnsupportedError("It has no graph.", subject="models/m/1"),
        "FAILED_PRECONDITION",
        error_details_pb2.PreconditionFailure(
            violations=[
                error_details_pb2.PreconditionFailure.Violation(
                    type="UNSUPPORTED", subject="models/m/1", description="It has no graph."
                )
            ]
        ),
    ),
    (errors.UnauthenticatedError("Who?", credential="none"), "UNAUTHENTICATED", None),
    (errors.PermissionDeniedError("No.", identity="web", role="explain", model="iris"), "PERMISSION_DENIED", None),
    (
        errors.QuotaExceededError("Enough.", identity="web", quota="rows_per_minute", retry_after_seconds="0.500"),
        "RESOURCE_EXHAUSTED",
        error_details_pb2.RetryInfo(retry_delay={"nanos": 500_000_000}),
    ),
    (
        errors.OverloadedError("Full.", retry_after_seconds="0.250"),
        "RESOURCE_EXHAUSTED",
        error_details_pb2.RetryInfo(retry_delay={"nanos": 250_000_000}),
    ),
    (
        errors.UnavailableError("Lost.", retry_after_seconds="2.000"),
        "UNAVAILABLE",
        error_details_pb2.RetryInfo(retry_delay={"seconds": 2}),
    ),
    (errors.TimedOutError("Late.", stage="running"), "DEADLINE_EXCEEDED", None),
    (errors.CancelledError("Gone.", stage="queued"), "CANCELLED", None),
    (errors.FatalRequestError("Two workers ended over this request."), "INTERNAL", None),
    (errors.UnimplementedError("Not there.", rpc="Ablate"), "UNIMPLEMENTED", None),
]


def request():
    return service_pb.PredictRequest(
        model=pb.ModelSpec(name="iris"), inputs={"row": input_pb2.Input(tensor=to_tensor(np.zeros((1, 2), np.float32)))}
    )


async def failed(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def details_of(any_messages):
    """Unpack details, by the name of their type."""
    found = {}
    for packed in any_messages:
        name = packed.type_url.rpartition(".")[2]
        found[name] = getattr(error_details_pb2, name)()
        assert packed.Unpack(found[name])
    return found


def rich(error):
    return status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])


def test_the_table_has_every_class():
    assert [errors.PellucidError, *(type(error) for error, _, _ in LEAVES)] == list(errors.error_classes())


@pytest.mark.parametrize(("error", "code", "detail"), LEAVES, ids=lambda value: getattr(value, "reason", ""))
async def test_every_error_reaches_the_caller_with_code_reason_and_details(explanations, pool, error, code, detail):
    pool.answer = error

    caught = await failed(explanations.Predict(request(), metadata=[("x-request-id", "abc-1")]))

    status = rich(caught)
    found = details_of(status.details)
    assert (caught.code().name, status.code) == (code, caught.code().value[0])
    assert caught.details() == status.message == error.message
    assert found.pop("ErrorInfo") == error_details_pb2.ErrorInfo(
        reason=error.reason, domain="pellucid", metadata=error.metadata
    )
    assert found.pop("RequestInfo").request_id == "abc-1"
    assert list(found.values()) == [entry for entry in [detail] if entry is not None]


@pytest.mark.parametrize(("error", "code", "detail"), LEAVES, ids=lambda value: getattr(value, "reason", ""))
async def test_every_error_of_an_explanation_beside_a_prediction_has_the_same_status(
    explanations, pool, error, code, detail
):
    failure = results.Failure(error.reason, error.message, error.metadata)
    pool.answer = predict_result(results.ExplanationOutcome(failure=failure))

    reply = await explanations.Predict(request(), metadata=[("x-request-id", "abc-1")])

    (explanation,) = reply.explanations
    alone = to_status(error, "abc-1")
    assert (explanation.status.code, explanation.status.message) == (alone.code.value[0], alone.message)
    assert alone.trailing_metadata[0][1] == explanation.status.SerializeToString()
    assert not explanation.HasField("explanation")


async def test_an_overloaded_server_tells_grpcs_own_retries_when(explanations, pool):
    pool.answer = errors.OverloadedError("Full.", retry_after_seconds="0.250")

    caught = await failed(explanations.Predict(request()))

    assert dict(caught.trailing_metadata())["grpc-retry-pushback-ms"] == "250"


async def test_an_overload_that_no_wait_can_cure_ends_grpcs_own_retries(explanations, pool):
    pool.answer = errors.OverloadedError("One row does not fit the device.")

    caught = await failed(explanations.Predict(request()))

    assert dict(caught.trailing_metadata())["grpc-retry-pushback-ms"] == "-1"
    assert "RetryInfo" not in details_of(rich(caught).details)


async def test_a_bug_in_a_worker_shows_the_caller_nothing_but_an_id(explanations, pool):
    pool.answer = errors.PellucidError("secret", path="/etc/secret")

    caught = await failed(explanations.Predict(request(), metadata=[("x-request-id", "abc-1")]))

    found = details_of(rich(caught).details)
    assert (caught.code(), caught.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert found == {
        "ErrorInfo": error_details_pb2.ErrorInfo(reason="INTERNAL", domain="pellucid"),
        "RequestInfo": error_details_pb2.RequestInfo(request_id="abc-1"),
    }


async def test_a_bug_shows_the_caller_an_id_and_the_log_a_traceback(explanations, pool, caplog):
    pool.answer = KeyError("secret")

    caught = await failed(explanations.Predict(request(), metadata=[("x-request-id", "abc-1")]))

    assert (caught.code(), caught.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert "secret" not in str(caught.debug_error_string()) + str(caught.trailing_metadata())
    assert "KeyError: 'secret'" in caplog.text
    assert caplog.records[-1].fields["id"] == "abc-1"


@pytest.mark.parametrize("character", ["x", "ü", "\U0001f33a"])
async def test_names_of_any_length_make_an_error_that_still_arrives(explanations, pool, character):
    name = 100_000 * character
    pool.answer = errors.NotFoundError(f"No model {name!r}.", resource_type="model", resource_name=name)

    caught = await failed(explanations.Predict(request()))

    assert caught.code() is grpc.StatusCode.NOT_FOUND
    assert caught.details().endswith("…")
    assert details_of(rich(caught).details)["ResourceInfo"].resource_type == "model"


async def test_bytes_that_are_no_request_are_the_callers_mistake(channel):
    call = channel.unary_unary("/pellucid.v1.ExplanationService/Predict")

    caught = await failed(call(b"\xff\xff\xff"))

    assert caught.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.details() == "The request's bytes are not a pellucid.v1.PredictRequest."


async def test_a_request_above_the_message_limit_is_resource_exhausted(explanations):
    large = request()
    large.inputs["row"].tensor.data = bytes(2 << 20)

    caught = await failed(explanations.Predict(large))

    assert caught.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("rpc", ["Ablate", "Dissect"])
async def test_rpcs_that_are_not_there_yet_say_so(explanations, rpc):
    call = getattr(explanations, rpc)(getattr(service_pb, f"{rpc}Request")(model=pb.ModelSpec(name="iris")))

    caught = await failed(call.read())

    assert caught.code() is grpc.StatusCode.UNIMPLEMENTED
    info = details_of(rich(caught).details)["ErrorInfo"]
    assert (info.reason, dict(info.metadata)) == ("UNIMPLEMENTED", {"rpc": rpc})


@pytest.mark.parametrize("kind", errors.error_classes(), ids=lambda kind: kind.__name__)
def test_every_reason_has_its_section(kind):
    assert f"\n## {kind.reason}\n" in PAGE.read_text("utf-8")
