import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pellucid.channels import channel_options as client_options
from pellucid.tensors import from_tensor, to_tensor
from pellucid.v1 import explanation_pb2 as pb
from pellucid.v1 import explanation_service_pb2 as service_pb
from pellucid.v1 import explanation_service_pb2_grpc, input_pb2
from pellucid_server.app import App, StartError, channel_options
from pellucid_server.config import load
from pellucid_server.pool.workers.process import WorkerStartError
from pellucid_server.settings.sections import ServerConfig

FAKE = (sys.executable, str(Path(__file__).parent / "pool" / "fake_worker.py"))
SERVICES = ["", "pellucid.v1.ExplanationService", "pellucid.v1.JobService", "pellucid.v1.ModelService"]
STATES = health_pb2.HealthCheckResponse

SERVE = """
import json, sys
from pellucid_server.__main__ import main
sys.exit(main(sys.argv[2:], worker_command=json.loads(sys.argv[1])))
"""


@pytest.fixture
def make_app(tmp_path):
    def make(start="plain", **server):
        (tmp_path / start).mkdir(exist_ok=True)
        config = load(
            None,
            {
                "server": {"port": 0, "metrics_port": -1, "health_port": -1, **server},
                "models": {"repository": str(tmp_path / start)},
                "pool": {"restart_initial_seconds": 0.001, "exit_seconds": 0.2},
            },
        )
        return App(config, worker_command=FAKE)

    return make


@pytest.fixture
async def app(make_app):
    made = make_app(metrics_port=0)
    await made.start()
    yield made
    await made.stop(grace_seconds=0)


@pytest.fixture
async def channel(app):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as opened:
        yield opened


def request(model):
    rows = input_pb2.Input(tensor=to_tensor(np.array([[1.5]], np.float32)))
    return service_pb.PredictRequest(model=pb.ModelSpec(name=model), inputs={"x": rows})


def predict(channel, model, **options):
    return explanation_service_pb2_grpc.ExplanationServiceStub(channel).Predict(request(model), **options)


async def check(channel, service=""):
    reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
    return STATES.ServingStatus.Name(reply.status)


async def test_a_request_goes_to_a_worker_and_back(channel):
    reply = await predict(channel, "echo", timeout=20)

    np.testing.assert_array_equal(from_tensor(reply.outputs["y"].values), [[3.0]])


@pytest.mark.parametrize("service", SERVICES)
async def test_every_service_is_healthy_once_the_workers_are_ready(channel, service):
    assert await check(channel, service) == "SERVING"


async def test_until_the_workers_are_ready_health_says_so(make_app):
    app = make_app("mute")
    starting = asyncio.create_task(app.start())
    while not app.port:
        await asyncio.sleep(0)

    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        states = [await check(channel, service) for service in SERVICES]
        refused = (await asyncio.gather(predict(channel, "echo"), return_exceptions=True))[0]

    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await app.stop(grace_seconds=0)
    assert states == ["NOT_SERVING"] * len(SERVICES)
    assert refused.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_front_is_alive_before_a_worker_is_ready(make_app):
    app = make_app("mute", health_port=0)
    starting = asyncio.create_task(app.start())
    while not app.health_port:
        await asyncio.sleep(0)

    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.health_port}") as channel:
        states = [await check(channel, "pellucid.liveness"), await check(channel)]
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await app.stop(grace_seconds=0)
    assert states == ["SERVING", "NOT_SERVING"]


async def test_a_watcher_sees_a_worker_die_and_come_back(channel):
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=20)
    seen = [(await watch.read()).status]

    (died,) = await asyncio.gather(predict(channel, "die"), return_exceptions=True)

    seen += [(await watch.read()).status, (await watch.read()).status]
    watch.cancel()
    assert died.code() is grpc.StatusCode.UNAVAILABLE
    assert seen == [STATES.SERVING, STATES.NOT_SERVING, STATES.SERVING]


async def test_the_metrics_page_shows_requests_and_restarts(app, channel):
    await predict(channel, "echo", timeout=20)

    url = f"http://127.0.0.1:{app.metrics_port}/metrics"
    page = (await asyncio.to_thread(lambda: urllib.request.urlopen(url).read())).decode()

    labels = 'code="OK",method="",model="echo",rpc="Predict",version="1"'
    assert f"pellucid_request_seconds_count{{{labels}}} 1.0" in page
    assert 'pellucid_worker_restarts_total{device="cpu"} 0.0' in page
    assert "pellucid_requests_pending 0.0" in page
    assert "pellucid_requests_in_flight 0.0" in page


async def reflected(channel):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    return {service.name for service in (await call.read()).list_services_response.service}


async def test_callers_can_ask_for_the_schema(channel):
    assert await reflected(channel) >= {*SERVICES[1:], "grpc.health.v1.Health"}


async def test_reflection_can_be_switched_off(make_app):
    app = make_app(reflection=False)
    await app.start()

    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reflected(channel)

    await app.stop(grace_seconds=0)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("name", ["port", "metrics_port", "health_port"])
async def test_a_port_that_is_taken_is_named_with_its_setting(make_app, name):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        app = make_app(**{name: port})

        with pytest.raises(StartError, match=rf"127\.0\.0\.1:{port}.* server\.{name} "):
            await app.start()

    await app.stop(grace_seconds=0)


async def test_a_worker_that_refuses_stops_the_start(make_app):
    app = make_app("refuse")

    with pytest.raises(WorkerStartError, match="there is no model"):
        await app.start()

    await app.stop(grace_seconds=0)


async def test_a_running_request_ends_within_the_grace(make_app, tmp_path):
    app = make_app(health_port=0)
    await app.start()
    os.mkfifo(tmp_path / "gate")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        running = predict(channel, f"read/{tmp_path}/gate", timeout=60)
        # Opening to write waits until the worker has opened to read: the request then runs.
        gate = await asyncio.to_thread(open, tmp_path / "gate", "wb")
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        states = [(await watch.read()).status]

        stopping = asyncio.create_task(app.stop(grace_seconds=600))

        states.append((await watch.read()).status)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.health_port}") as plain:
            probed = [await check(plain), await check(plain, "pellucid.liveness")]
        gate.close()
        reply = await running
        # Open health watches do not hold the stop up.
        await asyncio.wait_for(stopping, 60)
    np.testing.assert_array_equal(from_tensor(reply.outputs["y"].values), 1.0)
    assert states == [STATES.SERVING, STATES.NOT_SERVING]
    assert probed == ["NOT_SERVING", "SERVING"]


async def test_requests_on_their_way_at_a_stop_are_answered_or_refused_and_not_cancelled(make_app):
    app = make_app()
    await app.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        await predict(channel, "echo", timeout=60)
        calls = [predict(channel, "echo", timeout=60) for _ in range(50)]

        await app.stop(grace_seconds=60)

        codes = {await call.code() for call in calls}
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}


RETRY_ONCE = {
    "maxAttempts": 2,
    "initialBackoff": "0.001s",
    "maxBackoff": "0.001s",
    "backoffMultiplier": 1,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


async def test_whom_a_stopping_server_refuses_another_answers_at_the_next_try(make_app):
    stopped, other = make_app(), make_app()
    await stopped.start()
    await other.start()
    both = f"ipv4:127.0.0.1:{stopped.port},127.0.0.1:{other.port}"
    policy = json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": RETRY_ONCE}]})
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{stopped.port}") as one,
        grpc.aio.insecure_channel(both, options=[("grpc.service_config", policy)]) as retrying,
    ):
        await predict(retrying, "echo", timeout=60)
        watch = health_pb2_grpc.HealthStub(one).Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        stopping = asyncio.create_task(stopped.stop(grace_seconds=60))
        await watch.read()

        calls = [predict(one, "echo", timeout=60), *(predict(retrying, "echo", timeout=60) for _ in range(20))]
        codes = [await call.code() for call in calls]

        await stopping
    await other.stop(grace_seconds=0)
    assert codes == [grpc.StatusCode.UNAVAILABLE] + 20 * [grpc.StatusCode.OK]


async def test_a_request_that_outlasts_the_grace_is_given_up(make_app, tmp_path):
    app = make_app()
    await app.start()
    os.mkfifo(tmp_path / "gate")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        running = predict(channel, f"read/{tmp_path}/gate", timeout=60)
        gate = await asyncio.to_thread(open, tmp_path / "gate", "wb")

        await asyncio.wait_for(app.stop(grace_seconds=0.01), 60)

        (outcome,) = await asyncio.gather(running, return_exceptions=True)
    gate.close()
    assert outcome.code() is grpc.StatusCode.UNAVAILABLE
    assert "shutting down" in outcome.details()
    assert dict(outcome.trailing_metadata())["grpc-retry-pushback-ms"] == "50"


async def test_a_hurried_stop_waits_no_longer(make_app, tmp_path):
    app = make_app()
    await app.start()
    os.mkfifo(tmp_path / "gate")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
        running = predict(channel, f"read/{tmp_path}/gate", timeout=60)
        gate = await asyncio.to_thread(open, tmp_path / "gate", "wb")
        stopping = asyncio.create_task(app.stop(grace_seconds=600))

        app.hurry()

        (outcome,) = await asyncio.gather(running, return_exceptions=True)
        await asyncio.wait_for(stopping, 60)
    gate.close()
    assert outcome.code() is grpc.StatusCode.UNAVAILABLE


async def test_an_aged_connection_is_replaced_without_a_failed_call(make_app):
    app = make_app(connection_age_seconds=0.05)
    await app.start()
    options = [("grpc.initial_reconnect_backoff_ms", 10)]

    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}", options=options) as channel:
        await predict(channel, "echo", timeout=20)
        while channel.get_state() is grpc.ChannelConnectivity.READY:
            await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
        reply = await predict(channel, "echo", timeout=20, wait_for_ready=True)

    await app.stop(grace_seconds=0)
    np.testing.assert_array_equal(from_tensor(reply.outputs["y"].values), [[3.0]])


def test_connections_of_any_age_are_kept_where_the_setting_says_so():
    never, sometimes = (dict(channel_options(ServerConfig(connection_age_seconds=age))) for age in (0, 1.5))

    assert "grpc.max_connection_age_ms" not in never
    assert sometimes["grpc.max_connection_age_ms"] == 1500
    assert sometimes["grpc.max_connection_age_grace_ms"] == 150_000


@pytest.mark.parametrize(("seconds", "milliseconds"), [(1e-9, 1), (1e12, (1 << 31) - 2)])
def test_an_age_is_one_that_grpc_can_hold(seconds, milliseconds):
    assert dict(channel_options(ServerConfig(connection_age_seconds=seconds)))["grpc.max_connection_age_ms"] == (
        milliseconds
    )


def test_the_shipped_clients_pings_are_welcome():
    ours, theirs = dict(channel_options(ServerConfig())), dict(client_options("localhost:1", {}))

    assert ours["grpc.http2.min_ping_interval_without_data_ms"] < theirs["grpc.keepalive_time_ms"]


async def test_the_metrics_page_has_every_class_and_cause(app):
    url = f"http://127.0.0.1:{app.metrics_port}/metrics"
    page = (await asyncio.to_thread(lambda: urllib.request.urlopen(url).read())).decode()

    assert 'pellucid_queue_rows{class="interactive"} 0.0' in page
    assert 'pellucid_requests_refused_total{cause="seconds",class="bulk"} 0.0' in page
    assert 'pellucid_worker_losses_total{cause="hang",device="cpu"} 0.0' in page


@pytest.fixture
def launch(tmp_path):
    launched = []

    def start(name="plain"):
        (tmp_path / name).mkdir(exist_ok=True)
        options = ["--models", str(tmp_path / name), "--port", "0", "--metrics-port", "0", "--health-port", "-1"]
        ready = tmp_path / "ready.json"
        command = [sys.executable, "-c", SERVE, json.dumps(FAKE), *options, "--ready-file", str(ready)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        launched.append(process)
        return process, ready

    yield start
    [process.kill() for process in launched]
    [process.communicate() for process in launched]


def first_line_with(stream, text):
    return next(line for line in stream if text in line)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_a_signal_and_ends_cleanly(launch, number):
    process, ready = launch()
    line = first_line_with(process.stderr, "serving on")
    # The file is written right after the line.
    while not ready.exists():
        os.sched_yield()
    facts = json.loads(ready.read_text())
    with socket.create_connection(("127.0.0.1", facts["port"])):
        pass

    process.send_signal(number)

    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 0, rest
    assert f"serving on 127.0.0.1:{facts['port']}, metrics on http://127.0.0.1:{facts['metrics_port']}/metrics" in line
    assert facts["pid"] == process.pid
    assert "Traceback" not in rest


def test_a_second_signal_ends_the_grace(launch, tmp_path, monkeypatch):
    monkeypatch.setenv("PELLUCID_POOL__EXIT_SECONDS", "0.1")
    process, ready = launch()
    first_line_with(process.stderr, "serving on")
    while not ready.exists():
        os.sched_yield()
    os.mkfifo(tmp_path / "gate")
    with grpc.insecure_channel(f"127.0.0.1:{json.loads(ready.read_text())['port']}") as channel:
        stub = explanation_service_pb2_grpc.ExplanationServiceStub(channel)
        running = stub.Predict.future(request(f"read/{tmp_path}/gate"))
        gate = (tmp_path / "gate").open("wb")

        process.send_signal(signal.SIGTERM)
        first_line_with(process.stderr, "stopping")
        process.send_signal(signal.SIGINT)

        rest = process.communicate(timeout=60)[1]
        gate.close()
    assert process.returncode == 128 + signal.SIGINT
    assert running.code() is grpc.StatusCode.UNAVAILABLE
    assert "Traceback" not in rest


def test_fault_points_are_announced(launch, tmp_path, monkeypatch):
    monkeypatch.setenv("PELLUCID_FAULTS__FOLDER", str(tmp_path))

    process, _ = launch()

    line = first_line_with(process.stderr, "for tests alone")
    assert f"WARNING pellucid_server.app whoever can write to {tmp_path}" in line


def test_a_signal_during_the_start_ends_cleanly(launch):
    process, ready = launch("mute")
    first_line_with(process.stderr, "starting")

    process.send_signal(signal.SIGTERM)

    rest = process.communicate(timeout=60)[1]
    assert (process.returncode, ready.exists()) == (0, False)
    assert "Traceback" not in rest


def test_a_refusal_is_the_commands_message_and_status(launch):
    process, _ = launch("refuse")

    text = process.communicate(timeout=60)[1]

    assert process.returncode == 1
    assert "pellucid-server: model 'm': there is no model.toml" in text
    assert "Traceback" not in text


def test_wrong_settings_are_the_commands_message_and_status(tmp_path):
    command = [sys.executable, "-m", "pellucid_server", "--devices", "gpu"]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert done.stderr.startswith('pellucid-server: pool.devices.0 is \'gpu\': a device is "cpu", or "cuda:"')
    assert done.stderr.count("\n") == 1
