"""Calls a server by NVIDIA's client, in a process of its own: both have the protocol's messages under one name.

`python tritonclient_calls.py ADDRESS MODEL` reads a row of numbers from standard input, as JSON, and writes what it
found to standard output.
"""

import asyncio
import json
import sys

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException


def main() -> None:
    """Ask everything that there is to ask."""
    address, model = sys.argv[1:]
    row = np.array([json.load(sys.stdin)], np.float32)
    client = triton.InferenceServerClient(address)
    metadata = client.get_model_metadata(model, as_json=True)
    (entry,) = metadata["inputs"]
    tensor = triton.InferInput(entry["name"], row.shape, entry["datatype"])
    tensor.set_data_from_numpy(row)
    (output,) = (each["name"] for each in metadata["outputs"])
    found = client.infer(model, [tensor], outputs=[triton.InferRequestedOutput(output)], request_id="r-1")
    try:
        client.infer("nothing", [tensor])
        refusal = ""
    except InferenceServerException as error:
        refusal = str(error.status())
    facts = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model ready": client.is_model_ready(model),
        "server": client.get_server_metadata().name,
        "platform": metadata["platform"],
        "values": found.as_numpy(output)[0].tolist(),
        "id": found.get_response().id,
        "refusal": refusal,
        "values of the asynchronous client": asyncio.run(_asynchronous(address, model, tensor, output)),
    }
    print(json.dumps(facts))


async def _asynchronous(address: str, model: str, tensor: triton.InferInput, output: str) -> list[float]:
    async with triton_aio.InferenceServerClient(address) as client:
        found = await client.infer(model, [tensor])
    values: list[float] = found.as_numpy(output)[0].tolist()
    return values


if __name__ == "__main__":
    main()
