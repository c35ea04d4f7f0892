"""What the conductor itself asks: the quiet answers before the load, and cut-short answers made again after it."""

from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path

import grpc
from pellucid.v1 import explanation_pb2, explanation_service_pb2, model_service_pb2

from soak import answers, calling, catalogue, records

ID = "conductor"
"""The x-request-id of all these calls."""

_SECONDS = 120.0


async def prepare(address: str, folder: Path, seed: int) -> list[catalogue.Entry]:
    """Write the catalogue and its quiet answers to the folder, and return its entries.

    Raises
    ------
    SystemExit
        A request does not end as it should even while all is quiet.
    """
    async with grpc.aio.insecure_channel(address, options=calling.OPTIONS) as channel:
        listed = model_service_pb2.ListModelsResponse.FromString(await _ask(channel, catalogue.MODELS + "ListModels"))
        described = {}
        for each in listed.models:
            request = model_service_pb2.GetModelRequest(model=explanation_pb2.ModelSpec(name=each.model.name))
            reply = await _ask(channel, catalogue.MODELS + "GetModel", request.SerializeToString())
            described[each.model.name] = model_service_pb2.GetModelResponse.FromString(reply)
        reply = await _ask(channel, catalogue.MODELS + "ListMethods")
        described_methods = model_service_pb2.ListMethodsResponse.FromString(reply).methods
        methods = [each.name for each in described_methods if each.rpc == "attribute"]
        entries = catalogue.build(described, methods, seed)
        quiet = [await _answer(channel, entry, request) for entry, request in entries]
    catalogue.write(folder, entries, quiet)
    return [entry for entry, _ in entries]


async def replays(address: str, folder: Path, calls: Iterable[records.Call]) -> Mapping[str, list[str]]:
    """Make kept answers again by their receipts; return what differs, by the name of the request and the call."""
    known = catalogue.read(folder)
    found = {}
    async with grpc.aio.insecure_channel(address, options=calling.OPTIONS) as channel:
        again = _Again(channel)
        for call in calls:
            if call.ended is None or not call.ended.kept:
                continue
            entry, request, _ = known[call.begun.entry]
            answer = (folder / call.ended.kept).read_bytes()
            name = f"{entry.name} ({call.begun.id})"
            found[name] = [fault async for fault in again.faults(request, answer)]
    return found


class _Again:
    """Answers made again; what was cut alike is asked for once."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._replies: dict[bytes, bytes] = {}

    async def faults(self, request: bytes, answer: bytes) -> AsyncIterator[str]:
        reply = explanation_service_pb2.AttributeResponse.FromString(answer)
        for row, each in enumerate(reply.explanation.attributions):
            again = await self._made(catalogue.replay(request, each, row=row))
            (other,) = explanation_service_pb2.AttributeResponse.FromString(again).explanation.attributions
            for fault in answers.attribution_faults(each, other, reply.prediction):
                yield f"row {row}: {fault}"

    async def _made(self, request: bytes) -> bytes:
        if request not in self._replies:
            self._replies[request] = await _ask(self._channel, catalogue.EXPLANATIONS + "Attribute", request)
        return self._replies[request]


async def _answer(channel: grpc.aio.Channel, entry: catalogue.Entry, request: bytes) -> bytes:
    priority = entry.priorities[0]
    return await _ask(channel, entry.path, request, code=entry.code, streaming=entry.streaming, priority=priority)


async def _ask(
    channel: grpc.aio.Channel,
    path: str,
    request: bytes = b"",
    *,
    code: str = "OK",
    streaming: bool = False,
    priority: str = "",
) -> bytes:
    keys = calling.metadata(ID, priority=priority)
    outcome = await calling.call(channel, path, request, seconds=_SECONDS, metadata=keys, streaming=streaming)
    if outcome.code != code:
        name = path.rpartition("/")[2]
        raise SystemExit(f"While all was quiet, {name} ended with {outcome.code}, not {code}: {outcome.message}")
    return outcome.reply
