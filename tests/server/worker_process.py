"""A worker process, from the other end of its socket."""

import os
import socket
from collections import deque
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import nursery
from pellucid_server.config import worker_environment
from pellucid_server.frames import Inbox, Outbox
from pellucid_server.recorder import Recorder, new_record
from pellucid_server.vocabulary.messages import Start, WorkerSettings
from pellucid_server.vocabulary.requests import ModelKey, PredictRequest, TensorInput

ROW = np.array([[1, 0, -1]], np.float32)
BEAT_SECONDS = 0.05


class Front:
    """A worker process and the front's end of everything that it shares with it."""

    def __init__(self, repository, faults, record, log=None, **settings):
        ours, theirs = socket.socketpair()
        with theirs:
            arguments, output = ["--fd", "{0}", "--record", "{1}"], 2 if log is None else log.fileno()
            shared = [theirs.fileno(), record]
            self.process = nursery.fork("worker", arguments, worker_environment(1), shared, output)
        self.socket = ours
        self.socket.settimeout(60)
        self.faults = faults
        self._outbox, self._inbox, self._received = Outbox(), Inbox(), deque()
        self._record = Recorder(record)
        self.send(
            WorkerSettings(
                "cpu",
                str(repository),
                1,
                0.05,
                1 << 28,
                heartbeat_seconds=BEAT_SECONDS,
                fault_folder=faults,
                **settings,
            )
        )

    def send(self, message):
        self._outbox.put(message)
        while buffers := self._outbox.take():
            self.socket.sendall(b"".join(buffers))

    def receive(self):
        while not self._received:
            count = self.socket.recv_into(self._inbox.buffer())
            assert count, "the worker has ended"
            self._received.extend(self._inbox.received(count))
        return self._received.popleft()

    def next(self, kind):
        """Return the next message of a class."""
        return next(message for message in iter(self.receive, None) if isinstance(message, kind))

    def predict(self, request_number, rows=ROW, **settings):
        """Ask for a prediction."""
        request = PredictRequest(ModelKey("linear"), {"input": TensorInput(rows)})
        self.send(Start(request_number, request, None, **settings))

    def arm(self, point, what):
        Path(self.faults, point).write_text(what)

    def disarm(self, point):
        Path(self.faults, point).unlink()

    def suspects(self):
        return self._record.suspects()

    def close(self):
        """Close the connection, as a front that ends does."""
        self.socket.close()

    def children(self):
        """Return descriptors that become readable when the worker's child processes end, with their names."""
        found = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        pids = [int(pid) for path in found for pid in path.read_text().split()]
        return [(Path(f"/proc/{pid}/comm").read_text().strip(), os.pidfd_open(pid)) for pid in pids]


@contextmanager
def worker(repository, folder, log=None, **settings):
    """Start a worker; `folder` gets its fault points."""
    front = Front(repository, str(folder), new_record(), log, **settings)
    try:
        yield front
    finally:
        front.close()
        front.process.kill()
        front.process.wait()
