"""What requests leave behind is given back, though much stays."""

import gc
import subprocess
import sys
import weakref

import pytest
from pellucid_server.memory_hygiene import drop_frames, no_full_collections

SETTLED = """
import gc, weakref
from pellucid_server.memory_hygiene import settle

class Node: pass

stays = [[] for _ in range(1_000_000)]
settle()
first = Node()
first.itself = first
found = weakref.ref(first)
del first
# Far fewer than a quarter of what stays.
for _ in range(100_000):
    node = Node()
    node.itself = node
print(found() is None, gc.get_freeze_count() > 1_000_000)
"""


def test_what_stays_does_not_put_off_the_collection_of_what_does_not():
    ended = subprocess.run([sys.executable, "-c", SETTLED], capture_output=True, text=True, check=True)

    assert ended.stdout.split() == ["True", "True"]


class Held(Exception):
    pass


def fail(array):
    error = Held()
    raise error


def wrap(array):
    try:
        fail(array)
    except Held as error:
        again = RuntimeError()
        raise again from error


def wrap_for_another_cause(array):
    try:
        fail(array)
    except Held:
        again = RuntimeError()
        raise again from OSError()


@pytest.mark.parametrize("wrap", [wrap, wrap_for_another_cause])
def test_an_error_without_frames_keeps_nothing_of_those_it_came_through(wrap):
    class Array:
        pass

    gc.collect()
    gc.disable()
    try:
        array = Array()
        found = weakref.ref(array)
        try:
            wrap(array)
        except RuntimeError as error:
            drop_frames(error)
        del array

        assert found() is None
    finally:
        gc.enable()


HOLES = """
import pathlib
from pellucid_server.memory_hygiene import trim

def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096

blocks = [bytearray(b"x" * 65536) for _ in range(4000)]
# The last one stays, so that the end of the heap does not fall.
del blocks[:-1]
before = resident()
trim()
print(before - resident())
"""


def test_memory_that_was_freed_between_what_is_used_goes_back_to_the_system():
    ended = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)

    assert int(ended.stdout) > 100 * 2**20


def test_full_collections_are_left_for_later_and_come_again_afterwards():
    full = []

    def note(phase, info):
        if phase == "start" and info["generation"] == 2:
            full.append(info)

    def leave_behind():
        for _ in range(300_000):
            node = []
            node.append(node)
            kept.append([node])

    kept = []
    gc.collect()
    gc.callbacks.append(note)
    try:
        with no_full_collections():
            leave_behind()
            during = len(full)
        leave_behind()
    finally:
        gc.callbacks.remove(note)
    assert not during
    assert full
