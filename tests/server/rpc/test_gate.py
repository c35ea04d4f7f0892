"""Who may ask what, by tokens, through the boundary and a fake pool."""

import asyncio
import dataclasses

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from pellucid.tensors import to_tensor
from pellucid.v1 import explanation_pb2 as pb
from pellucid.v1 import explanation_service_pb2 as service_pb
from pellucid.v1 import explanation_service_pb2_grpc, input_pb2, job_service_pb2
from pellucid.v1 import model_service_pb2 as model_pb
from pellucid_server.access.access_file import read_policy
from pellucid_server.access.quotas import Quotas
from pellucid_server.access.tokens import hash_line, new_token
from pellucid_server.errors import NotFoundError, PermissionDeniedError
from pellucid_server.metrics import Metrics, RequestRecorder
from pellucid_server.rpc.admin import ADMIN_SERVICE
from pellucid_server.rpc.arrival import Call
from pellucid_server.rpc.boundary import Boundary
from pellucid_server.rpc.gate import Gate, certificate_names, needed_role
from pellucid_server.rpc.jobs import JOB_SERVICE
from pellucid_server.rpc.open_protocol.service import OPEN_SERVICE
from pellucid_server.rpc.service import EXPLANATION_SERVICE, MODEL_SERVICE
from pellucid_server.vocabulary import descriptions, requests
from server.rpc.conftest import HELLO, MODEL, predict_result, served

TOKENS = {name: new_token() for name in ("web", "full", "narrow", "gateway", "limited")}
POLICY = f"""
[identities.web]
tokens = ["{hash_line(TOKENS["web"])}"]
roles = ["predict"]
[identities.web.models]
"secret" = []

[identities.full]
tokens = ["{hash_line(TOKENS["full"])}"]
roles = ["predict", "explain", "dissect"]

[identities.narrow]
tokens = ["{hash_line(TOKENS["narrow"])}"]
models = {{ "iris" = ["predict"], "other" = ["predict", "explain", "dissect"] }}
datasets = ["open"]

[identities.gateway]
tokens = ["{hash_line(TOKENS["gateway"])}"]
roles = ["predict"]
names_callers = true

[identities.limited]
tokens = ["{hash_line(TOKENS["limited"])}"]
roles = ["predict"]
rows_per_minute = 7
"""


def model(name):
    return dataclasses.replace(MODEL, key=requests.ModelKey(name, 1, "ef" * 32))


@pytest.fixture
def policy():
    return [read_policy(POLICY.encode())]


@pytest.fixture
async def boundary(pool, registry, policy):
    pool.hello = dataclasses.replace(
        HELLO,
        models=(MODEL, model("secret"), model("other")),
        broken=(descriptions.BrokenModel("secret", 2, "its files are gone"),),
        datasets=(descriptions.DatasetInfo("open"), descriptions.DatasetInfo("patients")),
    )
    pool.answer = predict_result()
    gate = Gate(lambda: policy[0], Quotas(clock=lambda: 0.0))
    return Boundary(RequestRecorder(Metrics.on(registry)), lambda: pool.hello, gate=gate)


def as_(name):
    return {"metadata": [("authorization", f"Bearer {TOKENS[name]}")]}


def request(name="iris", explanations=()):
    rows = input_pb2.Input(tensor=to_tensor(np.zeros((1, 2), np.float32)))
    return service_pb.PredictRequest(model=pb.ModelSpec(name=name), inputs={"row": rows}, explanations=explanations)


def attribute_request(name="iris"):
    return service_pb.AttributeRequest(
        model=pb.ModelSpec(name=name), inputs=request().inputs, explanation=pb.ExplanationSpec(method="occlusion")
    )


async def failed(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def info(error):
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    found = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(found)
    return found.reason, dict(found.metadata)


@pytest.mark.parametrize(
    ("metadata", "credential"),
    [
        ([], "none"),
        ([("authorization", "Bearer " + new_token())], "unknown token"),
        ([("authorization", TOKENS["web"])], "malformed token"),
        ([("authorization", f"Bearer {TOKENS['web']}"), ("authorization", "Bearer x")], "malformed token"),
    ],
)
async def test_a_caller_who_proves_nothing_is_refused_before_anything_else(
    explanations, pool, lines, metadata, credential
):
    error = await failed(explanations.Predict(request("no such model"), metadata=metadata))

    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
    assert info(error) == ("UNAUTHENTICATED", {"credential": credential})
    assert pool.askers == []
    (line,) = lines()
    assert (line["code"], line["reason"], line["caller"]) == ("UNAUTHENTICATED", "UNAUTHENTICATED", "127.0.0.1")


async def test_every_rpc_asks_for_proof(channel):
    for service in (EXPLANATION_SERVICE, MODEL_SERVICE):
        for method in service.methods:
            kind = channel.unary_stream if method.server_streaming else channel.unary_unary
            call = kind(f"/{service.full_name}/{method.name}")(b"")

            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_request_is_read_only_once_its_caller_may_make_it(channel):
    call = channel.unary_unary("/pellucid.v1.ExplanationService/Attribute")

    codes = [(await failed(call(b"no request", **options))).code().name for options in ({}, as_("web"), as_("full"))]

    assert codes == ["UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT"]


async def test_the_identity_is_the_caller_and_what_it_says_of_itself_is_not(explanations, pool, lines):
    await explanations.Predict(request(), metadata=[*as_("web")["metadata"], ("x-pellucid-caller", "full")])

    assert pool.askers == [("web", "predictions")]
    assert lines()[0]["caller"] == "web"


async def test_one_that_may_name_callers_has_them_told_apart(explanations, pool):
    for name in ("anna", "ben"):
        await explanations.Predict(request(), metadata=[*as_("gateway")["metadata"], ("x-pellucid-caller", name)])

    assert [caller for caller, _ in pool.askers] == ["gateway/anna", "gateway/ben"]


async def test_callers_without_proof_cannot_pass_for_an_identity(explanations, pool, policy):
    policy[0] = read_policy((POLICY + '[anonymous]\nroles = ["predict"]').encode())

    await explanations.Predict(request(), metadata=[("x-pellucid-caller", "web")])

    assert pool.askers == [("anonymous:127.0.0.1", "predictions")]


async def test_an_unknown_token_is_refused_though_callers_without_one_are_served(explanations, policy):
    policy[0] = read_policy((POLICY + '[anonymous]\nroles = ["predict"]').encode())

    error = await failed(explanations.Predict(request(), metadata=[("authorization", "Bearer " + new_token())]))

    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_role_that_an_identity_has_for_no_model_is_refused_before_the_request_is_read(explanations):
    error = await failed(explanations.Attribute(attribute_request("no such model"), **as_("web")))

    assert error.code() is grpc.StatusCode.PERMISSION_DENIED
    assert info(error) == ("PERMISSION_DENIED", {"identity": "web", "role": "explain"})


async def test_a_role_for_another_model_is_none_for_this_one(explanations):
    error = await failed(explanations.Attribute(attribute_request("iris"), **as_("narrow")))

    assert info(error) == ("PERMISSION_DENIED", {"identity": "narrow", "role": "explain", "model": "iris"})


async def test_explanations_beside_a_prediction_need_the_role_for_them(explanations):
    asked = request("iris", [pb.ExplanationSpec(method="occlusion")])

    error = await failed(explanations.Predict(asked, **as_("narrow")))

    assert info(error)[1]["role"] == "explain"
    await explanations.Predict(request("iris"), **as_("narrow"))


async def test_a_labelled_data_set_needs_the_role_for_it(channel, policy):
    policy[0] = read_policy(
        POLICY.replace('"predict", "explain", "dissect"]\n\n', '"predict", "explain"]\n\n').encode()
    )
    stub = explanation_service_pb2_grpc.ExplanationServiceStub(channel)
    asked = service_pb.AblateRequest(model=pb.ModelSpec(name="iris"), dataset="open")

    error = await failed(stub.Ablate(asked, **as_("full")).read())

    assert info(error) == ("PERMISSION_DENIED", {"identity": "full", "role": "dissect", "model": "iris"})


async def test_a_hidden_model_is_as_unknown_as_one_that_is_not_there(explanations, models, pool):
    asks = [
        lambda name: explanations.Predict(request(name), **as_("web")),
        lambda name: models.GetModel(model_pb.GetModelRequest(model=pb.ModelSpec(name=name)), **as_("web")),
        lambda name: models.GetModel(model_pb.GetModelRequest(model=pb.ModelSpec(name=name, version=2)), **as_("web")),
        lambda name: models.GetModel(
            model_pb.GetModelRequest(model=pb.ModelSpec(name=name, digest="ef" * 32)), **as_("web")
        ),
    ]
    for ask in asks:
        hidden, unknown = await failed(ask("secret")), await failed(ask("secres"))

        assert hidden.code() is unknown.code() is grpc.StatusCode.NOT_FOUND
        assert hidden.details() == unknown.details().replace("secres", "secret")
        assert hidden.details() == "No model 'secret'; served: iris, other."
        assert info(hidden) == ("NOT_FOUND", {"resource_type": "model", "resource_name": "secret"})
    assert pool.askers == []


async def test_models_are_listed_as_far_as_they_may_be_known(models):
    async def names(who):
        reply = await models.ListModels(model_pb.ListModelsRequest(), **as_(who))
        return [(each.model.name, each.model.version) for each in reply.models]

    assert await names("full") == [("iris", 2), ("other", 1), ("secret", 1), ("secret", 2)]
    assert await names("web") == [("iris", 2), ("other", 1)]


async def test_data_sets_are_listed_and_used_as_far_as_they_may_be_known(models, channel):
    listed = await models.ListDatasets(model_pb.ListDatasetsRequest(), **as_("narrow"))
    stub = explanation_service_pb2_grpc.ExplanationServiceStub(channel)
    errors = [
        await failed(
            stub.Ablate(
                service_pb.AblateRequest(model=pb.ModelSpec(name="other"), dataset=name), **as_("narrow")
            ).read()
        )
        for name in ("patients", "patienty")
    ]

    assert [each.name for each in listed.datasets] == ["open"]
    assert [error.details() for error in errors] == [
        "No data set 'patients'; there are: open.",
        "No data set 'patienty'; there are: open.",
    ]


async def test_a_worker_that_misses_a_model_does_not_say_which_there_are(explanations, pool):
    # It went between the look and the work, or this worker has not got it yet.
    text = "No model 'iris'; served: other, secret."
    pool.answer = NotFoundError(text, resource_type="model", resource_name="iris")

    assert (await failed(explanations.Predict(request(), **as_("web")))).details() == (
        "No model 'iris'; served: iris, other."
    )
    assert (await failed(explanations.Predict(request(), **as_("full")))).details() == (
        "No model 'iris'; served: iris, other, secret."
    )


async def test_while_models_load_nothing_is_said_of_any(explanations, pool):
    pool.hello = None

    codes = {(await failed(explanations.Predict(request(name), **as_("web")))).details() for name in ("iris", "secret")}

    assert codes == {"The models are being loaded; try again soon."}


async def test_a_policy_that_changes_is_in_force_at_the_next_call(explanations, models, policy):
    await explanations.Predict(request(), **as_("web"))
    policy[0] = read_policy(POLICY.replace('"secret" = []', '"iris" = []').encode())

    assert (await failed(explanations.Predict(request(), **as_("web")))).code() is grpc.StatusCode.NOT_FOUND
    listed = await models.ListModels(model_pb.ListModelsRequest(), **as_("web"))
    assert [each.model.name for each in listed.models] == ["other", "secret", "secret"]


async def test_rows_beyond_the_quota_are_waited_for(explanations, pool):
    # Each answer takes 7 rows, by the pool's word.
    await explanations.Predict(request(), **as_("limited"))

    error = await failed(explanations.Predict(request(), **as_("limited")))

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    reason, metadata = info(error)
    assert (reason, metadata["quota"], metadata["identity"]) == ("QUOTA_EXCEEDED", "rows_per_minute", "limited")
    assert dict(error.trailing_metadata())["grpc-retry-pushback-ms"] == "8571"
    await explanations.Predict(request(), **as_("web"))


async def test_rows_of_a_job_count_for_its_owner(explanations, boundary, policy):
    boundary.gate.charge_owner("limited", 7)
    boundary.gate.charge_owner("gone", 7)
    policy[0] = read_policy(POLICY.encode())

    error = await failed(explanations.Predict(request(), **as_("limited")))

    assert info(error)[1]["quota"] == "rows_per_minute"
    await explanations.Predict(request(), **as_("web"))
    policy[0] = None
    boundary.gate.charge_owner("limited", 7)


OTHER = {"model": {"name": "other"}}


def submitted(**asked):
    return job_service_pb2.SubmitJobRequest(**asked)


@pytest.mark.parametrize(
    ("who", "asked", "refusal"),
    [
        ("full", {"dissect": {"model": {"name": "iris"}}}, None),
        ("full", {"ablate": {"model": {"name": "iris"}, "dataset": "patients"}}, None),
        ("web", {"dissect": {"model": {"name": "iris"}}}, ("PERMISSION_DENIED", "dissect")),
        ("web", {"ablate": {"model": {"name": "iris"}}}, ("PERMISSION_DENIED", "explain")),
        ("web", {"ablate": {"model": {"name": "secret"}}}, ("NOT_FOUND", "secret")),
        ("narrow", {"dissect": {"model": {"name": "iris"}}}, ("PERMISSION_DENIED", "dissect")),
        ("narrow", {"dissect": {"model": {"name": "other"}, "probe": {"dataset": "open"}}}, None),
        (
            "narrow",
            {"dissect": {"model": {"name": "other"}, "probe": {"dataset": "patients"}}},
            ("NOT_FOUND", "patients"),
        ),
        ("web", {}, None),
    ],
)
def test_what_a_job_is_to_do_needs_the_role_of_its_own_call(who, asked, refusal, boundary, policy, pool):
    call = Call("SubmitJob", "1", 0.0, None, policy[0].identities[who])
    if refusal is None:
        boundary.gate.check(call, submitted(**asked), "", pool.hello)
        return
    with pytest.raises((PermissionDeniedError, NotFoundError)) as refused:
        boundary.gate.check(call, submitted(**asked), "", pool.hello)

    metadata = refused.value.metadata
    assert (refused.value.reason, metadata.get("role", metadata.get("resource_name"))) == refusal


async def test_requests_that_end_leave_room_for_others_however_they_end(pool, registry):
    text = f'[identities.one]\ntokens = ["{hash_line(TOKENS["web"])}"]\nroles = ["predict"]\nconcurrent_requests = 1'
    found = read_policy(text.encode())
    boundary = Boundary(RequestRecorder(Metrics.on(registry)), lambda: pool.hello, gate=Gate(lambda: found))
    async with served(pool, boundary) as channel:
        stub = explanation_service_pb2_grpc.ExplanationServiceStub(channel)
        running = stub.Predict(request(), **as_("web"))
        await asyncio.wait_for(pool.started.wait(), 20)

        assert info(await failed(stub.Predict(request(), **as_("web"))))[1]["quota"] == "concurrent_requests"

        running.cancel()
        await asyncio.wait_for(pool.cancelled.wait(), 20)
        await asyncio.wait_for(boundary.idle(), 20)
        pool.answer = ZeroDivisionError()
        assert (await failed(stub.Predict(request(), **as_("web")))).code() is grpc.StatusCode.INTERNAL
        assert (await failed(stub.Predict(request("none"), **as_("web")))).code() is grpc.StatusCode.NOT_FOUND
        await boundary.idle()
        pool.answer = predict_result()
        await stub.Predict(request(), **as_("web"))


async def test_streams_that_end_leave_room_for_others_too(pool, registry):
    text = f'[identities.one]\ntokens = ["{hash_line(TOKENS["web"])}"]\nroles = ["explain"]\nconcurrent_requests = 1'
    found = read_policy(text.encode())
    boundary = Boundary(RequestRecorder(Metrics.on(registry)), lambda: pool.hello, gate=Gate(lambda: found))
    async with served(pool, boundary) as channel:
        stub = explanation_service_pb2_grpc.ExplanationServiceStub(channel)
        asked = service_pb.AblateRequest(model=pb.ModelSpec(name="iris"))

        codes = []
        for _ in range(3):
            codes.append((await failed(stub.Ablate(asked, **as_("web")).read())).code().name)
            await asyncio.wait_for(boundary.idle(), 20)

    assert codes == ["UNIMPLEMENTED"] * 3


async def test_without_a_policy_everyone_may_ask_everything(explanations, policy, pool):
    policy[0] = None

    await explanations.Predict(request("secret"), metadata=[("authorization", "Bearer nonsense")])

    assert len(pool.askers) == 1


async def test_no_token_is_in_the_log(explanations, models, caplog):
    caplog.set_level("DEBUG")
    stray = new_token()

    await explanations.Predict(request(), **as_("web"))
    await failed(explanations.Predict(request(), metadata=[("authorization", f"Bearer {stray}")]))
    await failed(explanations.Predict(request(), metadata=[("authorization", stray)]))

    text = caplog.text + repr([vars(record) for record in caplog.records])
    assert "web" in text
    assert not [secret for secret in (TOKENS["web"], stray) if secret in text or hash_line(secret)[7:] in text]


def test_an_rpc_that_is_not_known_is_an_admins():
    assert needed_role("pellucid.v1.ModelService", "DropModel") == "admin"
    assert needed_role("pellucid.v1.AdminService", "ListModels") == "admin"


def test_every_rpc_of_the_schema_has_a_role_that_was_thought_about():
    services = (EXPLANATION_SERVICE, MODEL_SERVICE, JOB_SERVICE, OPEN_SERVICE, ADMIN_SERVICE)
    roles = {
        method.name: needed_role(service.full_name, method.name) for service in services for method in service.methods
    }

    assert roles == {
        "Predict": "predict",
        "Attribute": "explain",
        "Ablate": "explain",
        "Dissect": "dissect",
        "ListModels": "",
        "GetModel": "",
        "ListMethods": "",
        "ListDatasets": "dissect",
        "SubmitJob": "",
        "ListJobs": "",
        "GetJob": "",
        "WatchJob": "",
        "CancelJob": "",
        "DeleteJob": "",
        "FetchJob": "",
        "ServerLive": "",
        "ServerReady": "",
        "ServerMetadata": "",
        "ModelReady": "",
        "ModelMetadata": "",
        "ModelInfer": "predict",
        "ListVersions": "admin",
        "LoadModel": "admin",
        "UnloadModel": "admin",
    }


@pytest.mark.parametrize(
    ("context", "names"),
    [
        ({"x509_common_name": [b"web"]}, ("web",)),
        ({"x509_common_name": [b"spiffe://example/admin"]}, ()),
        (
            {
                "x509_common_name": [b"admin"],
                "x509_subject_alternative_name": [b"a.example", b"spiffe://example/a"],
                "peer_dns": [b"a.example"],
                "peer_uri": [b"spiffe://example/a"],
            },
            ("spiffe://example/a", "a.example"),
        ),
        ({"x509_common_name": [b"admin"], "x509_subject_alternative_name": [b"a@b.c"], "peer_email": [b"a@b.c"]}, ()),
        ({"x509_subject_alternative_name": [b"admin"], "peer_uri": [b"admin"]}, ()),
        ({}, ()),
    ],
)
def test_a_certificates_names_are_of_the_kind_that_they_look_like(context, names):
    assert certificate_names(context) == names
