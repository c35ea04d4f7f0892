"""Predict by the Open Inference Protocol, on the real server, against Predict by its own service."""

from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from e2e.messages import PICTURE_MODEL, TABLE_MODEL, failure, pictures, predict, rows
from e2e.serving import LONG_SECONDS, Server
from pellucid.tensors import from_tensor
from pellucid_server import open_inference_pb2 as pb

Floats = npt.NDArray[np.float64]


def call(server: Server, rpc: str, request: Any) -> Any:
    reply = {"ModelInfer": pb.ModelInferResponse}.get(rpc) or getattr(pb, f"{rpc}Response")
    stub = server.channel.unary_unary(
        f"/inference.GRPCInferenceService/{rpc}",
        request_serializer=type(request).SerializeToString,
        response_deserializer=reply.FromString,
    )
    return stub(request, timeout=LONG_SECONDS)


def infer(model: str, name: str, values: npt.NDArray[np.float32], **settings: Any) -> pb.ModelInferRequest:
    tensor = pb.ModelInferRequest.InferInputTensor(name=name, datatype="FP32", shape=values.shape)
    return pb.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[values.tobytes()], **settings)


def test_the_server_and_its_models_are_live_and_ready(server: Server) -> None:
    assert call(server, "ServerLive", pb.ServerLiveRequest()).live
    assert call(server, "ServerReady", pb.ServerReadyRequest()).ready
    assert call(server, "ModelReady", pb.ModelReadyRequest(name=TABLE_MODEL)).ready
    assert call(server, "ModelReady", pb.ModelReadyRequest(name=TABLE_MODEL, version="1")).ready
    assert call(server, "ServerMetadata", pb.ServerMetadataRequest()).name == "pellucid"


@pytest.mark.parametrize("rpc", ["ModelReady", "ModelMetadata"])
def test_a_model_that_there_is_not_is_not_found(server: Server, rpc: str) -> None:
    error = failure(lambda: call(server, rpc, getattr(pb, f"{rpc}Request")(name="nothing")))

    assert error.code() is grpc.StatusCode.NOT_FOUND


def test_metadata_is_enough_to_call_a_model_by(server: Server, table: Floats) -> None:
    metadata = call(server, "ModelMetadata", pb.ModelMetadataRequest(name=TABLE_MODEL))
    (entry,) = metadata.inputs
    assert (entry.datatype, list(entry.shape)) == ("FP32", [-1, table.shape[1]])

    reply = call(server, "ModelInfer", infer(TABLE_MODEL, entry.name, table[:3].astype(np.float32), id="seven"))

    assert (reply.model_name, reply.model_version, reply.id) == (TABLE_MODEL, metadata.versions[-1], "seven")
    ((output,), (raw,)) = (reply.outputs, reply.raw_output_contents)
    own = server.explanations.Predict(
        predict(TABLE_MODEL, {entry.name: rows(table[:3].astype(np.float32))}), timeout=LONG_SECONDS
    )
    (expected,) = own.outputs.values()
    np.testing.assert_array_equal(
        np.frombuffer(raw, "<f4").reshape(output.shape), from_tensor(expected.values).astype(np.float32)
    )


def test_a_table_is_sent_by_its_columns(server: Server, table: Floats, columns: tuple[str, ...]) -> None:
    tensors = [
        pb.ModelInferRequest.InferInputTensor(
            name=name, datatype="FP64", shape=[2, 1], contents=pb.InferTensorContents(fp64_contents=values)
        )
        for name, values in zip(columns, table[:2].T, strict=True)
    ]

    reply = call(server, "ModelInfer", pb.ModelInferRequest(model_name=TABLE_MODEL, inputs=tensors))

    whole = call(server, "ModelInfer", infer(TABLE_MODEL, "features", table[:2].astype(np.float32)))
    np.testing.assert_allclose(
        np.frombuffer(reply.raw_output_contents[0], "<f4"),
        np.frombuffer(whole.raw_output_contents[0], "<f4"),
        rtol=1e-4,
        atol=1e-6,
    )


def test_a_photograph_is_sent_as_the_file_it_is(server: Server, cat: bytes) -> None:
    tensor = pb.ModelInferRequest.InferInputTensor(
        name="image", datatype="BYTES", shape=[1], contents=pb.InferTensorContents(bytes_contents=[cat])
    )

    reply = call(server, "ModelInfer", pb.ModelInferRequest(model_name=PICTURE_MODEL, inputs=[tensor]))

    own = server.explanations.Predict(predict(PICTURE_MODEL, {"image": pictures(cat)}), timeout=LONG_SECONDS)
    (expected,) = own.outputs.values()
    np.testing.assert_allclose(
        np.frombuffer(reply.raw_output_contents[0], "<f4"), from_tensor(expected.values)[0], rtol=0, atol=1e-5
    )


def test_what_is_wrong_is_named_in_the_protocols_words(server: Server) -> None:
    for request, code in (
        (infer(TABLE_MODEL, "features", np.zeros((2, 7), np.float32)), grpc.StatusCode.INVALID_ARGUMENT),
        (infer(TABLE_MODEL, "nothing", np.zeros((2, 7), np.float32)), grpc.StatusCode.INVALID_ARGUMENT),
        (infer(TABLE_MODEL, "features", np.full((1, 30), np.nan, np.float32)), grpc.StatusCode.INVALID_ARGUMENT),
        (infer("nothing", "features", np.zeros((1, 30), np.float32)), grpc.StatusCode.NOT_FOUND),
        (infer(TABLE_MODEL, "features", np.zeros((1, 30), np.float32), model_version="77"), grpc.StatusCode.NOT_FOUND),
        (pb.ModelInferRequest(model_name=TABLE_MODEL), grpc.StatusCode.INVALID_ARGUMENT),
    ):
        error = failure(lambda request=request: call(server, "ModelInfer", request))  # type: ignore[misc]

        assert error.code() is code, error.details()


def test_calls_are_in_the_log_with_their_model(server: Server, table: Floats) -> None:
    call(server, "ModelInfer", infer(TABLE_MODEL, "features", table[:1].astype(np.float32)))

    assert server.lines("rpc=ModelInfer", "code=OK", f"model={TABLE_MODEL}", "class=predictions")
