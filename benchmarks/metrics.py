"""What metrics cost: the front's processor time for a Predict with them and with stubs in their place.

In one process, without sockets and workers: the boundary, the codec and the replies are the server's; gRPC's context
and the pool are stand-ins. Short blocks with and without metrics take turns. Processor time is counted, so that other
work on the machine costs caches alone; the figure is the difference of the fastest tenths, where it cost least, beside
the median of all differences.

    python -m benchmarks.metrics
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from pellucid.v1 import explanation_service_pb2
from pellucid_server.metrics import Metrics, PoolRecorder, RequestRecorder
from pellucid_server.pool.observer import Observer
from pellucid_server.rpc.boundary import Boundary
from pellucid_server.rpc.service import EXPLANATION_SERVICE, ExplanationService
from pellucid_server.settings.sections import DEFAULT_CLASSES, LimitsConfig
from pellucid_server.vocabulary import descriptions, messages, requests, results
from prometheus_client import CollectorRegistry

from benchmarks.questions import TABLES, predict_row

AIM_MICROSECONDS = 8.0

_RECEIPT = results.Receipt(
    model=requests.ModelKey(TABLES, 1, "ab" * 32),
    input_digest="12" * 32,
    runtime=results.Runtime("onnxruntime", "", "cpu", "float32", {"onnxruntime": "1.32.0"}),
    work=results.Work(1, 0, (results.BatchShape("forward", 1, 1),)),
    method="integrated-gradients",
)
_ANSWER = results.PredictResult({"output": results.OutputResult(np.zeros((1, 2), np.float32))}, _RECEIPT)
_TIMING = results.RequestTiming(0.0004, 0.0011, 1, 0, (("forward", 1),))
_INFO = descriptions.ModelInfo(_RECEIPT.model, "", (), (), (), (), "onnxruntime", None, 0, False)
_METHOD = descriptions.MethodInfo("integrated-gradients", "attribute", "", "", "", (), (), (), (), True)
_HELLO = messages.Hello((_INFO,), (_METHOD,), "cpu")
_COLUMNS = tuple(f"column {number}" for number in range(30))


class _Stub(RequestRecorder):
    """Records nothing."""

    def started(self, rpc: str) -> None:
        pass

    def record(self, *_: Any, **__: Any) -> None:
        pass

    def answered(self, answer: Any) -> None:
        pass


class _Unmeasured(Boundary):
    """Does nothing that metrics alone need."""

    def answered(self, call: Any, answer: Any) -> None:
        pass


class _Pool:
    """Answers at once, and reports as the pool does."""

    hello = _HELLO

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    async def run(self, *_: Any, **__: Any) -> tuple[results.Result, results.RequestTiming]:
        self._observer.worked(TABLES, _TIMING, False)
        return _ANSWER, _TIMING


class _Context:
    """What the boundary asks of gRPC."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self) -> bytes:
        return self._data

    def set_trailing_metadata(self, _: Any) -> None:
        pass

    def time_remaining(self) -> float:
        return 10.0

    def peer(self) -> str:
        return "ipv4:127.0.0.1:40000"

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("user-agent", "grpc-python"), ("x-pellucid-caller", "benchmark"))


def front(*, measured: bool) -> Callable[[], Any]:
    """Return a coroutine function that serves one Predict, in a task of its own."""
    metrics = Metrics.on(CollectorRegistry())
    recorder = RequestRecorder(metrics) if measured else _Stub(metrics)
    observer = PoolRecorder(metrics, devices=("cpu",), classes=DEFAULT_CLASSES) if measured else Observer()
    boundary = (Boundary if measured else _Unmeasured)(recorder, lambda: _HELLO)
    for method in EXPLANATION_SERVICE.methods:
        boundary.name_call(method.name, f"{EXPLANATION_SERVICE.full_name}/{method.name}")
    service = ExplanationService(_Pool(observer), LimitsConfig(), boundary)  # type: ignore[arg-type]
    guarded = boundary.guard("Predict", explanation_service_pb2.PredictRequest, service.Predict)
    data = predict_row()

    async def serve() -> None:
        boundary.enter("Predict")
        await guarded(None, _Context(data))  # type: ignore[arg-type]

    return serve


async def block(serve: Callable[[], Any], calls: int) -> float:
    """Return the processor time of a call, in microseconds."""
    began = time.process_time()
    for _ in range(calls):
        await asyncio.create_task(serve())
    return (time.process_time() - began) / calls * 1e6


async def compare(pairs: int, calls: int) -> tuple[list[float], list[float]]:
    """Return the time of a call without metrics and with them, of each pair of blocks."""
    plain, measured = front(measured=False), front(measured=True)
    await block(plain, calls)
    await block(measured, calls)
    sides: tuple[list[float], list[float]] = ([], [])
    for number in range(pairs):
        # What drifts is on neither side: the order changes each time.
        turns = [(plain, sides[0]), (measured, sides[1])]
        for serve, times in reversed(turns) if number % 2 else turns:
            times.append(await block(serve, calls))
    return sides


def explained(calls: int) -> float:
    """Return the processor time of recording an explained row of 30 columns, in microseconds."""
    recorder = RequestRecorder(Metrics.on(CollectorRegistry()))
    scored = results.InputAttribution(np.linspace(-1, 1, 30, dtype=np.float32), _COLUMNS)
    accuracy = results.Accuracy(0.001, 0.002, 0.01, True)
    row = results.AttributionResult(
        {"features": scored}, "output", (0,), "", 3.0, accuracy, _RECEIPT, 1.0, approximation_error=0.0005
    )
    answer = results.AttributeResult((row,), results.OutputResult(np.zeros((1, 2), np.float32)))
    began = time.process_time()
    for _ in range(calls):
        recorder.answered(answer)
    return (time.process_time() - began) / calls * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=1000, help="of blocks with and without metrics")
    parser.add_argument("--calls", type=int, default=20, help="of a block")
    arguments = parser.parse_args()
    print(f"python -m benchmarks.metrics --pairs {arguments.pairs} --calls {arguments.calls}")
    without, measured = asyncio.run(compare(arguments.pairs, arguments.calls))
    added = [more - less for less, more in zip(without, measured, strict=True)]
    fast = [statistics.quantiles(side, n=10)[0] for side in (without, measured)]
    print(
        f"a Predict without metrics: {fast[0]:.1f} us of processor time, {statistics.median(without):.1f} in the median"
    )
    print(f"metrics add {fast[1] - fast[0]:.1f} us, {statistics.median(added):.1f} in the median; ", end="")
    print(f"the aim is {AIM_MICROSECONDS:g} at most")
    rows = [explained(2000) for _ in range(9)]
    print(f"an explained row of 30 columns: {statistics.median(rows):.1f} us more")


if __name__ == "__main__":
    main()
