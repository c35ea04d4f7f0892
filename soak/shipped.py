"""A process of callers with the shipped client and its retries: `python -m soak.shipped ADDRESS FOLDER NAME SEED`.

They ask patiently and cancel nothing, so whatever they see fail is a fault of the client's retries or the server.
Ends when standard input has and the last call has.
"""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pellucid import Attribution, ExplanationSpec, PellucidError, Prediction
from pellucid.aio import AsyncClient
from pellucid.tensors import from_tensor
from pellucid.v1 import explanation_service_pb2, input_pb2

from soak import answers, calling, catalogue, command, records

CALLERS = 3
"""Callers in a process, each with a client of its own."""

_PAUSE_SECONDS = 0.2


class Shipped:
    """The callers of one process."""

    def __init__(self, address: str, folder: Path, name: str, seed: str) -> None:
        self._address = address
        self._name = name
        self._random = random.Random(f"{seed}/{name}")
        self._asked = [(number, *each) for number, each in enumerate(catalogue.read(folder)) if _can_be_asked(each[0])]
        self._weights = [entry.weight for _, entry, _, _ in self._asked]
        self._notes = records.Notebook(folder / f"{name}.calls")

    async def run(self, stopped: asyncio.Event) -> None:
        """Call until `stopped` is set."""
        await asyncio.gather(*(self._caller(f"{self._name}-{number}", stopped) for number in range(CALLERS)))

    async def _caller(self, identity: str, stopped: asyncio.Event) -> None:
        # The client has one id for all its calls: the log's lines are counted against them in sum.
        async with AsyncClient(self._address, metadata={"x-request-id": identity}) as client:
            made = 0
            while not stopped.is_set():
                made += 1
                await self._call(client, f"{identity}#{made}")
                await asyncio.sleep(self._random.expovariate(1 / _PAUSE_SECONDS))

    async def _call(self, client: AsyncClient, identity: str) -> None:
        ((number, entry, request, quiet),) = self._random.choices(self._asked, self._weights)
        seconds = catalogue.GENEROUS_SECONDS
        self._notes.note(records.Begun(identity, number, "patient", seconds, calling.seconds_now()))
        code, message = "OK", ""
        faults: tuple[str, ...] = ()
        try:
            async with asyncio.timeout(seconds + calling.HANG_SECONDS):
                faults = tuple(await _answer(client, entry, request, quiet, seconds))
        except PellucidError as error:
            code, message = error.code.name, str(error)[:300]
        except TimeoutError:
            code = calling.HANG
        ended = records.Ended(
            identity, code, calling.seconds_now(), answered=code == "OK", message=message, faults=faults
        )
        self._notes.note(ended)


def _can_be_asked(entry: catalogue.Entry) -> bool:
    return entry.rpc in {"Predict", "Attribute"} and entry.code == "OK" and not entry.adaptive


async def _answer(
    client: AsyncClient, entry: catalogue.Entry, request: bytes, quiet: bytes, seconds: float
) -> Iterator[str]:
    if entry.rpc == "Predict":
        predict = explanation_service_pb2.PredictRequest.FromString(request)
        specs = [_spec(each) for each in predict.explanations]
        found = await client.predict(predict.model.name, _inputs(predict.inputs), explanations=specs, timeout=seconds)
        return _prediction_faults(found, explanation_service_pb2.PredictResponse.FromString(quiet))
    attribute = explanation_service_pb2.AttributeRequest.FromString(request)
    spec = _spec(attribute.explanation)
    rows = await client.attribute_rows(attribute.model.name, _inputs(attribute.inputs), spec, timeout=seconds)
    reply = explanation_service_pb2.AttributeResponse.FromString(quiet)
    return _attribution_faults(rows, reply.explanation.attributions)


def _prediction_faults(mine: Prediction, quiet: explanation_service_pb2.PredictResponse) -> Iterator[str]:
    for name, output in quiet.outputs.items():
        yield from answers.alike(f"output {name}", mine.outputs[name], from_tensor(output.values))
    for outcome, explained in zip(mine.explanations, quiet.explanations, strict=True):
        if outcome.error is not None:
            yield f"{outcome.method}: {outcome.error.message}"
        else:
            yield from _attribution_faults(outcome.attributions, explained.explanation.attributions)


def _attribution_faults(mine: tuple[Attribution, ...], quiet: Any) -> Iterator[str]:
    for row, (one, other) in enumerate(zip(mine, quiet, strict=True)):
        for name, each in other.inputs.items():
            what = f"row {row}, scores of {name}"
            yield from answers.alike(what, one.inputs[name].scores, from_tensor(each.scores))


def _inputs(messages: Any) -> dict[str, Any]:
    return {name: _given(message) for name, message in messages.items()}


def _given(message: input_pb2.Input) -> Any:
    match message.WhichOneof("value"):
        case "pictures":
            return list(message.pictures.encoded)
        case "table":
            return [
                {name: getattr(cell, str(cell.WhichOneof("value"))) for name, cell in row.cells.items()}
                for row in message.table.rows
            ]
    return from_tensor(message.tensor)


def _spec(message: Any) -> ExplanationSpec:
    parameters = {name: getattr(value, value.WhichOneof("value")) for name, value in message.parameters.items()}
    return ExplanationSpec(message.method, parameters, seed=message.seed)


if __name__ == "__main__":
    command.main(__doc__, Shipped)
