"""Make one call through the light client, with nothing installed but what it needs."""

import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import grpc
import numpy as np
from pellucid import Client, errors
from pellucid.tensors import from_tensor, to_tensor
from pellucid.v1 import explanation_service_pb2, explanation_service_pb2_grpc, model_service_pb2_grpc
from pellucid.v1.model_service_pb2 import GetModelRequest, GetModelResponse, InputSignature


class Echo(explanation_service_pb2_grpc.ExplanationServiceServicer):  # type: ignore[misc]
    """Predicts its own input."""

    def Predict(self, request: explanation_service_pb2.PredictRequest, context: Any) -> Any:  # noqa: N802
        """Answer with the input as the output."""
        output = explanation_service_pb2.Output(values=to_tensor(from_tensor(request.inputs["x"].tensor)))
        return explanation_service_pb2.PredictResponse(outputs={"x": output})


class Models(model_service_pb2_grpc.ModelServiceServicer):  # type: ignore[misc]
    """Has one model."""

    def GetModel(self, request: GetModelRequest, context: Any) -> GetModelResponse:  # noqa: N802
        """Describe a model of one input, or refuse."""
        if request.model.name != "echo":
            context.abort(grpc.StatusCode.NOT_FOUND, "No such model.")
        return GetModelResponse(inputs=[InputSignature(name="x", modality="MODALITY_TENSOR", shape=[3])])


def main() -> None:
    """Serve, call, compare."""
    server = grpc.server(ThreadPoolExecutor(2))
    explanation_service_pb2_grpc.add_ExplanationServiceServicer_to_server(Echo(), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    rows = np.arange(6, dtype=np.float32).reshape(2, 3)
    with Client(f"localhost:{port}") as client:
        returned = client.predict("echo", rows).outputs["x"]
        try:
            client.model("other")
        except errors.NotFoundError as error:
            refused = error.message
    server.stop(None).wait()
    if not np.array_equal(returned, rows) or refused != "No such model.":
        sys.exit(f"The call went wrong: {returned}, {refused!r}")
    heavy = [name for name in ("torch", "matplotlib", "PIL", "rich", "typer") if find_spec(name)]
    if heavy:
        sys.exit(f"The light client brought {', '.join(heavy)}")


if __name__ == "__main__":
    main()
