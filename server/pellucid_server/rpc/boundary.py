"""What happens around every handler: request id, deadline, errors, metrics, and one line in the log."""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from pellucid.v1 import explanation_service_pb2

from pellucid_server.errors import InvalidRequestError, PellucidError
from pellucid_server.jobs import Hello, JobTiming
from pellucid_server.metrics import UNKNOWN, RequestRecorder
from pellucid_server.rpc import status

_log = logging.getLogger(__name__)

_ID_HEADER = "x-request-id"
_ID_LENGTH = 64
_NAME_LENGTH = 80

# A deadline's last part is kept for the reply's way back, so that what the server says arrives. gRPC rounds a
# deadline up on its way, by as much as 1 % (30 s were seen as 30.1), so the share must be above that.
_RESERVE_SECONDS = 0.05
_RESERVE_SHARE = 0.012
_MOST_RESERVE_SHARE = 0.1

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(slots=True)
class Call:
    """One request on its way through the server."""

    rpc: str
    request_id: str
    arrived: float
    """When, on `time.monotonic()`'s clock."""
    deadline_seconds: float | None
    """How long after its arrival the answer must be ready; None is no deadline."""
    model: str = ""
    """The model that the caller named."""
    method: str = ""
    """The method that the caller named."""
    timing: JobTiming | None = None
    """Where a worker's time went; a handler sets it."""

    @property
    def elapsed_seconds(self) -> float:
        """Time since the arrival."""
        return time.monotonic() - self.arrived


Handler = Callable[[Any, Call], Awaitable[Message]]
Guarded = Callable[[bytes, Context], Awaitable[bytes]]


class Boundary:
    """Guards handlers: nothing else sees a gRPC context, and no exception but gRPC's own passes.

    Parameters
    ----------
    recorder
        Takes the measures of each request.
    served
        Gives what the workers serve: the names that may become labels.
    """

    def __init__(self, recorder: RequestRecorder, served: Callable[[], Hello | None]) -> None:
        self.in_flight = 0
        """Requests that have arrived and are not answered."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._recorder = recorder
        self._served = served
        self._labelled: Hello | None = None
        self._models: frozenset[str] = frozenset()
        self._methods: frozenset[str] = frozenset()

    async def idle(self) -> None:
        """Wait until no request is in flight."""
        await self._idle.wait()

    def guard(self, rpc: str, request_class: type[Message], handler: Handler) -> Guarded:
        """Wrap `handler` for gRPC: bytes in, bytes out."""

        async def guarded(data: bytes, context: Context) -> bytes:
            call = _arrival(rpc, context)
            self._enter()
            try:
                # With the trailers: initial metadata of its own would be one more frame and await a call.
                context.set_trailing_metadata(((_ID_HEADER, call.request_id),))
                reply = (await handler(_parsed(request_class, data, call), call)).SerializeToString()
            except asyncio.CancelledError:
                self._finish(call, _cause_of_cancellation(call), None)
                raise
            except PellucidError as error:
                failure = error
            except Exception as error:  # noqa: BLE001 - a bug: the log has it, the caller an id
                failure = PellucidError(f"{type(error).__name__} in {rpc}")
                failure.__cause__ = error
            else:
                self._finish(call, grpc.StatusCode.OK, None)
                return reply
            answer = status.to_status(failure, call.request_id)
            self._finish(call, answer.code, failure)
            trailers = ((_ID_HEADER, call.request_id), *answer.trailing_metadata)
            await context.abort(answer.code, answer.message, trailers)
            raise AssertionError("abort always raises")

        return guarded

    def _enter(self) -> None:
        """Count a request until gRPC's task for it ends: only then has the reply left."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine always runs in one
        self.in_flight += 1
        self._idle.clear()
        task.add_done_callback(self._leave)

    def _leave(self, _: "asyncio.Task[Any]") -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()

    def _finish(self, call: Call, code: grpc.StatusCode, failure: PellucidError | None) -> None:
        """Record the request and write its line."""
        seconds = call.elapsed_seconds
        method, model = self._labels(call)
        self._recorder.record(call.rpc, method=method, model=model, code=code.name, seconds=seconds, timing=call.timing)
        bug = code is grpc.StatusCode.INTERNAL
        level = logging.ERROR if bug else logging.INFO
        if _log.isEnabledFor(level):
            cause = failure.__cause__ if bug and failure is not None else None
            _log.log(level, "request", extra={"fields": _fields(call, code, seconds, failure)}, exc_info=cause)

    def _labels(self, call: Call) -> tuple[str, str]:
        """Return the method and the model as labels: names that nobody serves are all one."""
        hello = self._served()
        if hello is not None and hello is not self._labelled:
            self._labelled = hello
            self._models = frozenset(model.key.name for model in hello.models)
            self._methods = frozenset(method.name for method in hello.methods)
        method = call.method if not call.method or call.method in self._methods else UNKNOWN
        model = call.model if not call.model or call.model in self._models else UNKNOWN
        return method, model


def _arrival(rpc: str, context: Context) -> Call:
    remaining = context.time_remaining()
    if remaining is not None:
        remaining -= min(_RESERVE_SECONDS + _RESERVE_SHARE * remaining, _MOST_RESERVE_SHARE * remaining)
    return Call(rpc, _request_id(context), time.monotonic(), remaining)


def _request_id(context: Context) -> str:
    """Return the caller's own id for the request, if it is one that a log can hold, or a new one."""
    for key, value in context.invocation_metadata() or ():
        if key == _ID_HEADER and isinstance(value, str) and 0 < len(value) <= _ID_LENGTH and value.isprintable():
            return value
    return secrets.token_hex(8)


def _parsed(request_class: type[Message], data: bytes, call: Call) -> Message:
    try:
        request = request_class.FromString(data)
    except DecodeError as error:
        raise InvalidRequestError(f"The request's bytes are not a {request_class.DESCRIPTOR.full_name}.") from error
    model = getattr(request, "model", None)
    if model is not None:
        call.model = model.name
    if isinstance(request, explanation_service_pb2.AttributeRequest):
        call.method = request.explanation.method
    return request


def _cause_of_cancellation(call: Call) -> grpc.StatusCode:
    """Tell a deadline from a caller who left: gRPC cancels the handler alike, and a client's clock may be first."""
    expired = call.deadline_seconds is not None and call.elapsed_seconds >= call.deadline_seconds
    return grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED


def _fields(call: Call, code: grpc.StatusCode, seconds: float, failure: PellucidError | None) -> dict[str, object]:
    fields: dict[str, object] = {"id": call.request_id, "rpc": call.rpc, "code": code.name}
    if call.model:
        fields["model"] = call.model[:_NAME_LENGTH]
    if call.method:
        fields["method"] = call.method[:_NAME_LENGTH]
    fields["seconds"] = round(seconds, 6)
    if call.timing is not None:
        fields["queue_seconds"] = round(call.timing.queue_seconds, 6)
        fields["compute_seconds"] = round(call.timing.compute_seconds, 6)
        fields["rows_forward"] = call.timing.rows_forward
        fields["rows_backward"] = call.timing.rows_backward
    if failure is not None:
        fields["reason"] = failure.reason
        fields["error"] = failure.message[:1000]
    return fields
