"""How long predictions take while others explain: 5 a second beside four callers of integrated gradients.

With `--dissect`, beside one caller that has a late layer of the network dissected, again and again.

Open loop: requests are sent at fixed times, whether or not earlier ones were answered. Quiet and loaded
rounds take turns; the medians of the rounds' quantiles are compared.
"""

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from pellucid.v1 import (
    dissection_pb2,
    explanation_pb2,
    explanation_service_pb2,
    explanation_service_pb2_grpc,
)
from pellucid_server.scenes.command import write_scenes

from benchmarks import load, questions, servers

RATE = 5.0
_SETTLING_SECONDS = 2.0
_CALL_SECONDS = 60.0
_SCENES, _PICTURES, _LAYER = "scenes", 1000, "_bn1"
_AIMS = {"p50": "; aim 1.15", "p99": "; aim 1.8"}

Quantiles = tuple[float, float]
"""The median and the 99th percentile, in ms."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="the demo model repository")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=12.0, help="length of one measurement")
    parser.add_argument("--callers", type=int, default=4, help="callers of integrated gradients")
    parser.add_argument("--threads", type=int, default=0, help="threads of the worker; 0 for all cores")
    parser.add_argument("--dissect", action="store_true", help="beside a dissection in place of explanations")
    given = parser.parse_args()
    load.print_command(__spec__)
    with tempfile.TemporaryDirectory() as folder:
        if given.dissect:
            write_scenes(Path(folder) / _SCENES, rows=_PICTURES)
        settings = {"PELLUCID_MODELS__DATASETS": folder}
        with servers.running(given.models, threads=given.threads, settings=settings) as server:
            asyncio.run(_compare(server.address, given))


async def _compare(address: str, given: argparse.Namespace) -> None:
    quiet, loaded = [], []
    async with grpc.aio.insecure_channel(address, options=load.OPTIONS) as channel:
        for _ in range(5):
            await load.call(channel, load.PREDICT, questions.predict_picture(), seconds=_CALL_SECONDS)
        for _ in range(given.rounds):
            quiet.append(await _measured(channel, given.seconds))
            async with _dissecting(channel) if given.dissect else _explaining(channel, given.callers):
                loaded.append(await _measured(channel, given.seconds))
    _print("quiet", quiet)
    _print("dissection" if given.dissect else f"beside {given.callers}", loaded)
    for number, name in enumerate(("p50", "p99")):
        ratios = sorted(mine[number] / alone[number] for alone, mine in zip(quiet, loaded, strict=True))
        aim = "; aim 2" if given.dissect and name == "p99" else _AIMS[name]
        print(f"ratio of {name}: {statistics.median(ratios):.2f} (rounds {ratios[0]:.2f} to {ratios[-1]:.2f}{aim})")


async def _measured(channel: Any, seconds: float) -> Quantiles:
    sent = await load.open_loop(
        channel, load.PREDICT, questions.predict_picture(), rate=RATE, seconds=seconds, deadline_seconds=_CALL_SECONDS
    )
    took = [each.seconds * 1000 for each in sent if each.code == "OK"]
    if len(took) < len(sent):
        raise SystemExit(
            f"{len(sent) - len(took)} of {len(sent)} predictions failed: { ({each.code for each in sent}) }"
        )
    return float(np.quantile(took, 0.5)), float(np.quantile(took, 0.99))


@contextlib.asynccontextmanager
async def _explaining(channel: Any, callers: int) -> AsyncIterator[None]:
    body = questions.explain_picture()

    async def caller() -> None:
        while True:
            await load.call(channel, load.ATTRIBUTE, body, seconds=300.0)

    async with _beside([caller() for _ in range(callers)]):
        yield


@contextlib.asynccontextmanager
async def _dissecting(channel: Any) -> AsyncIterator[None]:
    request = explanation_service_pb2.DissectRequest(
        model=explanation_pb2.ModelSpec(name=questions.PICTURES),
        method="network-dissection",
        layers=[dissection_pb2.LayerUnits(layer=_LAYER)],
        probe=dissection_pb2.Probe(dataset=_SCENES),
    )
    stub = explanation_service_pb2_grpc.ExplanationServiceStub(channel)

    async def caller() -> None:
        while True:
            async for _ in stub.Dissect(request, timeout=600):
                pass

    async with _beside([caller()]):
        yield


@contextlib.asynccontextmanager
async def _beside(callers: Sequence[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Have callers call from now on."""
    tasks = [asyncio.create_task(each) for each in callers]
    await asyncio.sleep(_SETTLING_SECONDS)
    if any(task.done() for task in tasks):
        raise SystemExit(f"a caller failed: {next(task for task in tasks if task.done()).exception()}")
    yield
    started = time.perf_counter()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    # What they left behind is not the next round's.
    await asyncio.sleep(max(0.0, _SETTLING_SECONDS - (time.perf_counter() - started)))


def _print(name: str, rounds: list[Quantiles]) -> None:
    p50, p99 = (statistics.median(each[number] for each in rounds) for number in (0, 1))
    worst = max(each[1] for each in rounds)
    print(f"{name:10} p50 {p50:6.1f} ms   p99 {p99:6.1f} ms (medians of the rounds; worst p99 {worst:.1f})")


if __name__ == "__main__":
    main()
