"""Statuses on the wire become typed errors."""

import pickle

import grpc
import pytest
from client.fake_server import Failure
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from pellucid import errors

ROW = {"age": 40, "colour": "red"}


def failure(code, reason, *details, message="Wrong, and what would be right: ä…", pushback="-1", **metadata):
    info = error_details_pb2.ErrorInfo(reason=reason, domain="pellucid", metadata=metadata)
    packed = []
    for detail in (info, error_details_pb2.RequestInfo(request_id="r-1"), *details):
        packed.append(any_pb2.Any())
        packed[-1].Pack(detail)
    status = status_pb2.Status(code=code.value[0], message=message, details=packed)
    trailing = [("grpc-status-details-bin", status.SerializeToString())]
    if pushback is not None:
        trailing.append(("grpc-retry-pushback-ms", pushback))
    return Failure(code, message, tuple(trailing))


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (grpc.StatusCode.INTERNAL, "INTERNAL", errors.PellucidError),
        (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", errors.InvalidRequestError),
        (grpc.StatusCode.NOT_FOUND, "NOT_FOUND", errors.NotFoundError),
        (grpc.StatusCode.FAILED_PRECONDITION, "UNSUPPORTED", errors.UnsupportedError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", errors.OverloadedError),
        (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", errors.UnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "TIMED_OUT", errors.TimedOutError),
        (grpc.StatusCode.CANCELLED, "CANCELLED", errors.CancelledError),
        (grpc.StatusCode.INTERNAL, "FATAL_REQUEST", errors.FatalRequestError),
        (grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED", errors.UnimplementedError),
        (grpc.StatusCode.FAILED_PRECONDITION, "A_NEWER_REASON", errors.UnsupportedError),
    ],
)
def test_the_reason_decides_the_class_and_the_code_stands_in_for_unknown_ones(client, server, code, reason, kind):
    server.failures["Predict"].append(failure(code, reason, stage="queued"))

    with pytest.raises(errors.PellucidError) as caught:
        client.predict("table", ROW)

    assert type(caught.value) is kind
    assert caught.value.message == "Wrong, and what would be right: ä…"
    assert caught.value.code is code
    assert caught.value.metadata == {"stage": "queued"}
    assert caught.value.request_id == "r-1"


def test_every_class_of_the_servers_tree_has_its_like_here():
    from pellucid_server import errors as server_errors

    ours = {
        kind.__name__: kind.default_reason for kind in [errors.PellucidError, *errors.PellucidError.__subclasses__()]
    }
    theirs = {kind.__name__: kind.reason for kind in server_errors.error_classes()}
    assert theirs.items() <= ours.items()


def test_work_that_is_refused_for_its_deadline_says_what_it_needs(client, server):
    server.failures["Predict"].append(
        failure(grpc.StatusCode.DEADLINE_EXCEEDED, "TIMED_OUT", pushback=None, stage="refused", needed_seconds="12.5")
    )

    with pytest.raises(errors.TimedOutError) as caught:
        client.predict("table", ROW)

    assert caught.value.metadata == {"stage": "refused", "needed_seconds": "12.5"}
    assert not caught.value.retriable


def test_the_id_of_a_request_is_known_without_details_too(client, server):
    server.failures["Predict"].append(Failure(grpc.StatusCode.ABORTED, "words", (("x-request-id", "r-7"),)))

    with pytest.raises(errors.PellucidError) as caught:
        client.predict("table", ROW)

    assert caught.value.request_id == "r-7"


def test_who_is_asked_to_wait_without_details_has_not_sent_too_much(client, server):
    server.failures["Predict"].append(
        Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "slow down", (("grpc-retry-pushback-ms", "60000"),))
    )

    with pytest.raises(errors.OverloadedError) as caught:
        client.predict("table", ROW)

    assert caught.value.retry_after_seconds == 60
    assert caught.value.retriable


def test_the_fields_at_fault_are_named(client, server):
    violation = error_details_pb2.BadRequest.FieldViolation(field="top_k", description="must be less")
    detail = error_details_pb2.BadRequest(field_violations=[violation])
    server.failures["Predict"].append(failure(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", detail))

    with pytest.raises(errors.InvalidRequestError) as caught:
        client.predict("table", ROW)

    assert caught.value.violations == {"top_k": "must be less"}


def test_an_unmet_precondition_names_what_stands_in_the_way(client, server):
    violation = error_details_pb2.PreconditionFailure.Violation(subject="models/table/3", description="no gradients")
    detail = error_details_pb2.PreconditionFailure(violations=[violation])
    server.failures["Predict"].append(failure(grpc.StatusCode.FAILED_PRECONDITION, "UNSUPPORTED", detail))

    with pytest.raises(errors.UnsupportedError) as caught:
        client.predict("table", ROW)

    assert caught.value.violations == {"models/table/3": "no gradients"}


def test_the_time_to_wait_is_read(client, server):
    delay = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=1, nanos=500_000_000))
    server.failures["Predict"].append(failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", delay))

    with pytest.raises(errors.OverloadedError) as caught:
        client.predict("table", ROW)

    assert caught.value.retry_after_seconds == 1.5


@pytest.mark.parametrize(
    ("code", "kind", "right"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidRequestError, "^words$"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.MessageTooLargeError, "send fewer rows"),
        (grpc.StatusCode.UNIMPLEMENTED, errors.UnimplementedError, "does not have this call"),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.TimedOutError, "No answer from localhost"),
        (grpc.StatusCode.CANCELLED, errors.CancelledError, "was cancelled"),
        (grpc.StatusCode.UNAUTHENTICATED, errors.UnauthenticatedError, "^words$"),
        (grpc.StatusCode.PERMISSION_DENIED, errors.PermissionDeniedError, "^words$"),
        (grpc.StatusCode.ALREADY_EXISTS, errors.PellucidError, "^words$"),
    ],
)
def test_a_status_without_details_is_typed_by_its_code(client, server, code, kind, right):
    no_retry = (("grpc-retry-pushback-ms", "-1"),)
    server.failures["Predict"].append(Failure(code, "words", no_retry))

    with pytest.raises(errors.PellucidError, match=right) as caught:
        client.predict("table", ROW)

    assert type(caught.value) is kind
    assert caught.value.code is code
    assert caught.value.metadata["transport"] == "words"


def test_unreadable_details_leave_the_status(client, server):
    server.failures["Predict"].append(
        Failure(grpc.StatusCode.NOT_FOUND, "No such model.", (("grpc-status-details-bin", b"\xff\xff"),))
    )

    with pytest.raises(errors.NotFoundError, match="No such model"):
        client.predict("table", ROW)


class OldMetadata(grpc.aio.Metadata):
    """As that of grpc.aio 1.71, whose keys are pairs."""

    def keys(self):
        return list(self)


class OldError(grpc.RpcError):
    """A refusal as grpc.aio 1.71 raises it."""

    def code(self):
        return grpc.StatusCode.UNAVAILABLE

    def details(self):
        return "no worker"

    def trailing_metadata(self):
        return OldMetadata(("x-request-id", "r-1"), ("grpc-retry-pushback-ms", "250"))


def test_the_metadata_of_older_grpc_is_read_too():
    error = errors.from_rpc_error(OldError(), address="localhost:1", timeout=1)

    assert type(error) is errors.UnavailableError
    assert (error.request_id, error.retry_after_seconds, error.retriable) == ("r-1", 0.25, True)


def test_a_bugs_message_has_the_request_id_to_report():
    error = errors.PellucidError("internal error", request_id="r-1")

    assert str(error) == "internal error (request r-1)"


def test_errors_are_also_pythons_own_kinds():
    assert issubclass(errors.TimedOutError, TimeoutError)
    assert issubclass(errors.NotFoundError, LookupError)
    assert issubclass(errors.InvalidRequestError, ValueError)


def test_an_error_survives_a_process_boundary():
    error = errors.OverloadedError("Full.", metadata={"a": "b"}, retry_after_seconds=1.5, request_id="r-1")

    back = pickle.loads(pickle.dumps(error))

    assert type(back) is errors.OverloadedError
    assert vars(back) == vars(error)
