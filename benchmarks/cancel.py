"""From a caller's leaving to an idle device: by cancel, by deadline, by a killed caller; in chunks of the device.

Integrated gradients run on the network on pictures; at a random moment the caller leaves, and the gauge of requests
that the workers have is read until it is no longer among them. A chunk is the mean device batch of undisturbed
requests. Who cancels or is killed is alone; a deadline is missed because others came to share the device.
"""

import argparse
import asyncio
import multiprocessing
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from pellucid.v1 import explanation_service_pb2

from benchmarks import load, questions, servers

_MOMENTS = (0.2, 0.6)
"""When the caller leaves, as shares of what the request takes."""

_DEADLINES = (1.4, 1.8)
"""The same of deadlines, which are long enough for a request alone, as others are refused beforehand."""

_CALLERS = 3
"""Callers that share the device so that the first misses its deadline; one without any other request need not wait."""

_MOST_SECONDS = 30.0
_LOOK_SECONDS = 0.005


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="the demo model repository")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=30, help="steps of integrated gradients")
    parser.add_argument("--threads", type=int, default=0, help="threads of the worker; 0 for all cores")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    load.print_command(__spec__)
    with servers.running(given.models, threads=given.threads) as server:
        asyncio.run(_measure(server, given))


async def _measure(server: servers.Running, given: argparse.Namespace) -> None:
    body, choose = questions.explain_picture(given.steps), random.Random(given.seed)
    async with grpc.aio.insecure_channel(server.address, options=load.OPTIONS) as channel:
        await _undisturbed(channel, body, 1)
        whole, chunk = await _undisturbed(channel, body, 1)
        _, shared_chunk = await _undisturbed(channel, body, _CALLERS)
        print(f"{whole:.2f} s in chunks of {1000 * chunk:.0f} ms; {_CALLERS} at once in {1000 * shared_chunk:.0f} ms")
        ways: dict[str, tuple[float, Callable[[], Awaitable[float]]]] = {
            "cancel": (chunk, lambda: _cancel(server, channel, body, whole * choose.uniform(*_MOMENTS))),
            "deadline": (shared_chunk, lambda: _expire(server, channel, body, whole * choose.uniform(*_DEADLINES))),
            "killed caller": (chunk, lambda: _kill(server, body, whole * choose.uniform(*_MOMENTS))),
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(given.rounds):
            for name, (_, leave) in ways.items():
                found[name].append(await leave())
    for name, seconds in found.items():
        median, most, unit = statistics.median(seconds), max(seconds), ways[name][0]
        print(
            f"{name:13} stopped after {1000 * median:4.0f} ms (most {1000 * most:4.0f}): "
            f"{median / unit:.2f} chunks (most {most / unit:.2f}; aim 2)"
        )


async def _undisturbed(channel: Any, body: bytes, callers: int) -> tuple[float, float]:
    """Return what requests of callers take that ask at once, and the mean time of their device batches, in seconds."""
    send = channel.unary_unary(load.ATTRIBUTE)
    answers = await asyncio.gather(*(send(body, timeout=300, metadata=_name(number)) for number in range(callers)))
    replies = [explanation_service_pb2.AttributeResponse.FromString(answer) for answer in answers]
    seconds = max(reply.timing.compute_seconds for reply in replies)
    # Those at once share every batch, so that each counts all of them.
    works = [reply.explanation.attributions[0].receipt.work for reply in replies]
    return seconds, seconds / max(sum(shape.batches for shape in work.batch_shapes) for work in works)


async def _cancel(server: servers.Running, channel: Any, body: bytes, after: float) -> float:
    running = channel.unary_unary(load.ATTRIBUTE)(body, timeout=300)
    running.add_done_callback(lambda _: None)
    await asyncio.sleep(after)
    _must_be_busy(server)
    running.cancel()
    return await _until(server, 0, time.perf_counter())


async def _expire(server: servers.Running, channel: Any, body: bytes, after: float) -> float:
    first = asyncio.create_task(load.call(channel, load.ATTRIBUTE, body, seconds=after))
    while not server.pending():
        await asyncio.sleep(0.01)
    others = [
        channel.unary_unary(load.ATTRIBUTE)(body, timeout=300, metadata=_name(number)) for number in range(1, _CALLERS)
    ]
    # The server's own deadline is a little earlier, so that its answer is in time: that is when it stops.
    code, _ = await first
    since = time.perf_counter()
    found = await _until(server, _CALLERS - 1, since)
    if code != "DEADLINE_EXCEEDED" or any(other.done() for other in others):
        raise SystemExit(f"with {after:.2f} s, the request ended with {code}; or others had ended before it")
    for other in others:
        other.cancel()
    await _until(server, 0, time.perf_counter())
    return found


async def _kill(server: servers.Running, body: bytes, after: float) -> float:
    caller = multiprocessing.get_context("spawn").Process(
        target=load.once, args=(server.address, load.ATTRIBUTE, body), daemon=True
    )
    caller.start()
    while not server.pending():
        await asyncio.sleep(0.01)
    await asyncio.sleep(after)
    _must_be_busy(server)
    caller.kill()
    found = await _until(server, 0, time.perf_counter())
    caller.join()
    return found


def _name(caller: int) -> tuple[tuple[str, str], ...]:
    return (("x-pellucid-caller", f"caller-{caller}"),)


def _must_be_busy(server: servers.Running) -> None:
    if not server.pending():
        raise SystemExit("the request had ended before its caller left; ask for more steps")


async def _until(server: servers.Running, left: int, since: float) -> float:
    """Read the gauge until no more than `left` requests are; return the seconds since `since`."""
    while server.pending() > left:
        if time.perf_counter() - since > _MOST_SECONDS:
            raise SystemExit(f"the workers still have {server.pending()} request(s) after {_MOST_SECONDS:g} s")
        # Reading without a pause would take the cores from those who stop; the channel's own work is on this loop, too.
        await asyncio.sleep(_LOOK_SECONDS)
    return time.perf_counter() - since


if __name__ == "__main__":
    main()
