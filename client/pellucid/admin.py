"""The clients for administrators: which models a server has loaded, and changing that."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack

import grpc

from pellucid.aio import AsyncClient
from pellucid.calls import PREDICT_SECONDS, Call, Flow, model_spec
from pellucid.client import Client
from pellucid.receipts import ModelKey, enum_word, plain, read_model_key
from pellucid.security import Pem
from pellucid.v1 import admin_service_pb2

DEFAULT_ADDRESS = "localhost:50053"
"""Where a server's admin port is by convention; servers have none by default."""

LOAD_SECONDS = 300.0
"""Deadline of a load: a large model takes minutes."""

_SERVICE = "/pellucid.v1.AdminService/"


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version in the server's repository, in service, or both.

    Attributes
    ----------
    key
        Name, version, and the digest of what is served; without one if it is not. Version 0 stands for a model's
        folder in which not even versions could be read.
    state
        "serving"; "broken", as it could not be loaded; "unloaded", by an administrator; "new", not loaded yet.
    reason
        Why the files that are there now could not be loaded; a version that is "serving" is served as before.
    pending
        Whether the files are others than those that were last loaded or found broken, or are gone.
    """

    key: ModelKey
    state: str
    reason: str = ""
    pending: bool = False

    @property
    def name(self) -> str:
        """The model's name."""
        return self.key.name

    @property
    def version(self) -> int:
        """The version's number."""
        return self.key.version

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, texts and numbers."""
        found: dict[str, Any] = plain(self)
        return found


Versions = tuple[ModelVersion, ...]


class Connection(TypedDict, total=False):
    """What the clients are made with beside the address, each as for `pellucid.Client`.

    `timeout` is the deadline of every call in seconds; None, or left out, is 30, and 300 for loads. A load that its
    caller does not wait for any more goes on.
    """

    timeout: float | None
    tls: bool | None
    root_certificates: Pem | None
    client_certificate: Pem | None
    client_key: Pem | None
    token: str | Path | None
    allow_plain_token: bool
    credentials: grpc.ChannelCredentials | None
    metadata: Mapping[str, str | bytes] | None
    retries: int | None
    wait_for_ready: bool


class AdminClient:
    """Loads and unloads a server's models, over its admin port; close it, or use it in a `with` statement.

    Parameters
    ----------
    address
        "host:port" of the admin port.
    **connection
        As for `pellucid.Client`: see `Connection`. A server that asks for tokens wants one with the role "admin" here.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, **connection: Unpack[Connection]) -> None:
        self._client = Client(address, **connection)

    def versions(self, name: str = "", *, timeout: float | None = None) -> Versions:
        """List the versions of a model, or of all, by name, then version."""
        return self._client._run(_list(name), timeout, PREDICT_SECONDS)

    def load(self, name: str, *, version: int = 0, digest: str = "", timeout: float | None = None) -> Versions:
        """Load a version from its files as they are now; return once it is served.

        Parameters
        ----------
        version
            The version's number; 0 for all that the repository has of the model.
        digest
            What it must have to be served; empty for any.

        Raises
        ------
        UnsupportedError
            It could not be loaded, for the reason that the message gives, or has another digest. What was served
            before still is.
        NotFoundError
            The repository has no such version.
        """
        return self._client._run(_load(name, version, digest), timeout, LOAD_SECONDS)

    def unload(self, name: str, *, version: int = 0, digest: str = "", timeout: float | None = None) -> Versions:
        """Take a version, or all of a model, out of service, until it is loaded again or the server is restarted.

        Raises
        ------
        NotFoundError
            There is no such version.
        UnsupportedError
            What is served has another digest.
        """
        return self._client._run(_unload(name, version, digest), timeout, PREDICT_SECONDS)

    def close(self) -> None:
        """End the connection."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncAdminClient:
    """`AdminClient` for asyncio: the same methods, awaited. Make it inside a running event loop.

    Parameters are those of `AdminClient`.
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, **connection: Unpack[Connection]) -> None:
        self._client = AsyncClient(address, **connection)

    async def versions(self, name: str = "", *, timeout: float | None = None) -> Versions:
        """List the versions of a model, or of all; see `AdminClient.versions`."""
        return await self._client._run(_list(name), timeout, PREDICT_SECONDS)

    async def load(self, name: str, *, version: int = 0, digest: str = "", timeout: float | None = None) -> Versions:
        """Load a version; see `AdminClient.load`."""
        return await self._client._run(_load(name, version, digest), timeout, LOAD_SECONDS)

    async def unload(self, name: str, *, version: int = 0, digest: str = "", timeout: float | None = None) -> Versions:
        """Take a version out of service; see `AdminClient.unload`."""
        return await self._client._run(_unload(name, version, digest), timeout, PREDICT_SECONDS)

    async def close(self) -> None:
        """End the connection."""
        await self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def _list(name: str) -> Flow[Versions]:
    request = admin_service_pb2.ListVersionsRequest(name=name)
    return _read((yield Call(_SERVICE + "ListVersions", request, admin_service_pb2.ListVersionsResponse.FromString)))


def _load(name: str, version: int, digest: str) -> Flow[Versions]:
    request = admin_service_pb2.LoadModelRequest(model=model_spec(name, version, digest))
    return _read((yield Call(_SERVICE + "LoadModel", request, admin_service_pb2.LoadModelResponse.FromString)))


def _unload(name: str, version: int, digest: str) -> Flow[Versions]:
    request = admin_service_pb2.UnloadModelRequest(model=model_spec(name, version, digest))
    return _read((yield Call(_SERVICE + "UnloadModel", request, admin_service_pb2.UnloadModelResponse.FromString)))


def _read(reply: Any) -> Versions:
    return tuple(
        ModelVersion(
            read_model_key(each.model),
            enum_word(admin_service_pb2.VersionState, each.state, "VERSION_STATE_"),
            each.reason,
            each.pending,
        )
        for each in reply.versions
    )
