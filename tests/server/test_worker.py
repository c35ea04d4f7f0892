"""The worker process, from the other end of its socket."""

import gc
import os
import select
import signal
import threading
import time
import weakref
import zipfile
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from e2e.serving import wait_until
from pellucid_server import worker as worker_module
from pellucid_server.engine.datasets.catalogue import MOST_BYTES_AT_ONCE, DataSets, scan
from pellucid_server.engine.datasets.opening import DataSetError
from pellucid_server.engine.device.engine import Engine
from pellucid_server.engine.evaluations.model_handle import WorkerServices
from pellucid_server.engine.tasks.helpers import Helpers
from pellucid_server.engine.tasks.hub import Hub
from pellucid_server.errors import UnsupportedError, error_from_wire
from pellucid_server.faults import EXIT_STATUS, LOADING, Faults
from pellucid_server.frames import HEAD
from pellucid_server.vocabulary.messages import (
    Cancel,
    Done,
    Heartbeat,
    Hello,
    Loading,
    ModelsChanged,
    Refused,
    Start,
    WorkerSettings,
)
from pellucid_server.vocabulary.requests import AttributeRequest, ExplanationSpec, ModelKey, PredictRequest, TensorInput
from pellucid_server.worker import Worker
from server.worker_process import BEAT_SECONDS, ROW, worker
from torch import nn
from torch.export import Dim

WEIGHT = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
MANIFEST = """
[[inputs]]
name = "input"
modality = "tensor"
[[outputs]]
name = "output"
kind = "values"
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """One model, a linear map."""
    folder = tmp_path_factory.mktemp("models")
    layer = nn.Linear(3, 2, bias=False)
    layer.weight.data = torch.from_numpy(WEIGHT)
    (folder / "linear" / "1").mkdir(parents=True)
    (folder / "linear" / "model.toml").write_text(MANIFEST)
    program = torch.export.export(layer.eval(), (torch.zeros(2, 3),), dynamic_shapes={"input": {0: Dim.DYNAMIC}})
    torch.export.save(program, folder / "linear" / "1" / "model.pt2")
    return folder


@pytest.fixture(scope="module")
def shared(repository, tmp_path_factory):
    """A worker that greeted, for tests that do it no harm."""
    log = tmp_path_factory.mktemp("log") / "log"
    with log.open("wb") as file, worker(repository, tmp_path_factory.mktemp("faults"), file) as front:
        front.log = log
        front.announced = front.receive()
        front.greeting = front.receive()
        yield front


@pytest.fixture
def own(repository, tmp_path):
    """A worker that greeted, for one test."""
    with worker(repository, tmp_path) as front:
        front.next(Hello)
        yield front


def test_a_worker_names_the_model_that_it_loads_and_greets_with_its_models_and_methods(shared):
    assert shared.announced == Loading("linear", 1)
    assert isinstance(shared.greeting, Hello)
    assert [model.key.name for model in shared.greeting.models] == ["linear"]
    assert "integrated-gradients" in [method.name for method in shared.greeting.methods]


def test_a_worker_greets_with_its_data_sets_and_sends_the_digests_of_large_ones_later(repository, tmp_path):
    for name in ("small", "large"):
        (tmp_path / "sets" / name).mkdir(parents=True)
        (tmp_path / "sets" / name / "dataset.toml").write_text('kind = "table"\ndata = "rows.csv"\n')
        (tmp_path / "sets" / name / "rows.csv").write_text("a,label\n1,0\n")
    with (tmp_path / "sets" / "large" / "beside").open("wb") as file:
        file.truncate(MOST_BYTES_AT_ONCE)

    with worker(repository, tmp_path, datasets=str(tmp_path / "sets")) as front:
        large, small = front.next(Hello).datasets
        later, same = front.next(ModelsChanged).hello.datasets

    assert (large.name, large.digest, large.rows) == ("large", "", 1)
    assert later.digest == scan(tmp_path / "sets", most_bytes=1 << 40).infos[0].digest
    assert same == small
    assert small.digest


def test_data_sets_at_a_url_are_served_once_they_are_copied(repository, tmp_path):
    with zipfile.ZipFile(tmp_path / "sets.zip", "w") as file:
        file.writestr("small/dataset.toml", 'kind = "table"\ndata = "rows.csv"\n')
        file.writestr("small/rows.csv", "a,label\n1,0\n")
    url, cache = f"zip://::file://{tmp_path / 'sets.zip'}", tmp_path / "copies"

    with worker(repository, tmp_path, datasets=url, datasets_cache=str(cache)) as front:
        assert front.next(Hello).datasets == ()
        (found,) = front.next(ModelsChanged).hello.datasets

    assert (found.name, found.rows, found.reason) == ("small", 1, "")
    assert (next(cache.iterdir()) / "small" / "rows.csv").read_text() == "a,label\n1,0\n"


def test_copies_that_fail_are_tried_again_after_longer_and_longer_waits(monkeypatch, caplog):
    found, waits, taken = DataSets(), [], []
    outcomes = [DataSetError("no network")] * 9 + [found]

    def scanned(*arguments):
        outcome = outcomes.pop(0)
        if isinstance(outcome, DataSetError):
            raise outcome
        return outcome

    monkeypatch.setattr(worker_module, "scan_copies", scanned)
    settings = WorkerSettings("cpu", "models", 1, 0.1, 1 << 20, datasets="s3://bucket/sets")
    worker_module._take_copies(SimpleNamespace(take_datasets=taken.append), settings, waits.append)

    assert taken == [found]
    assert waits == sorted(waits)
    assert (waits[0], waits[-1], len(waits)) == (5.0, 600.0, 9)
    assert caplog.text.count("no network") == 9


def idle(beat):
    spans = (beat.device_seconds, beat.python_seconds, beat.offload_seconds, beat.busy_seconds)
    return spans == (0.0, 0.0, 0.0, 0.0) and not beat.batches


def test_an_idle_workers_heart_beats_and_says_that_it_is_idle(shared):
    assert all(idle(shared.next(Heartbeat)) for _ in range(3))


def test_a_worker_answers_and_leaves_no_suspects(shared):
    shared.predict(7, priority="predictions", caller="a")

    # The heart may beat between the batch and the answer.
    answers, beats = [], []
    while not answers or not any(beat.batches for beat in beats):
        message = shared.receive()
        (answers if isinstance(message, Done) else beats).append(message)

    (done,) = answers
    assert (done.request_number, done.failure) == (7, None)
    np.testing.assert_allclose(done.result.outputs["output"].values, ROW @ WEIGHT.T)
    assert done.timing.rows_forward == 1
    assert done.timing.rows == (("forward", 1),)
    (batch,) = [each for beat in beats for each in beat.batches]
    assert (batch.kind, batch.counts[0], sum(batch.counts), batch.rows) == ("forward", 1, 1, 1)
    assert sum(beat.busy_seconds for beat in beats) > 0
    assert beats[-1].memory_bytes > 10e6
    assert shared.suspects() == frozenset()


def test_a_bug_is_logged_by_its_type_and_place_without_its_words(shared):
    Path(shared.faults, "running").write_bytes(b"\xff is no text")
    shared.predict(7)
    done = shared.next(Done)
    shared.disarm("running")

    written = shared.log.read_text()
    assert done.failure.message == "internal error"
    assert "request 7 failed" in written
    assert "faults.py" in written
    assert "UnicodeDecodeError\n" in written
    assert "codec" not in written.rpartition("UnicodeDecodeError")[2]


def test_an_interrupt_from_the_terminal_does_not_end_a_worker(shared):
    os.killpg(shared.process.pid, signal.SIGINT)
    shared.predict(8)

    assert shared.next(Done).request_number == 8


def test_a_cancelled_request_that_is_held_ends_as_cancelled(shared):
    shared.arm("running", "hold")
    shared.predict(9)
    wait_for(lambda: Path(shared.faults, "running.reached").exists())

    shared.send(Cancel(9))
    # Messages are taken in order: once the second request has arrived, the first is cancelled.
    shared.arm("sent", "hold")
    shared.predict(10)
    wait_for(lambda: Path(shared.faults, "sent.reached").exists())
    shared.disarm("sent")
    shared.disarm("running")

    first, second = shared.next(Done), shared.next(Done)
    assert (first.request_number, first.failure.reason) == (9, "CANCELLED")
    assert (second.request_number, second.failure) == (10, None)


def test_a_prediction_held_before_its_python_makes_the_heart_say_how_long_and_names_the_suspect(own):
    own.arm("running", "hold")
    own.predict(21)

    beats = [own.next(Heartbeat) for _ in range(12)]

    held = [beat.python_seconds for beat in beats if beat.python_seconds]
    assert held == sorted(held)
    assert held[-1] > 3 * BEAT_SECONDS
    assert {beat.device_seconds for beat in beats} == {0.0}
    assert own.suspects() == {21}
    # A worker that hangs ends with its front all the same.
    own.close()
    assert own.process.wait(20) == 0


def test_a_batch_that_does_not_end_makes_the_heart_say_how_long_and_names_the_suspects(own):
    own.arm("chunk", "hold")
    own.predict(31)

    beats = [own.next(Heartbeat) for _ in range(12)]

    held = [beat.device_seconds for beat in beats if beat.device_seconds]
    assert held == sorted(held)
    assert held[-1] > 3 * BEAT_SECONDS
    assert beats[-1].python_seconds == 0.0
    assert own.suspects() == {31}
    helpers = [ended for name, ended in own.children() if name == "pellucid-helper"]
    assert len(helpers) == 1
    own.process.kill()
    # The helper process ends with the worker, however that ends.
    with ExitStack() as stack:
        stack.callback(os.close, helpers[0])
        assert select.select(helpers, [], [], 20)[0] == helpers


@pytest.mark.parametrize("point", ["chunk", "answered"])
def test_a_worker_that_dies_over_a_request_leaves_it_as_the_only_suspect(own, point):
    own.predict(40)
    own.next(Done)
    own.arm(point, "kill linear")
    own.predict(41)

    assert own.process.wait(20) == EXIT_STATUS
    assert own.suspects() == {41}


def test_a_worker_that_dies_as_a_request_arrives_suspects_nobody(own):
    own.arm("sent", "crash")
    own.predict(51)

    assert own.process.wait(20) == EXIT_STATUS
    assert own.suspects() == frozenset()


def close_connection(front):
    front.close()


def kill_process(front):
    front.process.kill()


@pytest.mark.parametrize(("end", "status"), [(close_connection, 0), (kill_process, -signal.SIGKILL)])
def test_a_worker_that_ends_while_a_model_is_tried_out_leaves_no_process(repository, tmp_path, end, status):
    (tmp_path / LOADING).write_text("hold")

    with worker(repository, tmp_path, load_seconds=3600.0) as front:
        wait_until((tmp_path / f"{LOADING}.reached").exists, seconds=60, what="the model is being tried out")
        (guard,) = [ended for name, ended in front.children() if name == "pellucid-guard"]
        child = os.pidfd_open(int((tmp_path / f"{LOADING}.reached").read_text()))
        end(front)

        assert front.process.wait(60) == status
        assert select.select([child], [], [], 60)[0] == [child]
        assert select.select([guard], [], [], 60)[0] == [guard]


def test_a_worker_of_which_a_thread_fails_ends(own):
    # The reader cannot read this, and nobody else would.
    own.socket.sendall(HEAD.pack(1, 1, 0) + b"\xc1")

    assert own.process.wait(20) == 1


def test_a_worker_without_models_refuses_and_ends(tmp_path):
    with worker(tmp_path / "nowhere", tmp_path) as front:
        assert isinstance(front.receive(), Refused)
        assert front.process.wait(20) == 0


class Fixed:
    """Models that do not change."""

    def __init__(self, models):
        self.now = models


class Exhausted:
    """Models of which none can be had."""

    def __init__(self, error):
        self._error = error

    def find(self, key):
        raise self._error


class Outgoing:
    """A connection that keeps what is sent."""

    stuck = False

    def __init__(self):
        self.sent = []

    def send(self, message):
        self.sent.append(message)

    send_now = send


@pytest.mark.parametrize(
    ("error", "reason", "word"),
    [(MemoryError(), "OVERLOADED", "ask for less"), (ZeroDivisionError(), "INTERNAL", "internal error")],
)
@pytest.mark.parametrize("explained", [False, True], ids=["predict", "attribute"])
def test_a_request_that_fails_in_the_worker_has_a_failure_that_says_whether_less_would_do(
    error, reason, word, explained
):
    engine = Engine(chunk_seconds=0.05, chunk_bytes=1 << 28, threads=1)
    connection, hub = Outgoing(), Hub()
    subject = Worker(connection, Fixed(Exhausted(error)), WorkerServices(engine, hub, Helpers(), "cpu"), Faults())
    inputs = {"input": TensorInput(ROW)}
    requests = [
        PredictRequest(ModelKey("m"), inputs),
        AttributeRequest(ModelKey("m"), inputs, ExplanationSpec("saliency")),
    ]

    subject.take(Start(1, requests[explained], None))
    wait_for(lambda: connection.sent)
    engine.close()

    (done,) = connection.sent
    failure = error_from_wire(done.failure.reason, done.failure.message, dict(done.failure.metadata))
    assert failure.reason == reason
    assert word in failure.message
    # To try again as it is would not help.
    assert "retry_after_seconds" not in failure.metadata


def wait_for(condition, seconds=20.0):
    """Look at `condition` until it holds; another process offers nothing to wait on."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_the_heart_says_how_long_a_picture_has_been_decoded():
    engine = Engine(chunk_seconds=0.05, chunk_bytes=1 << 28, threads=1)
    connection, hub, go = Outgoing(), Hub(), threading.Event()
    subject = Worker(
        connection, Fixed(Exhausted(MemoryError())), WorkerServices(engine, hub, Helpers(), "cpu"), Faults()
    )
    began = time.monotonic()
    hub.submit(lambda: hub.offload(lambda: go.wait(20)), request_number=1)

    def beat():
        subject.beat()
        return connection.sent[-1]

    wait_for(lambda: beat().offload_seconds > 0)
    last = beat()
    go.set()
    wait_for(lambda: idle(beat()))
    engine.close()

    assert last.python_seconds == last.device_seconds == 0.0
    assert last.offload_seconds < time.monotonic() - began


def test_nothing_of_a_request_that_fails_is_left_without_a_collection():
    engine = Engine(chunk_seconds=0.05, chunk_bytes=1 << 28, threads=1)
    connection, hub = Outgoing(), Hub()

    def refuse():
        raise UnsupportedError("No.", subject="m")

    class Offloading:
        def find(self, key):
            return hub.offload(refuse)

    subject = Worker(connection, Fixed(Offloading()), WorkerServices(engine, hub, Helpers(), "cpu"), Faults())
    array = ROW.copy()
    found = weakref.ref(array)
    gc.collect()
    gc.disable()
    try:
        subject.take(Start(1, PredictRequest(ModelKey("m"), {"input": TensorInput(array)}), None))
        del array
        wait_for(lambda: connection.sent)

        wait_for(lambda: found() is None)
    finally:
        gc.enable()
        engine.close()
