from dataclasses import replace

import grpc
import pytest
from pellucid.v1 import explanation_pb2 as pb
from pellucid.v1 import model_service_pb2 as model_pb
from pellucid.v1 import tensor_pb2
from pellucid_server.vocabulary import descriptions


def get(name="iris", version=0, digest=""):
    return model_pb.GetModelRequest(model=pb.ModelSpec(name=name, version=version, digest=digest))


async def test_models_are_listed_by_name_and_version(models):
    reply = await models.ListModels(model_pb.ListModelsRequest())

    assert [(each.model.name, each.model.version, each.latest) for each in reply.models] == [
        ("iris", 1, False),
        ("iris", 2, True),
    ]
    assert reply.models[1].description == "Three kinds of flower."


async def test_a_model_is_described_whole(models):
    reply = await models.GetModel(get())

    assert reply == model_pb.GetModelResponse(
        model=pb.ModelSpec(name="iris", version=2, digest="ab" * 32),
        description="Three kinds of flower.",
        inputs=[
            model_pb.InputSignature(
                name="row",
                modality=model_pb.MODALITY_TABULAR,
                data_type=tensor_pb2.DATA_TYPE_FLOAT32,
                shape=[2],
                columns=[
                    model_pb.Column(name="width", minimum=0.5, maximum=4.5, unit="cm"),
                    model_pb.Column(name="colour", categories=["red", "blue"]),
                ],
            ),
            model_pb.InputSignature(
                name="picture",
                modality=model_pb.MODALITY_IMAGE,
                data_type=tensor_pb2.DATA_TYPE_FLOAT32,
                shape=[3, 4, 4],
                image=model_pb.ImagePreprocessing(
                    resize=5,
                    crop_height=4,
                    crop_width=4,
                    interpolation="bicubic",
                    mean=[127.0, 126.0, 125.0],
                    standard_deviation=[128.0, 129.0, 130.0],
                ),
            ),
        ],
        outputs=[
            model_pb.OutputSignature(
                name="kind",
                kind=model_pb.OUTPUT_KIND_LOGITS,
                data_type=tensor_pb2.DATA_TYPE_FLOAT32,
                shape=[3],
                labels=["setosa", "versicolor", "virginica"],
                unit="nats",
            )
        ],
        layers=[
            model_pb.Layer(name="hidden#2", type="Linear", shape=[8], units=8, cuttable=True, heads=4, branch=True)
        ],
        capabilities=[model_pb.Capability(method="saliency", allowed=False, reason="it has no graph")],
        runtime="onnxruntime",
        parity=model_pb.Parity(largest_difference=1e-6, tolerance=1e-4, holds=True),
        background_rows=5,
        solo=True,
        state=model_pb.MODEL_STATE_SERVING,
    )


async def test_an_older_version_is_found_by_its_number(models):
    reply = await models.GetModel(get(version=1, digest="cd" * 32))

    assert (reply.model.version, reply.HasField("parity")) == (1, False)


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (get("rose"), "NOT_FOUND", "No model 'rose'; served: iris."),
        (get(version=7), "NOT_FOUND", "No version 7 of model 'iris'; served: 1, 2."),
        (
            get(digest="cd" * 32),
            "FAILED_PRECONDITION",
            f"iris/2 has the digest {'ab' * 32}, not {'cd' * 32}.",
        ),
        (get(""), "INVALID_ARGUMENT", "model.name is empty; ListModels names the models that are served."),
    ],
    ids=["name", "version", "digest", "empty"],
)
async def test_a_model_that_is_not_served_is_named_in_the_error(models, request_, code, message):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await models.GetModel(request_)

    assert (caught.value.code().name, caught.value.details()) == (code, message)


BROKEN = (
    descriptions.BrokenModel("iris", 3, "iris/3 is damaged."),
    descriptions.BrokenModel("rose", 0, "rose has no version."),
)


@pytest.fixture
def broken(pool):
    """Has a later version of the model broken, and another model as a whole."""
    pool.hello = replace(pool.hello, broken=BROKEN)


async def test_broken_models_are_listed_in_their_places(models, broken):
    reply = await models.ListModels(model_pb.ListModelsRequest())

    assert [(each.model.name, each.model.version, each.state, each.latest, each.reason) for each in reply.models] == [
        ("iris", 1, model_pb.MODEL_STATE_SERVING, False, ""),
        ("iris", 2, model_pb.MODEL_STATE_SERVING, True, ""),
        ("iris", 3, model_pb.MODEL_STATE_BROKEN, False, "iris/3 is damaged."),
        ("rose", 0, model_pb.MODEL_STATE_BROKEN, False, "rose has no version."),
    ]


@pytest.mark.parametrize(
    ("request_", "version", "reason"),
    [
        (get(), 2, ""),
        (get(version=3), 3, "iris/3 is damaged."),
        (get("rose"), 0, "rose has no version."),
        (get("rose", version=5), 0, "rose has no version."),
    ],
)
async def test_version_0_is_the_highest_that_is_served_and_a_broken_one_says_why(
    models, broken, request_, version, reason
):
    reply = await models.GetModel(request_)

    assert (reply.model.version, reply.reason) == (version, reason)
    assert reply.state == (model_pb.MODEL_STATE_BROKEN if reason else model_pb.MODEL_STATE_SERVING)


async def test_a_broken_model_has_no_digest_to_insist_on(models, broken):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await models.GetModel(get(version=3, digest="ab" * 32))

    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "iris/3 is damaged." in caught.value.details()


async def test_methods_are_described_with_their_parameters(models):
    reply = await models.ListMethods(model_pb.ListMethodsRequest())

    assert reply == model_pb.ListMethodsResponse(
        methods=[
            model_pb.Method(
                name="occlusion",
                rpc="attribute",
                family="perturbation",
                summary="Cover it.",
                source="Zeiler and Fergus 2014",
                parameters=[
                    model_pb.Parameter(
                        name="window",
                        type=model_pb.PARAMETER_TYPE_INTEGER,
                        default_value=pb.ParamValue(integer=3),
                        minimum=1,
                        maximum=9,
                        text="Pixels.",
                    ),
                    model_pb.Parameter(
                        name="fill",
                        type=model_pb.PARAMETER_TYPE_TEXT,
                        default_value=pb.ParamValue(text="zero"),
                        choices=["zero", "mean"],
                        text="What with.",
                    ),
                    model_pb.Parameter(
                        name="mask",
                        type=model_pb.PARAMETER_TYPE_TENSOR,
                        text="Groups; made for you if left out.",
                    ),
                ],
                axioms=["dummy"],
                needs=["forward"],
                baselines=[pb.BASELINE_KIND_ZEROS, pb.BASELINE_KIND_BLUR],
                takes_tolerance=True,
            )
        ]
    )


@pytest.mark.parametrize(
    ("rpc", "request_"),
    [("ListModels", model_pb.ListModelsRequest()), ("GetModel", get()), ("ListMethods", model_pb.ListMethodsRequest())],
)
async def test_before_the_workers_said_hello_everything_is_unavailable(models, pool, rpc, request_):
    pool.hello = None

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await getattr(models, rpc)(request_)

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_data_sets_are_described_by_name_with_what_is_wrong_with_those_that_are_broken(models, pool):
    ready = descriptions.DatasetInfo(
        "flowers", "Of a meadow.", "table", "row", "kind", ("site",), ("s", "v"), 150, "ef" * 32
    )
    large = descriptions.DatasetInfo("zoo", kind="pictures", label="label", concepts=3, categories=("color", "part"))
    broken = descriptions.DatasetInfo("bad", reason="dataset.toml: kind is missing.")
    pool.hello = replace(pool.hello, datasets=(ready, broken, large))

    reply = await models.ListDatasets(model_pb.ListDatasetsRequest())

    assert list(reply.datasets) == [
        model_pb.Dataset(name="bad", state="DATASET_STATE_BROKEN", reason="dataset.toml: kind is missing."),
        model_pb.Dataset(
            name="flowers",
            description="Of a meadow.",
            kind="DATASET_KIND_TABLE",
            input="row",
            label="kind",
            groups=["site"],
            classes=["s", "v"],
            rows=150,
            digest="ef" * 32,
            state="DATASET_STATE_READY",
        ),
        model_pb.Dataset(
            name="zoo",
            kind="DATASET_KIND_PICTURES",
            label="label",
            state="DATASET_STATE_READY",
            concepts=3,
            categories=["color", "part"],
        ),
    ]
