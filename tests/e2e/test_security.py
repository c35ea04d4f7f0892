"""A server under mutual TLS that knows its callers, as an operator sets it up and as clients ask it."""

import hashlib
import hmac
import json
import re
import secrets
import subprocess
import sys
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from e2e import otlp
from e2e.fault_points import counters
from e2e.serving import LONG_SECONDS, serve
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pellucid import AdminClient, Client, errors
from pellucid.admin import AsyncAdminClient
from pellucid.aio import AsyncClient
from pellucid.interventions import Mean
from pellucid_server import open_inference_pb2 as pb
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
    for name, roles in (("analyst", '"predict", "explain"'), ("web", '"predict"'), ("operator", '"admin"')):
        tokens[name], lines = made_token(name)
        policy += lines.replace('"predict", "explain"', roles)
    (folder / "access.toml").write_text(policy)
    (folder / "digest.key").write_bytes(KEY + b"\n")
    settings = {
        "PELLUCID_TLS__CERTIFICATE": str(pair.certificate),
        "PELLUCID_TLS__KEY": str(pair.key),
        "PELLUCID_TLS__CLIENT_CA": str(authority.certificate),
        "PELLUCID_ACCESS__FILE": str(folder / "access.toml"),
        "PELLUCID_ACCESS__DIGEST_KEY_FILE": str(folder / "digest.key"),
        "PELLUCID_LOGGING__LEVEL": "debug",
        "PELLUCID_ADMIN__PORT": "0",
        "PELLUCID_MODELS__POLL_SECONDS": "0.2",
        "PELLUCID_TRACING__SAMPLE_RATIO": "0",
    }
    with (
        otlp.collecting() as collector,
        serve(
            table_models, folder, settings | otlp.QUICK | {"PELLUCID_TRACING__ENDPOINT": collector.address}
        ) as running,
    ):
        ports = json.loads((folder / "ready.json").read_text())
        yield SimpleNamespace(
            address=running.address,
            health=f"127.0.0.1:{ports['health_port']}",
            authority=authority,
            tokens=tokens,
            log=running.log,
            admin=running.admin_address,
            collector=collector,
            server=running,
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


def test_the_admin_port_wants_the_same_proofs_and_the_role_admin(secured, certificates, table):
    desk = certificates["desk"]
    with AdminClient(secured.admin, token=secured.tokens["operator"], **desk) as operator:
        (version,) = operator.versions(MODEL)
        assert operator.load(MODEL) == (version,)
    assert (version.name, version.state) == (MODEL, "serving")
    with (
        AdminClient(secured.admin, token=secured.tokens["web"], **desk) as web,
        pytest.raises(errors.PermissionDeniedError, match="web does not have the role 'admin', which LoadModel needs"),
    ):
        web.load(MODEL)
    with AdminClient(secured.admin, **desk) as unknown, pytest.raises(errors.UnauthenticatedError):
        unknown.versions()
    with AdminClient(secured.admin, wait_for_ready=False) as plain, pytest.raises(errors.UnavailableError):
        plain.versions()
    # To change what is served is not to ask it.
    with (
        Client(secured.address, token=secured.tokens["operator"], **desk) as client,
        pytest.raises(errors.NotFoundError, match="served: none"),
    ):
        client.predict(MODEL, table[:1])

    counts = counters(secured.server)
    for rpc, code in (("ListVersions", "OK"), ("LoadModel", "PERMISSION_DENIED"), ("ListVersions", "UNAUTHENTICATED")):
        assert counts.total("pellucid_request_seconds_count", rpc=rpc, code=code) >= 1
    call = "pellucid.v1.AdminService/LoadModel"
    assert counts.total("grpc_server_call_started_total", grpc_method=call) >= 2


async def test_the_admin_client_for_asyncio_proves_itself_too(secured, certificates):
    async with AsyncAdminClient(secured.admin, token=secured.tokens["operator"], **certificates["desk"]) as operator:
        (version,) = await operator.versions(MODEL)

    assert version.state == "serving"


def test_a_call_by_the_open_protocol_has_role_trace_metrics_and_line_like_any_other(secured, certificates, table):
    desk = {name: path.read_bytes() for name, path in certificates["desk"].items()}
    credentials = grpc.ssl_channel_credentials(
        desk["root_certificates"], desk["client_key"], desk["client_certificate"]
    )
    values = table[:2].astype(np.float32)
    tensor = pb.ModelInferRequest.InferInputTensor(name="features", datatype="FP32", shape=values.shape)
    request = pb.ModelInferRequest(model_name=MODEL, inputs=[tensor], raw_input_contents=[values.tobytes()])
    trace_id, rpc = secrets.token_hex(16), "inference.GRPCInferenceService/ModelInfer"
    traced = ("traceparent", f"00-{trace_id}-00f067aa0ba902b7-01")
    with grpc.secure_channel(secured.address, credentials) as channel:
        infer = channel.unary_unary(
            f"/{rpc}",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )

        def ask(name):
            metadata = [traced, ("authorization", f"Bearer {secured.tokens[name]}")]
            return infer(request, metadata=metadata, timeout=LONG_SECONDS)

        with pytest.raises(grpc.RpcError) as caught:
            ask("operator")
        before = counters(secured.server)
        reply = ask("web")

    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert tuple(reply.outputs[0].shape)[:1] == (2,)
    spans = secured.collector.wait(trace_id, lambda spans: any(span.name == "work" for span in spans))
    assert {"work", "batch", rpc} <= {span.name for span in spans}
    assert secured.server.lines("rpc=ModelInfer", "caller=web", f"trace_id={trace_id}", "code=OK")
    after = counters(secured.server)
    labels = {"rpc": "ModelInfer", "model": MODEL, "version": reply.model_version, "code": "OK"}
    for counter, chosen in (
        ("pellucid_request_seconds_count", labels),
        ("pellucid_compute_seconds_count", labels),
        ("grpc_server_call_duration_seconds_count", {"grpc_method": rpc, "grpc_status": "OK"}),
    ):
        assert after.total(counter, **chosen) == before.total(counter, **chosen) + 1


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
