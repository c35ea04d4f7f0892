"""The admin service on a port of its own, apart from the traffic of callers."""

from collections.abc import Callable, Sequence

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_reflection.v1alpha import reflection

from pellucid_server.rpc.admin import ADMIN_SERVICE, Changer, add_admin_service
from pellucid_server.rpc.boundary import Boundary
from pellucid_server.settings.admin import AdminConfig

_SERVICES: tuple[ServiceDescriptor, ...] = (ADMIN_SERVICE,)

Listen = Callable[["grpc.aio.Server", str], int]
"""Has a server listen on an address, and returns the port."""


def plainly(server: "grpc.aio.Server", address: str) -> int:
    """Listen without encryption."""
    return server.add_insecure_port(address)


class AdminPort:
    """A gRPC server for administrators.

    Parameters
    ----------
    options
        gRPC's options for the server's side of its connections.
    listen
        How it listens: by itself without encryption.
    """

    def __init__(self, config: AdminConfig, *, options: Sequence[tuple[str, int]], listen: Listen = plainly) -> None:
        self.port: int | None = None
        """The port that is listened on, once it is."""
        self._config = config
        self._options = list(options)
        self._listen = listen
        self._server: grpc.aio.Server | None = None

    async def start(self, manager: Changer, boundary: Boundary, *, reflected: bool) -> None:
        """Listen, and answer behind `boundary`; `reflected` is whether callers can ask for the schema.

        Raises
        ------
        OSError
            The port cannot be had.
        """
        server = grpc.aio.server(options=self._options)
        add_admin_service(server, manager, boundary)
        if reflected:
            names = [service.full_name for service in _SERVICES]
            reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
        address = f"{self._config.host}:{self._config.port}"
        try:
            self.port = self._listen(server, address)
        except RuntimeError as error:
            raise OSError(f"Cannot listen on {address}; is another server there?") from error
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Take no more calls; those that run have ended by now, or are cancelled."""
        if self._server is not None:
            await self._server.stop(None)
