"""The least that a gRPC server in Python can do for `Predict`: read the message, run ONNX Runtime, write the reply.

No checks, no queue, no batches, no worker, no receipt. `python -m benchmarks.least_server MODEL.onnx THREADS` prints
its port. Rows run one after the other on a thread of their own, beside the event loop.
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import onnxruntime
from pellucid.tensors import from_tensor, to_tensor
from pellucid.v1 import explanation_service_pb2 as messages

from benchmarks import load


class _Predict(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    def __init__(self, path: str, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._runner = ThreadPoolExecutor(1)

    def service(self, handler_call_details: Any) -> Any:
        """Return the one handler."""
        return grpc.unary_unary_rpc_method_handler(self._predict)

    async def _predict(self, data: bytes, context: Any) -> bytes:
        (image,) = messages.PredictRequest.FromString(data).inputs.values()
        feed = {self._session.get_inputs()[0].name: from_tensor(image.tensor)}
        values = await asyncio.get_running_loop().run_in_executor(self._runner, self._session.run, None, feed)
        reply = messages.PredictResponse(outputs={"output": messages.Output(values=to_tensor(values[0]))})
        return bytes(reply.SerializeToString())


async def main() -> None:
    """Serve until the process is ended."""
    server = grpc.aio.server(options=load.OPTIONS)
    server.add_generic_rpc_handlers((_Predict(sys.argv[1], int(sys.argv[2])),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
