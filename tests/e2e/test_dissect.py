"""`Dissect` through the real server."""

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


def request(table, **fields):
    rows = input_pb2.Table(
        rows=[input_pb2.Row(cells={name: input_pb2.Cell(number=value) for name, value in row.items()}) for row in table]
    )
    probe = dissection_pb2.Probe(inputs={"features": input_pb2.Input(table=rows)})
    return explanation_service_pb2.DissectRequest(
        model=explanation_pb2.ModelSpec(name="breast-cancer"),
        method="activations",
        layers=[dissection_pb2.LayerUnits(layer="hidden1")],
        probe=probe,
        **fields,
    )


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(server.address) as channel:
        yield explanation_service_pb2_grpc.ExplanationServiceStub(channel)


def test_rows_of_a_request_are_looked_at_and_the_last_part_has_the_receipt(stub, table, columns):
    rows = [dict(zip(columns, row, strict=True)) for row in table[:100]]
    responses = list(stub.Dissect(request(rows), timeout=60))
    found = [each for each in responses if each.HasField("findings")]
    assert [each.part for each in found] == [0, 1, 2]
    assert responses[-1].progress.share == 1
    assert responses[-1].progress.rows_done == responses[-1].progress.rows == 100
    columns_of = {each.name: each for each in found[0].findings.tables["hidden1/units"].columns}
    assert np.isfinite(tensors.from_tensor(columns_of["mean"].numbers)).all()
    last = found[-1].findings
    assert last.receipt.method == "activations"
    assert [each.layer for each in last.dissection.layers] == ["hidden1"]


def test_a_layer_that_there_is_not_is_not_found(stub, table, columns):
    asked = request([dict(zip(columns, table[0], strict=True))])
    asked.layers[0].layer = "nothing"
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.Dissect(asked, timeout=60))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


def test_the_receipt_has_the_target_by_its_index_and_space(stub):
    asked = explanation_service_pb2.DissectRequest(
        model=explanation_pb2.ModelSpec(name="breast-cancer"),
        method="activation-maximization",
        parameters={"steps": explanation_pb2.ParamValue(integer=2)},
        target=explanation_pb2.Target(outcome=explanation_pb2.Outcome(label="benign")),
    )

    *_, last = stub.Dissect(asked, timeout=60)

    target = last.findings.receipt.target
    assert (list(target.outcome.index), target.output) == ([1], "output")
    assert target.space == explanation_pb2.OUTPUT_SPACE_LOGITS
