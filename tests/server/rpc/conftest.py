import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
import numpy as np
import pytest
from pellucid.v1 import explanation_service_pb2_grpc, model_service_pb2_grpc
from pellucid_server.errors import TimedOutError
from pellucid_server.faults import Faults
from pellucid_server.metrics import Metrics, RequestRecorder
from pellucid_server.rpc.boundary import Boundary
from pellucid_server.rpc.service import add_services
from pellucid_server.settings.sections import LimitsConfig
from pellucid_server.vocabulary import descriptions, messages, requests, results
from prometheus_client import CollectorRegistry

COLUMNS = (descriptions.ColumnInfo("width", (), 0.5, 4.5, "cm"), descriptions.ColumnInfo("colour", ("red", "blue")))
IMAGE = descriptions.ImageInfo(5, 4, 4, "bicubic", (127.0, 126.0, 125.0), (128.0, 129.0, 130.0))
MODEL = descriptions.ModelInfo(
    key=requests.ModelKey("iris", 2, "ab" * 32),
    description="Three kinds of flower.",
    inputs=(
        descriptions.InputInfo("row", "tabular", "float32", (2,), COLUMNS),
        descriptions.InputInfo("picture", "image", "float32", (3, 4, 4), image=IMAGE),
    ),
    outputs=(
        descriptions.OutputInfo("kind", "logits", "float32", (3,), ("setosa", "versicolor", "virginica"), "nats"),
    ),
    layers=(descriptions.LayerInfo("hidden#2", "Linear", (8,), 8, True, heads=4, branch=True),),
    capabilities=(descriptions.CapabilityInfo("saliency", False, "it has no graph"),),
    runtime="onnxruntime",
    parity=descriptions.ParityInfo(1e-6, 1e-4, True),
    background_rows=5,
    solo=True,
)
OLDER = descriptions.ModelInfo(requests.ModelKey("iris", 1, "cd" * 32), "", (), (), (), (), "graph", None, 0, False)
METHOD = descriptions.MethodInfo(
    name="occlusion",
    rpc="attribute",
    family="perturbation",
    summary="Cover it.",
    source="Zeiler and Fergus 2014",
    parameters=(
        descriptions.ParameterInfo("window", "integer", 3, 1, 9, (), "Pixels."),
        descriptions.ParameterInfo("fill", "text", "zero", None, None, ("zero", "mean"), "What with."),
        descriptions.ParameterInfo("mask", "tensor", None, None, None, (), "Groups; made for you if left out."),
    ),
    axioms=("dummy",),
    needs=("forward",),
    baselines=("zeros", "blur"),
    takes_tolerance=True,
)
HELLO = messages.Hello((MODEL, OLDER), (METHOD,), "cpu")
TIMING = results.RequestTiming(0.125, 0.25, 3, 4, (("forward", 3), ("gradient", 4)))
RECEIPT = results.Receipt(
    model=MODEL.key,
    input_digest="12" * 32,
    runtime=results.Runtime("onnxruntime", "graph", "cpu", "float32", {"torch": "2.13.0"}),
    work=results.Work(3, 4, (results.BatchShape("gradient", 8, 2),)),
)


async def reached(folder, point):
    """Wait until somebody is held at a fault point."""
    while not (folder / f"{point}.reached").exists():
        await asyncio.sleep(0)


def predict_result(*explanations):
    top = (results.ClassScore(1, "versicolor", 2.5, 0.75), results.ClassScore(0, "setosa", 1.0, None))
    output = results.OutputResult(np.array([[1.0, 2.5, -1.0]], np.float32), (top,))
    return results.PredictResult({"kind": output}, RECEIPT, explanations)


@dataclass
class FakePool:
    """Answers every request with `answer`, or raises it, or never ends; keeps what it is asked."""

    hello: messages.Hello | None = HELLO
    answer: object = None
    limited: bool = False
    """Whether a request that never ends is ended at its deadline."""
    deadlines: list = field(default_factory=list)
    askers: list = field(default_factory=list)
    """The caller and the class of each request."""
    started: asyncio.Event = field(default_factory=asyncio.Event)
    on_answer: Callable = field(default=lambda: None)
    """Called as soon as a request has come."""
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, request, deadline_seconds=None, *, caller="", priority="", trace=None):
        self.deadlines.append(deadline_seconds)
        self.askers.append((caller, priority))
        self.started.set()
        self.on_answer()
        match self.answer:
            case BaseException():
                raise self.answer
            case None:
                return await self._hang(deadline_seconds if self.limited else None)
        return self.answer, TIMING

    async def _hang(self, seconds):
        try:
            await asyncio.wait_for(asyncio.Event().wait(), seconds)
        except TimeoutError:
            raise TimedOutError("Late.", stage="running") from None
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@pytest.fixture
def pool():
    return FakePool()


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def fault_folder(tmp_path):
    folder = tmp_path / "faults"
    folder.mkdir()
    return folder


@pytest.fixture
async def boundary(pool, registry, fault_folder):
    faults = Faults(str(fault_folder))
    return Boundary(RequestRecorder(Metrics.on(registry)), lambda: pool.hello, faults=faults)


@contextlib.asynccontextmanager
async def serving(pool, boundary, *, most_bytes=1 << 20):
    """The address of a server of both services."""
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", most_bytes)])
    add_services(server, pool, LimitsConfig(predict_rows=8, attribute_rows=4, explanations=2), boundary)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


@contextlib.asynccontextmanager
async def served(pool, boundary):
    """A channel to a server of both services."""
    async with serving(pool, boundary) as address, grpc.aio.insecure_channel(address) as opened:
        yield opened


@pytest.fixture
async def channel(pool, boundary):
    async with served(pool, boundary) as opened:
        yield opened


@pytest.fixture
def lines(caplog):
    """The lines of finished requests, as their fields."""
    caplog.set_level(logging.INFO, "pellucid_server.rpc.outcomes")
    return lambda: [record.fields for record in caplog.records if record.message == "request"]


@pytest.fixture
def explanations(channel):
    return explanation_service_pb2_grpc.ExplanationServiceStub(channel)


@pytest.fixture
def models(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel)
