"""A server under mutual TLS that knows its callers, as an operator sets it up and as clients ask it."""

import hashlib
import hmac
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import grpc
import pytest
from e2e.serving import serve
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pellucid import Client, errors
from pellucid.aio import AsyncClient
from pellucid.interventions import Mean
from pki import LOCAL, Authority

MODEL = "breast-cancer"
KEY = b"a key of some thirty bytes, say."


def made_token(name):
    """A token and its lines of the access file, as the command makes them."""
    command = [sys.executable, "-m", "pellucid_server", "token", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip(), done.stderr


@pytest.fixture(scope="module")
def secured(table_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("secured")
    authority = Authority(folder / "tls")
    pair = authority.sign("server", "server", LOCAL)
    tokens, policy = {}, '[identities.job]\ncertificates = ["job.example"]\nroles = ["predict"]\n'
    for name in ("analyst", "web"):
        tokens[name], lines = made_token(name)
        policy += lines if name == "analyst" else lines.replace('"predict", "explain"', '"predict"')
    (folder / "access.toml").write_text(policy)
    (folder / "digest.key").write_bytes(KEY + b"\n")
    settings = {
        "PELLUCID_TLS__CERTIFICATE": str(pair.certificate),
        "PELLUCID_TLS__KEY": str(pair.key),
        "PELLUCID_TLS__CLIENT_CA": str(authority.certificate),
        "PELLUCID_ACCESS__FILE": str(folder / "access.toml"),
        "PELLUCID_ACCESS__DIGEST_KEY_FILE": str(folder / "digest.key"),
        "PELLUCID_LOGGING__LEVEL": "debug",
    }
    with serve(table_models, folder, settings) as running:
        ports = json.loads((folder / "ready.json").read_text())
        yield SimpleNamespace(
            address=running.address,
            health=f"127.0.0.1:{ports['health_port']}",
            authority=authority,
            tokens=tokens,
            log=running.log,
        )


@pytest.fixture(scope="module")
def certificates(secured):
    """The names of a client's certificate files, by the client's name."""
    made = {name: secured.authority.sign(name, name, (f"{name}.example",)) for name in ("job", "desk")}
    return {
        name: {
            "root_certificates": secured.authority.certificate,
            "client_certificate": pair.certificate,
            "client_key": pair.key,
        }
        for name, pair in made.items()
    }


@pytest.fixture
def analyst(secured, certificates):
    with Client(secured.address, token=secured.tokens["analyst"], **certificates["desk"]) as client:
        yield client


def test_those_who_may_explain_do_and_others_predict_alone(secured, certificates, analyst, table):
    assert analyst.attribute(MODEL, table[:1], "saliency").label
    with Client(secured.address, token=secured.tokens["web"], **certificates["desk"]) as web:
        web.predict(MODEL, table[:1])
        with pytest.raises(errors.PermissionDeniedError, match="web does not have the role 'explain'") as caught:
            web.attribute(MODEL, table[:1], "saliency")

    assert caught.value.metadata == {"identity": "web", "role": "explain"}
    assert not caught.value.retriable


async def test_a_certificate_proves_who_calls_and_no_certificate_of_none_does(secured, certificates, table):
    async with AsyncClient(secured.address, **certificates["job"]) as job:
        await job.predict(MODEL, table[:1])
    async with AsyncClient(secured.address, **certificates["desk"]) as unknown:
        with pytest.raises(errors.UnauthenticatedError, match=r"name of the client's certificate \('desk.example'\)"):
            await unknown.predict(MODEL, table[:1])
        # Whether it is up is everyone's to know.
        await unknown.wait_until_ready()


def test_without_a_certificate_nothing_but_the_health_port_answers(secured):
    roots = secured.authority.certificate
    with (
        Client(secured.address, root_certificates=roots, token=secured.tokens["web"], wait_for_ready=False) as client,
        pytest.raises(errors.UnavailableError, match="does it ask for TLS or a client's certificate"),
    ):
        client.models()
    with grpc.insecure_channel(secured.health) as channel:
        reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/pellucid.v1.ExplanationService/Predict")(b"", timeout=60)

    assert reply.status == health_pb2.HealthCheckResponse.SERVING
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_digests_of_rows_are_hmacs_and_an_answer_can_still_be_replayed(analyst, server, table):
    def digests(client):
        found = client.predict(MODEL, table[:1], explanations=["saliency"])
        return [each.receipt.input_digest for each in (found, *found.explanations[0].attributions)]

    with Client(server.address) as plain:
        expected = [hmac.new(KEY, digest.encode(), hashlib.sha256).hexdigest() for digest in digests(plain)]
    found = analyst.ablate(MODEL, table[:2], Mean("hidden1[0]", reference="background"))
    again = analyst.replay(found.to_dict(), table[:2])
    other = analyst.replay(found.to_dict(), table[1:3])

    assert digests(analyst) == expected
    assert len(found.findings.record.reference_digest) == 64
    assert not again.warnings
    assert any("inputs" in warning for warning in other.warnings)


def test_the_log_has_names_and_nothing_secret(secured, analyst, table):
    # As the tests before this one need not have run.
    analyst.predict(MODEL, table[:1])
    text = secured.log.read_text()

    assert re.search(r"rpc=Predict .*caller=analyst", text)
    for token in secured.tokens.values():
        assert token not in text
        assert hashlib.sha256(token.encode()).hexdigest() not in text
    assert KEY.decode() not in text
    assert "PRIVATE KEY" not in text


def test_the_command_hashes_a_token_that_was_made_elsewhere():
    command = [sys.executable, "-m", "pellucid_server", "token", "--hash"]
    good, short = (
        subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        for text in ("x" * 40 + "\n", "hunter2\n")
    )

    assert good.stdout == f"sha256:{hashlib.sha256(b'x' * 40).hexdigest()}\n"
    assert (short.returncode, short.stdout) == (2, "")
    assert "32 to 4000 printable characters" in short.stderr
    assert "hunter2" not in short.stderr
