"""A worker without models: the name of a job's model says what it does with the job.

The folder of the model repository says how it starts: "refuse", "crash", "mute" (is never ready),
"stuck" (is never ready and ignores end of file), "stay" (ignores end of file),
"flaky" (refuses the second start; counts them in a file there), or anything else.
"""

import os
import socket
import sys
import time
from pathlib import Path

import numpy as np
from pellucid_server import wire
from pellucid_server.jobs import (
    Cancel,
    Done,
    Failure,
    Hello,
    JobTiming,
    MethodInfo,
    ModelInfo,
    ModelKey,
    OutputResult,
    PredictResult,
    Progress,
    Receipt,
    Refused,
    Runtime,
    Start,
    Work,
)

TIMING = JobTiming(0.25, 0.5, 3, 4)
MODELS = tuple(
    ModelInfo(ModelKey(name, 1, "ab" * 32), "", (), (), (), (), "graph", None, 0, False) for name in ("echo", "hang")
)
METHODS = (MethodInfo("saliency", "attribute", "gradient", "", "", (), (), (), (), False),)


def result(values):
    receipt = Receipt(ModelKey("echo", 1, "ab" * 32), "cd" * 32, Runtime("graph", "", "cpu", "float32", {}), Work())
    return PredictResult({"y": OutputResult(np.asarray(values))}, receipt)


class FakeWorker:
    def __init__(self, connection):
        self.connection = connection
        self.stream = connection.makefile("rb")
        self.cancelled = []

    def send(self, message):
        self.connection.sendall(wire.frame(message))

    def receive(self):
        head = self.stream.read(4)
        return wire.decode(self.stream.read(*wire.LENGTH.unpack(head))) if len(head) == 4 else None

    def answer(self, job_id, values):
        self.send(Done(job_id, TIMING, result(values)))

    def fail(self, job_id, reason, **metadata):
        self.send(Done(job_id, TIMING, failure=Failure(reason, f"said {reason}", metadata)))

    def start(self, start):
        name = start.job.model.name
        match name.split("/"):
            case ["hang" | "deaf", *_]:
                pass
            case ["die"]:
                os._exit(3)
            case ["fail", reason]:
                self.fail(start.job_id, reason, seen="yes")
            case ["empty"]:
                self.send(Done(start.job_id, TIMING))
            case ["garbage"]:
                self.connection.sendall(wire.LENGTH.pack(3) + b"\xc1\xc1\xc1")
            case ["progress"]:
                self.send(Progress(start.job_id, 0.25))
                self.send(Progress(start.job_id, 0.75))
                self.answer(start.job_id, 0.0)
            case ["pid"]:
                self.answer(start.job_id, os.getpid())
            case ["read", *path]:
                Path("/".join(path)).read_bytes()
                self.answer(start.job_id, 1.0)
            case ["cancelled"]:
                self.answer(start.job_id, np.array(self.cancelled, np.int64))
            case ["threads"]:
                self.answer(start.job_id, int(os.environ["OMP_NUM_THREADS"]))
            case ["deadline"]:
                self.answer(start.job_id, start.deadline - time.monotonic())
            case _:
                self.answer(start.job_id, 2 * start.job.inputs["x"].array)

    def cancel(self, job_id):
        self.cancelled.append(job_id)
        self.fail(job_id, "CANCELLED", stage="running")

    def serve(self):
        running = {}
        while (message := self.receive()) is not None:
            match message:
                case Start():
                    running[message.job_id] = message.job.model.name
                    self.start(message)
                case Cancel(job_id=job_id) if running[job_id].startswith("hang"):
                    self.cancel(job_id)


def main():
    worker = FakeWorker(socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1])))
    settings = worker.receive()
    repository = Path(settings.model_repository)
    if repository.name == "flaky":
        count = repository / "starts"
        count.write_text(count.read_text() + "x" if count.exists() else "x")
        if count.read_text() == "xx":
            worker.send(Refused("the second start fails"))
            return
    if repository.name == "refuse":
        worker.send(Refused("model 'm': there is no model.toml"))
        return
    if repository.name == "mute":
        worker.receive()
        return
    while repository.name == "stuck":
        time.sleep(60)
    if repository.name == "crash":
        sys.exit(4)
    worker.send(Hello(MODELS, METHODS, settings.device))
    worker.serve()
    while repository.name == "stay":
        time.sleep(60)


if __name__ == "__main__":
    main()
