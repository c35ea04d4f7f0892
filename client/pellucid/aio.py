"""The client for asyncio."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import grpc

from pellucid import ablation_calls, calls, channels
from pellucid.ablating_aio import AsyncAblating
from pellucid.ablation_calls import StreamReader
from pellucid.catalogue import Dataset, Method, Model, ModelSummary
from pellucid.client import DEFAULT_ADDRESS
from pellucid.dissecting_aio import AsyncDissecting
from pellucid.errors import PellucidError, TimedOutError, closed, from_rpc_error
from pellucid.findings import Findings
from pellucid.jobs_aio import AsyncJobs
from pellucid.results import Attribution, Prediction
from pellucid.retries import Tries
from pellucid.security import Pem
from pellucid.settings import Metadata, channel_credentials, check_channel, read_settings
from pellucid.specs import Element, ExplanationSpec, Space

T = TypeVar("T")


class AsyncClient(AsyncAblating, AsyncDissecting):
    """`pellucid.Client` for asyncio: the same methods, awaited. Make it inside a running event loop.

    Cancelling the task that awaits a call cancels the call, and its work on the server; so does an
    `asyncio.timeout` around it. Files and pictures are read and encoded on the event loop; hand over bytes
    where that is too slow.

    Parameters
    ----------
    address, timeout, tls, root_certificates, client_certificate, client_key, token, allow_plain_token, credentials
        As for `pellucid.Client`.
    metadata, caller, priority, retries, wait_for_ready, options
        As for `pellucid.Client`.
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        timeout: float | None = None,
        tls: bool | None = None,
        root_certificates: Pem | None = None,
        client_certificate: Pem | None = None,
        client_key: Pem | None = None,
        token: str | Path | None = None,
        allow_plain_token: bool = False,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Mapping[str, str | bytes] | None = None,
        caller: str | None = None,
        priority: str | None = None,
        retries: int | None = None,
        wait_for_ready: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._settings = read_settings(
            address,
            timeout=timeout,
            metadata=metadata,
            caller=caller,
            priority=priority,
            wait_for_ready=wait_for_ready,
            retries=retries,
            token=token,
        )
        self.address = self._settings.address
        self._signatures = calls.Signatures()
        self._closed = asyncio.Event()
        check_channel(credentials, options)
        settings = channels.channel_options(self.address, options)
        shown = channel_credentials(
            self._settings,
            credentials,
            tls=tls,
            root_certificates=root_certificates,
            client_certificate=client_certificate,
            client_key=client_key,
            allow_plain_token=allow_plain_token,
        )
        self._channel: Any = (
            grpc.aio.insecure_channel(address, settings)
            if shown is None
            else grpc.aio.secure_channel(address, shown, settings)
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
        priority: str | None = None,
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
        return await self._run(flow, timeout, calls.predict_seconds(explanations), priority)

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
        dtype: Literal["float32", "float16", "float64"] = "float32",
        exact: bool = False,
        version: int = 0,
        priority: str | None = None,
        timeout: float | None = None,
        **parameters: Any,
    ) -> Attribution:
        """Ask what a model's score of one row was based on; see `Client.attribute`."""
        spec = ExplanationSpec(
            method, parameters, target, contrast, output, space, baseline, seed, tolerance, sum_channels, dtype, exact
        )
        flow = calls.attribute_one(self._signatures, model, inputs, spec, version=version)
        return await self._run(flow, timeout, calls.ATTRIBUTE_SECONDS, priority)

    async def attribute_rows(
        self,
        model: str,
        inputs: Any,
        spec: str | ExplanationSpec = "integrated-gradients",
        *,
        version: int = 0,
        priority: str | None = None,
        timeout: float | None = None,
    ) -> tuple[Attribution, ...]:
        """Ask what a model's score of each row was based on; see `Client.attribute_rows`."""
        flow = calls.attribute(self._signatures, model, inputs, spec, version=version)
        return await self._run(flow, timeout, calls.ATTRIBUTE_SECONDS, priority)

    async def models(self, *, timeout: float | None = None) -> tuple[ModelSummary, ...]:
        """List the model versions that are served, by name, then version."""
        return await self._run(calls.models(), timeout, calls.PREDICT_SECONDS)

    async def model(self, name: str, *, version: int = 0, timeout: float | None = None) -> Model:
        """Describe a model version (0 for the highest): signature, layers, capabilities."""
        return await self._run(self._signatures.refresh(name, version), timeout, calls.PREDICT_SECONDS)

    async def methods(self, *, timeout: float | None = None) -> tuple[Method, ...]:
        """Describe every method and its parameters."""
        return await self._run(calls.methods(), timeout, calls.PREDICT_SECONDS)

    async def datasets(self, *, timeout: float | None = None) -> tuple[Dataset, ...]:
        """List the data sets beside the models, by name."""
        return await self._run(calls.datasets(), timeout, calls.PREDICT_SECONDS)

    @property
    def jobs(self) -> AsyncJobs:
        """Calls about jobs; see `Client.jobs`."""
        return AsyncJobs(self)

    async def wait_until_ready(self, timeout: float = calls.READY_SECONDS) -> None:
        """Wait until the server is there and takes work; see `Client.wait_until_ready`."""
        seconds = self._settings.seconds(timeout, calls.READY_SECONDS)
        deadline = self._now() + seconds
        for retries in itertools.count():
            self._check_open()
            stream = self._channel.unary_stream(channels.WATCH_HEALTH)(
                channels.WHOLE_SERVER,
                timeout=max(0.0, deadline - self._now()),
                metadata=self._settings.call_metadata(None),
                wait_for_ready=True,
            )
            try:
                with self._typed(seconds):
                    async for reply in stream:
                        if channels.serving(reply):
                            return
            except TimedOutError as error:
                raise TimedOutError(f"{self.address} was not ready within {seconds:g} s.") from error
            except PellucidError as error:
                # A connection that was lost is made again, until the deadline.
                if not error.retriable:
                    raise
            finally:
                stream.cancel()
            pause = self._settings.retries.backoff_seconds(retries)
            await self._pause(min(pause, max(0.0, deadline - self._now())))

    async def close(self) -> None:
        """End the connection, and calls that are still running; they raise `CancelledError`."""
        self._closed.set()
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, flow: calls.Flow[T], timeout: float | None, default: float, priority: str | None = None) -> T:
        """Make a flow's calls, all of them within one deadline."""
        seconds = self._settings.seconds(timeout, default)
        metadata = self._settings.call_metadata(priority)
        return await self._driven(flow, metadata, self._now() + seconds, seconds)

    async def _driven(self, flow: calls.Flow[T], metadata: Metadata, deadline: float, seconds: float) -> T:
        """Make a flow's calls; return what it returns."""
        try:
            call = next(flow)
            while True:
                try:
                    reply = await self._make(call, metadata, deadline, seconds)
                except PellucidError as error:
                    call = flow.throw(error)
                else:
                    call = flow.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _make(self, call: calls.Call, metadata: Metadata, deadline: float, seconds: float) -> Any:
        """Make a call, again where that helps and fits the deadline; return its reply."""
        body, tries = call.serialized(), Tries(self._settings.retries)
        while True:
            try:
                return call.parsed(await self._send(call.path, body, metadata, deadline, seconds))
            except PellucidError as error:
                pause = tries.pause_seconds(error, deadline - self._now())
            await self._pause(pause)

    async def _send(self, path: str, body: bytes, metadata: Metadata, deadline: float, seconds: float) -> bytes:
        self._check_open()
        with self._typed(seconds):
            reply: bytes = await self._channel.unary_unary(path)(
                body,
                timeout=max(0.0, deadline - self._now()),
                metadata=metadata,
                wait_for_ready=self._settings.wait_for_ready,
            )
        return reply

    async def _parts(
        self, flow: calls.Flow[calls.Call], reader: StreamReader, timeout: float | None, priority: str | None
    ) -> AsyncGenerator[Findings, None]:
        """Make the call that a flow returns, and yield the parts of its answer; see `Client`."""
        seconds = self._settings.seconds(timeout, ablation_calls.ABLATE_SECONDS)
        metadata = self._settings.call_metadata(priority)
        deadline = self._now() + seconds
        call = await self._driven(flow, metadata, deadline, seconds)
        body, tries = call.serialized(), Tries(self._settings.retries)
        while True:
            try:
                replies = self._stream(call.path, body, metadata, deadline, seconds)
                async with contextlib.aclosing(replies):
                    async for reply in replies:
                        part = reader.read(call.parsed(reply))
                        if part is not None:
                            yield part
                reader.end()
                return
            except PellucidError as error:
                if reader.parts:
                    raise
                pause = tries.pause_seconds(error, deadline - self._now())
            reader.progress.restart()
            await self._pause(pause)

    async def _stream(
        self, path: str, body: bytes, metadata: Metadata, deadline: float, seconds: float
    ) -> AsyncGenerator[bytes, None]:
        """Yield a stream's replies; closing it, or cancelling its task, cancels the call on the server."""
        self._check_open()
        stream = self._channel.unary_stream(path)(
            body,
            timeout=max(0.0, deadline - self._now()),
            metadata=metadata,
            wait_for_ready=self._settings.wait_for_ready,
        )
        try:
            replies = aiter(stream)
            while True:
                with self._typed(seconds):
                    reply = await anext(replies, None)
                if reply is None:
                    return
                yield reply
        finally:
            stream.cancel()

    @contextlib.contextmanager
    def _typed(self, seconds: float) -> Iterator[None]:
        """Turn gRPC's errors into the client's."""
        try:
            yield
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, address=self.address, timeout=seconds) from error
        except asyncio.CancelledError as error:
            # Closing a channel of grpc.aio cancels the tasks that await its calls, as their callers might.
            task = asyncio.current_task()
            if self._closed.is_set() and (task is None or not task.cancelling()):
                raise closed() from error
            raise

    async def _pause(self, seconds: float) -> None:
        """Wait between two tries, or until the client is closed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closed.wait()

    def _now(self) -> float:
        return time.monotonic()

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise closed()
