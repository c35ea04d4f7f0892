"""The handlers of the Open Inference Protocol: `GRPCInferenceService`, by the pool that serves everything else.

Source: https://github.com/kserve/open-inference-protocol
"""

from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from pellucid_server import open_inference_pb2
from pellucid_server.errors import broken_model
from pellucid_server.rpc import catalogue
from pellucid_server.rpc.arrival import Call
from pellucid_server.rpc.aside import Aside
from pellucid_server.rpc.boundary import Boundary
from pellucid_server.rpc.handlers import GuardedHandlers
from pellucid_server.rpc.open_protocol import messages
from pellucid_server.rpc.service import Workers, run
from pellucid_server.settings.sections import LimitsConfig
from pellucid_server.vocabulary import descriptions, requests, results

OPEN_SERVICE: ServiceDescriptor = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]

_NAME = "pellucid"


def _version() -> str:
    try:
        return version(_NAME)
    except PackageNotFoundError:
        return ""


_VERSION = _version()


class OpenInferenceService:
    """Predict, and what is served, by the protocol of other servers."""

    def __init__(self, pool: Workers, limits: LimitsConfig, aside: Aside, ready: Callable[[], bool]) -> None:
        self._pool = pool
        self._limits = limits
        self._aside = aside
        self._ready = ready

    async def ServerLive(  # noqa: N802 - the schema's name
        self, request: open_inference_pb2.ServerLiveRequest, call: Call
    ) -> open_inference_pb2.ServerLiveResponse:
        """Answer."""
        return open_inference_pb2.ServerLiveResponse(live=True)

    async def ServerReady(  # noqa: N802 - the schema's name
        self, request: open_inference_pb2.ServerReadyRequest, call: Call
    ) -> open_inference_pb2.ServerReadyResponse:
        """Say whether requests are served."""
        return open_inference_pb2.ServerReadyResponse(ready=self._ready())

    async def ModelReady(  # noqa: N802 - the schema's name
        self, request: open_inference_pb2.ModelReadyRequest, call: Call
    ) -> open_inference_pb2.ModelReadyResponse:
        """Say whether a model version is served; one that there is not is NOT_FOUND."""
        key = messages.model_key(request.name, request.version, ("name", "version"))
        found = catalogue.find(catalogue.known(self._pool.hello), key)
        served = isinstance(found, descriptions.ModelInfo)
        return open_inference_pb2.ModelReadyResponse(ready=served and self._ready())

    async def ServerMetadata(  # noqa: N802 - the schema's name
        self, request: open_inference_pb2.ServerMetadataRequest, call: Call
    ) -> open_inference_pb2.ServerMetadataResponse:
        """Name the server."""
        return open_inference_pb2.ServerMetadataResponse(name=_NAME, version=_VERSION)

    async def ModelMetadata(  # noqa: N802 - the schema's name
        self, request: open_inference_pb2.ModelMetadataRequest, call: Call
    ) -> open_inference_pb2.ModelMetadataResponse:
        """Describe a model's inputs and outputs."""
        model = self._served(messages.model_key(request.name, request.version, ("name", "version")))
        hello = catalogue.known(self._pool.hello)
        versions = sorted(each.key.version for each in hello.models if each.key.name == model.key.name)
        return messages.metadata_response(model, versions)

    async def ModelInfer(  # noqa: N802 - the schema's name
        self, request: open_inference_pb2.ModelInferRequest, call: Call
    ) -> open_inference_pb2.ModelInferResponse:
        """Say what the model says."""
        key = messages.model_key(request.model_name, request.model_version, ("model_name", "model_version"))
        call.version = key.version
        model = self._served(key)
        wanted, request_id = tuple(output.name for output in request.outputs), request.id
        read = partial(messages.predict_request, request, model, self._limits, call.take_large_fields())
        # What it was read from is let go before it waits for its answer.
        del request
        asked = await self._aside.run(read) if call.large else read()
        del read
        result, _ = await run(self._pool, asked, call)
        assert isinstance(result, results.PredictResult)  # noqa: S101 - the worker answers a request by its own kind
        return messages.infer_response(result, request_id, wanted)

    def _served(self, key: requests.ModelKey) -> descriptions.ModelInfo:
        found = catalogue.find(catalogue.known(self._pool.hello), key)
        if isinstance(found, descriptions.BrokenModel):
            raise broken_model(found.name, found.version, found.reason)
        return found


def add_open_service(
    server: "grpc.aio.Server", pool: Workers, limits: LimitsConfig, boundary: Boundary, *, ready: Callable[[], bool]
) -> None:
    """Put the protocol's service on `server`, every handler behind `boundary`; `ready` tells whether it serves."""
    service = OpenInferenceService(pool, limits, boundary.aside, ready)
    server.add_generic_rpc_handlers((GuardedHandlers(OPEN_SERVICE, service, boundary),))
