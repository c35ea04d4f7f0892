"""TLS, the health port and the access file, through a whole server with a worker that computes nothing."""

import asyncio
import contextlib
import ssl
import sys
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pellucid.tensors import to_tensor
from pellucid.v1 import explanation_pb2 as pb
from pellucid.v1 import explanation_service_pb2 as service_pb
from pellucid.v1 import explanation_service_pb2_grpc, input_pb2, model_service_pb2_grpc
from pellucid.v1 import model_service_pb2 as model_pb
from pellucid_server.access.tokens import hash_line, new_token
from pellucid_server.app import App, StartError
from pellucid_server.config import load
from pki import LOCAL, Authority

FAKE = (sys.executable, str(Path(__file__).parent / "pool" / "fake_worker.py"))
TOKEN = new_token()
POLICY = f"""
[identities.web]
tokens = ["{hash_line(TOKEN)}"]
roles = ["predict"]

[identities.other]
certificates = ["other.example"]
models = {{ "hang" = ["predict"] }}
"""


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "tls")


@pytest.fixture
def pair(authority):
    return authority.sign("server", "server", LOCAL)


@pytest.fixture
def tls(authority, pair):
    return {"certificate": str(pair.certificate), "key": str(pair.key), "poll_seconds": 0.02}


@pytest.fixture
def mutual(tls, authority):
    return {**tls, "client_ca": str(authority.certificate)}


@pytest.fixture
def access(tmp_path):
    path = tmp_path / "access.toml"
    path.write_text(POLICY)
    return path


@pytest.fixture
async def start(tmp_path):
    running = []

    async def started(**sections):
        config = load(
            None,
            {
                "server": {"port": 0, "metrics_port": 0, "health_port": 0},
                "models": {"repository": str(tmp_path)},
                "pool": {"restart_initial_seconds": 0.001, "exit_seconds": 0.2},
                **sections,
            },
        )
        running.append(App(config, worker_command=FAKE))
        await running[-1].start()
        return running[-1]

    yield started
    for app in running:
        await app.stop(grace_seconds=0)


def channel(app, authority, pair=None, *, name=None):
    """A connection of its own to a server's TLS port."""
    key, certificate = (None, None) if pair is None else (pair.key.read_bytes(), pair.certificate.read_bytes())
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes(), key, certificate)
    options = [("grpc.use_local_subchannel_pool", 1)]
    if name is not None:
        options.append(("grpc.ssl_target_name_override", name))
    return grpc.aio.secure_channel(f"localhost:{app.port}", credentials, options)


def plain(port):
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}")


def predict(opened, model="echo", **options):
    rows = input_pb2.Input(tensor=to_tensor(np.array([[1.5]], np.float32)))
    request = service_pb.PredictRequest(model=pb.ModelSpec(name=model), inputs={"x": rows})
    return explanation_service_pb2_grpc.ExplanationServiceStub(opened).Predict(request, **options)


async def code(call):
    """The name of the code that a call ends with."""
    with contextlib.suppress(grpc.aio.AioRpcError):
        await call
    return (await call.code()).name


async def checked(opened, service=""):
    reply = await health_pb2_grpc.HealthStub(opened).Check(health_pb2.HealthCheckRequest(service=service))
    return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)


async def page(app):
    url = f"http://127.0.0.1:{app.metrics_port}/metrics"
    return (await asyncio.to_thread(lambda: urllib.request.urlopen(url).read())).decode()


async def expiry(app, use):
    """When a certificate expires, by the metrics; None if they say nothing of it."""
    start = f'pellucid_tls_certificate_expiry_seconds{{use="{use}"}} '
    return next((float(line[len(start) :]) for line in (await page(app)).splitlines() if line.startswith(start)), None)


async def until(condition):
    """Look until it holds: the server looks at its files by itself."""
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.01)


async def shown(app):
    """The certificate that a new connection is shown."""
    return await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", app.port))


async def test_under_tls_a_call_is_answered_and_a_plain_one_is_not(start, tls, authority):
    app = await start(tls=tls)

    async with channel(app, authority) as opened, plain(app.port) as other:
        assert await code(predict(opened)) == "OK"
        assert await code(predict(other)) == "UNAVAILABLE"


async def test_the_health_port_is_plain_under_mutual_tls_and_has_health_alone(start, mutual):
    app = await start(tls=mutual)

    async with plain(app.health_port) as opened:
        assert await checked(opened) == "SERVING"
        assert await code(predict(opened)) == "UNIMPLEMENTED"
        models = model_service_pb2_grpc.ModelServiceStub(opened)
        assert await code(models.ListModels(model_pb.ListModelsRequest())) == "UNIMPLEMENTED"
        watch = health_pb2_grpc.HealthStub(opened).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()


async def test_the_health_port_reads_nothing_large_and_keeps_no_strangers_names(start):
    app = await start()
    names = [*"abc"]
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{app.health_port}") as health,
        grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as main,
    ):
        large = health_pb2.HealthCheckRequest(service="x" * 5000)
        with pytest.raises(grpc.RpcError) as caught:
            await health_pb2_grpc.HealthStub(health).Check(large, timeout=60)
        watches = [
            health_pb2_grpc.HealthStub(main).Watch(health_pb2.HealthCheckRequest(service=name * 5000), timeout=60)
            for name in names
        ]
        states = [(await watch.read()).status for watch in watches]
        kept = sum(map(len, app._health._server_watchers))

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert states == [health_pb2.HealthCheckResponse.SERVICE_UNKNOWN] * 3
    assert kept < 500


async def test_the_health_port_says_not_serving_while_the_server_stops(start, tls, authority):
    app = await start(tls=tls)
    async with channel(app, authority) as opened, plain(app.health_port) as health:
        running = predict(opened, "hang")
        watch = health_pb2_grpc.HealthStub(health).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(app.stop(grace_seconds=30))

        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await checked(health) == "NOT_SERVING"

        app.hurry()
        await stopping
        assert await code(running) == "UNAVAILABLE"


async def test_without_a_health_port_there_is_none(start):
    app = await start(server={"port": 0, "metrics_port": -1, "health_port": -1})

    assert app.health_port is None


async def test_the_metrics_say_when_certificates_expire(start, mutual, tls, authority, pair):
    both, one, none = await start(tls=mutual), await start(tls=tls), await start()

    expiries = [[await expiry(app, use) for use in ("server", "client_ca")] for app in (both, one, none)]

    server, client_ca = int(pair.expires), int(authority.expires)
    assert expiries == [[server, client_ca], [server, None], [None, None]]


async def test_clients_without_a_certificate_of_the_authority_are_refused(start, mutual, authority, tmp_path):
    app = await start(tls=mutual)
    stranger = Authority(tmp_path / "stranger")
    cases = {
        "its own": authority.sign("client", "client", ("client.example",)),
        "none": None,
        "another authority's": stranger.sign("client", "client", ("client.example",)),
        "expired": authority.sign("expired", "client", ("client.example",), days=-0.5),
    }
    found = {}
    for name, pair in cases.items():
        async with channel(app, authority, pair) as opened:
            found[name] = await code(predict(opened))

    assert found == {
        "its own": "OK",
        "none": "UNAVAILABLE",
        "another authority's": "UNAVAILABLE",
        "expired": "UNAVAILABLE",
    }


async def test_a_client_refuses_a_server_of_another_name_or_authority(start, tls, authority, tmp_path):
    app = await start(tls=tls)

    async with channel(app, authority, name="other.example") as wrong, channel(app, Authority(tmp_path / "x")) as other:
        assert await code(predict(wrong)) == "UNAVAILABLE"
        assert await code(predict(other)) == "UNAVAILABLE"


async def test_a_renewed_certificate_is_shown_to_new_connections_while_old_ones_go_on(start, tls, authority, pair):
    app = await start(tls=tls)
    old = ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())
    async with channel(app, authority) as opened:
        assert await code(predict(opened)) == "OK"
        running = predict(opened, "hang")
        assert ssl.PEM_cert_to_DER_cert(await shown(app)) == old

        renewed = authority.sign("server", "server", LOCAL, days=1.5)
        new = ssl.PEM_cert_to_DER_cert(renewed.certificate.read_text())

        async def taken():
            return ssl.PEM_cert_to_DER_cert(await shown(app)) == new

        await until(taken)
        assert await code(predict(opened)) == "OK"
        assert not running.done()
        async with channel(app, authority) as another:
            assert await code(predict(another)) == "OK"
        assert opened.get_state() is grpc.ChannelConnectivity.READY
        running.cancel()
    assert await expiry(app, "server") == int(renewed.expires)


async def test_renewed_authorities_hold_for_new_connections(start, mutual, authority, tmp_path):
    app = await start(tls=mutual)
    client = authority.sign("client", "client", ("client.example",))
    async with channel(app, authority, client) as opened:
        assert await code(predict(opened)) == "OK"
        authority.certificate.write_bytes(Authority(tmp_path / "new").certificate.read_bytes())
        server_authority = Authority(tmp_path / "kept")
        server_authority.certificate.write_bytes((tmp_path / "tls" / "server.crt").read_bytes())

        async def refused():
            async with channel(app, server_authority, client) as another:
                return await code(predict(another)) == "UNAVAILABLE"

        await until(refused)
        assert await code(predict(opened)) == "OK"


async def test_a_broken_renewal_leaves_the_old_one_serving_and_shows_in_the_metrics(
    start, tls, authority, pair, caplog
):
    app = await start(tls=tls)
    assert 'pellucid_files_stale{files="tls"} 0.0' in await page(app)
    whole = pair.certificate.read_bytes()
    pair.certificate.write_bytes(whole[: len(whole) // 2])

    async def stale():
        return 'pellucid_files_stale{files="tls"} 1.0' in await page(app)

    await until(stale)

    async with channel(app, authority) as opened:
        assert await code(predict(opened)) == "OK"
    assert "is it still being written?" in caplog.text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda pair: pair.key.unlink(), r"server\.key cannot be read: No such file"),
        (lambda pair: pair.key.write_text("nonsense"), r"the key in .*server\.key cannot be read"),
        (lambda pair: pair.certificate.write_text(""), r"server\.crt must hold certificates in PEM"),
    ],
)
async def test_a_server_does_not_start_with_files_that_it_cannot_use(start, tls, pair, spoil, message):
    spoil(pair)

    with pytest.raises(StartError, match=message):
        await start(tls=tls)


async def test_a_server_does_not_start_with_an_access_file_that_it_cannot_use(start, access):
    access.write_text("[identities.web]\nroles = ['write']")

    with pytest.raises(StartError, match=r"access\.toml: .*identities\.web\.roles\.0"):
        await start(access={"file": str(access)})


async def test_a_certificates_name_and_a_token_prove_who_calls(start, mutual, authority, access):
    app = await start(tls=mutual, access={"file": str(access)})
    other = authority.sign("other", "web", ("other.example",))
    unknown = authority.sign("unknown", "other.example", ("unknown.example",))
    bearer = {"metadata": [("authorization", f"Bearer {TOKEN}")]}

    async with channel(app, authority, other) as opened, channel(app, authority, unknown) as stranger:
        names = [
            [each.model.name for each in (await ask(model_pb.ListModelsRequest(), **options)).models]
            for ask, options in (
                (model_service_pb2_grpc.ModelServiceStub(opened).ListModels, each) for each in ({}, bearer)
            )
        ]
        assert names == [["hang"], ["echo", "hang"]]
        assert await code(predict(opened)) == "NOT_FOUND"
        assert await code(predict(opened, **bearer)) == "OK"
        assert await code(predict(stranger)) == "UNAUTHENTICATED"
        assert await code(predict(stranger, **bearer)) == "OK"


async def test_health_names_models_to_those_who_may_know_of_them(start, mutual, authority, access):
    app = await start(tls=mutual, access={"file": str(access)})
    other = authority.sign("other", "web", ("other.example",))
    services = ["", "pellucid.v1.ExplanationService", "pellucid.v1.JobService", "pellucid.v1.ModelService"]

    async def listed(opened, **options):
        reply = await health_pb2_grpc.HealthStub(opened).List(health_pb2.HealthListRequest(), **options)
        return sorted(reply.statuses)

    async with channel(app, authority, other) as opened, plain(app.health_port) as everyone:
        assert await listed(everyone) == services
        assert await listed(opened) == [*services[:1], "hang", *services[1:]]
        assert await listed(opened, metadata=[("authorization", "Bearer wrong")]) == services
        assert await checked(opened, "hang") == "SERVING"
        ask = health_pb2_grpc.HealthStub(opened).Check
        unknown = health_pb2_grpc.HealthStub(everyone).Check
        hidden = [ask(health_pb2.HealthCheckRequest(service=name)) for name in ("echo", "none")]
        hidden += [unknown(health_pb2.HealthCheckRequest(service=name)) for name in ("hang", "none")]
        assert [await code(call) for call in hidden] == ["NOT_FOUND"] * 4
        watch = health_pb2_grpc.HealthStub(everyone).Watch(health_pb2.HealthCheckRequest(service="hang"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()


async def test_an_access_file_that_changes_is_in_force_soon_and_a_broken_one_is_not(start, access, caplog):
    app = await start(access={"file": str(access), "poll_seconds": 0.02})
    bearer = {"metadata": [("authorization", f"Bearer {TOKEN}")]}
    async with plain(app.port) as opened:
        access.write_text(POLICY[: len(POLICY) // 2])

        async def stale():
            return 'pellucid_files_stale{files="access"} 1.0' in await page(app)

        await until(stale)
        assert await code(predict(opened, **bearer)) == "OK"
        assert "what was read before stays in force" in caplog.text
        assert f"{access}: it is not TOML" in caplog.text

        access.write_text(POLICY.replace(hash_line(TOKEN), hash_line(new_token())))

        async def withdrawn():
            return await code(predict(opened, **bearer)) == "UNAUTHENTICATED"

        await until(withdrawn)
        assert 'pellucid_files_stale{files="access"} 0.0' in await page(app)


async def test_quotas_are_counted_by_identity(start, access):
    access.write_text(POLICY.replace('roles = ["predict"]\n', 'roles = ["predict"]\nrequests_per_second = 0.001\n', 1))
    app = await start(access={"file": str(access)})
    bearer = {"metadata": [("authorization", f"Bearer {TOKEN}")]}

    async with plain(app.port) as opened:
        codes = [await code(predict(opened, **bearer)) for _ in range(3)]

    assert codes == ["OK", "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"]
    assert 'pellucid_quota_refusals_total{identity="web",quota="requests_per_second"} 2.0' in await page(app)


async def test_tokens_over_a_plain_port_for_other_machines_are_warned_of(start, access, caplog):
    server = {"host": "0.0.0.0", "port": 0, "metrics_port": -1, "health_port": -1}

    await start(server=server, access={"file": str(access)})

    assert "tokens come over the network unencrypted" in caplog.text


@pytest.mark.parametrize(
    ("host", "with_file", "warns"), [("0.0.0.0", False, True), ("0.0.0.0", True, False), ("127.0.0.1", False, False)]
)
async def test_a_server_that_answers_everyone_on_the_network_says_so(start, access, caplog, host, with_file, warns):
    server = {"host": host, "port": 0, "metrics_port": 0, "health_port": 0}

    await start(server=server, access={"file": str(access)} if with_file else {})

    assert ("access.file is not set" in caplog.text) is warns
