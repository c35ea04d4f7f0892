import asyncio
from dataclasses import dataclass

import numpy as np
import pytest
from pellucid_server.faults import Faults
from pellucid_server.jobs.disk import Disk
from pellucid_server.jobs.jobs import Jobs
from pellucid_server.jobs.records import JobRecord
from pellucid_server.jobs.runner import Outside
from pellucid_server.jobs.store import Store
from pellucid_server.settings.jobs import JobsConfig
from pellucid_server.vocabulary.descriptions import ModelInfo
from pellucid_server.vocabulary.findings import Axis, DissectionRecord, Findings, NamedArray, State
from pellucid_server.vocabulary.messages import Hello, Part, Progress
from pellucid_server.vocabulary.requests import DissectRequest, ModelKey, ProbeSpec, TensorInput
from pellucid_server.vocabulary.results import Receipt, RequestTiming, Runtime, Work

KEY = ModelKey("echo", 1, "ab" * 32)


def request(seed=0, rows=4):
    probe = ProbeSpec(inputs={"x": TensorInput(np.arange(float(rows)))})
    return DissectRequest(KEY, "activations", probe=probe, seed=seed)


def record(number=0, **facts):
    settled = {"key": f"key {number}", "owner": "ann", "verb": "Dissect", "method": "activations", "model": KEY}
    return JobRecord(**{"id": f"job-{number}", **settled, "created": float(number), "priority": "bulk", **facts})


def checkpoint(parts, rows=0, values=1.0):
    """Where a job stands after so many parts."""
    state = State({"sum": np.full(100, values)}, {"rows": rows})
    return Part(0, parts, Findings(), 0.5, True, KEY.digest, state, rows_done=rows, rows=10)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "jobs"


class Opening:
    """Opens the store anew; the one before is closed, as when its process ends."""

    def __init__(self, folder):
        self._folder = folder
        self._open = None

    def __call__(self, disk=None):
        self.close()
        self._open = Store(self._folder, disk or Disk())
        return self._open

    def close(self):
        if self._open is not None:
            self._open.close()
        self._open = None


@pytest.fixture
def open_store(folder):
    opening = Opening(folder)
    yield opening
    opening.close()


class FakeWorkers:
    """Workers that do as scripted: each call of `stream` takes the next script, a list of what happens in order.

    A part is yielded, an error raised, and an event waited for. `begun` has what each call began with.
    """

    def __init__(self, *scripts):
        self.scripts = list(scripts)
        self.begun = []
        self.requests = []
        self.priorities = []
        self.closed = 0
        self.hello = Hello(
            models=(ModelInfo(KEY, "", (), (), (), (), "graph", None, 0, False),), methods=(), device="cpu"
        )

    async def stream(self, request, deadline_seconds=None, *, priority, begun, on_progress, on_end, **how):
        self.requests.append(request)
        self.priorities.append(priority)
        self.begun.append(begun)
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        try:
            for each in script:
                await asyncio.sleep(0)
                match each:
                    case Part():
                        yield each
                    case Progress():
                        on_progress(each)
                    case asyncio.Event():
                        await each.wait()
                    case _:
                        raise each
            on_end(RequestTiming(0.0, 1.0, 3, 4))
        finally:
            self.closed += 1


def found(number):
    return Findings(arrays={"n": NamedArray(np.array([float(number)]), (Axis("value"),))})


def silent(rows):
    """A state alone."""
    return Part(1, rows, Findings(), rows / 10, True, KEY.digest, State({}, {"rows": rows}), False, True, rows, 10)


def visible(number, rows=0, behind=0):
    """A part of the answer, behind so many others since the last state."""
    state = State({}, {"rows": rows}, parts=behind)
    return Part(1, number, found(number), 0.9, True, KEY.digest, state, rows_done=rows, rows=10)


def last(digest=""):
    receipt = Receipt(KEY, "cd" * 32, Runtime("graph", "", "cpu", "float32", {}), Work())
    record = DissectionRecord(dataset_digest=digest)
    return Part(1, 99, Findings(receipt=receipt, dissection=record), 1.0, digest=KEY.digest)


ANSWER = [silent(5), visible(0, 5, 1), visible(1, 5, 2), last()]
"""An answer of three parts."""


class Times:
    """A clock that tests set."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@dataclass
class World:
    """Jobs over a fake pool, and what is around them."""

    jobs: Jobs
    workers: FakeWorkers
    clock: Times
    charged: list
    ended: list

    async def submit(self, asked=None, *, owner="ann", digest="", priority=""):
        wish = self.jobs.wish(asked or request(), owner=owner, dataset_digest=digest, priority=priority)
        job, _ = await self.jobs.submit(wish)
        return job

    def follow(self, asked=None, owner="ann"):
        return self.jobs.followed(self.jobs.wish(asked or request(), owner=owner))

    async def answer(self, job):
        return [data async for _, data in self.jobs.parts(job, 0, bytes)]


async def over(job):
    """Wait until a job has ended."""
    async with asyncio.timeout(20):
        while not job.record.over:
            await job.changed(job.version)
    return job.record


async def until(condition):
    """Let the loop run until something is so."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def numbers_of(part):
    """A part as bytes that tests can read."""
    return part.arrays["n"].values.tobytes() if part.arrays else b"last"


@pytest.fixture
async def make_world(folder):
    """Make jobs over scripts of a pool; each world is closed before the next is made, as servers are."""
    made = []

    async def make(*scripts, disk=None, capacity=1, start=True, encode=numbers_of, **settings):
        if made:
            await made.pop().jobs.close()
        workers, clock, charged, ended = FakeWorkers(*(scripts or (ANSWER,))), Times(), [], []

        async def ready():
            pass

        outside = Outside(
            encode=encode,
            answered=lambda part: None,
            charge=lambda owner, timing: charged.append((owner, timing.rows_forward)),
            ready=ready,
            faults=Faults(),
            clock=clock,
        )
        store = Store(folder, disk)
        jobs = Jobs(store, workers, JobsConfig(**settings), capacity=capacity, outside=outside, ended=ended.append)
        made.append(World(jobs, workers, clock, charged, ended))
        if start:
            jobs.start()
        return made[-1]

    yield make
    for each in made:
        await each.jobs.close()
