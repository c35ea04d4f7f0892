"""The client for asyncio."""

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import grpc

from pellucid import calls, channels
from pellucid.catalogue import Method, Model, ModelSummary
from pellucid.client import DEFAULT_ADDRESS
from pellucid.errors import PellucidError, TimedOutError, from_rpc_error
from pellucid.results import Attribution, Prediction
from pellucid.specs import Element, ExplanationSpec, Space

T = TypeVar("T")


class AsyncClient:
    """`pellucid.Client` for asyncio: the same methods, awaited. Make it inside a running event loop.

    Cancelling the task that awaits a call cancels the call, and its work on the server. Files and
    pictures are read and encoded on the event loop; hand over bytes where that is too slow.

    Parameters
    ----------
    address, timeout, credentials, metadata, wait_for_ready, options
        As for `pellucid.Client`.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout: float | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Mapping[str, str] | None = None,
        wait_for_ready: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.address = address
        self._timeout = timeout
        self._metadata = tuple((metadata or {}).items())
        self._wait_for_ready = wait_for_ready
        self._signatures = calls.Signatures()
        settings = channels.channel_options(address, dict(options or {}))
        self._channel: Any = (
            grpc.aio.insecure_channel(address, settings)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, settings)
        )

    async def predict(
        self,
        model: str,
        inputs: Any,
        *,
        outputs: Sequence[str] = (),
        top_k: int | None = None,
        explanations: Sequence[str | ExplanationSpec] = (),
        version: int = 0,
        timeout: float | None = None,
    ) -> Prediction:
        """Ask what a model says of each row; see `Client.predict`."""
        flow = calls.predict(
            self._signatures,
            model,
            inputs,
            version=version,
            outputs=outputs,
            top_k=top_k,
            explanations=explanations,
        )
        return await self._run(flow, timeout, calls.ATTRIBUTE_SECONDS if explanations else calls.PREDICT_SECONDS)

    async def attribute(
        self,
        model: str,
        inputs: Any,
        method: str = "integrated-gradients",
        *,
        target: Element | None = None,
        contrast: Element | None = None,
        output: str | None = None,
        space: Space | None = None,
        baseline: Any = None,
        seed: int = 0,
        tolerance: float | None = None,
        sum_channels: bool = False,
        dtype: Literal["float32", "float16"] = "float32",
        version: int = 0,
        timeout: float | None = None,
        **parameters: Any,
    ) -> Attribution:
        """Ask what a model's score of one row was based on; see `Client.attribute`."""
        spec = ExplanationSpec(
            method, parameters, target, contrast, output, space, baseline, seed, tolerance, sum_channels, dtype
        )
        flow = calls.attribute_one(self._signatures, model, inputs, spec, version=version)
        return await self._run(flow, timeout, calls.ATTRIBUTE_SECONDS)

    async def attribute_rows(
        self,
        model: str,
        inputs: Any,
        spec: str | ExplanationSpec = "integrated-gradients",
        *,
        version: int = 0,
        timeout: float | None = None,
    ) -> tuple[Attribution, ...]:
        """Ask what a model's score of each row was based on; see `Client.attribute_rows`."""
        asked = ExplanationSpec(spec) if isinstance(spec, str) else spec
        flow = calls.attribute(self._signatures, model, inputs, asked, version=version)
        return await self._run(flow, timeout, calls.ATTRIBUTE_SECONDS)

    async def models(self, *, timeout: float | None = None) -> tuple[ModelSummary, ...]:
        """List the model versions that are served, by name, then version."""
        return await self._run(calls.models(), timeout, calls.PREDICT_SECONDS)

    async def model(self, name: str, *, version: int = 0, timeout: float | None = None) -> Model:
        """Describe a model version (0 for the highest): signature, layers, capabilities."""
        return await self._run(self._signatures.refresh(name, version), timeout, calls.PREDICT_SECONDS)

    async def methods(self, *, timeout: float | None = None) -> tuple[Method, ...]:
        """Describe every method and its parameters."""
        return await self._run(calls.methods(), timeout, calls.PREDICT_SECONDS)

    async def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Wait until the server is there and takes work; see `Client.wait_until_ready`."""
        watch = self._channel.unary_stream(channels.WATCH_HEALTH)
        deadline = time.monotonic() + timeout
        while True:
            stream = watch(
                channels.WHOLE_SERVER,
                timeout=max(0.0, deadline - time.monotonic()),
                metadata=self._metadata,
                wait_for_ready=True,
            )
            try:
                async for reply in stream:
                    if channels.serving(reply):
                        return
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise TimedOutError(f"{self.address} was not ready within {timeout:g} s.") from error
                # A connection that was lost is made again, until the deadline.
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise from_rpc_error(error, address=self.address, timeout=timeout) from error
            finally:
                stream.cancel()

    async def close(self) -> None:
        """End the connection, and calls that are still running."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, flow: calls.Flow[T], timeout: float | None, default: float) -> T:
        """Make a flow's calls, all of them within one deadline."""
        seconds = next(each for each in (timeout, self._timeout, default) if each is not None)
        deadline = time.monotonic() + seconds
        try:
            call = next(flow)
            while True:
                try:
                    reply = await self._make(call, deadline, seconds)
                except PellucidError as error:
                    call = flow.throw(error)
                else:
                    call = flow.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _make(self, call: calls.Call, deadline: float, seconds: float) -> Any:
        send = self._channel.unary_unary(call.path)
        try:
            reply = await send(
                call.serialized(),
                timeout=max(0.0, deadline - time.monotonic()),
                metadata=self._metadata,
                wait_for_ready=self._wait_for_ready,
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, address=self.address, timeout=seconds) from error
        return call.read(reply)
