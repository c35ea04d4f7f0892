"""A worker without models: the name of a request's model says what it does with the request.

The folder of the model repository says how it starts: "refuse", "crash", "mute" (is never ready),
"stuck" (is never ready and ignores end of file), "stay" (ignores end of file),
"fatal" (dies while it loads a model), "tried" (found a model broken; notes how many verdicts it is given),
"flaky" (refuses the second start; counts them in a file there), "dozy" (the second start is never ready),
or anything else. It sends heartbeats if its settings name an interval above 0.

With `--template N` it is a template, which notes its start in the folder FAKE_TEMPLATES. FAKE_TEMPLATE says how that
goes: "crash" (ends at once), "stuck" (is never ready), "unable" (cannot fork), or anything else.
"""

import errno
import os
import signal
import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from pellucid_server import template
from pellucid_server.frames import HEAD
from pellucid_server.processes import name_process
from pellucid_server.recorder import Recorder
from pellucid_server.vocabulary.descriptions import MethodInfo, ModelInfo, Verdict
from pellucid_server.vocabulary.findings import Axis, Findings, NamedArray
from pellucid_server.vocabulary.messages import (
    Cancel,
    Credit,
    Done,
    Heartbeat,
    Hello,
    Loading,
    ModelsChanged,
    Part,
    Progress,
    Refused,
    Start,
    StreamInfo,
)
from pellucid_server.vocabulary.requests import ModelKey
from pellucid_server.vocabulary.results import (
    Failure,
    OutputResult,
    PredictResult,
    Receipt,
    RequestTiming,
    Runtime,
    Work,
)
from pellucid_server.worker_connection import Connection

TIMING = RequestTiming(0.25, 0.5, 3, 4)
MODELS = tuple(
    ModelInfo(ModelKey(name, 1, "ab" * 32), "", (), (), (), (), "graph", None, 0, False) for name in ("echo", "hang")
)
METHODS = (MethodInfo("saliency", "attribute", "gradient", "", "", (), (), (), (), False),)


def result(values):
    receipt = Receipt(ModelKey("echo", 1, "ab" * 32), "cd" * 32, Runtime("graph", "", "cpu", "float32", {}), Work())
    return PredictResult({"y": OutputResult(np.asarray(values))}, receipt)


def one_array(name, array):
    """Return findings of one array with one axis."""
    return Findings(arrays={name: NamedArray(array, (Axis("value"),))})


class Stream:
    """Sends parts while it has credit, each with its number, and every third one a checkpoint; then does as asked."""

    def __init__(self, worker, start, count, size, what):
        self.worker = worker
        self.request_number = start.request_number
        self.count = count
        self.values = np.zeros(max(size // 8, 1))
        self.what = what
        self.parts, self.bytes = start.credit_parts, start.credit_bytes
        self.number = start.parts_done
        # Numbers go on from the checkpoint's own.
        self.next = 0 if start.checkpoint is None else int(start.checkpoint.arrays["n"].values[0]) + 1
        self.begin()

    def begin(self):
        match self.what:
            case ["die once", *path] if not Path("/".join(path)).exists():
                Path("/".join(path)).touch()
                os._exit(3)
            case ["poison at 3"] if self.number == 3:
                self.poison()

    def poison(self):
        self.worker.recorder.python(self.request_number)
        os._exit(3)

    def go_on(self):
        while self.number < self.count and self.parts > 0 and self.bytes > 0:
            self.send_part()
        if self.number == self.count:
            self.end()

    def send_part(self):
        values = self.values.copy()
        values[0] = self.next
        part = Part(self.request_number, self.number, one_array("n", values), checkpoint=self.number % 3 == 2)
        self.worker.send(part)
        self.number, self.next = self.number + 1, self.next + 1
        self.parts, self.bytes = self.parts - 1, self.bytes - part.size_bytes
        match self.what:
            case ["poison at checkpoints"] if self.number % 3 == 0 and self.number < self.count:
                self.poison()
            case ["poison at 3"] if self.number == 3:
                self.poison()
            case ["die at 3", *path] if self.number == 3 and not Path("/".join(path)).exists():
                Path("/".join(path)).touch()
                os._exit(3)

    def end(self):
        match self.what:
            case ["fail"]:
                self.worker.fail(self.request_number, "CANCELLED", stage="running")
            case ["hang"]:
                pass
            case ["die"]:
                os._exit(3)
            case ["poison"]:
                self.poison()
            case ["repeat"]:
                self.worker.send(Part(self.request_number, 0, one_array("n", self.values)))
            case _:
                self.worker.send(Done(self.request_number, TIMING))


class FakeWorker:
    def __init__(self, connection, recorder):
        self.connection = connection
        self.recorder = recorder
        self.streams = {}
        self.cancelled = []
        self.held = {}

    def send(self, message):
        self.connection.send_now(message)

    def beat(self, seconds):
        while True:
            time.sleep(seconds)
            self.send(Heartbeat(0.0, 0.0, 0.0))

    def receive(self):
        return self.connection.receive()

    def answer(self, request_number, values):
        self.held.pop(request_number, None)
        self.send(Done(request_number, TIMING, result(values)))

    def fail(self, request_number, reason, **metadata):
        self.held.pop(request_number, None)
        self.send(Done(request_number, TIMING, failure=Failure(reason, f"said {reason}", metadata)))

    def start(self, start):
        name = start.request.model.name
        match name.split("/"):
            case ["hang" | "deaf", *_]:
                pass
            case ["die"]:
                os._exit(3)
            case ["poison", *batch]:
                # Rows of a request that is alone share no batch.
                self.recorder.device([start.request_number] if start.alone or not batch else list(self.held))
                os._exit(3)
            case ["stuck", how, *path]:
                self.stuck(start, how, Path("/".join(path)))
            case ["first", deed, *path]:
                self.first(start, deed, Path("/".join(path)))
            case ["fail", reason]:
                self.fail(start.request_number, reason, seen="yes")
            case ["empty"]:
                self.send(Done(start.request_number, TIMING))
            case ["garbage"]:
                self.connection._socket.sendall(HEAD.pack(3, 3, 0) + b"\xc1\xc1\xc1")
            case ["parts", count, size, *what]:
                self.streams[start.request_number] = Stream(self, start, int(count), int(size), what)
                self.streams[start.request_number].go_on()
            case ["sent"]:
                self.answer(start.request_number, sum(each.number for each in self.streams.values()))
            case ["change models"]:
                new = replace(MODELS[0], key=ModelKey("new", 1, "cd" * 32))
                self.send(ModelsChanged(Hello((new,), METHODS, "cpu")))
                self.answer(start.request_number, 0.0)
            case ["back", *path]:
                self.back(start, Path("/".join(path)))
            case ["progress"]:
                self.send(Progress(start.request_number, 0.25))
                self.send(Progress(start.request_number, 0.75))
                self.answer(start.request_number, 0.0)
            case ["pid"]:
                self.answer(start.request_number, os.getpid())
            case ["read", *path]:
                Path("/".join(path)).read_bytes()
                self.answer(start.request_number, 1.0)
            case ["cancelled"]:
                self.answer(start.request_number, np.array(self.cancelled, np.int64))
            case ["threads"]:
                self.answer(start.request_number, int(os.environ["OMP_NUM_THREADS"]))
            case ["deadline"]:
                self.answer(start.request_number, start.seconds_left)
            case _:
                self.answer(start.request_number, 2 * start.request.inputs["x"].array)

    def first(self, start, deed, path):
        """Do something with the first request of the path; answer later ones with whether they are to be alone."""
        if path.exists():
            self.answer(start.request_number, int(start.alone))
            return
        path.touch()
        match deed:
            case "die":
                self.send(Progress(start.request_number, 0.5))
                self.recorder.python(start.request_number)
                os._exit(3)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "device":
                self.send(Heartbeat(1e6, 0.0, 0.0))
            case "python":
                self.send(Heartbeat(0.0, 1e6, 0.0))

    def back(self, start, path):
        """Die after three quarters of the first request; begin the second again."""
        again = path.exists()
        path.touch()
        for share in (0.25, 0.5, 1.0) if again else (0.25, 0.75):
            self.send(Progress(start.request_number, share))
        if not again:
            os._exit(3)
        self.answer(start.request_number, 0.0)

    def stuck(self, start, how, path):
        """Have the device at a request, until its caller leaves; "in turns" has it answered every other time."""
        if how == "in turns":
            path.mkdir(exist_ok=True)
            (path / str(start.request_number)).touch()
            if len(list(path.iterdir())) % 2 == 0:
                self.answer(start.request_number, 1.0)
                return
        self.recorder.device(list(self.held) if how == "in a batch" else [start.request_number])
        if how == "and answered":
            self.answer(start.request_number, 1.0)
            self.send(Heartbeat(1e6, 0.0, 0.0))

    def give_up(self, request_number, how):
        """End a request, or not, that the device goes on with; say how long that takes."""
        if how != "silently":
            self.fail(request_number, "CANCELLED", stage="running")
        self.send(Heartbeat(0.0 if how == "not for long" else 1e6, 0.0, 0.0))

    def cancel(self, request_number):
        self.cancelled.append(request_number)
        self.fail(request_number, "CANCELLED", stage="running")

    def serve(self):
        while (message := self.receive()) is not None:
            match message:
                case Start():
                    self.held[message.request_number] = message.request.model.name
                    self.start(message)
                case Credit():
                    stream = self.streams[message.request_number]
                    stream.parts += message.parts
                    stream.bytes += message.size_bytes
                    stream.go_on()
                case Cancel(request_number=request_number) if self.held.get(request_number, "").startswith("stuck"):
                    self.give_up(request_number, self.held[request_number].split("/")[1])
                case Cancel(request_number=request_number) if self.held.get(request_number, "").startswith(
                    ("hang", "parts")
                ):
                    self.cancel(request_number)


def main():
    descriptors = {name: int(value) for name, value in zip(sys.argv[1::2], sys.argv[2::2], strict=True)}
    if "--template" in descriptors:
        be_template(descriptors["--template"])
    work(descriptors["--fd"], descriptors["--record"])


def be_template(descriptor):
    folder, how = Path(os.environ["FAKE_TEMPLATES"]), os.environ["FAKE_TEMPLATE"]
    with (folder / "starts").open("a") as starts:
        starts.write("x")
    if how == "crash":
        sys.exit(4)
    if how == "stuck":
        time.sleep(600)
    if how == "unable":
        os.fork = unable
    template.serve(descriptor, "fake-template", {"worker": work})


def unable():
    raise OSError(errno.EAGAIN, "Resource temporarily unavailable")


def work(connection, record):
    name_process("fake-worker")
    if os.environ.get("FAKE_GREETING"):
        # What a worker of another installation begins with.
        socket.socket(fileno=connection).sendall(os.environ["FAKE_GREETING"].encode())
        time.sleep(60)
    worker = FakeWorker(Connection(connection), Recorder(record))
    settings = worker.connection.first()
    repository = Path(settings.model_repository)
    count = repository / "starts"
    starts = len(count.read_text()) + 1 if count.exists() else 1
    count.write_text("x" * starts)
    if repository.name == "flaky" and starts == 2:
        worker.send(Refused("the second start fails"))
        return
    if repository.name == "refuse":
        worker.send(Refused("model 'm': there is no model.toml"))
        return
    if repository.name == "mute" or (repository.name == "dozy" and starts == 2):
        worker.receive()
        return
    while repository.name == "stuck":
        time.sleep(60)
    if repository.name == "crash":
        sys.exit(4)
    if repository.name == "fatal":
        worker.send(Loading("iris", 2))
        sys.exit(4)
    verdicts = (Verdict("iris", 2, "abc", "It is damaged."),) if repository.name == "tried" else ()
    (repository / "verdicts").write_text(str(len(settings.verdicts)))
    streams = (StreamInfo("Ablate", resumes=repository.name == "resumes"),)
    worker.send(Hello(MODELS, METHODS, settings.device, verdicts=verdicts, streams=streams))
    if settings.heartbeat_seconds:
        threading.Thread(target=worker.beat, args=(settings.heartbeat_seconds,), daemon=True).start()
    worker.serve()
    while repository.name == "stay":
        time.sleep(60)


if __name__ == "__main__":
    main()
