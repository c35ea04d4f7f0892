"""What a process noted can be read after its death."""

import os
import subprocess
import sys

import pytest
from pellucid_server.recorder import MOST_DEVICE_REQUESTS, Recorder, new_record

NOTES = """
import os, signal, sys
from pellucid_server.recorder import Recorder
recorder = Recorder(int(sys.argv[1]))
recorder.python(3)
recorder.device([5, 6])
recorder.offloaded(31, 8)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def recorder():
    return Recorder(new_record())


def test_a_new_record_suspects_nobody(recorder):
    assert recorder.suspects() == frozenset()


def test_the_notes_of_a_killed_process_tell_what_it_was_busy_with():
    descriptor = new_record()

    ended = subprocess.run([sys.executable, "-c", NOTES, str(descriptor)], pass_fds=[descriptor], check=False)

    assert ended.returncode < 0
    assert Recorder(descriptor).suspects() == {3, 5, 6, 8}


def test_the_descriptor_is_taken_over():
    descriptor = new_record()
    Recorder(descriptor)

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_what_has_ended_is_no_longer_suspect(recorder):
    recorder.python(1)
    recorder.device([2, 3])
    recorder.offloaded(0, 4)

    recorder.python(0)
    recorder.device(())
    recorder.offloaded(0, 0)

    assert recorder.suspects() == frozenset()


def test_it_is_known_for_whom_work_goes_on_beside_the_python(recorder):
    recorder.python(1)
    recorder.device([2, 3])
    recorder.offloaded(0, 4)
    assert [recorder.still_at(request_number) for request_number in (1, 2, 3, 4, 5)] == [False, True, True, True, False]

    recorder.device([3])
    recorder.offloaded(0, 0)

    assert [recorder.still_at(request_number) for request_number in (2, 3, 4)] == [False, True, False]


def test_a_batch_of_fewer_requests_forgets_those_of_the_one_before(recorder):
    recorder.device(range(1, 10))

    recorder.device([20])

    assert recorder.suspects() == {20}


def test_a_batch_of_very_many_requests_is_noted_as_far_as_there_is_room(recorder):
    recorder.device(range(1, 2 * MOST_DEVICE_REQUESTS))

    assert recorder.suspects() == set(range(1, MOST_DEVICE_REQUESTS + 1))
