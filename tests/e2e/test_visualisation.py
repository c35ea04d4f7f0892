"""activation-maximization and feature-visualization through the real server."""

import grpc
import numpy as np
import pytest
from pellucid import tensors
from pellucid.v1 import (
    dissection_pb2,
    explanation_pb2,
    explanation_service_pb2,
    explanation_service_pb2_grpc,
    input_pb2,
)


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
