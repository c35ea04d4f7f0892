"""Processes are found below their front, and told from those that have ended."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from soak import processes

_CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"


@pytest.fixture
def family() -> Iterator["subprocess.Popen[bytes]"]:
    """A process and its child, both waiting; the child is there."""
    process = subprocess.Popen([sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    with process:
        yield process
        process.kill()


def test_children_and_theirs_are_found(family: "subprocess.Popen[bytes]") -> None:
    below = processes.descendants(os.getpid())
    (grandchild,) = processes.descendants(family.pid)

    assert {family.pid, grandchild} <= set(below)
    assert processes.alive(grandchild)
    assert processes.kind_of(grandchild) == processes.OTHER


def test_a_process_that_ended_and_was_not_waited_for_is_not_alive(family: "subprocess.Popen[bytes]") -> None:
    family.kill()
    os.waitid(os.P_PID, family.pid, os.WEXITED | os.WNOWAIT)

    assert not processes.alive(family.pid)


def test_a_sample_is_of_what_a_process_holds_now(family: "subprocess.Popen[bytes]") -> None:
    sampler = processes.Sampler(family.pid, every_seconds=60.0)

    front, child = sampler.now()

    sampler.close()
    assert (front.pid, front.kind, front.threads) == (family.pid, processes.FRONT, 1)
    assert child.kind == processes.OTHER
    # An interpreter holds megabytes, and its three streams at least.
    assert front.resident_bytes > 1 << 20
    assert front.descriptors >= 3
