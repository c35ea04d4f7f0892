"""Workers that die, hang, cannot start or are killed by a request, while callers go on asking."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pellucid
import pytest
from e2e import small_models
from e2e.fault_points import QUICK, Points, counters, kill, serve_with_points, wait_until_idle, worker_pids
from e2e.messages import attribute, details, failure, predict, spec, table_rows
from e2e.serving import LONG_SECONDS, Server, children, serve, wait_until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pellucid.tensors import from_tensor
from standstill import stop

ROW = {"width": 12.0, "height": 3.0, "colour": "green"}
EXPECTED = small_models.linear_scores(**ROW)
INPUTS = {"features": table_rows([ROW])}
KNOWN = predict(small_models.SCORES, INPUTS)
POISON = "poison"
HANG_SECONDS = 2.0
CALLERS = 4
CALLS = 20
"""Calls of each caller before and after something happens."""

STATES = health_pb2.HealthCheckResponse
Held = tuple[Server, Points]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The linear model, and the same again under another name, whose requests tests let kill workers."""
    repository = tmp_path_factory.mktemp("repository")
    small_models.write_scores(repository)
    small_models.write_scores(repository, POISON)
    return repository


@pytest.fixture(scope="module")
def shared(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    settings = {"PELLUCID_POOL__HANG_SECONDS": str(HANG_SECONDS)}
    with serve_with_points(models, tmp_path_factory.mktemp("server"), settings) as held:
        yield held


@pytest.fixture
def held(shared: Held) -> Iterator[Held]:
    """A server with one worker, at rest, with no point armed before or after."""
    server, points = shared
    wait_until_ready(server)
    wait_until_idle(server)
    yield shared
    points.release()


@pytest.fixture
def two_workers(models: Path, tmp_path: Path) -> Iterator[Server]:
    with serve_with_points(models, tmp_path, {"PELLUCID_POOL__DEVICES": "cpu,cpu"}) as (server, _):
        yield server


def outcome(server: Server, request: Any) -> tuple[grpc.RpcError | None, Any]:
    """Return a prediction's error, or its values."""
    try:
        reply = server.explanations.Predict(request, timeout=LONG_SECONDS)
    except grpc.RpcError as error:
        return error, None
    return None, from_tensor(reply.outputs["output"].values)


def wait_until_ready(server: Server) -> None:
    wait_until(lambda: outcome(server, KNOWN)[0] is None, seconds=LONG_SECONDS, what="the server is ready")


class Load:
    """Callers that ask one call after the other; leaving waits until each has made some more calls."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._found: list[list[Any]] = [[] for _ in range(CALLERS)]
        self._enough = threading.Event()
        self._callers = ThreadPoolExecutor(CALLERS)

    def __enter__(self) -> "Load":
        self._calling = [self._callers.submit(self._ask, found) for found in self._found]
        self.wait_for_calls()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(TimeoutError):
            self.wait_for_calls()
        self._enough.set()
        self._callers.shutdown()

    def wait_for_calls(self) -> None:
        """Wait until every caller has had some more answers."""
        wanted = [len(found) + CALLS for found in self._found]

        def done() -> bool:
            ended = any(calling.done() for calling in self._calling)
            return ended or all(len(found) >= count for found, count in zip(self._found, wanted, strict=True))

        wait_until(done, seconds=LONG_SECONDS, what=f"every caller has made {CALLS} calls")

    def results(self) -> list[Any]:
        """Return what the calls returned; raise what one raised."""
        for calling in self._calling:
            calling.result()
        return [each for found in self._found for each in found]

    def _ask(self, found: list[Any]) -> None:
        while not self._enough.is_set():
            found.append(self._call())


def losses(server: Server, cause: str) -> float:
    return counters(server).total("pellucid_worker_losses_total", device="cpu", cause=cause)


def lose_worker(server: Server, pid: int) -> None:
    """Kill a worker, and wait until there is another in its place that is ready."""
    ready = len(server.lines("is ready after"))
    kill(pid)
    wait_until(
        lambda: len(server.lines("is ready after")) > ready, seconds=LONG_SECONDS, what="there is another worker"
    )


def test_calls_while_the_only_worker_is_killed_are_answered_or_told_to_come_back(held: Held) -> None:
    server, _ = held

    with Load(lambda: outcome(server, KNOWN)) as load:
        lose_worker(server, server.worker_pid())

    found = load.results()
    refusals = [error for error, _ in found if error is not None]
    answers = [values for error, values in found if error is None]
    assert {error.code() for error in refusals} <= {grpc.StatusCode.UNAVAILABLE}
    assert all(details(error)["RetryInfo"].retry_delay.ToNanoseconds() > 0 for error in refusals)
    assert len(answers) >= 2 * CALLERS * CALLS
    np.testing.assert_array_equal(np.concatenate(answers), np.tile(EXPECTED, (len(answers), 1)))


def test_no_call_of_the_shipped_client_fails_when_the_only_worker_is_killed(held: Held) -> None:
    server, _ = held

    with pellucid.Client(server.address) as client:

        def ask() -> Any:
            return client.predict(small_models.SCORES, [ROW], timeout=LONG_SECONDS).outputs["output"]

        with Load(ask) as load:
            lose_worker(server, server.worker_pid())

    found = load.results()
    np.testing.assert_array_equal(np.concatenate(found), np.tile(EXPECTED, (len(found), 1)))


def test_no_call_fails_when_one_of_two_workers_is_killed_though_no_client_tries_again(two_workers: Server) -> None:
    server = two_workers

    with Load(lambda: outcome(server, KNOWN)) as load:
        for pid in sorted(worker_pids(server)):
            lose_worker(server, pid)
            load.wait_for_calls()

    found = load.results()
    assert [error for error, _ in found if error is not None] == []
    values = np.concatenate([values for _, values in found])
    np.testing.assert_array_equal(values, np.tile(EXPECTED, (len(values), 1)))
    assert losses(server, "exit") == 2


def test_a_worker_that_is_silent_is_replaced_and_its_request_answered(held: Held) -> None:
    server, _ = held
    before = losses(server, "hang")
    stopped = server.worker_pid()

    stop(stopped)
    error, values = outcome(server, KNOWN)

    assert error is None, error
    np.testing.assert_array_equal(values, [EXPECTED])
    assert losses(server, "hang") == before + 1
    assert worker_pids(server).isdisjoint({stopped})
    assert not Path(f"/proc/{stopped}").exists()


@pytest.mark.parametrize("point", ["running", "chunk"])
def test_a_worker_that_is_stuck_is_replaced_and_its_request_answered(held: Held, point: str) -> None:
    server, points = held
    before = losses(server, "hang")
    points.arm(point)
    asked = server.explanations.Predict.future(KNOWN, timeout=LONG_SECONDS)
    points.wait(point)

    wait_until(lambda: losses(server, "hang") > before, seconds=LONG_SECONDS, what="the worker was killed")
    points.release()

    np.testing.assert_array_equal(from_tensor(asked.result().outputs["output"].values), [EXPECTED])
    assert losses(server, "hang") == before + 1


@pytest.mark.parametrize("rpc", ["Predict", "Attribute"])
def test_a_request_that_kills_its_worker_is_given_up_after_two_and_others_are_answered(held: Held, rpc: str) -> None:
    server, points = held
    points.arm("chunk", f"kill {POISON}")
    before = losses(server, "exit")
    poison = {
        "Predict": predict(POISON, INPUTS),
        "Attribute": attribute(POISON, INPUTS, spec("integrated-gradients", steps=4)),
    }[rpc]
    send = getattr(server.explanations, rpc)

    with pellucid.Client(server.address) as client:

        def ask() -> Any:
            return client.predict(small_models.SCORES, [ROW], timeout=LONG_SECONDS).outputs["output"]

        with Load(ask) as load:
            fatal = failure(lambda: send(poison, timeout=LONG_SECONDS))
            deaths = losses(server, "exit") - before
            load.wait_for_calls()
            again = failure(lambda: send(poison, timeout=LONG_SECONDS))

    assert (fatal.code(), again.code()) == (grpc.StatusCode.INTERNAL,) * 2
    assert [details(error)["ErrorInfo"].reason for error in (fatal, again)] == ["FATAL_REQUEST"] * 2
    assert (deaths, losses(server, "exit") - before) == (2, 2)
    found = load.results()
    np.testing.assert_array_equal(np.concatenate(found), np.tile(EXPECTED, (len(found), 1)))


def test_a_request_that_hangs_two_workers_is_refused_though_its_callers_did_not_wait_for_that(held: Held) -> None:
    server, points = held
    stuck = predict(POISON, {"features": table_rows([{**ROW, "width": 13.0}])})

    for _ in range(2):
        before = losses(server, "hang")
        points.arm("chunk", f"hold {POISON}")
        asked = server.explanations.Predict.future(stuck, timeout=LONG_SECONDS)
        points.wait("chunk")
        asked.cancel()
        wait_until(lambda before=before: losses(server, "hang") > before, seconds=LONG_SECONDS, what="a worker hung")
        points.release()
        wait_until_ready(server)
    hung = losses(server, "hang")
    fatal = failure(lambda: server.explanations.Predict(stuck, timeout=LONG_SECONDS))

    assert fatal.code() is grpc.StatusCode.INTERNAL
    assert details(fatal)["ErrorInfo"].reason == "FATAL_REQUEST"
    assert losses(server, "hang") == hung


def test_a_worker_that_cannot_start_again_makes_the_server_unhealthy_until_it_can(models: Path, tmp_path: Path) -> None:
    with serve_with_points(models, tmp_path) as (server, _):
        health = health_pb2_grpc.HealthStub(server.channel)

        def state() -> Any:
            return health.Check(health_pb2.HealthCheckRequest(), timeout=LONG_SECONDS).status

        # One broken model would be left out; without a repository nothing can be served.
        away = models.with_name("away")
        models.rename(away)
        try:
            kill(server.worker_pid())
            wait_until(lambda: losses(server, "start") >= 2, seconds=LONG_SECONDS, what="two starts have failed")
            broken, error = state(), outcome(server, KNOWN)[0]
        finally:
            away.rename(models)
        wait_until(lambda: state() == STATES.SERVING, seconds=LONG_SECONDS, what="the server is healthy again")

        assert broken == STATES.NOT_SERVING
        assert error is not None
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert details(error)["RetryInfo"].retry_delay.ToNanoseconds() > 0
        np.testing.assert_array_equal(outcome(server, KNOWN)[1], [EXPECTED])


def descendants(pid: int) -> set[int]:
    """Return every process below one."""
    found: set[int] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError):
            below = {int(child) for child in path.read_text().split()}
            found |= below.union(*map(descendants, below))
    return found


def test_a_killed_template_costs_no_answer_and_a_worker_lost_after_it_is_replaced(models: Path, tmp_path: Path) -> None:
    with serve(models, tmp_path, QUICK, as_users_do=True) as server:
        (template,) = children(server.process.pid, "pellucid-templ")
        first = server.worker_pid()

        with Load(lambda: outcome(server, KNOWN)[1]) as load:
            kill(template)
            what = "the template of the workers was lost (exit status -9)"
            wait_until(lambda: bool(server.lines(what)), seconds=LONG_SECONDS, what="its loss is seen")
        assert server.worker_pid() == first
        lose_worker(server, first)

        found = load.results()
        np.testing.assert_array_equal(np.concatenate(found), np.tile(EXPECTED, (len(found), 1)))
        np.testing.assert_array_equal(outcome(server, KNOWN)[1], [EXPECTED])
        assert server.lines("the worker for cpu was lost (exit status -9)")
        left = descendants(server.process.pid)
        assert server.terminate() == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in left)


def test_a_killed_server_leaves_no_process_behind(models: Path, tmp_path: Path) -> None:
    with serve_with_points(models, tmp_path) as (server, points):
        points.arm("running")
        asked = server.explanations.Predict.future(KNOWN, timeout=LONG_SECONDS)
        points.wait("running")
        left = descendants(server.process.pid)

        server.process.kill()
        server.process.wait(LONG_SECONDS)

        assert left
        wait_until(
            lambda: not any(Path(f"/proc/{pid}").exists() for pid in left),
            seconds=LONG_SECONDS,
            what="its processes are gone",
        )
        assert failure(asked.result).code() is grpc.StatusCode.UNAVAILABLE
