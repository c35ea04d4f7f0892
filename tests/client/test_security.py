"""TLS and tokens as both clients and the command use them, against a server that notes what it is sent."""

import json
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from client.fake_server import FakeServer, predict_message
from pellucid import Client, errors
from pellucid.cli.commands import app
from pellucid.security import is_loopback
from pellucid.v1 import explanation_service_pb2_grpc, model_service_pb2, model_service_pb2_grpc
from pki import LOCAL, Authority
from typer.testing import CliRunner

ROW = {"age": 40, "colour": "red"}
TOKEN = "pellucid_0123456789abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def pair(authority):
    return authority.sign("client", "client", ("client.example",))


@pytest.fixture
def serve(authority):
    """Serve under TLS: `serve(pair, mutual=True)` returns the fake server."""
    servers = []

    def start(pair, *, mutual=False):
        fake = FakeServer(replies={"Predict": predict_message(), "ListModels": model_service_pb2.ListModelsResponse()})
        server = grpc.server(ThreadPoolExecutor(4))
        explanation_service_pb2_grpc.add_ExplanationServiceServicer_to_server(fake, server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(fake, server)
        keys = [(pair.key.read_bytes(), pair.certificate.read_bytes())]
        credentials = grpc.ssl_server_credentials(keys, authority.certificate.read_bytes(), mutual)
        fake.address = f"localhost:{server.add_secure_port('localhost:0', credentials)}"
        server.start()
        servers.append(server)
        return fake

    yield start
    for each in servers:
        each.stop(None).wait()


@pytest.fixture
def secured(serve, authority):
    return serve(authority.sign("server", "server", LOCAL))


def test_a_server_under_tls_is_asked_with_a_token(secured, connect, authority):
    client = connect(secured.address, root_certificates=authority.certificate, token=TOKEN)

    client.predict("table", ROW)

    assert {each["authorization"] for each in secured.metadata} == {f"Bearer {TOKEN}"}


def test_a_server_that_asks_for_a_certificate_is_shown_one(serve, connect, authority, pair):
    server = serve(authority.sign("mutual", "server", LOCAL), mutual=True)
    files = {"client_certificate": str(pair.certificate), "client_key": pair.key.read_bytes()}

    connect(server.address, root_certificates=authority.certificate.read_bytes(), **files).predict("table", ROW)

    without = connect(server.address, root_certificates=authority.certificate, wait_for_ready=False)
    with pytest.raises(errors.UnavailableError, match="does it ask for TLS or a client's certificate"):
        without.predict("table", ROW)


def test_a_certificate_that_has_expired_is_said_to(serve, connect, authority):
    server = serve(authority.sign("expired", "server", LOCAL, days=-0.5))
    client = connect(server.address, root_certificates=authority.certificate, wait_for_ready=False)

    with pytest.raises(errors.UnavailableError, match=r"^The certificate of localhost:\d+ has expired") as caught:
        client.predict("table", ROW)

    assert not caught.value.retriable


@pytest.mark.parametrize("name", ["authority", "another"])
def test_a_certificate_of_another_name_or_authority_is_said_to_be(secured, connect, authority, tmp_path, name):
    named = {"grpc.ssl_target_name_override": "other.example"}
    wrong = connect(secured.address, root_certificates=authority.certificate, options=named, wait_for_ready=False)
    unknown = connect(secured.address, root_certificates=Authority(tmp_path, name).certificate, wait_for_ready=False)

    with pytest.raises(errors.UnavailableError, match="is not for that name"):
        wrong.predict("table", ROW)
    with pytest.raises(errors.UnavailableError, match="comes from no authority that is trusted"):
        unknown.predict("table", ROW)


def test_a_server_without_tls_is_said_to_have_none(server, connect, authority):
    client = connect(server.address, root_certificates=authority.certificate, wait_for_ready=False)

    with pytest.raises(errors.UnavailableError, match="does not speak TLS"):
        client.predict("table", ROW)


def test_a_tokens_file_is_read_for_each_call(server, connect, tmp_path):
    path = tmp_path / "token"
    path.write_text("first\n")
    client = connect(server.address, token=path)
    client.predict("table", ROW)
    path.write_text("second\n")

    client.predict("table", ROW, priority="bulk")
    client.wait_until_ready(60)

    assert [each["authorization"] for each in server.metadata] == ["Bearer first"] * 2 + ["Bearer second"]
    assert server.metadata[-1]["x-pellucid-priority"] == "bulk"

    path.unlink()
    with pytest.raises(errors.InvalidRequestError, match=r"token is the file .*token, which cannot be read: No such"):
        client.predict("table", ROW)


@pytest.mark.parametrize(
    "options",
    [{"token": TOKEN}, {"metadata": {"authorization": f"Bearer {TOKEN}"}}],
    ids=["token", "metadata"],
)
def test_a_token_goes_to_no_other_machine_in_the_clear(connect, options):
    with pytest.raises(errors.InvalidRequestError, match="over a plain connection, where others can read it") as caught:
        connect("models.example:50051", **options)

    assert TOKEN not in str(caught.value)
    connect("models.example:50051", allow_plain_token=True, **options)
    connect("models.example:50051", tls=True, **options)


@pytest.mark.parametrize(
    "address",
    [
        "localhost:1",
        "127.0.0.1:1",
        "127.8.9.1:1",
        "[::1]:1",
        "::1",
        "dns:///localhost:1",
        "ipv4:127.0.0.1:1",
        "unix:/s",
    ],
)
def test_an_address_of_this_machine_is_one(address):
    assert is_loopback(address)


@pytest.mark.parametrize(
    "address",
    [
        "models.example:1",
        "localhost.example:1",
        "10.0.0.1:1",
        "0.0.0.0:1",
        "[2001:db8::1]:1",
        "127.0.0.1.example:1",
        "ipv4:127.0.0.1:1,10.0.0.1:1",
        "dns://10.0.0.1/localhost:1",
        "",
    ],
)
def test_any_other_is_none(address):
    assert not is_loopback(address)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tls": "yes"}, "tls is 'yes'"),
        ({"tls": False, "root_certificates": b"-----BEGIN CERTIFICATE-----"}, "root_certificates is given, but tls is"),
        ({"client_key": b"-----BEGIN PRIVATE KEY-----"}, "client_certificate and client_key go together"),
        ({"root_certificates": "/no/such/file"}, "root_certificates is the file /no/such/file, which cannot be read"),
        ({"root_certificates": b"nonsense"}, "root_certificates is not in PEM format"),
        ({"root_certificates": 7}, "root_certificates is of type int"),
        ({"credentials": grpc.ssl_channel_credentials(), "tls": True}, "credentials is given beside tls"),
        ({"token": "two words"}, "token must be a text of printable characters"),
        ({"token": ""}, "token must be a text"),
        ({"token": b"bytes"}, "token must be a text"),
        ({"token": "one", "metadata": {"authorization": "Bearer two"}}, "token is given beside metadata"),
        ({"token": "one", "allow_plain_token": 1}, "allow_plain_token is 1"),
    ],
)
def test_what_contradicts_itself_is_refused_before_any_call(options, message):
    with pytest.raises(errors.InvalidRequestError, match=message):
        Client("models.example:1", **options)


def test_a_clients_settings_show_no_token(server):
    with Client(server.address, token=TOKEN) as client:
        assert TOKEN not in repr(client._settings)


def run(*arguments, **environment):
    return CliRunner().invoke(app, [str(each) for each in arguments], env={"COLUMNS": "200", **environment})


def test_the_command_takes_tls_and_a_token_from_the_environment(secured, authority, tmp_path):
    file = tmp_path / "token"
    file.write_text("from-file\n")
    roots = {"PELLUCID_ROOT_CERTIFICATES": str(authority.certificate), "PELLUCID_ADDRESS": secured.address}

    results = [
        run("models", "--json", **roots, PELLUCID_TOKEN=TOKEN),
        run("models", "--json", **roots, PELLUCID_TOKEN_FILE=str(file)),
        run("--root-certificates", authority.certificate, "--token-file", file, "models", "--json", **roots),
        run("models", "--json", **roots),
    ]

    assert [json.loads(each.stdout) for each in results] == [[]] * 4
    sent = [each.get("authorization") for each in secured.metadata]
    assert sent == [f"Bearer {TOKEN}", "Bearer from-file", "Bearer from-file", None]


def test_the_command_refuses_to_send_a_token_in_the_clear():
    result = run("models", "--address", "models.example:1", PELLUCID_TOKEN=TOKEN)

    assert result.exit_code == 2
    assert "over a plain connection" in result.stderr
    assert TOKEN not in result.output


def test_the_commands_help_shows_no_token(monkeypatch):
    result = run("--help", PELLUCID_TOKEN=TOKEN)

    assert TOKEN not in result.output
