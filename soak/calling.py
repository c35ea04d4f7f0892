"""One call by a bare stub, with its deadline, its keys and its cancellation, and what came of it."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

OPTIONS = [
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", 64 << 20),
    ("grpc.enable_http_proxy", 0),
    # A caller that lost its server looks for it again within seconds.
    ("grpc.max_reconnect_backoff_ms", 1000),
]

HANG_SECONDS = 2.0
"""A call that has no outcome so long after its deadline hangs."""

HANG = "HANG"

_ID, _CALLER, _PRIORITY = "x-request-id", "x-pellucid-caller", "x-pellucid-priority"
_DETAILS = "grpc-status-details-bin"


@dataclass(frozen=True)
class Outcome:
    """What came of a call."""

    code: str
    reply: bytes = b""
    trailers: Sequence[tuple[str, str | bytes]] = ()
    message: str = ""

    @property
    def answered(self) -> bool:
        """Whether the server itself ended the call."""
        return any(key == _ID for key, _ in self.trailers)

    def detail(self, kind: type[Any]) -> Any:
        """Return the status's detail of a kind, or None."""
        for key, value in self.trailers:
            if key == _DETAILS and isinstance(value, bytes):
                for packed in status_pb2.Status.FromString(value).details:
                    found = kind()
                    if packed.Unpack(found):
                        return found
        return None

    @property
    def retry_seconds(self) -> float | None:
        """RetryInfo's delay."""
        found = self.detail(error_details_pb2.RetryInfo)
        return None if found is None else found.retry_delay.ToNanoseconds() / 1e9

    @property
    def stage(self) -> str:
        """Where a late call's work was."""
        found = self.detail(error_details_pb2.ErrorInfo)
        return "" if found is None else str(found.metadata.get("stage", ""))


async def call(
    channel: grpc.aio.Channel,
    path: str,
    request: bytes,
    *,
    seconds: float,
    metadata: Sequence[tuple[str, str]] = (),
    streaming: bool = False,
    cancel_after: float | None = None,
    patience_seconds: float = HANG_SECONDS,
) -> Outcome:
    """Make a call; raises nothing.

    Parameters
    ----------
    seconds
        Its deadline.
    streaming
        Whether replies are a stream, of which the last counts.
    cancel_after
        Seconds after which the caller leaves; None for never.
    patience_seconds
        Time after the deadline after which the outcome is a hang.
    """
    loop = asyncio.get_running_loop()
    bytes_channel: Any = channel
    make = bytes_channel.unary_stream(path) if streaming else bytes_channel.unary_unary(path)
    made = make(request, timeout=seconds, metadata=tuple(metadata))
    leaving = None if cancel_after is None else loop.call_later(cancel_after, made.cancel)
    ending = asyncio.create_task(_outcome(made, streaming=streaming))
    await asyncio.wait({ending}, timeout=seconds + patience_seconds)
    if leaving is not None:
        leaving.cancel()
    if ending.done():
        return ending.result()
    ending.cancel()
    return Outcome(HANG)


async def _outcome(made: Any, *, streaming: bool) -> Outcome:
    reply = b""
    try:
        if streaming:
            async for each in made:
                reply = each
        else:
            reply = await made
    except grpc.RpcError:
        pass
    except asyncio.CancelledError:
        # gRPC raises this for a call that its caller cancelled; this task itself is cancelled only for a hang.
        if not made.done():
            raise
    code = await made.code()
    trailers = tuple((key, value) for key, value in await made.trailing_metadata() or ())
    return Outcome(code.name, reply, trailers, await made.details() or "")


def metadata(identity: str, *, caller: str = "", priority: str = "") -> tuple[tuple[str, str], ...]:
    """Return a call's keys: its id, and on whose behalf and in which class it is, if anything is said of that."""
    named = ((_CALLER, caller), (_PRIORITY, priority))
    return ((_ID, identity), *((key, value) for key, value in named if value))


def seconds_now() -> float:
    """Return the time on the clock that all processes of the machine share."""
    return time.monotonic()
