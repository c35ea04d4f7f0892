"""More than the device can do: who waits, who is refused, who goes first, and who gets a part of an answer."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from e2e import small_models
from e2e.fault_points import Points, counters, serve_with_points, wait_until_idle
from e2e.messages import attribute, details, failure, predict, rows, spec, table_rows
from e2e.serving import LONG_SECONDS, Server, wait_until
from pellucid.tensors import from_tensor
from pellucid.v1 import explanation_pb2

ROW = {"width": 12.0, "height": 3.0, "colour": "green"}
PICTURE = np.random.default_rng(0).normal(size=(1, 3, 12, 12)).astype(np.float32)
WEIGHT = 5
"""Rows that a request of `work` weighs."""
ROOM = 2
"""Such requests that may wait in the classes named after their bounds."""

NARROW = {
    "PELLUCID_WORKER__CONCURRENT_REQUESTS": "1",
    "PELLUCID_CLASSES__ROWS__QUEUE_ROWS": str(ROOM * WEIGHT),
    "PELLUCID_CLASSES__BYTES__QUEUE_BYTES": str(ROOM * (PICTURE.nbytes + 64)),
    "PELLUCID_CLASSES__SECONDS__QUEUE_SECONDS": "0.000001",
}
HOLD = f"hold {small_models.PICTURES}"
Held = tuple[Server, Points]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("repository")
    small_models.write_scores(repository)
    small_models.write_pictures(repository)
    return repository


@pytest.fixture(scope="module")
def narrow_server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    with serve_with_points(models, tmp_path_factory.mktemp("narrow"), NARROW) as held:
        yield held


@pytest.fixture(scope="module")
def wide_server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    # Chunks far shorter than a request, so that requests end in an order.
    settings = {"PELLUCID_WORKER__CHUNK_SECONDS": "0.002"}
    with serve_with_points(models, tmp_path_factory.mktemp("wide"), settings) as held:
        yield held


@pytest.fixture
def narrow(narrow_server: Held) -> Iterator[Held]:
    """A server at rest that runs one request of each class at a time, and lets few of some classes wait."""
    yield narrow_server
    narrow_server[1].release()
    wait_until_idle(narrow_server[0])


@pytest.fixture
def wide(wide_server: Held) -> Iterator[Held]:
    """A server at rest with the places and bounds that it has by itself."""
    yield wide_server
    wide_server[1].release()
    wait_until_idle(wide_server[0])


def work(samples: int = WEIGHT, *, count: int = 1) -> Any:
    """Return a request that takes as many rows as it has samples, for each of `count` pictures."""
    pictures = rows(np.repeat(PICTURE, count, axis=0))
    return attribute(small_models.PICTURES, {"image": pictures}, spec("smoothgrad", samples=samples))


def ask(server: Server, request: Any, name: str = "", **metadata: str) -> Any:
    """Send a request, under a name for the server's log."""
    keys = [("x-request-id", name), *((f"x-pellucid-{key}", value) for key, value in metadata.items())]
    return server.explanations.Attribute.future(request, timeout=LONG_SECONDS, metadata=keys)


def order(server: Server, names: set[str]) -> list[str]:
    """Return names of requests in the order in which they ended."""
    words = [word for line in server.lines("request id=") for word in line.split()]
    return [word.removeprefix("id=") for word in words if word.removeprefix("id=") in names]


def wait_for_waiting(server: Server, count: int) -> None:
    wait_until(
        lambda: counters(server).total("pellucid_queue_requests") == count, seconds=LONG_SECONDS, what=f"{count} wait"
    )


def wait_for_placed(server: Server, count: int) -> None:
    wait_until(
        lambda: counters(server).total("pellucid_requests_pending") == count, seconds=LONG_SECONDS, what=f"{count} run"
    )


def wait_for_taken(server: Server, count: int) -> None:
    names = ("pellucid_requests_pending", "pellucid_queue_requests")
    wait_until(
        lambda: sum(counters(server).total(name) for name in names) == count,
        seconds=LONG_SECONDS,
        what=f"{count} run or wait",
    )


def fill(held: Held, priority: str) -> list[Any]:
    """Let one request have the only place of a class, and as many wait as there is room for."""
    server, points = held
    points.arm("chunk", HOLD)
    calls = [ask(server, work(), caller="ada", priority=priority)]
    points.wait("chunk")
    for count in range(1, ROOM + 1):
        calls.append(ask(server, work(), caller="ada", priority=priority))
        wait_for_waiting(server, count)
    return calls


def refusals(server: Server, priority: str, cause: str) -> float:
    return counters(server).total("pellucid_requests_refused_total", **{"class": priority, "cause": cause})


def assert_told_to_come_back(error: grpc.RpcError) -> None:
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, error.details()
    assert details(error)["ErrorInfo"].reason == "OVERLOADED"
    assert details(error)["RetryInfo"].retry_delay.ToNanoseconds() > 0
    assert int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"]) > 0


@pytest.mark.parametrize("bound", ["rows", "bytes"])
def test_one_request_beyond_a_bound_is_told_to_come_back_and_the_others_are_answered(narrow: Held, bound: str) -> None:
    server, points = narrow
    before = refusals(server, bound, bound)
    calls = fill(narrow, bound)

    error = failure(ask(server, work(), caller="ada", priority=bound).result)
    points.release()

    assert_told_to_come_back(error)
    assert refusals(server, bound, bound) == before + 1
    assert [len(call.result().explanation.attributions) for call in calls] == [1] * (1 + ROOM)


def test_a_request_that_would_wait_too_long_is_told_to_come_back(narrow: Held) -> None:
    server, points = narrow
    ask(server, work(), caller="ada", priority="seconds").result()
    points.arm("chunk", HOLD)
    placed = ask(server, work(), caller="ada", priority="seconds")
    points.wait("chunk")
    next_one = ask(server, work(), caller="ada", priority="seconds")
    wait_until(
        lambda: next_one.done() or counters(server).total("pellucid_queue_requests") == 1,
        seconds=LONG_SECONDS,
        what="the next one waits or is refused",
    )

    error = failure(ask(server, work(), caller="ada", priority="seconds").result)
    points.release()

    assert_told_to_come_back(error)
    assert refusals(server, "seconds", "seconds") >= 1
    assert len(placed.result().explanation.attributions) == 1


def test_predictions_pass_while_no_more_explanations_are_taken(narrow: Held) -> None:
    server, points = narrow
    calls = fill(narrow, "rows")

    reply = server.explanations.Predict(
        predict(small_models.SCORES, {"features": table_rows([ROW])}), timeout=LONG_SECONDS
    )
    still_running = [call.done() for call in calls]
    points.release()

    np.testing.assert_array_equal(from_tensor(reply.outputs["output"].values), [small_models.linear_scores(**ROW)])
    assert still_running == [False] * (1 + ROOM)
    assert [len(call.result().explanation.attributions) for call in calls] == [1] * (1 + ROOM)


def test_a_caller_with_nothing_running_gets_a_place_when_another_has_them_all(narrow: Held) -> None:
    server, points = narrow
    calls = fill(narrow, "rows")

    single = ask(server, work(), "grace-alone", caller="grace", priority="rows")
    wait_for_placed(server, 2)
    waiting = counters(server).total("pellucid_queue_requests")
    points.release()

    assert waiting == ROOM
    assert len(single.result().explanation.attributions) == 1
    assert [len(call.result().explanation.attributions) for call in calls] == [1] * (1 + ROOM)


def test_a_caller_of_many_long_requests_does_not_hold_up_the_one_of_another(wide: Held) -> None:
    server, points = wide
    many = 32
    points.arm("chunk", HOLD)
    calls = [ask(server, work(2048), f"many-{number}", caller="ada") for number in range(many)]
    wait_for_taken(server, many)
    calls.append(ask(server, work(2048), "single", caller="grace"))
    wait_for_taken(server, many + 1)

    points.release()

    assert [len(call.result().explanation.attributions) for call in calls] == [1] * (many + 1)
    ended = order(server, {"single", *(f"many-{number}" for number in range(many))})
    # Alike shares: it is done when the others together have done about as much, which is one of them at the most.
    assert ended.index("single") <= 2


def test_bulk_work_waits_for_interactive_work(wide: Held) -> None:
    server, points = wide
    bulk, interactive = [{f"{kind}-{number}" for number in range(4)} for kind in ("bulk", "interactive")]
    points.arm("chunk", HOLD)
    calls = [ask(server, work(4096), name, caller="ada", priority="bulk") for name in sorted(bulk)]
    wait_for_placed(server, 4)
    calls += [ask(server, work(4096), name, caller="ada") for name in sorted(interactive)]
    wait_for_placed(server, 8)

    points.release()

    assert [len(call.result().explanation.attributions) for call in calls] == [1] * 8
    assert set(order(server, bulk | interactive)[:4]) == interactive


def test_work_that_cannot_be_done_before_its_deadline_is_refused_at_once(wide: Held) -> None:
    server, _ = wide
    steps, count = 1024, 64
    explanation = spec("integrated-gradients", steps=steps)
    measured = attribute(small_models.PICTURES, {"image": rows(np.repeat(PICTURE, 4, axis=0))}, explanation)
    server.explanations.Attribute(measured, timeout=LONG_SECONDS)
    before = wait_until_idle(server)
    request = attribute(small_models.PICTURES, {"image": rows(np.repeat(PICTURE, count, axis=0))}, explanation)

    error = failure(lambda: server.explanations.Attribute(request, timeout=0.2))

    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    told = details(error)["ErrorInfo"]
    assert told.metadata["stage"] == "refused"
    assert float(told.metadata["needed_seconds"]) > 0.1
    after = wait_until_idle(server)
    # The prediction to be explained may have been made first.
    evaluated = [found.total("pellucid_rows_evaluated_total", kind="backward") for found in (before, after)]
    assert evaluated[0] == evaluated[1]


ENDLESS = {
    "smoothgrad": spec("smoothgrad", samples=4096),
    "integrated-gradients": spec("integrated-gradients", tolerance=1e-6, max_rows=65536),
}
"""Explanations of 64 pictures that take much longer than their deadline."""


@pytest.mark.parametrize("method", ENDLESS)
def test_the_deadline_brings_what_there_is_with_its_error_and_how_to_make_it_again(wide: Held, method: str) -> None:
    server, _ = wide
    pictures = np.random.default_rng(1).normal(size=(64, 3, 12, 12)).astype(np.float32)
    request = attribute(small_models.PICTURES, {"image": rows(pictures)}, ENDLESS[method])

    reply = by_the_deadline(server, request)

    cut = [each for each in reply.explanation.attributions if each.accuracy.partial]
    assert cut
    assert all("deadline" in " ".join(each.accuracy.warnings) for each in cut)
    assert all(each.accuracy.HasField("standard_error") or each.accuracy.HasField("signed_gap") for each in cut)
    number = next(n for n, each in enumerate(reply.explanation.attributions) if each.accuracy.partial)
    again = server.explanations.Attribute(made_again(cut[0], pictures[number]), timeout=LONG_SECONDS)
    first, second = (from_tensor(each.inputs["image"].scores) for each in (cut[0], again.explanation.attributions[0]))
    np.testing.assert_allclose(second, first, rtol=1e-3, atol=1e-5 * np.abs(first).max())


def by_the_deadline(server: Server, request: Any) -> Any:
    """Ask with a deadline that is as short as the machine lets there be anything by then."""
    for seconds in (1.5, 6.0):
        with contextlib.suppress(grpc.RpcError):
            return server.explanations.Attribute(request, timeout=seconds)
    return server.explanations.Attribute(request, timeout=24.0)


def made_again(attribution: Any, picture: Any) -> Any:
    """Return the request that a receipt asks for."""
    receipt = attribution.receipt
    explanation = explanation_pb2.ExplanationSpec(
        method=receipt.method, parameters=receipt.parameters, seed=receipt.seed, target=receipt.target
    )
    return attribute(small_models.PICTURES, {"image": rows(picture[np.newaxis])}, explanation)
