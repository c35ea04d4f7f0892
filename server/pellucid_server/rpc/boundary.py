"""What happens around every handler: request id, deadline, errors, metrics, and one line in the log.

However a request ends, it has one outcome: one line, one count, one status for its caller. The line has nothing of
what the caller sent but names: of the caller, the class, the model and the request.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError, Message
from pellucid.v1 import explanation_service_pb2

from pellucid_server import open_inference_pb2
from pellucid_server.errors import InvalidRequestError, PellucidError, TimedOutError, UnimplementedError
from pellucid_server.faults import Faults
from pellucid_server.memory_hygiene import drop_frames, trim
from pellucid_server.metrics import RequestRecorder
from pellucid_server.rpc import status
from pellucid_server.rpc.arrival import ID_KEY, Call, CallerKeys, Context, arrival
from pellucid_server.rpc.aside import Aside
from pellucid_server.rpc.gate import Gate, asked_in
from pellucid_server.rpc.large_fields import has_more_fields, take_out
from pellucid_server.rpc.outcomes import Outcomes
from pellucid_server.rpc.room import LARGE_BYTES, Place, Room
from pellucid_server.settings.sections import DEFAULT_CLASSES, ServerConfig
from pellucid_server.tracing.tracer import Tracer
from pellucid_server.vocabulary.findings import Findings
from pellucid_server.vocabulary.messages import Hello
from pellucid_server.vocabulary.results import Result

_log = logging.getLogger(__name__)

_NOTICE_SECONDS = 0.1

_MOST_OPEN_FIELDS = 10_000
"""Inputs, outputs and their contents in a large request of the Open Inference Protocol."""

Handler = Callable[[Any, Call], Awaitable[Message]]
StreamHandler = Callable[[Any, Call], AsyncGenerator[Message, None]]
Guarded = Callable[[object, Context], Awaitable[bytes]]
GuardedStream = Callable[[object, Context], Awaitable[None]]


@dataclass(slots=True)
class _Visit:
    """A request that gRPC has; `call` is there once it has arrived whole, or waits to be read."""

    rpc: str
    entered: float
    call: Call | None = None


class Boundary:
    """Guards handlers: nothing else sees a gRPC context, and no exception but gRPC's own passes.

    Parameters
    ----------
    recorder
        Takes the measures of each request.
    served
        Gives what the workers serve: the names that may become labels.
    keys
        The metadata keys of the caller and the class; None is the default ones.
    faults
        Its points "decode" and "replying"; None is none.
    classes
        The names of the classes of requests: others are `unknown` in the log.
    room
        Decides when large requests are read; None is one of the default size.
    gate
        Decides who may ask what; None lets everyone ask everything.
    tracer
        Begins the traces of requests; None records none.
    """

    def __init__(
        self,
        recorder: RequestRecorder,
        served: Callable[[], Hello | None],
        *,
        keys: CallerKeys | None = None,
        faults: Faults | None = None,
        classes: Collection[str] = frozenset(DEFAULT_CLASSES),
        room: Room | None = None,
        gate: Gate | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self.gate = gate or Gate()
        """Who may ask what."""
        self.room = room or Room(ServerConfig().inflight_bytes, ServerConfig().max_message_bytes)
        """The bytes of large requests in flight."""
        self.aside = Aside()
        """Where large messages are decoded and encoded."""
        self._visits: dict[asyncio.Task[Any], _Visit] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self.last_entered = 0.0
        """When a request last began, on `time.monotonic()`'s clock."""
        self._recorder = recorder
        self._tracer = tracer
        self._paths: dict[str, str] = {}
        recorder.follow(served)
        self._served = served
        self._keys = keys or CallerKeys()
        self._faults = faults or Faults()
        self._outcomes = Outcomes(recorder, served, self.gate, classes, self._keys.names)

    @property
    def in_flight(self) -> int:
        """Requests that have arrived and are not answered."""
        return len(self._visits)

    async def idle(self) -> None:
        """Wait until no request is in flight."""
        await self._idle.wait()

    def give_up(self, failure: PellucidError) -> None:
        """Answer every request that is in flight with `failure` in place of its answer."""
        for task, visit in self._visits.items():
            if visit.call is not None and not visit.call.ended:
                visit.call.given_up = failure
                task.cancel()

    def name_call(self, rpc: str, call: str) -> None:
        """Say what gRPC calls an RPC: its service's full name, a slash, and its own."""
        self._paths[rpc] = call
        self._recorder.name_call(rpc, call)

    def answered(self, call: Call, answer: Result | Findings) -> None:
        """Record how good the explanations of an answer, or of a part of one, are."""
        try:
            self._recorder.answered(answer)
        except Exception:  # noqa: BLE001 - an answer that cannot be recorded is one all the same
            _log.exception("the answer to request %s could not be recorded", call.request_id)

    def recorded(self, answer: Findings) -> None:
        """Record how good the explanations of an answer are that a job made."""
        try:
            self._recorder.answered(answer)
        except Exception:  # noqa: BLE001 - as above
            _log.exception("the answer of a job could not be recorded")

    def enter(self, rpc: str) -> None:
        """Count a request in gRPC's task for it, until that ends: only then has the reply left."""
        task = _current_task()
        self.last_entered = time.monotonic()
        self._visits[task] = _Visit(rpc, self.last_entered)
        self._idle.clear()
        self._recorder.started(rpc)
        task.add_done_callback(self._leave)

    def guard(self, rpc: str, request_class: type[Message], handler: Handler, *, role: str = "") -> Guarded:
        """Wrap `handler` for gRPC, which has it read its request itself: bytes in, bytes out.

        `role` is what an identity needs for it; empty is none.
        """

        async def guarded(_: object, context: Context) -> bytes:
            call, place = self._begin(rpc, context)
            try:
                message = await handler(await self._read(request_class, call, place, context, role), call)
                await self._faults.pass_by("replying", model=call.model)
                reply = await self._serialized(message, call)
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the one place where all end
                await self._fail(call, context, error)
            finally:
                self.room.leave(place)
                self.gate.leave(call)
            self._finish(call, grpc.StatusCode.OK)
            return reply

        return guarded

    def guard_stream(
        self, rpc: str, request_class: type[Message], handler: StreamHandler, *, role: str = ""
    ) -> GuardedStream:
        """Wrap a handler that makes messages one after the other, which are sent as they come.

        The generator is closed before the request ends, however it ends. `role` is as for `guard`.
        """

        # Not a generator itself: gRPC leaves those that are cancelled at a send to the garbage collector.
        async def guarded(_: object, context: Context) -> None:
            call, place = self._begin(rpc, context)
            try:
                request = await self._read(request_class, call, place, context, role)
                async with contextlib.aclosing(handler(request, call)) as messages:
                    del request
                    async for message in messages:
                        await self._faults.pass_by("replying", model=call.model)
                        reply = await self._serialized(message, call)
                        await context.write(reply)
                        if call.trace is not None:
                            call.trace.part(len(reply))
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the one place where all end
                await self._fail(call, context, error)
            finally:
                self.room.leave(place)
                self.gate.leave(call)
            self._finish(call, grpc.StatusCode.OK)

        return guarded

    def _begin(self, rpc: str, context: Context) -> tuple[Call, Place]:
        call = arrival(rpc, context)
        if self._tracer is not None:
            call.trace = self._tracer.begin(call.traceparent, self._paths.get(rpc, rpc), call.arrived)
        # With the trailers: initial metadata of its own would be one more frame and await a call.
        context.set_trailing_metadata(((ID_KEY, call.request_id),))
        return call, self.room.place((rpc, context.peer()))

    def _leave(self, task: "asyncio.Task[Any]") -> None:
        visit = self._visits.pop(task)
        if visit.call is None:
            self._recorder.unread(visit.rpc, seconds=time.monotonic() - visit.entered)
        if not self._visits:
            self._idle.set()

    async def _read(
        self, request_class: type[Message], call: Call, place: Place, context: Context, role: str
    ) -> Message:
        """Read a request once there is room for it and its caller may make it, and parse it.

        What ends it before it is here whole is not recorded, unless it waits for room: that is the server's to answer.
        """
        visit = self._visits[_current_task()]
        # What it is refused for here is the server's answer, though the request has not arrived.
        visit.call = call
        self.gate.admit(call, context, role)
        visit.call = None
        if place.turn is not None:
            visit.call = call
            await _wait_for(place.turn, call)
            visit.call = None
        data = await context.read()
        if not isinstance(data, bytes):
            # Nothing came, or gRPC has ended the call, which it tells this task of within a moment.
            await asyncio.sleep(_NOTICE_SECONDS)
        visit.call = call
        if not isinstance(data, bytes):
            raise UnimplementedError(f"{call.rpc} takes exactly one request message; none came.", rpc=call.rpc)
        self.room.arrived(place, len(data))
        call.received_bytes = len(data)
        call.large = len(data) > LARGE_BYTES
        await self._faults.pass_by("decode")
        parse = partial(_parsed, request_class, data, call)
        # From here on the bytes are the function's alone, and are let go with it.
        del data
        request = await self.aside.run(lambda: _tidied(parse)) if call.large else parse()
        if call.trace is not None:
            call.trace.read()
        self._keys.read(call, context)
        self.gate.check(call, request, role, self._served())
        return request

    async def _serialized(self, message: Message, call: Call) -> bytes:
        data = await self.aside.run(message.SerializeToString) if call.large_reply else message.SerializeToString()
        call.sent_bytes += len(data)
        return data

    async def _fail(self, call: Call, context: Context, error: BaseException) -> NoReturn:
        """Give a request its one outcome that is not an answer, and tell its caller if there is one."""
        if self._visits[_current_task()].call is None:
            raise error
        if call.given_up is not None:
            failure = call.given_up
        elif isinstance(error, asyncio.CancelledError | grpc.aio.BaseError):
            # gRPC's own errors come from sending to a caller who is gone before the task hears of it.
            self._finish(call, _cause_of_cancellation(call))
            raise asyncio.CancelledError from error
        else:
            failure = self._keys.named(error) if isinstance(error, PellucidError) else _bug(call, error)
            failure = self.gate.worded(failure, call, self._served())
        answer = status.to_status(failure, call.request_id)
        self._finish(call, answer.code, failure)
        # The frames that the error came through have the request's arrays, and would keep them until a collection.
        drop_frames(error)
        try:
            await context.abort(answer.code, answer.message, ((ID_KEY, call.request_id), *answer.trailing_metadata))
        except grpc.aio.InternalError as gone:
            # The caller left while the status was being sent: gRPC would log it as a bug, with a traceback.
            raise asyncio.CancelledError from gone
        raise AssertionError("abort always raises")

    def _finish(self, call: Call, code: grpc.StatusCode, failure: PellucidError | None = None) -> None:
        call.ended = True
        self._outcomes.record(call, code, failure)


def _current_task() -> "asyncio.Task[Any]":
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine always runs in one
    return task


async def _wait_for(turn: "asyncio.Future[None]", call: Call) -> None:
    """Wait for the turn to be read, until the deadline."""
    try:
        # `wait_for` would lose a cancellation that meets the turn.
        async with asyncio.timeout(call.remaining_seconds):
            await turn
    except TimeoutError as error:
        text = "The deadline passed before there was room to read the request."
        raise TimedOutError(text, stage="queued") from error


def _parsed(request_class: type[Message], data: bytes, call: Call) -> Message:
    if call.large:
        if request_class is open_inference_pb2.ModelInferRequest and has_more_fields(data, _MOST_OPEN_FIELDS):
            text = f"The request has more than {_MOST_OPEN_FIELDS} fields; send each input once, with all of its rows."
            raise InvalidRequestError(text, field="inputs")
        data, call.large_fields = take_out(data, request_class)
    try:
        request = request_class.FromString(data)
    except DecodeError as error:
        raise InvalidRequestError(f"The request's bytes are not a {request_class.DESCRIPTOR.full_name}.") from error
    asked = asked_in(request)
    model = getattr(asked, "model", None)
    if model is not None:
        call.model, call.version = model.name, model.version
    elif isinstance(request, open_inference_pb2.ModelInferRequest):
        call.model = request.model_name
    if isinstance(request, explanation_service_pb2.AttributeRequest):
        call.method = request.explanation.method
    elif isinstance(asked, explanation_service_pb2.AblateRequest | explanation_service_pb2.DissectRequest):
        call.method = asked.method
    return request


def _tidied(parse: Callable[[], Message]) -> Message:
    """Parse, and give back what gRPC took to read a large message: its pieces leave holes that nothing fits in."""
    request = parse()
    trim()
    return request


def _bug(call: Call, error: BaseException) -> PellucidError:
    failure = PellucidError(f"{type(error).__name__} in {call.rpc}")
    failure.__cause__ = error
    return failure


def _cause_of_cancellation(call: Call) -> grpc.StatusCode:
    """Tell a deadline from a caller who left: gRPC cancels the handler alike, and a client's clock may be first."""
    expired = call.deadline_seconds is not None and call.elapsed_seconds >= call.deadline_seconds
    return grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED
