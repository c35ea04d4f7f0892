"""The client for ordinary, blocking code."""

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import grpc

from pellucid import calls, channels
from pellucid.catalogue import Method, Model, ModelSummary
from pellucid.errors import PellucidError, TimedOutError, from_rpc_error
from pellucid.results import Attribution, Prediction
from pellucid.specs import Element, ExplanationSpec, Space

T = TypeVar("T")

DEFAULT_ADDRESS = "localhost:50051"
"""Where a server listens unless it is told otherwise."""


class Client:
    """Asks a server for predictions and explanations; close it, or use it in a `with` statement.

    One client serves many threads. Every call has a deadline, and is tried again, with growing pauses,
    while the server is not there or refuses for load.

    Parameters
    ----------
    address
        "host:port".
    timeout
        Deadline of every call in seconds; None for 30, and 120 for calls that explain.
    credentials
        For a server behind TLS, from `grpc.ssl_channel_credentials`; None for an unencrypted connection.
    metadata
        Sent with every call, such as `{"authorization": "Bearer …"}`.
    wait_for_ready
        Wait for a server that is not there yet until the deadline; otherwise give up after seconds.
    options
        gRPC channel options, in place of the client's own.
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
            grpc.insecure_channel(address, settings)
            if credentials is None
            else grpc.secure_channel(address, credentials, settings)
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
        return self._run(flow, timeout, calls.ATTRIBUTE_SECONDS if explanations else calls.PREDICT_SECONDS)

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
        dtype: Literal["float32", "float16"] = "float32",
        version: int = 0,
        timeout: float | None = None,
        **parameters: Any,
    ) -> Attribution:
        """Ask what a model's score of one row was based on.

        Parameters
        ----------
        model, inputs, version, timeout
            As for `predict`; the inputs have one row.
        method, target, contrast, output, space, baseline, seed, tolerance, sum_channels, dtype
            As for `ExplanationSpec`.
        **parameters
            The method's own parameters, such as `steps=64`; `methods` describes them.

        Raises
        ------
        PellucidError
            The call failed; see `pellucid.errors`.
        """
        spec = ExplanationSpec(
            method, parameters, target, contrast, output, space, baseline, seed, tolerance, sum_channels, dtype
        )
        flow = calls.attribute_one(self._signatures, model, inputs, spec, version=version)
        return self._run(flow, timeout, calls.ATTRIBUTE_SECONDS)

    def attribute_rows(
        self,
        model: str,
        inputs: Any,
        spec: str | ExplanationSpec = "integrated-gradients",
        *,
        version: int = 0,
        timeout: float | None = None,
    ) -> tuple[Attribution, ...]:
        """Ask what a model's score of each row was based on: `attribute` for many rows.

        Parameters
        ----------
        model, inputs, version, timeout
            As for `predict`.
        spec
            What is asked of each row: a method's name, or a specification.

        Raises
        ------
        PellucidError
            The call failed; see `pellucid.errors`.
        """
        asked = ExplanationSpec(spec) if isinstance(spec, str) else spec
        flow = calls.attribute(self._signatures, model, inputs, asked, version=version)
        return self._run(flow, timeout, calls.ATTRIBUTE_SECONDS)

    def models(self, *, timeout: float | None = None) -> tuple[ModelSummary, ...]:
        """List the model versions that are served, by name, then version."""
        return self._run(calls.models(), timeout, calls.PREDICT_SECONDS)

    def model(self, name: str, *, version: int = 0, timeout: float | None = None) -> Model:
        """Describe a model version (0 for the highest): signature, layers, capabilities."""
        return self._run(self._signatures.refresh(name, version), timeout, calls.PREDICT_SECONDS)

    def methods(self, *, timeout: float | None = None) -> tuple[Method, ...]:
        """Describe every method and its parameters."""
        return self._run(calls.methods(), timeout, calls.PREDICT_SECONDS)

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Wait until the server is there and takes work.

        Raises
        ------
        TimedOutError
            It was not ready within `timeout` seconds.
        """
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
                if any(channels.serving(reply) for reply in stream):
                    return
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise TimedOutError(f"{self.address} was not ready within {timeout:g} s.") from error
                # A connection that was lost is made again, until the deadline.
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise from_rpc_error(error, address=self.address, timeout=timeout) from error
            finally:
                stream.cancel()

    def close(self) -> None:
        """End the connection, and calls that are still running."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, flow: calls.Flow[T], timeout: float | None, default: float) -> T:
        """Make a flow's calls, all of them within one deadline."""
        seconds = next(each for each in (timeout, self._timeout, default) if each is not None)
        deadline = time.monotonic() + seconds
        try:
            call = next(flow)
            while True:
                try:
                    reply = self._make(call, deadline, seconds)
                except PellucidError as error:
                    call = flow.throw(error)
                else:
                    call = flow.send(reply)
        except StopIteration as end:
            result: T = end.value
            return result

    def _make(self, call: calls.Call, deadline: float, seconds: float) -> Any:
        send = self._channel.unary_unary(call.path)
        try:
            reply = send(
                call.serialized(),
                timeout=max(0.0, deadline - time.monotonic()),
                metadata=self._metadata,
                wait_for_ready=self._wait_for_ready,
            )
        except grpc.RpcError as error:
            raise from_rpc_error(error, address=self.address, timeout=seconds) from error
        return call.read(reply)
