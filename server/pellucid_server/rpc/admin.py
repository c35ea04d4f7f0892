"""The admin service: which models are served, and changing that."""

from collections.abc import Iterable
from typing import Protocol

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from pellucid.v1 import admin_service_pb2

from pellucid_server.reload.manager import BROKEN, NEW, SERVING, UNLOADED, VersionState
from pellucid_server.rpc import codec
from pellucid_server.rpc.arrival import Call
from pellucid_server.rpc.boundary import Boundary
from pellucid_server.rpc.handlers import GuardedHandlers
from pellucid_server.rpc.replies import model_spec
from pellucid_server.vocabulary.requests import ModelKey

ADMIN_SERVICE: ServiceDescriptor = admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"]

_STATES = {
    SERVING: admin_service_pb2.VERSION_STATE_SERVING,
    BROKEN: admin_service_pb2.VERSION_STATE_BROKEN,
    UNLOADED: admin_service_pb2.VERSION_STATE_UNLOADED,
    NEW: admin_service_pb2.VERSION_STATE_NEW,
}


class Changer(Protocol):
    """What the handlers need of the manager."""

    async def load(self, name: str, version: int, digest: str = "") -> tuple[VersionState, ...]:
        """Load a version, or for version 0 all of a model."""
        ...

    async def unload(self, name: str, version: int, digest: str = "") -> tuple[VersionState, ...]:
        """Take a version, or for version 0 all of a model, out of service."""
        ...

    async def versions(self, name: str = "") -> tuple[VersionState, ...]:
        """Return all versions of a model, or of all."""
        ...


class AdminService:
    """Loads and unloads models."""

    def __init__(self, manager: Changer) -> None:
        self._manager = manager

    async def ListVersions(  # noqa: N802 - the schema's name
        self, request: admin_service_pb2.ListVersionsRequest, call: Call
    ) -> admin_service_pb2.ListVersionsResponse:
        """Name every version and what it is at."""
        return admin_service_pb2.ListVersionsResponse(versions=_written(await self._manager.versions(request.name)))

    async def LoadModel(  # noqa: N802 - the schema's name
        self, request: admin_service_pb2.LoadModelRequest, call: Call
    ) -> admin_service_pb2.LoadModelResponse:
        """Load a version and serve it."""
        key = codec.model_key(request.model)
        found = await self._manager.load(key.name, key.version, key.digest)
        return admin_service_pb2.LoadModelResponse(versions=_written(found))

    async def UnloadModel(  # noqa: N802 - the schema's name
        self, request: admin_service_pb2.UnloadModelRequest, call: Call
    ) -> admin_service_pb2.UnloadModelResponse:
        """Take a version out of service."""
        key = codec.model_key(request.model)
        found = await self._manager.unload(key.name, key.version, key.digest)
        return admin_service_pb2.UnloadModelResponse(versions=_written(found))


def add_admin_service(server: "grpc.aio.Server", manager: Changer, boundary: Boundary) -> None:
    """Put the admin service on `server`, every handler behind `boundary`."""
    server.add_generic_rpc_handlers((GuardedHandlers(ADMIN_SERVICE, AdminService(manager), boundary),))


def _written(found: Iterable[VersionState]) -> list[admin_service_pb2.ModelVersion]:
    return [
        admin_service_pb2.ModelVersion(
            model=model_spec(ModelKey(*each.key, each.digest)),
            state=_STATES[each.state],
            reason=each.reason,
            pending=each.pending,
        )
        for each in found
    ]
