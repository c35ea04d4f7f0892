"""The handlers of both services: read the request, have the work done, write the reply."""

from typing import Any, Protocol

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import ServiceDescriptor
from pellucid.v1 import explanation_service_pb2, model_service_pb2

from pellucid_server.config import LimitsConfig
from pellucid_server.errors import UnimplementedError
from pellucid_server.jobs import Hello, Job, JobTiming, Result
from pellucid_server.rpc import catalogue, codec, replies
from pellucid_server.rpc.boundary import Boundary, Call

EXPLANATION_SERVICE: ServiceDescriptor = explanation_service_pb2.DESCRIPTOR.services_by_name["ExplanationService"]
MODEL_SERVICE: ServiceDescriptor = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"]


class Workers(Protocol):
    """What the handlers need of the pool."""

    @property
    def hello(self) -> Hello | None:
        """What the workers serve."""
        ...

    async def run(self, job: Job, deadline_seconds: float | None = None) -> tuple[Result, JobTiming]:
        """Do one job."""
        ...


class ExplanationService:
    """The model's answers, and what they rest on."""

    def __init__(self, pool: Workers, limits: LimitsConfig) -> None:
        self._pool = pool
        self._limits = limits

    async def Predict(  # noqa: N802 - the schema's name
        self, request: explanation_service_pb2.PredictRequest, call: Call
    ) -> explanation_service_pb2.PredictResponse:
        """Say what the model says."""
        job = codec.predict_job(request, self._limits)
        result, call.timing = await self._pool.run(job, call.deadline_seconds)
        return replies.predict_response(result, call.timing, call.elapsed_seconds, request_id=call.request_id)

    async def Attribute(  # noqa: N802 - the schema's name
        self, request: explanation_service_pb2.AttributeRequest, call: Call
    ) -> explanation_service_pb2.AttributeResponse:
        """Score how much each element of the input contributed."""
        job = codec.attribute_job(request, self._limits)
        result, call.timing = await self._pool.run(job, call.deadline_seconds)
        return replies.attribute_response(result, call.timing, call.elapsed_seconds)

    async def Ablate(  # noqa: N802 - the schema's name
        self, request: explanation_service_pb2.AblateRequest, call: Call
    ) -> explanation_service_pb2.AblateResponse:
        """Refuse: this server cannot do it."""
        raise UnimplementedError("This server does not have Ablate; it has Predict and Attribute.", rpc="Ablate")

    async def Dissect(  # noqa: N802 - the schema's name
        self, request: explanation_service_pb2.DissectRequest, call: Call
    ) -> explanation_service_pb2.DissectResponse:
        """Refuse: this server cannot do it."""
        raise UnimplementedError("This server does not have Dissect; it has Predict and Attribute.", rpc="Dissect")


class ModelService:
    """What is served."""

    def __init__(self, pool: Workers) -> None:
        self._pool = pool

    async def ListModels(  # noqa: N802 - the schema's name
        self, request: model_service_pb2.ListModelsRequest, call: Call
    ) -> model_service_pb2.ListModelsResponse:
        """Name every model version."""
        return catalogue.list_models_response(catalogue.known(self._pool.hello))

    async def GetModel(  # noqa: N802 - the schema's name
        self, request: model_service_pb2.GetModelRequest, call: Call
    ) -> model_service_pb2.GetModelResponse:
        """Describe one model version."""
        key = codec.model_key(request.model)
        return catalogue.get_model_response(catalogue.find(catalogue.known(self._pool.hello), key))

    async def ListMethods(  # noqa: N802 - the schema's name
        self, request: model_service_pb2.ListMethodsRequest, call: Call
    ) -> model_service_pb2.ListMethodsResponse:
        """Describe every method."""
        return catalogue.list_methods_response(catalogue.known(self._pool.hello))


def add_services(server: "grpc.aio.Server", pool: Workers, limits: LimitsConfig, boundary: Boundary) -> None:
    """Put both services on `server`, every handler behind `boundary`."""
    server.add_generic_rpc_handlers(
        (
            _guarded(EXPLANATION_SERVICE, ExplanationService(pool, limits), boundary),
            _guarded(MODEL_SERVICE, ModelService(pool), boundary),
        )
    )


def _guarded(descriptor: ServiceDescriptor, servicer: Any, boundary: Boundary) -> Any:
    handlers = {}
    for method in descriptor.methods:
        request_class = message_factory.GetMessageClass(method.input_type)
        guarded = boundary.guard(method.name, request_class, getattr(servicer, method.name))
        # No serializers: the boundary does both, so that bytes that are no request are its to answer too.
        kind = grpc.unary_stream_rpc_method_handler if method.server_streaming else grpc.unary_unary_rpc_method_handler
        handlers[method.name] = kind(guarded)
    return grpc.method_handlers_generic_handler(descriptor.full_name, handlers)
