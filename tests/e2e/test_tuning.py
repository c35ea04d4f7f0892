"""Tuning curves through the real server."""

import grpc
import numpy as np
import pytest
from pellucid.findings_messages import read_findings
from pellucid.v1 import (
    dissection_pb2,
    explanation_pb2,
    explanation_service_pb2,
    explanation_service_pb2_grpc,
)


@pytest.fixture
def stub(server):
    with grpc.insecure_channel(server.address) as channel:
        yield explanation_service_pb2_grpc.ExplanationServiceStub(channel)


def found(stub, model, layer, units=(), **parameters):
    """Return the findings that have a table and are no preview, and the last response."""
    asked = explanation_service_pb2.DissectRequest(
        model=explanation_pb2.ModelSpec(name=model),
        method="tuning-curve",
        layers=[dissection_pb2.LayerUnits(layer=layer, units=units)],
    )
    for name, value in parameters.items():
        asked.parameters[name].CopyFrom(value)
    responses = list(stub.Dissect(asked, timeout=120))
    (part,) = [read_findings(each.findings) for each in responses if each.findings.tables and not each.preview]
    return part, responses[-1]


def test_units_of_a_first_layer_are_selective_for_orientation_and_colour(stub):
    part, last = found(stub, "efficientnet-lite0", "_bn0")

    lines = part.tables["preferences"]
    assert len(lines) == 32
    assert last.progress.rows_done == last.progress.rows
    responsive = lines["responsive"]
    assert responsive.sum() > 20
    indices = lines["OSI"][responsive]
    assert ((indices >= 0) & (indices <= 1)).all()
    assert (indices > 0.25).sum() >= 5
    # The layer is linear: half of a wave is cut off, and its peak grows with the contrast.
    np.testing.assert_allclose(lines["F1/F0"][responsive], np.pi / 2, rtol=0.07)
    np.testing.assert_allclose(lines["c50"][responsive], 0.5, atol=1e-3)
    curves = part.arrays["_bn0/orientation"]
    assert curves.values.shape == (32, 12)
    assert curves.axes[1].unit == "degrees"
    assert part.arrays["_bn0/colour"].values.shape == (32, 12)
    assert last.findings.receipt.method == "tuning-curve"


def test_neurons_of_a_tables_first_layer_answer_a_column_with_lines(stub):
    column = explanation_pb2.ParamValue(text="mean radius")

    part, _ = found(stub, "breast-cancer", "hidden1", units=(0, 3), column=column)

    assert part.tables["preferences"]["unit"].tolist() == [0, 3]
    np.testing.assert_allclose(part.tables["preferences"]["linearity"], 1, atol=1e-6)
    curves = part.arrays["hidden1/column/mean radius"]
    assert curves.values.shape == (2, 33)
    slopes = (curves.values[:, -1] - curves.values[:, 0]) / np.ptp(curves.axes[1].coordinates)
    np.testing.assert_allclose(part.tables["preferences"]["slope"], slopes, rtol=1e-4)


def test_stripes_finer_than_pixels_are_refused(stub):
    finer = explanation_pb2.ParamValue(real=0.7)

    with pytest.raises(grpc.RpcError) as refused:
        found(stub, "efficientnet-lite0", "_bn0", highest_frequency=finer)

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "Nyquist" in refused.value.details()
