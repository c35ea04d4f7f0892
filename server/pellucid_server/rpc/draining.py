"""How a server stops taking requests: it refuses new ones, answers those that it has, and then ends the rest."""

import asyncio
import contextlib
import time
from typing import Any

import grpc

from pellucid_server.errors import UnavailableError
from pellucid_server.rpc.boundary import Boundary

_ENDLESS_SECONDS = 1e9

_NOTICE_SECONDS = 0.25
"""Time in which a stopping server still takes calls, to refuse them: those on their way would be CANCELLED by gRPC."""

_QUIET_SECONDS = 0.05
_LONGEST_NOTICE_SECONDS = 1.0
"""The notice ends once nothing has come for that long: a starved process took in fifty calls in 0.5 s."""

_LOOK_SECONDS = 0.02
_LONGEST_DISTURBED_SECONDS = 5.0
"""The notice goes on, too, while the machine hardly lets this process run."""

_LAST_ANSWERS_SECONDS = 1.0
"""Time for the last answers, which say that the grace is over, to leave."""

_AT_ONCE_SECONDS = 0.05
"""How soon callers may send those requests again: their connections are being ended, so it is to another server."""


async def drain(server: grpc.aio.Server, boundary: Boundary, hurried: asyncio.Event, grace_seconds: float) -> None:
    """Refuse new work, then new connections; end with the last request, at the latest after the grace.

    Parameters
    ----------
    boundary
        Has the server's requests.
    hurried
        Set when no more of the grace is to pass.
    """
    hurry = asyncio.create_task(hurried.wait())
    began = time.monotonic()
    await _give_notice(boundary, hurry, grace_seconds)
    # gRPC's own grace would always be used up, by health watchers, whose streams stay open for ever. And its end
    # must not meet the second stop: one of the two would then touch the server that the other has freed.
    stopping = asyncio.create_task(server.stop(_ENDLESS_SECONDS))
    ends = {asyncio.create_task(boundary.idle()), hurry}
    left_seconds = max(grace_seconds - (time.monotonic() - began), 0.0)
    await asyncio.wait({stopping, *ends}, timeout=left_seconds, return_when=asyncio.FIRST_COMPLETED)
    await _answer_the_last(boundary)
    for end in ends:
        end.cancel()
    await server.stop(None)
    await stopping


async def _give_notice(boundary: Boundary, hurry: "asyncio.Task[Any]", grace_seconds: float) -> None:
    """Refuse what comes for a while: longer where a busy machine is still taking in what was sent before."""
    now = disturbed = time.monotonic()
    least, most, latest = (
        now + min(seconds, grace_seconds)
        for seconds in (_NOTICE_SECONDS, _LONGEST_NOTICE_SECONDS, _LONGEST_DISTURBED_SECONDS)
    )
    while not hurry.done() and now < latest:
        entered = boundary.last_entered if now < most else 0.0
        if now >= max(least, entered + _QUIET_SECONDS, disturbed + _QUIET_SECONDS):
            return
        before = now
        await asyncio.wait({hurry}, timeout=_LOOK_SECONDS)
        now = time.monotonic()
        if now - before > 3 * _LOOK_SECONDS:
            # This process was held up, and with it the threads that take calls in.
            disturbed = now


async def _answer_the_last(boundary: Boundary) -> None:
    """Answer those whose time is up: gRPC alone would cancel their calls without a word."""
    text = "The server is shutting down; send the request again, to another one."
    boundary.give_up(UnavailableError(text, retry_after_seconds=f"{_AT_ONCE_SECONDS:.3f}"))
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(boundary.idle(), _LAST_ANSWERS_SECONDS)
