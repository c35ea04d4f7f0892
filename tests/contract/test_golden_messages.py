"""Messages as bytes that were written once: every later schema must read them as the same fields.

`golden/NAME.hex` has the bytes, `golden/NAME.txtpb` the fields by their names. A schema that is only added to
never needs either to change. The messages of the streams are a preview, which may change: they have none yet.
"""

import struct
from pathlib import Path

import pytest
from google.protobuf import text_format
from pellucid.v1 import explanation_service_pb2, model_service_pb2, tensor_pb2

GOLDEN = Path(__file__).parent / "golden"
MESSAGES = {
    "predict_request": explanation_service_pb2.PredictRequest,
    "predict_response": explanation_service_pb2.PredictResponse,
    "attribute_request": explanation_service_pb2.AttributeRequest,
    "attribute_response": explanation_service_pb2.AttributeResponse,
    "tolerances_response": explanation_service_pb2.AttributeResponse,
    "get_model_response": model_service_pb2.GetModelResponse,
    "broken_model_response": model_service_pb2.GetModelResponse,
    "list_models_response": model_service_pb2.ListModelsResponse,
    "list_methods_response": model_service_pb2.ListMethodsResponse,
}


def golden_bytes(name):
    return bytes.fromhex((GOLDEN / f"{name}.hex").read_text())


@pytest.mark.parametrize("name", MESSAGES)
def test_golden_bytes_are_read_as_the_golden_fields(name):
    fields = text_format.Parse((GOLDEN / f"{name}.txtpb").read_text(), MESSAGES[name]())

    assert MESSAGES[name].FromString(golden_bytes(name)) == fields


@pytest.mark.parametrize("name", MESSAGES)
def test_the_golden_fields_are_written_as_the_golden_bytes(name):
    fields = text_format.Parse((GOLDEN / f"{name}.txtpb").read_text(), MESSAGES[name]())

    assert fields.SerializeToString(deterministic=True) == golden_bytes(name)


def test_every_golden_file_is_checked():
    assert sorted(path.stem for path in GOLDEN.iterdir()) == sorted([*MESSAGES, *MESSAGES])


def test_a_tensor_is_these_bytes():
    data = struct.pack("<2f", 1.5, -2.0)
    # Field 1 as a number: FLOAT32, 9. Field 2 packed: 1, 2. Field 3: eight bytes.
    wire = b"\x08\x09" + b"\x12\x02\x01\x02" + b"\x1a\x08" + data

    tensor = tensor_pb2.Tensor.FromString(wire)

    assert tensor == tensor_pb2.Tensor(data_type="DATA_TYPE_FLOAT32", shape=[1, 2], data=data)
    assert tensor.SerializeToString(deterministic=True) == wire
