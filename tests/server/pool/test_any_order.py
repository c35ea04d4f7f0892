"""Requests that come, leave, are answered and lost in any order, on workers that the test plays itself."""

import asyncio
import contextlib
import os
import socket

import numpy as np
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from hypothesis.strategies import booleans, data, integers, sampled_from, sets
from pellucid_server.errors import FatalRequestError, OverloadedError, UnavailableError
from pellucid_server.frames import Inbox, Outbox
from pellucid_server.pool.observer import Observer
from pellucid_server.pool.pool import Pool
from pellucid_server.pool.workers.launcher import Spawned
from pellucid_server.recorder import Recorder, new_record
from pellucid_server.settings.sections import ClassConfig, PoolConfig
from pellucid_server.vocabulary.messages import Done, Hello, Start, WorkerSettings
from pellucid_server.vocabulary.requests import ModelKey, PredictRequest, TensorInput
from pellucid_server.vocabulary.results import Failure, RequestTiming
from server.pool.fake_worker import result

PLACES = 2
DEVICES = ("cpu", "cuda:0")
LONG_SECONDS = 1000.0
SETTINGS = tuple(WorkerSettings(device, "", 1, 0.05, 1 << 28) for device in DEVICES)
WORK = RequestTiming(0.0, 0.1, 1, 0)


class StagedWorker:
    """A worker process without a process; dies when it is told to."""

    pid = 0

    def __init__(self, theirs, record):
        self.socket = theirs
        self.recorder = Recorder(record)
        self.device = ""
        self.running = {}
        self._outbox, self._inbox = Outbox(), Inbox()
        self.send(Hello((), (), "cpu"))

    def send(self, message):
        self._outbox.put(message)
        self.socket.sendall(b"".join(self._outbox.take()))

    def read(self):
        """Take what the front has sent so far."""
        with contextlib.suppress(BlockingIOError):
            while count := self.socket.recv_into(self._inbox.buffer()):
                for message in self._inbox.received(count):
                    self._take(message)

    def _take(self, message):
        match message:
            case WorkerSettings(device=device):
                self.device = device
            case Start(request_number=request_number):
                self.running[request_number] = message

    def die(self, suspects):
        self.recorder.device(suspects)
        self.socket.close()

    def kill(self):
        self.socket.close()

    def wait(self, timeout=None):
        return -9


class Stage:
    """Starts such workers (in place of a `Launcher`)."""

    def __init__(self):
        self.alive = []

    async def spawn(self):
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        record = new_record()
        worker = StagedWorker(theirs, os.dup(record))
        self.alive.append(worker)
        return Spawned(worker, ours, Recorder(record))

    async def close(self):
        """Have nothing to end."""


class Sums(Observer):
    def __init__(self):
        self.losses = 0
        self.evaluated = 0
        self.wasted = 0

    def lost(self, device, cause):
        self.losses += 1

    def worked(self, model, timing, wasted):
        self.evaluated += timing.rows_forward
        self.wasted += wasted * timing.rows_forward


class AnyOrder(RuleBasedStateMachine):
    @initialize()
    def start(self):
        self.runner = asyncio.Runner()
        self.stage = Stage()
        self.observer = Sums()
        self.requests = {}
        self.deaths = {}
        self.died = 0
        self.answered = 0
        self.results = 0
        self.number = 0
        self.runner.run(self._start())

    async def _start(self):
        config = PoolConfig(restart_initial_seconds=1e-6, restart_max_seconds=1e-6)
        classes = {
            name: ClassConfig(queue_rows=6, queue_seconds=1e6) for name in ("predictions", "interactive", "bulk")
        }
        self.pool = Pool(
            SETTINGS,
            config,
            self.stage,
            classes=classes,
            concurrent_requests=PLACES,
            observer=self.observer,
            spread=lambda: 0.0,
        )
        await self.pool.start()
        [worker.read() for worker in self.stage.alive]
        self.stage.alive.sort(key=lambda worker: worker.device)

    @rule(
        caller=sampled_from("abc"), priority=sampled_from(["predictions", "bulk"]), rows=integers(1, 4), soon=booleans()
    )
    def ask(self, caller, priority, rows, soon):
        self.number += 1
        # Its number is the request's content, by which a worker's request is known as this one.
        request = PredictRequest(ModelKey("m"), {"x": TensorInput(np.full(rows, self.number))})
        deadline = None if soon else LONG_SECONDS

        async def ask():
            return asyncio.create_task(self.pool.run(request, deadline, caller=caller, priority=priority))

        self.requests[self.number] = self.runner.run(ask())
        self._settle()

    @precondition(lambda self: self.requests)
    @rule(data=data())
    def leave(self, data):
        number = data.draw(sampled_from(sorted(self.requests)))
        self.requests[number].cancel()
        self._settle()

    @precondition(lambda self: self._running())
    @rule(data=data(), good=booleans())
    def answer(self, data, good):
        worker, request_number = data.draw(sampled_from(self._running()))
        self._answer(worker, request_number, good=good)
        self._settle()

    @precondition(lambda self: self._running())
    @rule(data=data(), leaves=booleans())
    def answer_and_leave_at_once(self, data, leaves):
        worker, request_number = data.draw(sampled_from(self._running()))
        number = int(worker.running[request_number].request.inputs["x"].array[0])
        self._answer(worker, request_number, good=True)
        self.runner.run(asyncio.sleep(0))
        for task in [self.requests[number]] if number in self.requests else []:
            task.cancel()
        self._settle()

    @precondition(lambda self: self.stage.alive)
    @rule(data=data())
    def die(self, data):
        worker = data.draw(sampled_from(self.stage.alive))
        worker.read()
        running = sorted(worker.running)
        suspects = data.draw(sets(sampled_from(running), max_size=2)) if running else set()
        for request_number in running:
            number = int(worker.running[request_number].request.inputs["x"].array[0])
            self.deaths.setdefault(number, []).append(request_number in suspects)
        self.stage.alive.remove(worker)
        self.died += 1
        worker.die(suspects)
        self._settle()

    def _answer(self, worker, request_number, *, good):
        del worker.running[request_number]
        self.answered += 1
        worker.send(
            Done(request_number, WORK, result(1.0))
            if good
            else Done(request_number, WORK, failure=Failure("OVERLOADED", "", {}))
        )

    def _running(self):
        return [(worker, request_number) for worker in self.stage.alive for request_number in sorted(worker.running)]

    def _settle(self):
        """Let everything happen that can, and look at what came of it."""
        self.runner.run(self._rest())
        [worker.read() for worker in self.stage.alive]
        self.stage.alive.sort(key=lambda worker: worker.device)
        for number, task in list(self.requests.items()):
            if task.done():
                del self.requests[number]
                self._check_outcome(number, task)
        self._check_places()

    async def _rest(self):
        async def ready():
            while self.observer.losses < self.died or not all(worker.ready for worker in self.pool.workers):
                await asyncio.sleep(0)

        await asyncio.wait_for(ready(), 20)
        for _ in range(10):
            await asyncio.sleep(0)

    def _check_outcome(self, number, task):
        deaths = self.deaths.get(number, [])
        if task.cancelled():
            return
        error = task.exception()
        self.results += error is None
        expected = {0: (OverloadedError,), 1: (OverloadedError,), 2: (UnavailableError, FatalRequestError)}[len(deaths)]
        assert error is None or isinstance(error, expected)
        assert isinstance(error, FatalRequestError) == (deaths == [True, True])
        assert error is not None or len(deaths) < 2

    def _check_places(self):
        for worker in self.stage.alive:
            starts = list(worker.running.values())
            again = [start for start in starts if self._deaths(start)]
            suspects = [start for start in starts if start.alone]
            assert [any(self._deaths(start)) for start in starts] == [start.alone for start in starts]
            # Who would be lost a second time is never beside a suspect.
            assert not suspects or len(again) == 1
            for priority in ("predictions", "bulk"):
                mine = [start for start in starts if start.priority == priority and not start.alone]
                assert len(mine) <= 2 * PLACES
        starts = [start for worker in self.stage.alive for start in worker.running.values()]
        lost_before = any(self._deaths(start) for start in starts)
        for priority in (name for name, (requests, _, _) in self.pool.waiting.items() if requests):
            placed = sum(start.priority == priority for start in starts)
            assert lost_before or placed >= PLACES * len(DEVICES)

    def _deaths(self, start):
        return self.deaths.get(int(start.request.inputs["x"].array[0]), [])

    def teardown(self):
        if not hasattr(self, "runner"):
            return
        while running := self._running():
            self._answer(*running[0], good=True)
            self._settle()
        assert self.requests == {}
        assert self.pool.pending == 0
        assert set(self.pool.waiting.values()) == {(0, 0, 0)}
        assert (self.observer.evaluated, self.observer.evaluated - self.observer.wasted) == (
            self.answered,
            self.results,
        )
        self.runner.run(self.pool.close())
        self.runner.close()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=40, stateful_step_count=40, deadline=None, derandomize=True)
