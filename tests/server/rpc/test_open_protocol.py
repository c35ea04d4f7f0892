"""Requests and replies of the Open Inference Protocol, without a server."""

import struct

import numpy as np
import pytest
from pellucid_server import open_inference_pb2 as pb
from pellucid_server.errors import InvalidRequestError
from pellucid_server.rpc.large_fields import NONE, take_out
from pellucid_server.rpc.open_protocol.elements import _shape
from pellucid_server.rpc.open_protocol.messages import infer_response, metadata_response, model_key, predict_request
from pellucid_server.settings.sections import LimitsConfig
from pellucid_server.vocabulary import descriptions, requests, results

TENSOR = descriptions.InputInfo("x", "tensor", "float32", (3,))
PICTURE = descriptions.InputInfo("image", "image", "float32", (3, 8, 8))
TABLE = descriptions.InputInfo(
    "features",
    "tabular",
    "float32",
    (3,),
    columns=(descriptions.ColumnInfo("width"), descriptions.ColumnInfo("colour", categories=("red", "green"))),
)
VALUES = np.array([[1.0, -2.5, 3.0], [4.0, 5.0, 6.0]], np.float32)
ENCODED = {
    "BOOL": np.array([True, False]),
    "UINT8": np.array([0, 255], np.uint8),
    "UINT16": np.array([0, 65535], np.uint16),
    "UINT32": np.array([0, 4294967295], np.uint32),
    "UINT64": np.array([0, 1 << 62], np.uint64),
    "INT8": np.array([-128, 127], np.int8),
    "INT16": np.array([-32768, 3], np.int16),
    "INT32": np.array([-(1 << 31), 3], np.int32),
    "INT64": np.array([-(1 << 60), 3], np.int64),
    "FP16": np.array([-1.5, 65504.0], np.float16),
    "FP32": np.array([-1.5, 3e38], np.float32),
    "FP64": np.array([-1.5, 1e300], np.float64),
}
FIELDS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}


def model(*inputs):
    output = descriptions.OutputInfo("y", "values", "float32", (2,))
    key = requests.ModelKey("m", 3, "d" * 64)
    return descriptions.ModelInfo(key, "about it", inputs, (output,), (), (), "graph", None, 0, False)


def tensor(name, datatype, shape, **contents):
    message = pb.ModelInferRequest.InferInputTensor(name=name, datatype=datatype, shape=shape)
    if contents:
        message.contents.CopyFrom(pb.InferTensorContents(**contents))
    return message


def ask(*tensors, raw=(), outputs=(), of=None, limits=None):
    request = pb.ModelInferRequest(model_name="m", inputs=tensors, raw_input_contents=raw)
    request.outputs.extend(pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs)
    return predict_request(request, of or model(TENSOR), limits or LimitsConfig(), NONE)


@pytest.mark.parametrize("datatype", ENCODED)
def test_raw_elements_of_every_type_are_the_numbers_that_were_sent(datatype):
    values = ENCODED[datatype]

    found = ask(tensor("x", datatype, [2]), raw=[values.tobytes()]).inputs["x"].array

    assert found.tolist() == values.tolist()
    assert found.dtype.name in {"bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"}


@pytest.mark.parametrize("datatype", FIELDS)
def test_contents_of_every_type_are_the_numbers_that_were_sent(datatype):
    values = ENCODED[datatype]

    found = ask(tensor("x", datatype, [2], **{FIELDS[datatype]: values.tolist()})).inputs["x"].array

    assert found.tolist() == values.tolist()


def test_brain_floats_are_widened():
    halves = (np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16).astype("<u2")

    found = ask(tensor("x", "BF16", [2]), raw=[halves.tobytes()]).inputs["x"].array

    assert found.dtype == np.float32
    assert found.tolist() == [1.5, -2.0]


def test_large_raw_contents_that_were_taken_out_are_read():
    values = np.random.default_rng(0).normal(size=(8, 4096)).astype(np.float32)
    request = pb.ModelInferRequest(
        model_name="m", inputs=[tensor("x", "FP32", values.shape)], raw_input_contents=[values.tobytes()]
    )
    data, large = take_out(request.SerializeToString(), pb.ModelInferRequest)

    assert len(large.taken) == 1
    found = predict_request(pb.ModelInferRequest.FromString(data), model(TENSOR), LimitsConfig(), large)

    np.testing.assert_array_equal(found.inputs["x"].array, values)


@pytest.mark.parametrize("raw", [True, False])
def test_picture_files_come_as_bytes(raw):
    files = [b"one", b"and another"]
    encoded = b"".join(struct.pack("<I", len(each)) + each for each in files)
    message = tensor("image", "BYTES", [2, 1], **({} if raw else {"bytes_contents": files}))

    found = ask(message, raw=[encoded] if raw else (), of=model(PICTURE))

    assert found.inputs["image"] == requests.PicturesInput(tuple(files))


def test_columns_of_a_table_come_as_inputs_of_their_names():
    found = ask(
        tensor("width", "FP64", [2], fp64_contents=[1.5, 2.0]),
        tensor("colour", "BYTES", [2, 1], bytes_contents=[b"red", b"green"]),
        of=model(TABLE),
    )

    rows = ({"width": 1.5, "colour": "red"}, {"width": 2.0, "colour": "green"})
    assert found.inputs == {"features": requests.TableInput(rows)}


def test_a_table_comes_as_one_tensor_too():
    found = ask(tensor("features", "FP32", VALUES.shape), raw=[VALUES.tobytes()], of=model(TABLE))

    np.testing.assert_array_equal(found.inputs["features"].array, VALUES)


ONE = tensor("x", "FP32", [1, 3], fp32_contents=[1, 2, 3])


@pytest.mark.parametrize(
    ("tensors", "settings", "field"),
    [
        ([], {}, "inputs"),
        ([ONE, ONE], {}, "inputs"),
        ([tensor("x", "FP99", [1], fp32_contents=[1])], {}, "inputs[0].datatype"),
        ([tensor("x", "", [1], fp32_contents=[1])], {}, "inputs[0].datatype"),
        ([tensor("x", "FP32", [], fp32_contents=[1])], {}, "inputs[0].shape"),
        ([tensor("x", "FP32", [2, -1], fp32_contents=[1])], {}, "inputs[0].shape"),
        ([tensor("x", "FP32", [2, 0], fp32_contents=[])], {}, "inputs[0].shape"),
        ([tensor("x", "FP32", [0, 3], fp32_contents=[])], {}, "inputs"),
        ([tensor("x", "FP32", [2], fp32_contents=[1])], {}, "inputs[0].contents.fp32_contents"),
        ([tensor("x", "FP32", [1 << 40, 1 << 40], fp32_contents=[1])], {}, "inputs"),
        ([tensor("x", "FP32", [1, 1 << 40], fp32_contents=[1])], {}, "inputs[0].contents.fp32_contents"),
        ([tensor(f"x{number}", "FP32", [1], fp32_contents=[1]) for number in range(2)], {}, "inputs"),
        ([tensor("image", "BYTES", [1])], {"raw": [bytes(4) * 2], "of": model(PICTURE)}, "inputs[0]"),
        ([tensor("image", "BYTES", [3])], {"raw": [bytes(4) * 2], "of": model(PICTURE)}, "inputs[0]"),
        ([tensor("x", "INT8", [1], int_contents=[300])], {}, "inputs[0].contents.int_contents"),
        ([tensor("x", "FP16", [1], fp32_contents=[1])], {}, "inputs[0].datatype"),
        ([tensor("x", "FP32", [1], fp32_contents=[float("nan")])], {}, "inputs[0]"),
        ([tensor("", "FP32", [1], fp32_contents=[1])], {}, "inputs[0].name"),
        ([tensor("x", "BYTES", [1], bytes_contents=[b"a"])], {}, "inputs[0].datatype"),
        ([ONE], {"raw": [b"", b""]}, "raw_input_contents"),
        ([ONE], {"raw": [b""]}, "inputs[0].contents"),
        ([tensor("x", "FP32", [1, 3])], {"raw": [b"12345"]}, "inputs[0]"),
        ([tensor("x", "BOOL", [2])], {"raw": [b"\x00\x02"]}, "inputs[0]"),
        ([tensor("x", "UINT64", [1])], {"raw": [b"\xff" * 8]}, "inputs[0]"),
        ([tensor("image", "BYTES", [2])], {"raw": [b"\x09\x00\x00\x00abc"], "of": model(PICTURE)}, "inputs[0]"),
        ([tensor("image", "BYTES", [2])], {"raw": [b"\x01\x00\x00\x00a"], "of": model(PICTURE)}, "inputs[0]"),
        ([tensor("image", "BYTES", [1, 2], bytes_contents=[b"a", b"b"])], {"of": model(PICTURE)}, "inputs[0].shape"),
        ([tensor("image", "BYTES", [1], bytes_contents=[b""])], {"of": model(PICTURE)}, "inputs[0]"),
        ([tensor("colour", "BYTES", [1], bytes_contents=[b"\xff"])], {"of": model(TABLE)}, "inputs[0]"),
        ([tensor("width", "FP32", [1, 2], fp32_contents=[1, 2])], {"of": model(TABLE)}, "inputs[0].shape"),
        ([ONE, tensor("z", "FP32", [2], fp32_contents=[1, 2])], {}, "inputs"),
        ([tensor("x", "FP32", [9], fp32_contents=[1] * 9)], {"limits": LimitsConfig(predict_rows=8)}, "inputs"),
        ([ONE], {"outputs": ["y", ""]}, "outputs[1].name"),
    ],
)
def test_what_can_never_be_valid_is_refused_with_its_field(tensors, settings, field):
    with pytest.raises(InvalidRequestError) as caught:
        ask(*tensors, **settings)

    assert caught.value.metadata["field"] == field


@pytest.mark.parametrize(
    ("name", "version", "field"), [("", "", "a"), ("m", "latest", "b"), ("m", "-1", "b"), ("m", "9" * 30, "b")]
)
def test_a_version_is_a_number(name, version, field):
    with pytest.raises(InvalidRequestError) as caught:
        model_key(name, version, ("a", "b"))

    assert caught.value.metadata["field"] == field
    assert model_key("m", "", ("a", "b")).version == 0


def test_a_reply_has_the_outputs_in_the_order_asked_for():
    first, second = np.array([[1.0, 2.0]], np.float32), np.array([[3]], np.int64)
    runtime = results.Runtime("onnxruntime", "", "cpu", "float32", {})
    receipt = results.Receipt(requests.ModelKey("m", 3, "d" * 64), "", runtime, results.Work())
    result = results.PredictResult({"a": results.OutputResult(first), "b": results.OutputResult(second)}, receipt)

    reply = infer_response(result, "id-7", ("b", "a"))

    assert (reply.model_name, reply.model_version, reply.id) == ("m", "3", "id-7")
    assert [(each.name, each.datatype, list(each.shape)) for each in reply.outputs] == [
        ("b", "INT64", [1, 1]),
        ("a", "FP32", [1, 2]),
    ]
    assert list(reply.raw_output_contents) == [second.tobytes(), first.tobytes()]


def test_metadata_says_what_goes_in_and_comes_out():
    found = metadata_response(model(TENSOR, PICTURE), [1, 3])

    assert list(found.versions) == ["1", "3"]
    assert [(each.name, each.datatype, list(each.shape)) for each in found.inputs] == [
        ("x", "FP32", [-1, 3]),
        ("image", "FP32", [-1, 3, 8, 8]),
    ]
    assert found.outputs[0].shape == [-1, 2]


@pytest.mark.parametrize("rows", [1, 1 << 22])
def test_raw_elements_beyond_the_rows_that_are_taken_are_not_split(rows, monkeypatch):
    split = []
    unpack = struct.unpack_from
    monkeypatch.setattr(struct, "unpack_from", lambda *each: split.append(1) or unpack(*each))

    with pytest.raises(InvalidRequestError):
        ask(tensor("image", "BYTES", [rows]), raw=[bytes(4 << 22)], of=model(PICTURE))

    assert len(split) <= 1


def test_millions_of_axes_are_refused_before_they_are_looked_at():
    class Axes:
        def __len__(self):
            return 60_000_000

        def __iter__(self):
            raise AssertionError("looked at")

    with pytest.raises(InvalidRequestError, match="has 60000000 axes"):
        _shape(Axes(), "inputs[0]")
