"""gRPC's health check: of the server, of its three services, and of each model, whose name is the service's.

A model is SERVING if a version of it is served, NOT_SERVING if all that there are could not be loaded, and while
no worker is ready. A name that is not in the repository is unknown: NOT_FOUND. So are models that a caller may not
know of. The health service refuses no call: what does not concern a model is public.
"""

from collections.abc import Callable
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio  # type: ignore[attr-defined]

from pellucid_server.rpc.jobs import JOB_SERVICE
from pellucid_server.rpc.service import EXPLANATION_SERVICE, MODEL_SERVICE
from pellucid_server.vocabulary.messages import Hello

LIVENESS = "pellucid.liveness"
"""The front alone, for liveness probes: SERVING for as long as it answers, with or without a worker. No model may have
such a name."""

SERVICES = ("", EXPLANATION_SERVICE.full_name, MODEL_SERVICE.full_name, JOB_SERVICE.full_name)
"""The whole server, by gRPC's convention, and the services of the schema."""

_STATES = health_pb2.HealthCheckResponse

_LONGEST_NAME = 128

_UNKNOWN = health_pb2.HealthCheckRequest(service="\n")
"""A name that no model has."""


class Health(aio.HealthServicer):  # type: ignore[misc]
    """The health service; answers `List` too, which gRPC's own names in its schema and does not have."""

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - the schema's name
        """Return the state of what is named; that the front lives, it shows by answering."""
        if request.service == LIVENESS:
            return _STATES(status=_STATES.SERVING)
        return await super().Check(request, context)

    async def show(self, healthy: bool, hello: Hello | None) -> None:
        """Set what is answered from now on; a server that is stopping stays NOT_SERVING."""
        states = dict.fromkeys(SERVICES, healthy)
        if hello is not None:
            states |= {each.name: False for each in hello.broken}
            states |= {each.key.name: healthy for each in hello.models}
        for gone in self._server_status.keys() - states.keys():
            # Those who watch it are to see that; after that the name is as unknown as any other.
            await self.set(gone, _STATES.SERVICE_UNKNOWN)
            del self._server_status[gone]
        for name, serving in states.items():
            await self.set(name, _STATES.SERVING if serving else _STATES.NOT_SERVING)

    async def List(self, request: Any, context: Any) -> Any:  # noqa: N802 - the schema's name
        """Return the state of everything that can be checked."""
        states = {name: _STATES(status=status) for name, status in self._server_status.items()}
        return health_pb2.HealthListResponse(statuses=states)


class VisibleHealth(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """The health service on one port.

    Parameters
    ----------
    sees
        Returns for a call which models' names its caller may know of.
    """

    def __init__(self, health: Health, sees: Callable[[Any], Callable[[str], bool]]) -> None:
        self._health = health
        self._sees = sees

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - the schema's name
        """Return the state of what is named."""
        return await self._health.Check(self._visible(request, context), context)

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802 - the schema's name
        """Send the state of what is named, and each change of it."""
        await self._health.Watch(self._visible(request, context), context)

    async def List(self, request: Any, context: Any) -> Any:  # noqa: N802 - the schema's name
        """Return the state of everything that the caller may know of."""
        reply, sees = await self._health.List(request, context), self._sees(context)
        for name in [name for name in reply.statuses if name not in SERVICES and not sees(name)]:
            del reply.statuses[name]
        return reply

    def _visible(self, request: Any, context: Any) -> Any:
        name = request.service
        if len(name) > _LONGEST_NAME:
            # No model has such a name, and a watcher's is kept for as long as it watches.
            return _UNKNOWN
        return request if name in (LIVENESS, *SERVICES) or self._sees(context)(name) else _UNKNOWN
