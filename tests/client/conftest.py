"""A server in this process, and both clients behind one face."""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from client.fake_server import (
    FakeServer,
    ablate_messages,
    attribute_message,
    dissect_messages,
    predict_message,
    table_attribution,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pellucid import Client
from pellucid.aio import AsyncClient
from pellucid.v1 import explanation_service_pb2_grpc, model_service_pb2_grpc


class HurriedClient(Client):
    """Notes the pauses between its tries in place of making them; its clock goes on all the same."""

    def __init__(self, pauses, address, **options):
        super().__init__(address, **options)
        self._pauses = pauses

    def _pause(self, seconds):
        self._pauses.append(seconds)

    def _now(self):
        return super()._now() + sum(self._pauses)


class HurriedAsyncClient(AsyncClient):
    """Notes the pauses between its tries in place of making them; its clock goes on all the same."""

    def __init__(self, pauses, address, **options):
        super().__init__(address, **options)
        self._pauses = pauses

    async def _pause(self, seconds):
        self._pauses.append(seconds)

    def _now(self):
        return super()._now() + sum(self._pauses)


class Blocking:
    """The blocking client."""

    def __init__(self, address, *, pauses=None, **options):
        self._client = Client(address, **options) if pauses is None else HurriedClient(pauses, address, **options)

    def __getattr__(self, name):
        return getattr(self._client, name)

    def release(self):
        self._client.close()


class Awaited:
    """The asyncio client, each call run to its end."""

    def __init__(self, address, *, pauses=None, **options):
        self._loop = asyncio.new_event_loop()
        self._client = self._loop.run_until_complete(self._made(address, pauses, options))

    async def _made(self, address, pauses, options):
        return AsyncClient(address, **options) if pauses is None else HurriedAsyncClient(pauses, address, **options)

    def __getattr__(self, name):
        return lambda *args, **kwargs: self._loop.run_until_complete(getattr(self._client, name)(*args, **kwargs))

    def ablate_parts(self, *args, **kwargs):
        """Yield the parts, as the blocking client does."""
        return self._parts(self._client.ablate_parts(*args, **kwargs))

    def dissect_parts(self, *args, **kwargs):
        """Yield the parts, as the blocking client does."""
        return self._parts(self._client.dissect_parts(*args, **kwargs))

    def _parts(self, parts):
        try:
            while True:
                part = self._loop.run_until_complete(anext(parts, None))
                if part is None:
                    return
                yield part
        finally:
            self._loop.run_until_complete(parts.aclose())

    def close(self):
        self._loop.run_until_complete(self._client.close())

    def release(self):
        self.close()
        self._loop.close()


@pytest.fixture
def server():
    """Serve on a free port, with written replies until they are changed; effects and a dictionary come in parts."""
    attributed = attribute_message(table_attribution())
    fake = FakeServer(replies={"Predict": predict_message(), "Attribute": attributed})
    fake.replies |= {"Ablate": ablate_messages(), "Dissect": dissect_messages()}
    options = [("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)]
    grpc_server = grpc.server(ThreadPoolExecutor(8), options=options)
    explanation_service_pb2_grpc.add_ExplanationServiceServicer_to_server(fake, grpc_server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(fake, grpc_server)
    fake.health.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(fake.health, grpc_server)
    fake.address = f"localhost:{grpc_server.add_insecure_port('localhost:0')}"
    grpc_server.start()
    yield fake
    grpc_server.stop(None).wait()


@pytest.fixture(params=[Blocking, Awaited], ids=["blocking", "asyncio"])
def connect(request):
    """Make clients of either kind; they are closed at the end."""
    made = []

    def make(address, **options):
        made.append(request.param(address, **options))
        return made[-1]

    yield make
    for each in made:
        each.release()


@pytest.fixture
def client(server, connect):
    """Return a client of the server."""
    return connect(server.address)


@pytest.fixture
def pauses():
    """Return the list of pauses that a client notes which is made with it."""
    return []


@pytest.fixture
def hurried(server, connect, pauses):
    """Return a client that does not wait between its tries."""
    return connect(server.address, pauses=pauses)


@pytest.fixture
def free_address():
    """Return an address that nobody listens on."""
    with socket.socket() as unused:
        # Bound, so that nobody else takes the port; never listening, so that it refuses connections.
        unused.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{unused.getsockname()[1]}"
