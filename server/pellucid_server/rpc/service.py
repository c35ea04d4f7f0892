"""The handlers of both services: read the request, have the work done, write the reply."""

import contextlib
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Protocol

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from pellucid.v1 import explanation_service_pb2, model_service_pb2

from pellucid_server.errors import UnimplementedError
from pellucid_server.pool.queue.part_queue import Begun
from pellucid_server.pool.queue.ticket import OnProgress
from pellucid_server.rpc import ablation, catalogue, codec, dissection, findings, replies
from pellucid_server.rpc.arrival import Call
from pellucid_server.rpc.boundary import Boundary
from pellucid_server.rpc.followed_jobs import FollowedJobs
from pellucid_server.rpc.following import Rate, Reports, followed
from pellucid_server.rpc.gate import Gate
from pellucid_server.rpc.handlers import GuardedHandlers
from pellucid_server.rpc.room import LARGE_BYTES
from pellucid_server.settings.sections import INTERACTIVE, PREDICTIONS, LimitsConfig
from pellucid_server.tracing.request_trace import RequestTrace
from pellucid_server.vocabulary.descriptions import ModelInfo
from pellucid_server.vocabulary.messages import Hello, Part, Progress
from pellucid_server.vocabulary.requests import ModelKey, PredictRequest, Request
from pellucid_server.vocabulary.results import RequestTiming, Result

EXPLANATION_SERVICE: ServiceDescriptor = explanation_service_pb2.DESCRIPTOR.services_by_name["ExplanationService"]
MODEL_SERVICE: ServiceDescriptor = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"]


class Workers(Protocol):
    """What the handlers need of the pool."""

    @property
    def hello(self) -> Hello | None:
        """What the workers serve."""
        ...

    async def run(
        self,
        request: Request,
        deadline_seconds: float | None = None,
        *,
        caller: str,
        priority: str,
        trace: RequestTrace | None = None,
    ) -> tuple[Result, RequestTiming]:
        """Do one request for a caller, in a class of requests."""
        ...

    def stream(
        self,
        request: Request,
        deadline_seconds: float | None = None,
        *,
        caller: str,
        priority: str,
        on_progress: OnProgress | None = None,
        on_end: Callable[[RequestTiming], None],
        trace: RequestTrace | None = None,
        begun: Begun | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> AsyncGenerator[Part, None]:
        """Do one request that is answered in parts; closing the generator cancels it."""
        ...


class ExplanationService:
    """The model's answers, and what they rest on."""

    def __init__(
        self, pool: Workers, limits: LimitsConfig, boundary: Boundary, followed_jobs: FollowedJobs | None = None
    ) -> None:
        self._pool = pool
        self._followed_jobs = followed_jobs
        self._limits = limits
        self._aside = boundary.aside
        self._answered = boundary.answered

    async def Predict(  # noqa: N802 - the schema's name
        self, request: explanation_service_pb2.PredictRequest, call: Call
    ) -> explanation_service_pb2.PredictResponse:
        """Say what the model says."""
        read = partial(codec.predict_request, request, self._limits, call.take_large_fields())
        # What it was read from is let go before it waits for its answer.
        del request
        asked = await self._aside.run(read) if call.large else read()
        del read
        result, timing = await run(self._pool, asked, call)
        if asked.explanations:
            self._answered(call, result)
        write = partial(replies.predict_response, result, timing, call.elapsed_seconds, request_id=call.request_id)
        return await self._aside.run(write) if call.large_reply else write()

    async def Attribute(  # noqa: N802 - the schema's name
        self, request: explanation_service_pb2.AttributeRequest, call: Call
    ) -> explanation_service_pb2.AttributeResponse:
        """Score how much each element of the input contributed."""
        read = partial(codec.attribute_request, request, self._limits, call.take_large_fields())
        del request
        asked = await self._aside.run(read) if call.large else read()
        del read
        result, timing = await run(self._pool, asked, call)
        self._answered(call, result)
        write = partial(replies.attribute_response, result, timing, call.elapsed_seconds)
        return await self._aside.run(write) if call.large_reply else write()

    async def Ablate(  # noqa: N802 - the schema's name
        self, request: explanation_service_pb2.AblateRequest, call: Call
    ) -> AsyncGenerator[explanation_service_pb2.AblateResponse, None]:
        """Change parts of the model and send what comes of it, part by part, if the workers can."""
        hello = self._pool.hello
        if hello is None or not any(each.verb == "Ablate" for each in hello.streams):
            raise UnimplementedError("This server does not have Ablate; it has Predict and Attribute.", rpc="Ablate")
        read = partial(ablation.ablate_request, request, self._limits, call.take_large_fields())
        del request
        asked = await self._aside.run(read) if call.large else read()
        del read
        async with contextlib.aclosing(_stream(self._pool, asked, call)) as parts:
            async for part in parts:
                if part.body.receipt is not None:
                    call.answered_by = part.body.receipt.model
                    self._answered(call, part.body)
                yield findings.ablate_response(part)

    async def Dissect(  # noqa: N802 - the schema's name
        self, request: explanation_service_pb2.DissectRequest, call: Call
    ) -> AsyncGenerator[explanation_service_pb2.DissectResponse, None]:
        """Look into a model and send what is found, part by part, and how far it is between."""
        hello = self._pool.hello
        if hello is None or not any(each.verb == "Dissect" for each in hello.streams):
            raise UnimplementedError("This server does not have Dissect; it has Predict and Attribute.", rpc="Dissect")
        read = partial(dissection.dissect_request, request, self._limits, call.take_large_fields())
        del request
        asked = await self._aside.run(read) if call.large else read()
        del read
        if self._followed_jobs is not None:
            async with contextlib.aclosing(self._followed_jobs.answer(asked, call, hello)) as answer:
                async for response in answer:
                    yield response
            return
        reports, rate, number = Reports(), Rate(), 0
        parts = _stream(self._pool, asked, call, reports.take)
        async with contextlib.aclosing(followed(parts, reports)) as found:
            async for each in found:
                if isinstance(each, Progress):
                    yield explanation_service_pb2.DissectResponse(progress=rate.message(each))
                elif not each.silent:
                    if each.body.receipt is not None:
                        call.answered_by = each.body.receipt.model
                        self._answered(call, each.body)
                    progress = rate.message(Progress(0, max(each.share, reports.last.share), each.rows_done, each.rows))
                    yield explanation_service_pb2.DissectResponse(
                        progress=progress,
                        findings=findings.findings_message(each.body),
                        part=0 if each.preview else number,
                        preview=each.preview,
                    )
                    number += not each.preview


class ModelService:
    """What is served."""

    def __init__(self, pool: Workers, gate: Gate) -> None:
        self._pool = pool
        self._gate = gate

    async def ListModels(  # noqa: N802 - the schema's name
        self, request: model_service_pb2.ListModelsRequest, call: Call
    ) -> model_service_pb2.ListModelsResponse:
        """Name every model version, and whether it is served."""
        return catalogue.list_models_response(catalogue.known(self._gate.shown(self._pool.hello, call)))

    async def GetModel(  # noqa: N802 - the schema's name
        self, request: model_service_pb2.GetModelRequest, call: Call
    ) -> model_service_pb2.GetModelResponse:
        """Describe one model version."""
        key = codec.model_key(request.model)
        hello = catalogue.known(self._pool.hello)
        found = catalogue.find(hello, key)
        at = found.key if isinstance(found, ModelInfo) else ModelKey(found.name, found.version)
        return catalogue.get_model_response(found, catalogue.stale(hello).get((at.name, at.version), ""))

    async def ListMethods(  # noqa: N802 - the schema's name
        self, request: model_service_pb2.ListMethodsRequest, call: Call
    ) -> model_service_pb2.ListMethodsResponse:
        """Describe every method."""
        return catalogue.list_methods_response(catalogue.known(self._pool.hello))

    async def ListDatasets(  # noqa: N802 - the schema's name
        self, request: model_service_pb2.ListDatasetsRequest, call: Call
    ) -> model_service_pb2.ListDatasetsResponse:
        """Describe every labelled data set."""
        return catalogue.list_datasets_response(catalogue.known(self._gate.shown(self._pool.hello, call)))


async def run(pool: Workers, request: Request, call: Call) -> tuple[Result, RequestTiming]:
    """Have the pool do a request in its class; note on the call what it took and whether its reply is large."""
    call.priority = call.priority or _default_class(request)
    result, call.timing = await pool.run(
        request, call.remaining_seconds, caller=call.caller, priority=call.priority, trace=call.trace
    )
    call.answered_by = replies.model_of(result)
    call.large_reply = replies.size_bytes(result) > LARGE_BYTES
    return result, call.timing


def _stream(
    pool: Workers, request: Request, call: Call, on_progress: OnProgress | None = None
) -> AsyncGenerator[Part, None]:
    call.priority = call.priority or _default_class(request)

    def note(timing: RequestTiming) -> None:
        call.timing = timing

    return pool.stream(
        request,
        call.remaining_seconds,
        caller=call.caller,
        priority=call.priority,
        on_progress=on_progress,
        on_end=note,
        trace=call.trace,
    )


def _default_class(request: Request) -> str:
    return PREDICTIONS if isinstance(request, PredictRequest) and not request.explanations else INTERACTIVE


def add_services(
    server: "grpc.aio.Server",
    pool: Workers,
    limits: LimitsConfig,
    boundary: Boundary,
    *,
    followed_jobs: FollowedJobs | None = None,
) -> None:
    """Put both services on `server`, every handler behind `boundary`; `followed_jobs` answer `Dissect`."""
    server.add_generic_rpc_handlers(
        (
            GuardedHandlers(EXPLANATION_SERVICE, ExplanationService(pool, limits, boundary, followed_jobs), boundary),
            GuardedHandlers(MODEL_SERVICE, ModelService(pool, boundary.gate), boundary),
        )
    )
