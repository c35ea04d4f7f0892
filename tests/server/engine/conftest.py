"""A small model and the services around it, without files or processes."""

import threading
from dataclasses import dataclass
from typing import Any

import pytest
from pellucid_server.engine.device.engine import Engine
from pellucid_server.engine.evaluations.model_handle import ModelHandle, WorkerServices
from pellucid_server.engine.tasks.helpers import Helpers
from pellucid_server.engine.tasks.hub import Hub
from pellucid_server.engine.tasks.request_state import RequestState
from pellucid_server.vocabulary.requests import ModelKey
from server.engine.models.networks import zoo_graph


@dataclass(frozen=True)
class ZooModel:
    """What the engine asks of a loaded model, around a network of the zoo."""

    key: ModelKey
    graph: Any
    session: Any = None
    runtime: str = "graph"
    solo: bool = False
    largest_batch: int | None = None
    input_row_bytes: int = 1 << 20
    open_lengths: bool = False

    @property
    def features(self) -> dict[str, None]:
        return dict.fromkeys(value.name for value in self.graph.inputs)

    def graph_for(self, *layers: str) -> Any:
        return self.graph

    def cuts_for(self, *layers: str) -> Any:
        return self.graph

    def suffix(self, layer: str) -> Any:
        return self.graph.suffix(layer), self.graph.runtime

    def unit_suffix(self, layer: str) -> Any:
        return self.graph.unit_suffix(layer), self.graph.runtime

    @property
    def sites(self) -> Any:
        return self.graph.sites

    def row_bytes(self, *, backward: bool) -> int:
        return 1 << 10


class Bench:
    """Runs functions of a handle as the worker would."""

    def __init__(self) -> None:
        self.hub = Hub()
        self.engine = Engine(chunk_seconds=0.05, chunk_bytes=1 << 28, threads=1)
        self.helper = Helpers()
        self.services = WorkerServices(self.engine, self.hub, self.helper, "cpu")

    def handle(
        self, name: str, *, request: RequestState | None = None, services: WorkerServices | None = None, **settings: Any
    ) -> ModelHandle:
        model = ZooModel(ModelKey(name, 1 + settings.get("solo", False)), zoo_graph(name), **settings)
        return ModelHandle(model, services or self.services, request or RequestState(1, None))

    def run(self, *functions: Any) -> list[Any]:
        """Run functions as concurrent tasks; return what each returned, or raise what the first raised."""
        found: list[Any] = [None] * len(functions)
        ended = threading.Semaphore(0)

        def task(number: int) -> None:
            try:
                found[number] = functions[number]()
            except Exception as error:
                found[number] = error
            ended.release()

        for number in range(len(functions)):
            self.hub.submit(lambda number=number: task(number))
        for _ in functions:
            assert ended.acquire(timeout=60)
        for result in found:
            if isinstance(result, Exception):
                raise result
        return found


@pytest.fixture(scope="session")
def bench():
    made = Bench()
    yield made
    made.engine.close()
    made.helper.close()
