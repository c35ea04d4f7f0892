"""Load: closed loop, so many callers with one call each in flight; or open loop, calls at fixed times."""

import asyncio
import random
import sys
import time
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]
ATTRIBUTE = "/pellucid.v1.ExplanationService/Attribute"
PREDICT = "/pellucid.v1.ExplanationService/Predict"
ECHO = "/Echo/Call"


@dataclass(frozen=True)
class Sent:
    """One request and how it ended."""

    code: str
    """Of its last attempt."""
    seconds: float
    """From its time to its end."""
    last_seconds: float
    """From its last attempt to its end."""
    attempts: int
    ended: float
    """When, in seconds after the first was due."""
    lateness: float
    """How long after its time it was really sent: the sender's fault."""


def print_command(spec: Any) -> None:
    """Print the command line, so that figures can be had again."""
    print("$", "python -m", spec.name, *sys.argv[1:])


def requests_per_second(address: str, method: str, body: bytes, *, callers: int, seconds: float) -> float:
    """Send `body` from `callers` callers for `seconds`; every reply must be OK."""
    return asyncio.run(_load(address, method, body, callers, seconds))


def once(address: str, method: str, body: bytes) -> bytes:
    """Return the reply to one call."""
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        reply: bytes = channel.unary_unary(method)(body, timeout=300, wait_for_ready=True)
    return reply


async def call(channel: Any, method: str, body: bytes, *, seconds: float) -> tuple[str, float | None]:
    """Make a call; return its code and RetryInfo's delay, if there is one."""
    try:
        await channel.unary_unary(method)(body, timeout=seconds)
    except grpc.aio.AioRpcError as error:
        return error.code().name, _retry_seconds(error)
    return "OK", None


async def open_loop(
    channel: Any,
    method: str,
    body: bytes,
    *,
    rate: float,
    seconds: float,
    deadline_seconds: float,
    heeding: bool = False,
) -> list[Sent]:
    """Send `body` `rate` times a second for `seconds`, and return how each went once all have ended.

    Parameters
    ----------
    heeding
        Whether a request that is refused is sent again after the delay that RetryInfo says, within its
        deadline; otherwise it is given up.
    """
    started = time.perf_counter()
    sent = []
    for number in range(round(rate * seconds)):
        due = started + number / rate
        # Never yields for requests that are late, but lets replies be read.
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        sent.append(asyncio.create_task(_sent(channel, method, body, (started, due), deadline_seconds, heeding)))
    return list(await asyncio.gather(*sent))


async def _sent(
    channel: Any, method: str, body: bytes, times: tuple[float, float], deadline_seconds: float, heeding: bool
) -> Sent:
    started, due = times
    lateness, attempts = time.perf_counter() - due, 0
    while True:
        began = time.perf_counter()
        attempts += 1
        code, retry_seconds = await call(channel, method, body, seconds=due + deadline_seconds - began)
        now = time.perf_counter()
        wait = None if retry_seconds is None else retry_seconds * random.uniform(1, 1.25)
        if not heeding or wait is None or now + wait > due + deadline_seconds:
            return Sent(code, now - due, now - began, attempts, now - started, lateness)
        await asyncio.sleep(wait)


def _retry_seconds(error: grpc.aio.AioRpcError) -> float | None:
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                found = error_details_pb2.RetryInfo()
                if detail.Unpack(found):
                    return found.retry_delay.ToNanoseconds() / 1e9
    return None


async def _load(address: str, method: str, body: bytes, callers: int, seconds: float) -> float:
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        call = channel.unary_unary(method)
        await call(body, wait_for_ready=True)
        answered, started = 0, time.perf_counter()

        async def caller() -> None:
            nonlocal answered
            while time.perf_counter() - started < seconds:
                await call(body, timeout=300)
                answered += 1

        await asyncio.gather(*(caller() for _ in range(callers)))
        return answered / (time.perf_counter() - started)
