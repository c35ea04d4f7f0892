"""The helper process computes for those who still wait, in turns, and ends with its parent."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from pellucid_server import wire
from pellucid_server.engine.methods.shared.coalitions import coalition_count, drawn, estimates
from pellucid_server.engine.methods.shared.groups import grid
from pellucid_server.engine.tasks.helper import Helper, HelperError
from pellucid_server.errors import CancelledError
from standstill import stop

QUICK = (4, 6)
"""Arguments of a function whose process starts quickly: its module imports no library for pictures."""


def nothing():
    """Stand in for a check: the caller stays."""


@pytest.fixture
def helper():
    made = Helper()
    yield made
    made.close()


class Told:
    """Notes the end of a call in a list; nobody waits for it."""

    def __init__(self, name, order, ended):
        self._name = name
        self._order = order
        self._ended = ended

    def set(self):
        self._order.append(self._name)
        self._ended.release()

    def wait(self):
        return None


class Check:
    """Lets `passes` checks pass and raises from then on; tells when it was called `told` times."""

    def __init__(self, passes=1 << 30, told=2):
        self.reached = threading.Event()
        self._left = passes
        self._untold = told

    def __call__(self):
        self._left -= 1
        self._untold -= 1
        if self._untold == 0:
            self.reached.set()
        if self._left < 0:
            raise CancelledError("The caller left.")


class Held:
    """A call in progress in a process that is stopped until `go`."""

    def __init__(self, helper, check=None):
        helper.call(coalition_count, QUICK, nothing)
        self._pid = helper._process.pid
        stop(self._pid)
        check = check or Check()
        self.found = []
        self._thread = threading.Thread(target=self._call, args=(helper, check))
        self._thread.start()
        # The second check is just before the call is sent.
        assert check.reached.wait(10)

    def _call(self, helper, check):
        try:
            self.found.append(helper.call(coalition_count, QUICK, check))
        except Exception as error:
            self.found.append(error)

    def go(self):
        os.kill(self._pid, signal.SIGCONT)

    def result(self):
        self._thread.join(20)
        (found,) = self.found
        return found


def test_callers_take_turns(helper):
    held, order, ended = Held(helper), [], threading.Semaphore(0)

    for name in ("a1", "a2", "a3", "b1"):
        helper.call(coalition_count, QUICK, nothing, Told(name, order, ended), caller=name[0])
    held.go()
    for _ in range(4):
        assert ended.acquire(timeout=20)

    assert order == ["a1", "b1", "a2", "a3"]
    assert held.result() == coalition_count(*QUICK)


def test_a_caller_who_leaves_while_waiting_leaves_at_once_and_disturbs_nobody(helper):
    held = Held(helper)

    with pytest.raises(CancelledError):
        helper.call(coalition_count, QUICK, Check(passes=1))
    held.go()

    assert held.result() == coalition_count(*QUICK)


def test_a_caller_who_has_left_already_is_not_computed_for(helper):
    with pytest.raises(CancelledError):
        helper.call(coalition_count, QUICK, Check(passes=0))
    assert helper._process is None


def test_the_process_is_killed_for_a_caller_who_leaves_and_the_next_one_is_answered(helper):
    held = Held(helper, Check(passes=2))
    stopped = helper._process

    assert isinstance(held.result(), CancelledError)
    assert stopped.poll() == -signal.SIGKILL
    assert helper.call(coalition_count, QUICK, nothing) == coalition_count(*QUICK)


def test_arguments_that_a_stopped_process_does_not_read_hold_nobody_up(helper):
    helper.call(coalition_count, QUICK, nothing)
    stop(helper._process.pid)

    # Far more than a socket holds.
    with pytest.raises(CancelledError):
        helper.call(estimates, (np.zeros((1 << 13, 1 << 10), np.bool_), 0, np.zeros(1 << 13), 0.0), Check(passes=4))


def test_closing_fails_the_call_in_progress(helper):
    held = Held(helper)
    process = helper._process

    helper.close()

    assert isinstance(held.result(), HelperError)
    assert process.poll() == -signal.SIGKILL


def test_closing_fails_the_calls_that_wait_and_those_that_come_later(helper):
    held, order, ended = Held(helper), [], threading.Semaphore(0)
    helper.call(coalition_count, QUICK, nothing, Told("waiting", order, ended))

    helper.close()

    assert isinstance(held.result(), HelperError)
    assert order == ["waiting"]
    assert helper._process is None
    with pytest.raises(HelperError):
        helper.call(coalition_count, QUICK, nothing)


def test_too_little_memory_is_told_apart_from_a_bug(helper):
    with pytest.raises(MemoryError, match="grid had too little memory"):
        helper.call(grid, (1 << 50, 1 << 50, 1), nothing)


def test_a_started_process_imports_and_is_started_again_when_it_was_killed():
    helper = Helper(load=["pellucid_server.engine.methods.shared.groups"])
    with ExitStack() as stack:
        stack.callback(helper.close)
        helper.start()
        wait_for(lambda: loaded(helper, "_slic"))
        first = helper._process

        held = Held(helper, Check(passes=2))

        assert isinstance(held.result(), CancelledError)
        wait_for(lambda: helper._process is not first and loaded(helper, "_slic"))


def test_the_process_ends_with_its_parent_in_the_middle_of_a_call():
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", "pellucid_server.engine.tasks.helper", "--fd", str(theirs.fileno())]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    with ExitStack() as stack:
        stack.callback(process.kill)
        # Drawing so many takes a quarter of a minute.
        ours.sendall(wire.frame((drawn.__module__, drawn.__name__, (100, 1 << 22, 1))))
        wait_for(lambda: cpu_ticks(process.pid) > 50)

        ours.close()

        assert process.wait(5) == 0


def loaded(helper, library):
    """Whether the helper's process, if there is one, has loaded a library whose name has this in it."""
    process = helper._process
    return process is not None and library in Path(f"/proc/{process.pid}/maps").read_text()


def cpu_ticks(pid):
    """Return the processor time that a process has had, in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def wait_for(condition, seconds=20.0):
    """Look at `condition` until it holds; another process offers nothing to wait on."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
