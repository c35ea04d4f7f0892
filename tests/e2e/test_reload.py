"""Models that come, change and go while callers go on asking."""

import contextlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np
import onnx
import pellucid
import pytest
import torch
from e2e import small_models
from e2e.fault_points import QUICK, Points, counters, kill, serve_with_points, worker_pids
from e2e.messages import attribute, details, predict, spec, table_rows
from e2e.serving import LONG_SECONDS, Server, wait_until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pellucid.admin import AsyncAdminClient
from pellucid.cli.commands import app
from pellucid.tensors import from_tensor
from pellucid.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    explanation_pb2,
    explanation_service_pb2,
    model_service_pb2,
)
from pellucid_server import export
from typer.testing import CliRunner

POLL_SECONDS = 0.2
ROW = {"width": 12.0, "height": 3.0, "colour": "green"}
SCORES = small_models.linear_scores(**ROW)
INPUTS = {"features": table_rows([ROW])}
STATES = health_pb2.HealthCheckResponse
SETTINGS = {"PELLUCID_MODELS__POLL_SECONDS": str(POLL_SECONDS), "PELLUCID_ADMIN__PORT": "0", **QUICK}
VARIANTS = 3


class Shifted(small_models.Linear):
    """The linear model with a number added to its scores, by which an answer tells which variant made it."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        # Not in place: the numbers are those that answers are worked out with.
        self.linear.bias.data = self.linear.bias.data + shift


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The file of each variant: variant i adds i to the scores."""
    folder = tmp_path_factory.mktemp("variants")
    for shift in range(VARIANTS):
        export.export(Shifted(shift), (torch.zeros(2, 5),), folder / str(shift) / "1", onnx=False)
    return [(folder / str(shift) / "1" / "model.pt2").read_bytes() for shift in range(VARIANTS)]


@dataclass
class Shop:
    """A server, its repository, and what a test does to it."""

    server: Server
    points: Points
    repository: Path
    files: list[bytes]
    names: Iterator[str] = field(default_factory=lambda: (f"model-{number}" for number in range(1000)))

    def new_model(self) -> str:
        """Put a model with version 1, of variant 0, into place and wait until it is served."""
        name = next(self.names)
        beside = self.repository / f".{name}"
        (beside / "1").mkdir(parents=True)
        shutil.copy(self.repository / small_models.SCORES / "model.toml", beside)
        shutil.copy(self.repository / small_models.SCORES / "background.npz", beside)
        (beside / "1" / "model.pt2").write_bytes(self.files[0])
        beside.rename(self.repository / name)
        self.until(lambda: self.shift(name) == 0, f"{name} is served")
        return name

    def put(self, name: str, version: int, variant: int) -> None:
        """Put a version into place whole."""
        beside = self.repository / name / f".{version}"
        beside.mkdir()
        (beside / "model.pt2").write_bytes(self.files[variant])
        beside.rename(self.repository / name / str(version))

    def put_onnx(self, name: str, version: int, variant: int) -> None:
        """Put a version into place whole that is an ONNX file alone."""
        beside = self.repository / name / f".{version}"
        beside.mkdir()
        (beside / "model.onnx").write_bytes(onnx_variant(variant))
        beside.rename(self.repository / name / str(version))

    def path(self, name: str, version: int = 1) -> Path:
        return self.repository / name / str(version) / "model.pt2"

    def shift(self, name: str, version: int = 0) -> int | None:
        """Return which variant answers; None if the model is not served."""
        try:
            request = predict(name, INPUTS)
            request.model.version = version
            reply = self.server.explanations.Predict(request, timeout=LONG_SECONDS)
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
                return None
            raise
        return variant_of(reply)

    def listed(self, name: str) -> dict[int, model_service_pb2.ModelSummary]:
        """Return what is listed of a model, by version; no version twice."""
        models = self.server.models.ListModels(model_service_pb2.ListModelsRequest(), timeout=LONG_SECONDS).models
        found = [each for each in models if each.model.name == name]
        assert len({each.model.version for each in found}) == len(found)
        return {each.model.version: each for each in found}

    def loads(self, name: str, outcome: str) -> float:
        return counters(self.server).total("pellucid_model_loads_total", model=name, outcome=outcome)

    def health(self, name: str) -> int | None:
        health = health_pb2_grpc.HealthStub(self.server.channel)
        try:
            return int(health.Check(health_pb2.HealthCheckRequest(service=name)).status)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise

    def until(self, condition: Callable[[], bool], what: str) -> None:
        wait_until(condition, seconds=LONG_SECONDS, what=what)

    @contextlib.contextmanager
    def admin(self) -> Iterator[admin_service_pb2_grpc.AdminServiceStub]:
        with grpc.insecure_channel(self.server.admin_address) as channel:
            yield admin_service_pb2_grpc.AdminServiceStub(channel)


def onnx_variant(shift: int) -> bytes:
    """Return the linear model with a number added to its scores as an ONNX file, with weights of more than a page."""
    width = 1024
    wide, narrow = np.zeros((5, width), np.float32), np.zeros((width, 2), np.float32)
    wide[:, :5], narrow[:5] = np.eye(5), small_models.WEIGHT.T
    tensors = {"wide": wide, "narrow": narrow, "bias": (small_models.BIAS + shift).astype(np.float32)}
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("MatMul", ["features", "wide"], ["spread"]),
            onnx.helper.make_node("MatMul", ["spread", "narrow"], ["sums"]),
            onnx.helper.make_node("Add", ["sums", "bias"], ["output"]),
        ],
        "scores",
        [onnx.helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, ["rows", 5])],
        [onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, ["rows", 2])],
        [onnx.numpy_helper.from_array(values, name) for name, values in tensors.items()],
    )
    imports = [onnx.helper.make_opsetid("", 17)]
    content: bytes = onnx.helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()
    return content


def variant_of(reply: explanation_service_pb2.PredictResponse) -> int:
    """Return which variant made an answer, by the answer; it is one of them, whole."""
    values = from_tensor(reply.outputs["output"].values)[0]
    shift = round(float(values[0] - SCORES[0]))
    np.testing.assert_allclose(values, SCORES + shift, rtol=1e-5, atol=1e-5)
    return shift


@dataclass
class Callers:
    """Callers that ask one model again and again; every answer counts."""

    shop: Shop
    name: str
    seen: list[tuple[str, int]] = field(default_factory=list)
    failed: list[grpc.RpcError] = field(default_factory=list)

    @contextlib.contextmanager
    def asking(self, count: int = 3) -> Iterator["Callers"]:
        ended = threading.Event()

        def ask() -> None:
            while not ended.is_set():
                try:
                    reply = self.shop.server.explanations.Predict(predict(self.name, INPUTS), timeout=LONG_SECONDS)
                    self.seen.append((reply.receipt.model.digest, variant_of(reply)))
                except grpc.RpcError as error:
                    self.failed.append(error)

        threads = [threading.Thread(target=ask) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            self.until_asked()
            yield self
            self.until_asked()
        finally:
            ended.set()
            for thread in threads:
                thread.join()

    def until_asked(self) -> None:
        """Wait until some more calls have ended."""
        target = len(self.seen) + len(self.failed) + 5
        self.shop.until(lambda: len(self.seen) + len(self.failed) >= target, "callers were answered")


@pytest.fixture(scope="module")
def shared(files: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    repository = tmp_path_factory.mktemp("repository")
    small_models.write_scores(repository)
    with serve_with_points(repository, tmp_path_factory.mktemp("server"), SETTINGS) as (server, points):
        yield Shop(server, points, repository, files)


@pytest.fixture
def shop(shared: Shop) -> Iterator[Shop]:
    yield shared
    shared.points.release()


def test_a_file_written_in_two_parts_with_a_pause_costs_no_call_and_is_served_when_it_is_whole(shop):
    name = shop.new_model()
    path, data = shop.path(name, 2), shop.files[1]
    with Callers(shop, name).asking() as callers:
        path.parent.mkdir()
        with path.open("wb") as file:
            file.write(data[: len(data) * 6 // 10])
            file.flush()
            # The pause is longer than a poll: the part was taken to be whole, tried out, and found broken.
            shop.until(lambda: shop.loads(name, "failed") == 1, "the part was tried out")
            assert shop.shift(name) == 0
            assert "damaged" in shop.listed(name)[2].reason
            file.write(data[len(data) * 6 // 10 :])
        shop.until(lambda: shop.shift(name) == 1, "version 2 is served")

    assert not callers.failed
    assert {variant for _, variant in callers.seen} == {0, 1}
    assert len(set(callers.seen)) == 2
    # From the first answer of the new one on there are no old ones but those that were under way.
    assert [variant for _, variant in callers.seen[-3:]] == [1, 1, 1]
    assert (shop.loads(name, "failed"), shop.loads(name, "loaded")) == (1, 2)


def test_a_version_that_is_overwritten_by_what_is_none_is_served_as_before_and_says_why_until_it_is_mended(shop):
    name = shop.new_model()
    digest = shop.listed(name)[1].model.digest

    shop.path(name).write_bytes(b"no model")
    shop.until(lambda: bool(shop.listed(name)[1].reason), "the file was found broken")

    (summary,) = shop.listed(name).values()
    assert (summary.state, summary.model.digest) == (model_service_pb2.MODEL_STATE_SERVING, digest)
    request = model_service_pb2.GetModelRequest(model=explanation_pb2.ModelSpec(name=name))
    described = shop.server.models.GetModel(request, timeout=LONG_SECONDS)
    assert described.reason == summary.reason
    assert described.inputs
    assert str(shop.repository) not in summary.reason
    assert shop.shift(name) == 0
    assert shop.health(name) == STATES.SERVING
    assert shop.server.lines("ERROR", name, "could not be loaded", "it is served as before")
    assert counters(shop.server).total("pellucid_model_broken", model=name, version="1") == 1

    shop.path(name).write_bytes(shop.files[2])
    shop.until(lambda: shop.shift(name) == 2, "the mended file is served")

    assert shop.listed(name)[1].reason == ""
    assert shop.listed(name)[1].model.digest != digest


def test_a_version_that_goes_is_served_no_more_and_version_0_is_the_highest_that_is_left(shop):
    name = shop.new_model()
    shop.put(name, 2, variant=1)
    shop.until(lambda: shop.shift(name) == 1, "version 2 is served")

    with Callers(shop, name).asking() as callers:
        shutil.rmtree(shop.repository / name / "2")
        shop.until(lambda: shop.shift(name, 2) is None, "version 2 is gone")

    assert not callers.failed
    assert shop.shift(name) == 0
    assert set(shop.listed(name)) == {1}
    assert shop.loads(name, "unloaded") == 1


def test_a_model_that_comes_and_goes_has_a_health_check_of_its_own_meanwhile(shop):
    name = shop.new_model()
    assert shop.health(name) == STATES.SERVING

    (shop.repository / name).rename(shop.repository / f".{name}")
    shop.until(lambda: shop.shift(name) is None, "the model is gone")

    shop.until(lambda: shop.health(name) is None, "its health is unknown")
    assert shop.health("") == STATES.SERVING


def test_a_version_whose_files_were_touched_alone_is_not_loaded_again(shop):
    name = shop.new_model()
    digest = shop.listed(name)[1].model.digest
    shop.path(name).touch()
    # What is done about it is done by the time that a later change of the same model is.
    shop.put(name, 2, variant=1)
    shop.until(lambda: shop.shift(name) == 1, "version 2 is served")

    assert shop.loads(name, "loaded") == 2
    assert shop.listed(name)[1].model.digest == digest


def test_a_request_that_runs_while_its_version_is_replaced_ends_on_the_version_that_it_began_on(shop):
    name = shop.new_model()
    old = shop.listed(name)[1].model.digest
    shop.points.arm("chunk", f"hold {name}")
    running = shop.server.explanations.Attribute.future(
        attribute(name, INPUTS, spec("integrated-gradients")), timeout=LONG_SECONDS
    )
    shop.points.wait("chunk")

    shop.path(name).write_bytes(shop.files[1])
    shop.until(lambda: shop.listed(name)[1].model.digest != old, "the new one is served")
    # The old one's memory is still in use.
    assert not shop.server.lines("given back", f"{name} ", old[:12])
    shop.points.release("chunk")
    explained = running.result()

    assert explained.explanation.attributions[0].receipt.model.digest == old
    assert shop.shift(name) == 1
    shop.until(
        lambda: bool(shop.server.lines("given back", f"{name} ", old[:12])), "the old one's memory was given back"
    )


def test_a_worker_that_is_started_again_serves_what_was_served_and_nothing_half_written(shop):
    name = shop.new_model()
    shop.put(name, 2, variant=1)
    shop.until(lambda: shop.shift(name) == 1, "version 2 is served")
    with shop.admin() as admin:
        admin.UnloadModel(unload(name, 1), timeout=LONG_SECONDS)
    before = worker_pids(shop.server)
    for pid in before:
        kill(pid)
    shop.until(lambda: bool(worker_pids(shop.server) - before), "a worker is started")

    wait_until(lambda: answered(shop, name), seconds=LONG_SECONDS, what="it answers")

    assert shop.shift(name) == 1
    assert shop.shift(name, 1) is None
    assert set(shop.listed(name)) == {2}


def answered(shop: Shop, name: str) -> bool:
    try:
        shop.server.explanations.Predict(predict(name, INPUTS), timeout=LONG_SECONDS)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            return False
        raise
    return True


def load(name: str, version: int = 0, digest: str = "") -> admin_service_pb2.LoadModelRequest:
    return admin_service_pb2.LoadModelRequest(
        model=explanation_pb2.ModelSpec(name=name, version=version, digest=digest)
    )


def unload(name: str, version: int = 0, digest: str = "") -> admin_service_pb2.UnloadModelRequest:
    return admin_service_pb2.UnloadModelRequest(
        model=explanation_pb2.ModelSpec(name=name, version=version, digest=digest)
    )


def test_what_an_administrator_unloads_stays_so_though_its_files_change_until_it_is_loaded_again(shop):
    name = shop.new_model()
    with shop.admin() as admin:
        (gone,) = admin.UnloadModel(unload(name), timeout=LONG_SECONDS).versions
        assert (gone.model.version, gone.state) == (1, admin_service_pb2.VERSION_STATE_UNLOADED)
        assert shop.shift(name) is None
        assert shop.health(name) is None
        shop.path(name).write_bytes(shop.files[1])
        # Another model's change, after this one's, is taken.
        shop.new_model()
        assert shop.shift(name) is None
        (listed,) = admin.ListVersions(admin_service_pb2.ListVersionsRequest(name=name), timeout=LONG_SECONDS).versions
        assert listed.state == admin_service_pb2.VERSION_STATE_UNLOADED

        (loaded,) = admin.LoadModel(load(name), timeout=LONG_SECONDS).versions

    assert loaded.state == admin_service_pb2.VERSION_STATE_SERVING
    # It answers once it is served.
    assert shop.shift(name) == 1
    assert shop.listed(name)[1].model.digest == loaded.model.digest


@pytest.mark.parametrize(
    ("ask", "code", "words"),
    [
        (lambda admin, name: admin.LoadModel(load("nobody")), grpc.StatusCode.NOT_FOUND, "No model 'nobody'"),
        (lambda admin, name: admin.LoadModel(load(name, 7)), grpc.StatusCode.NOT_FOUND, "there are: 1"),
        (lambda admin, name: admin.UnloadModel(unload(name, 7)), grpc.StatusCode.NOT_FOUND, "there are: 1"),
        (lambda admin, name: admin.LoadModel(load("")), grpc.StatusCode.INVALID_ARGUMENT, "model.name is empty"),
        (
            lambda admin, name: admin.LoadModel(load(name, 1, "ab" * 32)),
            grpc.StatusCode.FAILED_PRECONDITION,
            "not abab",
        ),
        (
            lambda admin, name: admin.UnloadModel(unload(name, 1, "ab" * 32)),
            grpc.StatusCode.FAILED_PRECONDITION,
            "not abab",
        ),
    ],
)
def test_an_administrator_reads_what_is_wrong_and_nothing_changes(shop, shared_name, ask, code, words):
    with shop.admin() as admin, pytest.raises(grpc.RpcError) as raised:
        ask(admin, shared_name)

    assert raised.value.code() is code
    assert words in raised.value.details()
    assert shop.shift(shared_name) == 0


@pytest.fixture(scope="module")
def shared_name(shared: Shop) -> str:
    return shared.new_model()


def test_the_client_and_the_command_for_administrators_list_load_and_unload(shop):
    name, runner = shop.new_model(), CliRunner()
    address = ["--address", shop.server.admin_address]
    with pellucid.AdminClient(shop.server.admin_address) as admin:
        (listed,) = admin.versions(name)
        digest = shop.listed(name)[1].model.digest
        assert (listed.name, listed.version, listed.state, listed.key.digest) == (name, 1, "serving", digest)
        assert not listed.pending
        assert [each.state for each in admin.unload(name, version=1)] == ["unloaded"]
        assert shop.shift(name) is None
        with pytest.raises(pellucid.errors.UnsupportedError, match="has the digest"):
            admin.load(name, digest="ab" * 32)
        with pytest.raises(pellucid.errors.NotFoundError):
            admin.load("nobody")

    shown = runner.invoke(app, ["admin", "load", name, *address])
    assert (shown.exit_code, shop.shift(name)) == (0, 0), shown.output
    assert digest[:12] in shown.output
    found = runner.invoke(app, ["admin", "list", name, "--json", *address])
    assert [(each["key"]["version"], each["state"]) for each in json.loads(found.output)] == [(1, "serving")]
    gone = runner.invoke(app, ["admin", "unload", name, "--version", "1", *address])
    assert (gone.exit_code, shop.shift(name)) == (0, None)
    missed = runner.invoke(app, ["admin", "unload", "nobody", *address])
    assert missed.exit_code == 2


async def test_the_client_for_asyncio_does_the_same(shop):
    name = shop.new_model()
    async with AsyncAdminClient(shop.server.admin_address) as admin:
        assert [each.state for each in await admin.unload(name)] == ["unloaded"]
        assert [each.state for each in await admin.load(name)] == ["serving"]
        assert [each.version for each in await admin.versions(name)] == [1]


def test_a_load_that_fails_says_why_and_leaves_what_was_served(shop):
    name = shop.new_model()
    shop.path(name).write_bytes(b"no model")
    with shop.admin() as admin, pytest.raises(grpc.RpcError) as raised:
        admin.LoadModel(load(name, 1), timeout=LONG_SECONDS)

    assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "is served as before" in raised.value.details()
    assert "damaged" in raised.value.details()
    assert details(raised.value)["ErrorInfo"].metadata["state"] == "broken"
    assert shop.shift(name) == 0


def test_a_model_that_crashes_the_process_that_loads_it_harms_nothing_else(shop):
    name = shop.new_model()
    before = worker_pids(shop.server)
    shop.points.arm("loading", f"abort {name}")
    with Callers(shop, name).asking() as callers:
        shop.put(name, 2, variant=1)
        shop.until(lambda: shop.loads(name, "failed") == 1, "it was tried out")

    assert not callers.failed
    assert worker_pids(shop.server) == before
    assert "SIGABRT" in shop.listed(name)[2].reason


def test_reloads_under_load_fail_no_call_and_give_the_memory_of_each_version_back(shop):
    name = shop.new_model()
    count, given_back = 10, len(shop.server.lines("given back", f"the model {name} "))
    digests = []
    with Callers(shop, name).asking() as callers, shop.admin() as admin:
        for number in range(count):
            beside = shop.path(name).with_name(".part")
            beside.write_bytes(shop.files[(number + 1) % VARIANTS])
            (shop.repository / name / "model.toml").write_text(
                f"# {number}\n" + (shop.repository / small_models.SCORES / "model.toml").read_text()
            )
            beside.rename(shop.path(name))
            (loaded,) = admin.LoadModel(load(name, 1), timeout=LONG_SECONDS).versions
            digests.append((loaded.model.digest, (number + 1) % VARIANTS))
            callers.until_asked()

    assert not callers.failed
    # Each answer is that of the version that its receipt names.
    variants = dict(digests)
    assert len(variants) == count
    assert set(variants) <= {digest for digest, _ in callers.seen}
    assert all(variant == variants.get(digest, 0) for digest, variant in callers.seen)
    shop.until(
        lambda: len(shop.server.lines("given back", f"the model {name} ")) == given_back + count,
        "the memory of every old version was given back",
    )


def test_two_workers_serve_a_version_together_or_not_at_all(files, tmp_path):
    repository = tmp_path / "repository"
    small_models.write_scores(repository)
    with serve_with_points(repository, tmp_path, {**SETTINGS, "PELLUCID_POOL__DEVICES": "cpu,cpu"}) as (server, points):
        shop = Shop(server, points, repository, files)
        name = shop.new_model()
        with Callers(shop, name).asking() as callers, shop.admin() as admin:
            shop.put(name, 2, variant=1)
            (loaded,) = admin.LoadModel(load(name, 2), timeout=LONG_SECONDS).versions
            asked = [shop.shift(name) for _ in range(20)]

            shop.put_onnx(name, 3, variant=2)
            (by_onnx,) = admin.LoadModel(load(name, 3), timeout=LONG_SECONDS).versions
            asked_by_onnx = [shop.shift(name) for _ in range(20)]
            admin.UnloadModel(unload(name, 3), timeout=LONG_SECONDS)
            shutil.rmtree(shop.path(name, 3).parent)

        assert asked == [1] * 20
        assert asked_by_onnx == [2] * 20
        assert by_onnx.model.digest in {digest for digest, variant in callers.seen if variant == 2}
        assert not callers.failed
        pids = worker_pids(server)
        kill(min(pids))
        shop.until(lambda: worker_pids(server) > pids - {min(pids)}, "a worker is started again")
        shop.path(name, 2).write_bytes(b"no model")
        shop.until(lambda: bool(shop.listed(name)[2].reason), "it is broken")
        assert [shop.shift(name) for _ in range(20)] == [1] * 20
        assert loaded.model.digest == shop.listed(name)[2].model.digest


def test_a_repository_that_is_away_takes_no_model_with_it(files, tmp_path):
    repository = tmp_path / "repository"
    small_models.write_scores(repository)
    with serve_with_points(repository, tmp_path, SETTINGS) as (server, points):
        shop = Shop(server, points, repository, files)
        repository.rename(tmp_path / "away")
        shop.until(lambda: bool(server.lines("WARNING", "what is served stays as it is")), "it was noticed")
        repository.mkdir()
        shop.until(lambda: bool(server.lines("WARNING", "has no models")), "that it is empty was noticed")
        with shop.admin() as admin, pytest.raises(grpc.RpcError) as raised:
            admin.LoadModel(load(small_models.SCORES), timeout=LONG_SECONDS)
        assert shop.shift(small_models.SCORES) == 0
        repository.rmdir()
        (tmp_path / "away").rename(repository)

        shop.new_model()

    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
