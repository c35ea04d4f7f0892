"""What ONNX Runtime may take of a device: half of it, whatever the number of sessions."""

import bisect

import pytest
import torch
from pellucid_server.engine.device import accelerator
from pellucid_server.engine.device.arenas import Arena, reserved_bytes

GIB = 1 << 30
TOTAL = {"cuda:0": 80 * GIB, "cuda:1": 8 * GIB}


@pytest.fixture(autouse=True)
def _memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (TOTAL[device] - GIB, TOTAL[device]))


def test_an_arena_may_grow_to_a_quarter_of_its_device():
    assert Arena("cuda:0").most_bytes == 20 * GIB
    assert Arena("cuda:1").most_bytes == 2 * GIB


@pytest.mark.parametrize("sessions", [1, 2, 7, 100])
def test_one_that_runs_and_all_that_are_idle_have_half_of_the_device_at_most(sessions):
    arenas = [Arena("cuda:0") for _ in range(sessions)]
    elsewhere = Arena("cuda:1")
    row = 1 << 20
    kept = []
    for arena in arenas:
        # The largest run whose memory stays: an operator's input and output of so many rows.
        outgrown = bisect.bisect_left(range(20 * 1024), 1, key=lambda rows, arena=arena: arena.outgrown(rows, row))
        kept.append(2 * (outgrown - 1) * row)

    assert sum(kept) <= 20 * GIB
    assert sum(kept) > 19 * GIB
    assert sum(kept) + arenas[0].most_bytes <= reserved_bytes("cuda:0") == 40 * GIB
    assert reserved_bytes("cuda:1") == 2 * elsewhere.most_bytes == 4 * GIB


def test_a_session_that_is_gone_has_no_share():
    arena, other = Arena("cuda:0"), Arena("cuda:0")
    rows = 6 * 1024
    assert arena.outgrown(rows, 1 << 20)

    del other

    assert not arena.outgrown(rows, 1 << 20)
    del arena
    assert reserved_bytes("cuda:0") == 0


def test_chunks_have_a_quarter_of_what_is_left_beside_the_arenas():
    assert accelerator.chunk_bytes("cuda:0", 0) == 79 * GIB // 4
    arena = Arena("cuda:0")

    assert accelerator.chunk_bytes("cuda:0", 0) == (79 - 40) * GIB // 4
    assert accelerator.chunk_bytes("cuda:0", 7) == 7
    # Half a GiB is allowed on any device: a chunk that does not fit is halved.
    assert accelerator.chunk_bytes("cuda:1", 0) == 7 * GIB // 4
    assert arena.most_bytes + accelerator.chunk_bytes("cuda:0", 0) < 40 * GIB


@pytest.fixture
def bounds(monkeypatch):
    """What torch's memory is bounded to, as a share of the device's."""
    found = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: found.append(share))
    return found


def test_torch_may_keep_what_it_has_and_what_the_arenas_leave_of_the_rest(monkeypatch, bounds):
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 10 * GIB)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (68 * GIB, 80 * GIB))
    arena = Arena("cuda:0")

    accelerator.leave_room("cuda:0")

    # The models have 12, 10 of them in torch: 40 are for arenas, 28 more for torch.
    assert bounds == [38 / 80]
    assert 2 * arena.most_bytes == 40 * GIB


def test_a_full_device_has_room_for_a_small_chunk_as_far_as_there_is_any(monkeypatch, bounds):
    arena = Arena("cuda:1")
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 5 * GIB)
    for free in (GIB, GIB // 4):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 8 * GIB))
        accelerator.leave_room("cuda:1")

    assert bounds == [5.5 / 8, 5.25 / 8]
    assert arena.most_bytes == 2 * GIB


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_without_sessions_on_the_device_torch_has_no_bound(device, bounds):
    accelerator.leave_room(device)

    assert not bounds
