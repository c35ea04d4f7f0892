"""What a trial does to its process is over with it, and said in a sentence."""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pellucid_server.engine.models.loading.guard import Guard, GuardError, Trial
from pellucid_server.engine.models.loading.meter import Bounds

MIB = 1 << 20
BOUNDS = Bounds(1.0, 256 * MIB)


def fine(grow):
    return ""


def refused(grow):
    return "it is wrong: make it right."


def read_nothing(grow):
    ctypes.string_at(0)
    return ""


def abort(grow):
    os.abort()


def leave(grow):
    os._exit(3)


def fail(grow):
    raise KeyboardInterrupt


def spin(grow):
    while True:
        pass


def sleep(grow):
    while True:
        time.sleep(0.01)


def swell(grow):
    """Take memory bit by bit, as a graph does that grows."""
    held = []
    while True:
        held.append(b"x" * MIB)


def take_at_once(grow):
    """Ask for more memory than any bound, as one operator can."""
    return "too much" if ctypes.CDLL(None).malloc(ctypes.c_size_t(4 << 30)) in (0, None) else "it was given"


def outcomes(*runs, bounds=BOUNDS):
    guard = Guard.start([Trial(f"models/{run.__name__}", run, bounds) for run in runs])
    try:
        return [guard.next() for _ in runs]
    finally:
        guard.close()


def test_a_trial_that_ends_well_says_nothing_and_one_that_fails_why():
    assert outcomes(fine, refused, fine) == ["", "it is wrong: make it right.", ""]


@pytest.mark.parametrize(
    ("run", "part"),
    [
        (read_nothing, "ended its process by the signal SIGSEGV"),
        (abort, "ended its process by the signal SIGABRT"),
        (leave, "ended its process (exit status 3)"),
        (fail, "ended its process (exit status 1)"),
        (spin, "takes more than 1 s"),
        (sleep, "hangs for more than 1 s"),
        (swell, "memory"),
    ],
)
def test_a_trial_that_harms_its_process_is_named_and_the_next_one_is_done(run, part):
    began = time.monotonic()

    bad, good = outcomes(run, fine)

    assert bad.startswith(f"models/{run.__name__}: loading it ")
    assert part in bad
    assert good == ""
    assert time.monotonic() - began < 30


def test_memory_beyond_the_bound_is_not_given_at_all():
    assert outcomes(take_at_once) == ["too much"]


def test_a_trial_that_asks_for_more_time_has_it():
    def work(grow):
        grow(Bounds(60.0, 0))
        end = time.process_time() + 0.5
        while time.process_time() < end:
            pass
        return "done"

    assert outcomes(work, bounds=Bounds(0.1, 256 * MIB)) == ["done"]


def test_a_process_that_is_stopped_is_not_taken_for_one_that_hangs():
    # As on a machine so crowded that a process has no turn: it uses no time, and does not sleep.
    def stop(grow):
        os.kill(os.getpid(), signal.SIGSTOP)
        return "woken"

    began = time.monotonic()
    (reason,) = outcomes(stop, bounds=Bounds(0.25, 256 * MIB))

    assert "takes more than 0.25 s" in reason
    assert time.monotonic() - began > 1.4


def test_children_have_none_of_the_descriptors_of_their_parent():
    read, write = os.pipe()

    # By what they lead to: the number of one that is closed is soon another's.
    def links():
        return [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]

    (found,) = outcomes(lambda grow: json.dumps(links()))
    pipe = os.readlink(f"/proc/self/fd/{read}")
    os.close(read)
    os.close(write)

    assert pipe not in json.loads(found)


def test_a_guard_that_is_lost_says_how():
    guard = Guard.start([Trial("sleep", sleep, Bounds(3600.0, MIB * 256))])
    os.kill(guard.pid, signal.SIGKILL)

    with pytest.raises(GuardError, match="ended its process by the signal SIGKILL"):
        guard.next()


PARENT = """
import os, signal, sys, time
from pellucid_server.engine.models.loading.guard import Guard, Trial
from pellucid_server.engine.models.loading.meter import Bounds

def hang(grow):
    sys.stdout.write(f"{os.getppid()} {os.getpid()}\\n")
    sys.stdout.flush()
    time.sleep(3600)

Guard.start([Trial("hang", hang, Bounds(3600.0, 1 << 28))]).next()
"""


def test_nothing_outlives_the_process_that_started_it():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    descriptors = [os.pidfd_open(int(pid)) for pid in parent.stdout.readline().split()]

    parent.kill()
    parent.wait()

    assert [select.select([each], [], [], 60)[0] == [each] for each in descriptors] == [True, True]


def test_a_trial_that_an_earlier_one_makes_crash_is_done_again_in_a_process_of_its_own():
    def plant(grow):
        # As memory that is written to beyond an array: it is the next one that dies of it.
        os.environ["PLANTED"] = "yes"
        return ""

    def step(grow):
        if "PLANTED" in os.environ:
            os.abort()
        return ""

    assert outcomes(plant, step, abort, step) == [
        "",
        "",
        "models/abort: loading it ended its process by the signal SIGABRT: the file is damaged, or made to do that.",
        "",
    ]


def test_each_trial_is_measured_by_what_it_takes_itself():
    held, bounds = [], Bounds(2.0, 64 * MIB)

    def take(grow):
        # All three together would be beyond both bounds; one is far from them, for pages may be slow to come.
        held.append(bytes(1) * (40 * MIB))
        end = time.process_time() + 0.75
        while time.process_time() < end:
            pass
        return ""

    assert outcomes(take, take, take, bounds=bounds) == ["", "", ""]


def test_what_each_trial_took_is_measured_of_that_trial_alone():
    def busy(grow):
        until = time.process_time() + 0.3
        while time.process_time() < until:
            pass
        return ""

    def large(grow):
        held = b"x" * (100 * MIB)
        # So that it is seen in use wherever the system itself does not note the most.
        time.sleep(0.1)
        return "" if held[-1:] == b"x" else "it is not there"

    guard = Guard.start([Trial(run.__name__, run, BOUNDS) for run in (busy, large, fine)])
    try:
        spent = [(guard.next(), guard.spent)[1] for _ in range(3)]
    finally:
        guard.close()

    assert 0.3 <= spent[0].seconds < 0.9
    assert spent[0].size_bytes < 20 * MIB
    assert 90 * MIB < spent[1].size_bytes < 120 * MIB
    assert spent[2].seconds < 0.1
    assert spent[2].size_bytes < 20 * MIB
