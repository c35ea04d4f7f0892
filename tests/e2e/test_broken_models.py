"""Twenty models of which three are broken, on the real server: seventeen answer, and of the three one learns why."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from e2e import small_models
from e2e.fault_points import Points, counters, serve_with_points
from e2e.messages import attribute, details, failure, predict, spec, table_rows
from e2e.serving import LONG_SECONDS, Server, wait_until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto, helper
from pellucid import Client
from pellucid.errors import UnsupportedError
from pellucid.v1 import explanation_pb2, model_service_pb2
from pellucid_server.faults import LOADING

GOOD = tuple(f"good-{number:02}" for number in range(17))
DAMAGED, HANGING, SWELLING = "damaged", "hanging", "swelling"
BROKEN = (DAMAGED, HANGING, SWELLING)
REASONS = {DAMAGED: "1/model.pt2 is no .pt2 file", HANGING: "loading it hangs", SWELLING: "takes more memory"}
ROW: dict[str, float | str] = {"width": 12.0, "height": 1.0, "colour": "green"}


def write_repository(repository: Path) -> None:
    written = small_models.write_scores(repository, GOOD[0])
    for name in (*GOOD[1:], DAMAGED, HANGING):
        shutil.copytree(written, repository / name)
    os.truncate(repository / DAMAGED / "1" / "model.pt2", 5000)
    write_swelling(repository / SWELLING)


def write_swelling(folder: Path) -> None:
    """Write a model of some hundred bytes whose rows are of 1 GiB."""
    (folder / "1").mkdir(parents=True)
    (folder / "model.toml").write_text("")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 1 << 28]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "1" / "model.onnx")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Points]]:
    repository, folder = tmp_path_factory.mktemp("repository"), tmp_path_factory.mktemp("server")
    write_repository(repository)
    with serve_with_points(repository, folder, armed={LOADING: f"hold {HANGING}"}) as found:
        yield found


@pytest.fixture(scope="module")
def server(running: tuple[Server, Points]) -> Server:
    return running[0]


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as opened:
        yield opened


def test_seventeen_are_served_and_three_are_listed_with_their_reasons(client: Client) -> None:
    listed = {each.name: each for each in client.models()}

    assert sorted(listed) == sorted((*GOOD, *BROKEN))
    assert [name for name in listed if listed[name].state == "serving"] == list(GOOD)
    assert [REASONS[name] in listed[name].reason for name in BROKEN] == [True] * 3


def test_every_good_model_answers_right(client: Client) -> None:
    wanted = small_models.linear_scores(12.0, 1.0, "green")

    answers = [client.predict(name, ROW).outputs["output"][0] for name in GOOD]

    np.testing.assert_allclose(answers, [wanted] * len(GOOD), rtol=1e-6)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_says_why_to_whoever_asks_about_it_or_for_it(server: Server, client: Client, name: str) -> None:
    described = client.model(name)
    inputs = {"features": table_rows([ROW])}
    errors = [
        failure(lambda: server.explanations.Predict(predict(name, inputs))),
        failure(lambda: server.explanations.Attribute(attribute(name, inputs, spec("occlusion")))),
    ]
    with pytest.raises(UnsupportedError) as caught:
        client.predict(name, ROW)

    assert (described.state, described.version) == ("broken", 1)
    assert REASONS[name] in described.reason
    for error in errors:
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert error.details() == caught.value.message
        assert details(error)["ErrorInfo"].metadata == {"subject": f"models/{name}/1", "state": "broken"}
        (violation,) = details(error)["PreconditionFailure"].violations
        assert {violation.subject: violation.description} == caught.value.violations
    assert caught.value.metadata == {"subject": f"models/{name}/1", "state": "broken"}
    assert described.reason in caught.value.message
    assert str(server.log.parent.parent) not in caught.value.message


def test_get_model_of_a_broken_one_is_answered(server: Server) -> None:
    request = model_service_pb2.GetModelRequest(model=explanation_pb2.ModelSpec(name=DAMAGED, version=1))

    reply = server.models.GetModel(request)

    assert (reply.state, reply.model.name, reply.model.version) == (model_service_pb2.MODEL_STATE_BROKEN, DAMAGED, 1)


def test_health_is_known_by_model_and_listed(server: Server) -> None:
    stub = health_pb2_grpc.HealthStub(server.channel)
    states = health_pb2.HealthCheckResponse

    listed = stub.List(health_pb2.HealthListRequest()).statuses

    assert {name for name, each in listed.items() if each.status == states.NOT_SERVING} == set(BROKEN)
    assert {name for name, each in listed.items() if each.status == states.SERVING} >= {"", *GOOD}
    assert stub.Check(health_pb2.HealthCheckRequest(service=GOOD[0])).status == states.SERVING
    assert stub.Check(health_pb2.HealthCheckRequest(service=DAMAGED)).status == states.NOT_SERVING
    unknown = failure(lambda: stub.Check(health_pb2.HealthCheckRequest(service="nobody")))
    assert unknown.code() is grpc.StatusCode.NOT_FOUND


def test_metrics_and_the_log_name_the_broken_ones(server: Server) -> None:
    found = counters(server)

    assert (found.total("pellucid_models", state="serving"), found.total("pellucid_models", state="broken")) == (17, 3)
    assert [found.total("pellucid_model_broken", model=name, version="1") for name in BROKEN] == [1] * 3
    assert [len(server.lines("ERROR", f"the model {name} version 1 is broken: ")) for name in BROKEN] == [1] * 3


def test_the_command_marks_the_broken_ones_and_says_why(server: Server) -> None:
    command = [str(Path(sys.executable).parent / "pellucid")]
    where = ["--address", server.address]
    wide = {**os.environ, "COLUMNS": "400"}

    listed = subprocess.run([*command, "models", *where], capture_output=True, text=True, check=True, env=wide)
    asked = subprocess.run(
        [*command, "predict", DAMAGED, "--row", "width=1", *where], capture_output=True, text=True, check=False
    )

    lines = {line.split()[0]: line for line in listed.stdout.splitlines() if line.strip()}
    assert ["broken" in lines[name] and REASONS[name] in lines[name] for name in BROKEN] == [True] * 3
    assert asked.returncode == 2
    assert REASONS[DAMAGED] in asked.stderr


def test_a_restarted_worker_serves_the_same_and_tries_nothing_out_again(
    running: tuple[Server, Points], client: Client
) -> None:
    server, points = running
    before, told = client.models(), len(server.lines("is ready after"))
    points.arm(LOADING, "crash")

    os.kill(server.worker_pid(), 9)
    wait_until(
        lambda: len(server.lines("is ready after")) > told, seconds=LONG_SECONDS, what="the worker is ready again"
    )

    assert client.models() == before
    assert points.reached_by(LOADING) == set()


def test_a_server_that_is_to_stop_at_a_broken_model_names_it_and_does_not_start(tmp_path: Path) -> None:
    written = small_models.write_scores(tmp_path / "models")
    shutil.copytree(written, written.parent / DAMAGED)
    os.truncate(written.parent / DAMAGED / "1" / "model.pt2", 5000)
    command = [sys.executable, "-m", "pellucid_server", "--models", str(written.parent), "--port", "0"]
    environment = {**os.environ, "PELLUCID_MODELS__ON_ERROR": "stop"}

    done = subprocess.run(
        [*command, "--metrics-port", "-1", "--health-port", "-1"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "1 of 2 models cannot be served, and models.on_error is 'stop':" in done.stderr
    assert str(written.parent / DAMAGED / "1" / "model.pt2") in done.stderr
