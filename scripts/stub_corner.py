"""Make calls through both light clients, with nothing installed but what they need."""

import asyncio
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import grpc
import numpy as np
from pellucid import Client, errors
from pellucid.aio import AsyncClient
from pellucid.tensors import from_tensor, to_tensor
from pellucid.v1 import explanation_pb2, explanation_service_pb2, explanation_service_pb2_grpc, model_service_pb2_grpc
from pellucid.v1.model_service_pb2 import GetModelRequest, GetModelResponse, InputSignature

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)
LONG_SECONDS = 30


class Echo(explanation_service_pb2_grpc.ExplanationServiceServicer):  # type: ignore[misc]
    """Predicts its own input, and says that each element counts for itself."""

    def __init__(self) -> None:
        self.waiting, self.left = threading.Event(), threading.Event()

    def Predict(self, request: explanation_service_pb2.PredictRequest, context: Any) -> Any:  # noqa: N802
        """Answer with the input as the output."""
        output = explanation_service_pb2.Output(values=to_tensor(from_tensor(request.inputs["x"].tensor)))
        return explanation_service_pb2.PredictResponse(outputs={"x": output})

    def Attribute(self, request: explanation_service_pb2.AttributeRequest, context: Any) -> Any:  # noqa: N802
        """Answer with the input as its scores; wait with "wait" until the caller leaves."""
        if request.explanation.method == "wait":
            # A call that has ended already takes no callback.
            context.add_callback(self.left.set) or self.left.set()
            self.waiting.set()
            self.left.wait(LONG_SECONDS)
        scores = explanation_pb2.InputAttribution(scores=to_tensor(from_tensor(request.inputs["x"].tensor)[0]))
        explanation = explanation_pb2.Explanation(attributions=[explanation_pb2.Attribution(inputs={"x": scores})])
        return explanation_service_pb2.AttributeResponse(explanation=explanation)


class Models(model_service_pb2_grpc.ModelServiceServicer):  # type: ignore[misc]
    """Has one model."""

    def GetModel(self, request: GetModelRequest, context: Any) -> GetModelResponse:  # noqa: N802
        """Describe a model of one input, or refuse."""
        if request.model.name != "echo":
            context.abort(grpc.StatusCode.NOT_FOUND, "No such model.")
        return GetModelResponse(inputs=[InputSignature(name="x", modality="MODALITY_TENSOR", shape=[3])])


def main() -> None:
    """Serve, call, compare."""
    server, echo = grpc.server(ThreadPoolExecutor(2)), Echo()
    explanation_service_pb2_grpc.add_ExplanationServiceServicer_to_server(echo, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Models(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    ask(f"localhost:{port}")
    asyncio.run(ask_with_asyncio(f"localhost:{port}", echo))
    server.stop(None).wait()
    heavy = [name for name in ("torch", "matplotlib", "PIL", "rich", "typer") if find_spec(name)]
    check(not heavy, f"The light client brought {', '.join(heavy)}")


def ask(address: str) -> None:
    """Try the blocking client."""
    with Client(address) as client:
        check_values(client.predict("echo", ROWS).outputs["x"], ROWS)
        check_values(client.attribute("echo", ROWS[:1], "saliency").scores["x"], ROWS[0])
        with refused():
            client.model("other")


async def ask_with_asyncio(address: str, echo: Echo) -> None:
    """Try the client for asyncio, and that it takes its calls back."""
    async with AsyncClient(address) as client:
        check_values((await client.predict("echo", ROWS)).outputs["x"], ROWS)
        check_values((await client.attribute("echo", ROWS[:1], "saliency")).scores["x"], ROWS[0])
        with refused():
            await client.model("other")
        asking = asyncio.create_task(client.attribute("echo", ROWS[:1], "wait"))
        check(await asyncio.to_thread(echo.waiting.wait, LONG_SECONDS), "The call did not arrive")
        asking.cancel()
        check(await asyncio.to_thread(echo.left.wait, LONG_SECONDS), "A cancelled task left its call running")
        (ended,) = await asyncio.gather(asking, return_exceptions=True)
        check(isinstance(ended, asyncio.CancelledError), f"A cancelled task ended with {ended!r}")


@contextmanager
def refused() -> Iterator[None]:
    """End the program unless what is done within is refused in the server's words."""
    try:
        yield
    except errors.NotFoundError as error:
        check(error.message == "No such model.", f"The refusal was read as {error.message!r}")
    else:
        sys.exit("A model that is not there was described")


def check_values(found: Any, expected: Any) -> None:
    """End the program if an answer is not what was sent."""
    check(np.array_equal(found, expected), f"{found} came back for {expected}")


def check(holds: bool, text: str) -> None:
    """End the program if something does not hold."""
    if not holds:
        sys.exit(text)


if __name__ == "__main__":
    main()
