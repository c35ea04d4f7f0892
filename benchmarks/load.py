"""Closed-loop load: so many callers, each with one call in flight, for so many seconds."""

import asyncio
import time

import grpc

OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]
ATTRIBUTE = "/pellucid.v1.ExplanationService/Attribute"
PREDICT = "/pellucid.v1.ExplanationService/Predict"
ECHO = "/Echo/Call"


def requests_per_second(address: str, method: str, body: bytes, *, callers: int, seconds: float) -> float:
    """Send `body` from `callers` callers for `seconds`; every reply must be OK."""
    return asyncio.run(_load(address, method, body, callers, seconds))


def once(address: str, method: str, body: bytes) -> bytes:
    """Return the reply to one call."""
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        reply: bytes = channel.unary_unary(method)(body, timeout=300, wait_for_ready=True)
    return reply


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
