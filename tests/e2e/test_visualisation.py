"""activation-maximization and feature-visualization through the real server."""

import io

import grpc
import numpy as np
import pytest
import skimage.data
from pellucid import tensors
from pellucid.v1 import (
    dissection_pb2,
    explanation_pb2,
    explanation_service_pb2,
    explanation_service_pb2_grpc,
    input_pb2,
)
from PIL import Image


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(server.address) as channel:
        yield explanation_service_pb2_grpc.ExplanationServiceStub(channel)


def asked(model, method, layer, units, **fields):
    return explanation_service_pb2.DissectRequest(
        model=explanation_pb2.ModelSpec(name=model),
        method=method,
        layers=[dissection_pb2.LayerUnits(layer=layer, units=units)],
        **fields,
    )


def column(table, name):
    (found,) = [each for each in table.columns if each.name == name]
    return list(found.texts.texts) if found.HasField("texts") else tensors.from_tensor(found.numbers)


def tables(responses):
    return {name: each for response in responses for name, each in response.findings.tables.items()}


def test_the_row_that_maximises_a_unit_can_be_sent_and_has_the_activation_that_was_said(stub, table, columns):
    rows = [dict(zip(columns, row, strict=True)) for row in table[:50]]
    probe = dissection_pb2.Probe(inputs={"features": as_table(rows)})

    request = asked("breast-cancer", "activation-maximization", "hidden1", [0, 3], probe=probe)

    found = tables(stub.Dissect(request, timeout=60))

    objectives = found["objectives"]
    assert column(objectives, "objective") == ["hidden1[0]", "hidden1[3]"]
    for number, unit in enumerate((0, 3)):
        shown = found[f"hidden1[{unit}]/features"]
        row = dict(zip(column(shown, "column"), column(shown, "value").tolist(), strict=True))
        assert list(row) == list(columns)
        again = explanation_service_pb2.DissectRequest(
            model=explanation_pb2.ModelSpec(name="breast-cancer"),
            method="activations",
            layers=[dissection_pb2.LayerUnits(layer="hidden1", units=[unit])],
            probe=dissection_pb2.Probe(inputs={"features": as_table([row])}),
        )
        mean = column(tables(stub.Dissect(again, timeout=60))["hidden1/units"], "mean")
        np.testing.assert_allclose(mean[0], column(objectives, "activation")[number], rtol=1e-4)
    assert (column(objectives, "activation") >= column(objectives, "best natural")).all()


def as_table(rows):
    return input_pb2.Input(
        table=input_pb2.Table(
            rows=[
                input_pb2.Row(cells={name: input_pb2.Cell(number=value) for name, value in row.items()}) for row in rows
            ]
        )
    )


def test_painted_channels_of_an_imagenet_network_beat_natural_photographs(stub):
    photographs = [skimage.data.chelsea(), skimage.data.coffee(), skimage.data.astronaut(), skimage.data.rocket()]
    probe = dissection_pb2.Probe(
        inputs={"image": input_pb2.Input(pictures=input_pb2.Pictures(encoded=[png(each) for each in photographs]))}
    )
    parameters = {"steps": explanation_pb2.ParamValue(integer=32)}
    layer = "_blocks.5"

    responses = list(
        stub.Dissect(
            asked("efficientnet-lite0", "feature-visualization", layer, [3, 40], probe=probe, parameters=parameters),
            timeout=300,
        )
    )

    pictures = {name: each for response in responses for name, each in response.findings.pictures.items()}
    objectives = tables(responses)["objectives"]
    assert set(pictures) == {f"{layer}[3]/0", f"{layer}[40]/0"}
    assert all((each.width, each.height) == (256, 256) for each in pictures.values())
    assert (column(objectives, "activation") > column(objectives, "best natural")).all()
    assert column(objectives, "percentile").tolist() == [100, 100]
    assert responses[-1].progress.rows_done == responses[-1].progress.rows == 4 + 2 * 32


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_painted_class_has_the_score_that_predict_gives_its_picture(stub, server):
    tabby = 281
    request = explanation_service_pb2.DissectRequest(
        model=explanation_pb2.ModelSpec(name="efficientnet-lite0"),
        method="feature-visualization",
        target=explanation_pb2.Target(outcome=explanation_pb2.Outcome(index=[tabby])),
        parameters={"steps": explanation_pb2.ParamValue(integer=16)},
        seed=7,
    )

    responses = list(stub.Dissect(request, timeout=300))

    objectives = tables(responses)["objectives"]
    (name,) = column(objectives, "objective")
    (picture,) = [each for response in responses for each in response.findings.pictures.values()]
    assert "tabby" in name
    reply = stub.Predict(
        explanation_service_pb2.PredictRequest(
            model=explanation_pb2.ModelSpec(name="efficientnet-lite0"),
            inputs={"image": input_pb2.Input(pictures=input_pb2.Pictures(encoded=[picture.data]))},
        ),
        timeout=60,
    )
    logits = tensors.from_tensor(reply.outputs["output"].values)
    np.testing.assert_allclose(column(objectives, "activation")[0], logits[0, tabby], rtol=1e-3)
    assert column(objectives, "activation")[0] > column(objectives, "start")[0]
    assert responses[-1].findings.receipt.parameters["learning_rate"].real == 0.05
