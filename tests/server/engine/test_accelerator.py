"""What of a CUDA device can be tried without one."""

import threading

import pytest
import torch
from pellucid_server.engine.device import accelerator
from pellucid_server.engine.device.engine import Engine
from pellucid_server.engine.tasks.request_state import RequestState
from server.engine.test_engine import Doubling, evaluation, lane

ILLEGAL = RuntimeError("CUDA error: an illegal memory access was encountered")


def failing(error):
    def synchronize(name):
        raise error

    return synchronize


def test_an_error_that_stays_with_the_process_means_that_the_device_is_lost(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", failing(ILLEGAL))

    assert accelerator.lost("cuda:0", ILLEGAL)
    assert not accelerator.lost("cpu", ILLEGAL)
    assert not accelerator.lost("cuda:0", ValueError("a bug in the model"))


def test_an_error_that_is_over_does_not(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda name: None)

    assert not accelerator.lost("cuda:0", RuntimeError("CUDA error: invalid configuration argument"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_lost_device_ends_the_thread_and_not_the_evaluation(monkeypatch):
    ended = threading.Event()
    seen = []

    def note(failed):
        seen.append(failed.exc_type)
        ended.set()

    monkeypatch.setattr(threading, "excepthook", note)
    monkeypatch.setattr(accelerator, "prepare_thread", lambda name: None)
    monkeypatch.setattr(torch.cuda, "synchronize", failing(ILLEGAL))
    engine = Engine(chunk_seconds=1.0, chunk_bytes=1 << 20, threads=1, device="cuda:0")
    entry = evaluation([1.0], request=RequestState(1, None))

    engine.submit(entry, lane(Doubling(rows_in_memory=0, error=ILLEGAL)))

    assert ended.wait(10)
    assert seen == [accelerator.DeviceLostError]
    assert entry.done < entry.count


@pytest.mark.parametrize(
    ("name", "wanted", "expected"),
    [("cpu", 0, 512 << 20), ("cpu", 7, 7), ("cuda:0", 7, 7), ("cuda:0", 0, 20 << 30)],
)
def test_a_chunk_may_take_what_is_set_or_what_suits_the_device(monkeypatch, name, wanted, expected):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (80 << 30, 81 << 30))

    assert accelerator.chunk_bytes(name, wanted) == expected
