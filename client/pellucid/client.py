"""The client for ordinary, blocking code."""

import contextlib
import itertools
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import grpc

from pellucid import ablation_calls, calls, channels
from pellucid.ablating import Ablating
from pellucid.ablation_calls import StreamReader
from pellucid.catalogue import Dataset, Method, Model, ModelSummary
from pellucid.dissecting import Dissecting
from pellucid.errors import PellucidError, TimedOutError, closed, from_rpc_error
from pellucid.findings import Findings
from pellucid.jobs import Jobs
from pellucid.results import Attribution, Prediction
from pellucid.retries import Tries
from pellucid.security import Pem
from pellucid.settings import Metadata, channel_credentials, check_channel, read_settings
from pellucid.specs import Element, ExplanationSpec, Space

T = TypeVar("T")

DEFAULT_ADDRESS = "localhost:50051"
"""Where a server listens unless it is told otherwise."""


class Client(Ablating, Dissecting):
    """Asks a server for predictions and explanations; close it, or use it in a `with` statement.

    One client serves many threads. Every call has a deadline, and is tried again, with growing pauses,
    while the server is not there or refuses for load.

    A call that Ctrl-C interrupts is cancelled on the server too.

    Parameters
    ----------
    address
        "host:port".
    timeout
        Deadline of every call in seconds; None for 30, and 120 for calls that explain.
    tls
        Encrypt, and check the server's certificate; None does so if one of the next three is given.
    root_certificates
        The authorities that the server's certificate must come from: a PEM file, or its bytes; None for gRPC's own.
    client_certificate, client_key
        What a server that asks for it is shown: PEM files, or their bytes.
    token
        Who calls, for a server that asks: a bearer token, or the `Path` of a file with it, read anew for each call.
    allow_plain_token
        Send the token over a plain connection to another machine; only where something else encrypts it.
    credentials
        In place of `tls` and the certificates: what `grpc` makes, such as `grpc.ssl_channel_credentials`.
    metadata
        Sent with every call.
    caller
        On whose behalf the calls are, 1 to 128 printable characters: servers are fair between callers. None for
        the address that the calls come from.
    priority
        The class of the calls, such as "bulk"; None lets the kind of call decide.
    retries
        How often a call is tried again at most where that may help, within its deadline; None for as often as
        fits, 0 for never.
    wait_for_ready
        Wait for a server that is not there yet until the deadline; otherwise give up after seconds.
    options
        gRPC channel options, in place of the client's own: texts and integers by name.

    Raises
    ------
    InvalidRequestError
        A value is of another type, or cannot be sent.
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
        self._closed = threading.Event()
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
            grpc.insecure_channel(address, settings) if shown is None else grpc.secure_channel(address, shown, settings)
        )

    def predict(
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
        """Ask what a model says of each row.

        Parameters
        ----------
        model
            The model's name.
        inputs
            For a model with one input, its rows; for several, a dict of them by input name. Rows are

            - pictures: a file's path, its bytes, a PIL image, uint8 pixels (height, width, channels), or
              a list of those; or uint8 (rows, height, width, channels);
            - tables: a dict of values by column, or a list of such;
            - tensors: an array or nested lists, (rows, *features).

            A dict whose keys are all names of the model's inputs is taken by input, else as a table's row.
        outputs
            Names of the outputs wanted; empty for all.
        top_k
            How many of the highest classes to name, in [0, 1000]; None for 5.
        explanations
            Explanations wanted beside the prediction: methods' names, or specifications.
        version
            The model's version; 0 for the highest.
        priority
            The call's class, in place of the client's.
        timeout
            Deadline in seconds; None for the client's.

        Raises
        ------
        PellucidError
            The call failed; see `pellucid.errors`. An explanation that fails alone does not fail the call.
        """
        flow = calls.predict(
            self._signatures,
            model,
            inputs,
            version=version,
            outputs=outputs,
            top_k=top_k,
            explanations=explanations,
        )
        return self._run(flow, timeout, calls.predict_seconds(explanations), priority)

    def attribute(
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
        """Ask what a model's score of one row was based on.

        Parameters
        ----------
        model, inputs, version, priority, timeout
            As for `predict`; the inputs have one row.
        method, target, contrast, output, space, baseline, seed, tolerance, sum_channels, dtype, exact
            As for `ExplanationSpec`.
        **parameters
            The method's own parameters, such as `steps=64`; `methods` describes them.

        Raises
        ------
        PellucidError
            The call failed; see `pellucid.errors`.
        """
        spec = ExplanationSpec(
            method, parameters, target, contrast, output, space, baseline, seed, tolerance, sum_channels, dtype, exact
        )
        flow = calls.attribute_one(self._signatures, model, inputs, spec, version=version)
        return self._run(flow, timeout, calls.ATTRIBUTE_SECONDS, priority)

    def attribute_rows(
        self,
        model: str,
        inputs: Any,
        spec: str | ExplanationSpec = "integrated-gradients",
        *,
        version: int = 0,
        priority: str | None = None,
        timeout: float | None = None,
    ) -> tuple[Attribution, ...]:
        """Ask what a model's score of each row was based on: `attribute` for many rows.

        Parameters
        ----------
        model, inputs, version, priority, timeout
            As for `predict`.
        spec
            What is asked of each row: a method's name, or a specification.

        Raises
        ------
        PellucidError
            The call failed; see `pellucid.errors`.
        """
        flow = calls.attribute(self._signatures, model, inputs, spec, version=version)
        return self._run(flow, timeout, calls.ATTRIBUTE_SECONDS, priority)

    def models(self, *, timeout: float | None = None) -> tuple[ModelSummary, ...]:
        """List the model versions that are served, by name, then version."""
        return self._run(calls.models(), timeout, calls.PREDICT_SECONDS)

    def model(self, name: str, *, version: int = 0, timeout: float | None = None) -> Model:
        """Describe a model version (0 for the highest): signature, layers, capabilities."""
        return self._run(self._signatures.refresh(name, version), timeout, calls.PREDICT_SECONDS)

    def methods(self, *, timeout: float | None = None) -> tuple[Method, ...]:
        """Describe every method and its parameters."""
        return self._run(calls.methods(), timeout, calls.PREDICT_SECONDS)

    def datasets(self, *, timeout: float | None = None) -> tuple[Dataset, ...]:
        """List the data sets beside the models, by name."""
        return self._run(calls.datasets(), timeout, calls.PREDICT_SECONDS)

    @property
    def jobs(self) -> Jobs:
        """Calls about jobs: long requests that the server does by itself, with answers that it stores."""
        return Jobs(self)

    def wait_until_ready(self, timeout: float = calls.READY_SECONDS) -> None:
        """Wait until the server is there and takes work.

        Raises
        ------
        TimedOutError
            It was not ready within `timeout` seconds.
        """
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
                    if any(channels.serving(reply) for reply in stream):
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
            self._pause(min(pause, max(0.0, deadline - self._now())))

    def close(self) -> None:
        """End the connection, and calls that are still running; they raise `CancelledError`."""
        self._closed.set()
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, flow: calls.Flow[T], timeout: float | None, default: float, priority: str | None = None) -> T:
        """Make a flow's calls, all of them within one deadline."""
        seconds = self._settings.seconds(timeout, default)
        metadata = self._settings.call_metadata(priority)
        return self._driven(flow, metadata, self._now() + seconds, seconds)

    def _driven(self, flow: calls.Flow[T], metadata: Metadata, deadline: float, seconds: float) -> T:
        """Make a flow's calls; return what it returns."""
        try:
            call = next(flow)
            while True:
                try:
                    reply = self._make(call, metadata, deadline, seconds)
                except PellucidError as error:
                    call = flow.throw(error)
                else:
                    call = flow.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result

    def _make(self, call: calls.Call, metadata: Metadata, deadline: float, seconds: float) -> Any:
        """Make a call, again where that helps and fits the deadline; return its reply."""
        body, tries = call.serialized(), Tries(self._settings.retries)
        while True:
            try:
                return call.parsed(self._send(call.path, body, metadata, deadline, seconds))
            except PellucidError as error:
                pause = tries.pause_seconds(error, deadline - self._now())
            self._pause(pause)

    def _send(self, path: str, body: bytes, metadata: Metadata, deadline: float, seconds: float) -> bytes:
        self._check_open()
        with self._typed(seconds):
            reply: bytes = self._channel.unary_unary(path)(
                body,
                timeout=max(0.0, deadline - self._now()),
                metadata=metadata,
                wait_for_ready=self._settings.wait_for_ready,
            )
        return reply

    def _parts(
        self, flow: calls.Flow[calls.Call], reader: StreamReader, timeout: float | None, priority: str | None
    ) -> Generator[Findings, None, None]:
        """Make the call that a flow returns, and yield the parts of its answer; all of it within one deadline.

        The call is made again only while there is no part: the server resumes what it can by itself.
        """
        seconds = self._settings.seconds(timeout, ablation_calls.ABLATE_SECONDS)
        metadata = self._settings.call_metadata(priority)
        deadline = self._now() + seconds
        call = self._driven(flow, metadata, deadline, seconds)
        body, tries = call.serialized(), Tries(self._settings.retries)
        while True:
            try:
                with contextlib.closing(self._stream(call.path, body, metadata, deadline, seconds)) as replies:
                    for reply in replies:
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
            self._pause(pause)

    def _stream(
        self, path: str, body: bytes, metadata: Metadata, deadline: float, seconds: float
    ) -> Generator[bytes, None, None]:
        """Yield a stream's replies; closing it, or an interruption, cancels the call on the server."""
        self._check_open()
        with self._typed(seconds):
            stream = self._channel.unary_stream(path)(
                body,
                timeout=max(0.0, deadline - self._now()),
                metadata=metadata,
                wait_for_ready=self._settings.wait_for_ready,
            )
        try:
            while True:
                with self._typed(seconds):
                    reply = next(stream, None)
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
        except grpc.RpcError as error:
            if self._closed.is_set():
                raise closed() from error
            raise from_rpc_error(error, address=self.address, timeout=seconds) from error
        except ValueError as error:
            # gRPC's word for a channel that another thread has closed since it was looked at.
            if self._closed.is_set():
                raise closed() from error
            raise

    def _pause(self, seconds: float) -> None:
        """Wait between two tries, or until the client is closed."""
        self._closed.wait(seconds)

    def _now(self) -> float:
        return time.monotonic()

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise closed()
