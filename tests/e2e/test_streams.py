"""Answers in parts, through the real server and a worker that answers `Ablate` for tests."""

import os
import signal
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from e2e.serving import LONG_SECONDS, serve, wait_until
from pellucid import tensors
from pellucid.v1 import explanation_pb2, explanation_service_pb2, input_pb2

PARTS = int(os.environ.get("STREAM_PARTS", "300"))
"""10,000 in the long run: `STREAM_PARTS=10000 pytest tests/e2e/test_streams.py`."""
PART_BYTES = 100_000
GROWTH_BYTES = 100 << 20
WINDOW_PARTS = 16


@pytest.fixture(scope="module")
def streaming(table_models, tmp_path_factory):
    """A server whose worker answers `Ablate`."""
    settings = {"PELLUCID_POOL__RESTART_INITIAL_SECONDS": "0.01"}
    with serve(table_models, tmp_path_factory.mktemp("streaming"), settings, worker="e2e.streaming_worker") as running:
        yield running


def ablate(server, count, size=8, *, evaluated=False, **options):
    row = np.zeros((1, 30), np.float32)
    row[0, :3] = count, size, evaluated
    request = explanation_service_pb2.AblateRequest(
        model=explanation_pb2.ModelSpec(name="breast-cancer"),
        method="parts",
        inputs={"features": input_pb2.Input(tensor=tensors.to_tensor(row))},
    )
    return server.explanations.Ablate(request, timeout=LONG_SECONDS, **options)


def number(response):
    assert response.part == int(tensors.from_tensor(response.findings.arrays["values"].values)[0])
    return int(tensors.from_tensor(response.findings.arrays["values"].values)[0])


def resident_bytes(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_slow_reader_gets_every_part_once_and_neither_process_grows(streaming):
    pids = (streaming.process.pid, streaming.worker_pid())
    [number(each) for each in ablate(streaming, 20, PART_BYTES)]
    before = [resident_bytes(pid) for pid in pids]
    most = [0, 0]

    numbers = []
    for each in ablate(streaming, PARTS, PART_BYTES):
        numbers.append(number(each))
        # Looking is what makes the reader slow.
        most = [max(size, resident_bytes(pid)) for size, pid in zip(most, pids, strict=True)]

    assert numbers == list(range(PARTS))
    grown = [after - size for after, size in zip(most, before, strict=True)]
    assert max(grown) < GROWTH_BYTES
    sys.stdout.write(f"{PARTS} parts of {PART_BYTES} bytes: grown by {[size >> 10 for size in grown]} KiB\n")


def test_progress_never_becomes_less_and_ends_at_one(streaming):
    shares = [each.progress for each in ablate(streaming, 40)]

    assert shares == sorted(shares)
    assert len(set(shares)) == 40
    assert shares[-1] == 1.0


def test_a_caller_who_leaves_ends_the_work(streaming):
    call = ablate(streaming, 1_000_000, evaluated=True)
    assert [number(next(call)) for _ in range(3)] == [0, 1, 2]

    call.cancel()

    wait_until(lambda: not streaming.busy(), seconds=LONG_SECONDS, what="the worker has let go of the request")


def test_a_caller_who_reads_nothing_leaves_the_worker_to_others_and_its_end_is_seen(streaming):
    call = ablate(streaming, 1_000_000, 1 << 20)
    next(call)

    assert [number(each) for each in ablate(streaming, 5, evaluated=True)] == list(range(5))

    call.cancel()
    wait_until(lambda: not streaming.busy(), seconds=LONG_SECONDS, what="the worker has let go of the request")


def test_a_worker_that_is_killed_after_some_parts_makes_the_answer_unavailable_and_no_part_comes_twice(streaming):
    pid = streaming.worker_pid()
    call = ablate(streaming, 1_000_000, evaluated=True)
    numbers = [number(next(call)) for _ in range(3)]

    os.kill(pid, signal.SIGKILL)
    with pytest.raises(grpc.RpcError) as caught:
        numbers.extend(number(each) for each in call)

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "after it had sent" in caught.value.details()
    assert numbers == list(range(len(numbers)))
    wait_until(lambda: restarted(streaming), seconds=LONG_SECONDS, what="another worker is ready")
    assert [number(each) for each in ablate(streaming, 3)] == [0, 1, 2]


def restarted(server):
    return len(server.lines("the worker for cpu is ready")) > 1
