import math
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as states
from pellucid_server.engine.device.engine import Engine, Evaluation, Lane
from pellucid_server.engine.device.lane import Packing
from pellucid_server.engine.evaluations.folds import Keep
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.tasks.request_state import RequestState, Tally
from pellucid_server.errors import CancelledError, OverloadedError, TimedOutError
from pellucid_server.faults import Faults
from pellucid_server.recorder import Recorder, new_record


@dataclass(frozen=True)
class Asked:
    """What a kernel of this file is asked."""

    recipe: Rows
    fold: Keep = field(default_factory=Keep)
    exact: bool = False


class Doubling:
    """A program that doubles its rows, notes its batches, and can be made to wait or fail."""

    evaluation = kind = "forward"
    runtime = "graph"
    backward = False
    device = "cpu"

    def __init__(self, *, rows_in_memory: int = 1 << 30, error: Exception | None = None) -> None:
        self.batches: list[list[float]] = []
        self.threads: set[threading.Thread] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.rows_in_memory = rows_in_memory
        self.error = error or torch.cuda.OutOfMemoryError("out of memory")

    def __call__(self, batch, parts):
        self.batches.append(batch["x"][:, 0].tolist())
        self.threads.add(threading.current_thread())
        self.entered.release()
        assert self.gate.wait(10)
        if len(batch["x"]) > self.rows_in_memory:
            raise self.error
        if np.isnan(batch["x"]).any():
            raise ArithmeticError("a bug in the model")
        return {"y": batch["x"] * 2}


OUT_OF_MEMORY = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4398046511104 bytes. Error code 12 (Cannot allocate memory)"
    ),
    MemoryError("Unable to allocate 256. TiB for an array"),
    states.Fail(
        "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running MatMul node. Name:'' Status "
        "Message: bfc_arena.cc:360 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, "
        "onnxruntime::Stream*) Failed to allocate memory for requested buffer of size 40000000000"
    ),
]
"""What the libraries raise, in their own words."""


class Reached(Faults):
    """Fault points that note who reaches them, and hold them while the gate is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.reached: list[tuple[str, str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def reach(self, point, *, model=""):
        self.reached.append((point, model))
        self.entered.release()
        assert self.gate.wait(10)


class Awaited(Evaluation):
    """An evaluation that the test's own thread waits for."""

    def wait(self):
        assert self._finished.wait(10)
        return self.answer()


WEIGHTS = {"predictions": 100.0, "interactive": 10.0, "bulk": 1.0}


@pytest.fixture
def make_engine():
    """Return a function that makes engines, which are closed in the end."""
    made = []

    def make(**settings):
        bounds = {"chunk_seconds": 10.0, "chunk_bytes": 1 << 30}
        made.append(Engine(threads=1, class_weights=WEIGHTS, **{**bounds, **settings}))
        return made[-1]

    yield make
    for entry in made:
        entry.close()


@pytest.fixture
def engine(make_engine):
    return make_engine()


def evaluation(values, *, key="lane", request=None, prediction=False):
    rows = np.array(values, np.float32).reshape(-1, 1)
    return Awaited(
        key,
        Asked(Rows({"x": rows})),
        request or RequestState(1, None),
        Tally(),
        threading.Event(),
        prediction=prediction,
    )


def lane(program, *, row_bytes=4, **settings):
    return lambda: Lane(program, row_bytes=row_bytes, **settings)


def held(engine, program, *, key="lane", **settings):
    """Occupy the device thread with one row until the program's gate is opened again."""
    program.gate.clear()
    first = evaluation([-1], key=key)
    engine.submit(first, lane(program, **settings))
    assert program.entered.acquire(timeout=10)
    return first


def request(number=1, priority="interactive", **settings):
    return RequestState(number, None, priority=priority, **settings)


def test_rows_of_several_requests_with_equal_keys_share_a_batch(engine):
    program = Doubling()
    first = held(engine, program, chunk_rows=64)
    others = [evaluation([number, number + 0.5]) for number in range(4)]
    for entry in others:
        engine.submit(entry, lane(program))

    program.gate.set()

    assert first.wait()["y"].tolist() == [[-2]]
    for number, entry in enumerate(others):
        np.testing.assert_array_equal(entry.wait()["y"][:, 0], [2 * number, 2 * number + 1])
        assert entry.tally.work().batch_shapes[0].rows == 8
    assert len(program.batches) == 2


def test_evaluations_with_different_keys_never_share_a_batch(engine):
    program, other = Doubling(), Doubling()
    held(engine, program)
    entries = [evaluation([1], key="lane"), evaluation([2], key="other")]
    engine.submit(entries[0], lane(program))
    engine.submit(entries[1], lane(other))

    program.gate.set()
    for entry in entries:
        entry.wait()

    assert other.batches == [[2.0]]
    assert program.batches == [[-1.0], [1.0]]


def test_work_of_a_heavier_class_goes_before_work_that_came_earlier(engine):
    program = Doubling()
    held(engine, program)
    entries = [
        evaluation([number], key=name, request=request(priority=name)) for number, name in enumerate(reversed(WEIGHTS))
    ]
    for entry in entries:
        engine.submit(entry, lane(program))

    program.gate.set()
    for entry in entries:
        entry.wait()

    assert program.batches == [[-1.0], [2.0], [1.0], [0.0]]


def test_without_an_express_thread_there_is_one_chunk_at_a_time(engine):
    program = Doubling()
    held(engine, program)
    prediction = evaluation([1], key="other", request=request(priority="predictions"), prediction=True)

    engine.submit(prediction, lane(program))
    program.gate.set()
    prediction.wait()

    assert {thread.name for thread in program.threads} == {"device"}


def test_a_prediction_of_the_heaviest_class_does_not_wait_on_the_express_thread(make_engine):
    engine, slow, quick = make_engine(express=True), Doubling(), Doubling()
    held(engine, slow)
    prediction = evaluation([1], key="other", request=request(priority="predictions"), prediction=True)

    engine.submit(prediction, lane(quick))

    assert prediction.wait()["y"].tolist() == [[2]]
    assert len(slow.batches) == 1
    assert {thread.name for thread in quick.threads} == {"express"}
    slow.gate.set()


@pytest.mark.parametrize(("priority", "prediction"), [("interactive", True), ("bulk", True), ("predictions", False)])
def test_other_work_stays_on_the_device_thread(make_engine, priority, prediction):
    engine, program = make_engine(express=True), Doubling()
    entry = evaluation([1], request=request(priority=priority), prediction=prediction)

    engine.submit(entry, lane(program))
    entry.wait()

    assert {thread.name for thread in program.threads} == {"device"}


def test_both_threads_make_lanes_of_their_own_for_equal_keys(make_engine):
    engine, programs = make_engine(express=True), [Doubling(), Doubling()]
    entries = [
        evaluation([1], request=request(priority=name), prediction=True) for name in ("predictions", "interactive")
    ]

    for entry, program in zip(entries, programs, strict=True):
        engine.submit(entry, lane(program))
        entry.wait()

    assert [len(program.batches) for program in programs] == [1, 1]


def test_parts_of_one_request_on_both_threads_count_for_it_once_each(make_engine):
    engine, program = make_engine(express=True), Doubling()
    whole = request(priority="predictions")
    entries = [
        evaluation(range(7), request=whole.part(reserve_seconds=0), prediction=number % 2) for number in range(40)
    ]

    for entry in entries:
        engine.submit(entry, lane(program))
    for entry in entries:
        entry.wait()

    assert whole.rows_forward == 280


def test_a_large_evaluation_is_cut_and_a_small_one_does_not_wait_for_its_end(engine):
    program = Doubling()
    held(engine, program, chunk_rows=4)
    large, small = evaluation(range(100, 140)), evaluation([1])
    engine.submit(large, lane(program))
    engine.submit(small, lane(program))

    program.gate.set()

    np.testing.assert_array_equal(large.wait()["y"][:, 0], np.arange(100, 140) * 2)
    small.wait()
    assert 1.0 in program.batches[1]


@pytest.mark.parametrize("prediction", [False, True])
@pytest.mark.parametrize(
    ("deadline", "error"), [(None, CancelledError), (math.inf, CancelledError), (-1, TimedOutError)]
)
def test_a_request_that_stops_leaves_between_two_chunks_of_either_thread(make_engine, prediction, deadline, error):
    engine, program = make_engine(express=True), Doubling()
    program.gate.clear()
    state = RequestState(1, None, priority="predictions")
    leaver = evaluation(range(12), request=state, prediction=prediction)
    stayer = evaluation([50], request=request(2, priority="predictions"), prediction=prediction)
    engine.submit(leaver, lane(program))
    assert program.entered.acquire(timeout=10)
    engine.submit(stayer, lane(program))

    state.deadline = None if deadline is None else time.monotonic() + deadline
    state.cancelled = error is CancelledError
    program.gate.set()

    with pytest.raises(error):
        leaver.wait()
    assert stayer.wait()["y"].tolist() == [[100]]
    assert len(program.batches) == 2
    assert state.rows_forward == len(program.batches[0]), "what was evaluated for nobody is counted"


def test_a_request_whose_deadline_has_passed_is_not_evaluated(engine):
    program, late = Doubling(), RequestState(1, time.monotonic() - 1)
    held(engine, program)
    entry = evaluation([1], request=late)
    engine.submit(entry, lane(program))

    program.gate.set()

    with pytest.raises(TimedOutError):
        entry.wait()
    assert len(program.batches) == 1


def test_a_failing_batch_fails_its_requests_and_the_device_thread_goes_on(engine):
    program = Doubling()
    bad, good = evaluation([np.nan]), evaluation([3])
    engine.submit(bad, lane(program))
    with pytest.raises(ArithmeticError):
        bad.wait()

    engine.submit(good, lane(program))

    assert good.wait()["y"].tolist() == [[6]]


def test_results_that_there_is_no_memory_for_fail_their_request_and_the_device_thread_goes_on(engine):
    class Immense(Doubling):
        def __call__(self, batch, parts):
            return {"y": torch.zeros(1, 1).expand(len(batch["x"]), 1 << 46)}

    # In two chunks: of those of one, nothing need be copied.
    immense, good = evaluation(range(5)), evaluation([3], key="other")
    engine.submit(immense, lane(Immense(), chunk_rows=4))
    with pytest.raises(MemoryError):
        immense.wait()

    engine.submit(good, lane(Doubling()))

    assert good.wait()["y"].tolist() == [[6]]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_out_of_memory_halves_the_chunk_until_it_fits(engine, error):
    program = Doubling(rows_in_memory=3, error=error)
    held(engine, program, chunk_rows=16)
    entry = evaluation(range(16))
    engine.submit(entry, lane(program))

    program.gate.set()

    np.testing.assert_array_equal(entry.wait()["y"][:, 0], np.arange(16) * 2)
    assert [len(batch) for batch in program.batches[1:4]] == [16, 8, 4]
    assert max(len(batch) for batch in program.batches[4:]) == 2


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_out_of_memory_at_one_row_is_overloaded_without_a_time_to_come_again(engine, error):
    program = Doubling(rows_in_memory=0, error=error)
    entry = evaluation([1, 2])

    engine.submit(entry, lane(program))

    with pytest.raises(OverloadedError, match="cannot hold one row") as caught:
        entry.wait()
    assert caught.value.metadata == {}


def test_rows_that_have_to_be_together_and_do_not_fit_are_overloaded(engine):
    program = Doubling(rows_in_memory=1)
    entry = evaluation([1, 2])

    engine.submit(entry, lane(program, packing=Packing.WHOLE))

    with pytest.raises(OverloadedError, match="have to be evaluated together"):
        entry.wait()


def test_a_chunk_is_never_larger_than_its_memory_bound(make_engine):
    engine = make_engine(chunk_bytes=1000)
    program = Doubling()
    entry = evaluation(range(64))

    engine.submit(entry, lane(program, row_bytes=300))
    entry.wait()

    assert {len(batch) for batch in program.batches} == {3, 2}


def test_chunks_shrink_to_the_time_allowed(make_engine):
    engine = make_engine(chunk_seconds=1e-9)
    program = Doubling()
    entry = evaluation(range(20))

    engine.submit(entry, lane(program))
    entry.wait()

    assert [len(batch) for batch in program.batches] == [4] + [1] * 16


def test_rows_that_depend_on_one_another_run_whole_and_alone(engine):
    program = Doubling()
    held(engine, program, packing=Packing.WHOLE)
    entries = [evaluation(range(10)), evaluation([1, 2])]
    for entry in entries:
        engine.submit(entry, lane(program))

    program.gate.set()
    for entry in entries:
        entry.wait()

    assert [len(batch) for batch in program.batches] == [1, 10, 2]


def test_a_lane_for_single_rows_runs_one_row_at_a_time(engine):
    program = Doubling()
    entry = evaluation(range(5))

    engine.submit(entry, lane(program, packing=Packing.SINGLE))
    entry.wait()

    assert [len(batch) for batch in program.batches] == [1] * 5


def test_the_tally_counts_rows_and_the_batches_they_were_in(engine):
    program = Doubling()
    request = RequestState(1, None)
    entry = evaluation(range(6), request=request)

    engine.submit(entry, lane(program))
    entry.wait()

    work = entry.tally.work()
    assert (work.rows_forward, work.rows_backward) == (6, 0)
    assert sum(shape.rows * shape.batches for shape in work.batch_shapes) == 6
    assert request.rows_forward == 6


def test_a_bad_row_fails_its_own_request_and_no_other_packed_with_it(engine):
    program = Doubling()
    held(engine, program, chunk_rows=64)
    entries = [evaluation([1, 2]), evaluation([3, np.nan]), evaluation([4])]
    for entry in entries:
        engine.submit(entry, lane(program))

    program.gate.set()

    assert entries[0].wait()["y"][:, 0].tolist() == [2, 4]
    with pytest.raises(ArithmeticError):
        entries[1].wait()
    assert entries[2].wait()["y"][:, 0].tolist() == [8]


def test_rows_left_of_a_forgotten_lane_are_still_evaluated(make_engine):
    engine = make_engine(most_lanes=1)
    program, other = Doubling(), Doubling()
    program.gate.clear()
    entries = [evaluation(range(8)), evaluation([1], key="other"), evaluation([5])]
    engine.submit(entries[0], lane(program))
    assert program.entered.acquire(timeout=10)
    engine.submit(entries[1], lane(other))
    engine.submit(entries[2], lane(program))

    program.gate.set()

    assert [len(entry.wait()["y"]) for entry in entries] == [8, 1, 1]


def test_a_part_of_a_request_ends_before_the_request_and_counts_for_it(engine):
    whole = RequestState(1, time.monotonic() + 100)
    part = whole.part(reserve_seconds=1.0)
    entry = evaluation(range(3), request=part)

    engine.submit(entry, lane(Doubling()))
    entry.wait()

    assert part.deadline == pytest.approx(whole.deadline - 1)
    assert (part.rows_forward, whole.rows_forward) == (3, 3)
    whole.cancelled = True
    with pytest.raises(CancelledError):
        part.check()


def test_rows_count_from_the_moment_they_are_on_the_device_and_those_that_fail_do_not(engine):
    held_back, failing = Doubling(), Doubling()
    held_back.gate.clear()
    entry, bad = evaluation(range(3)), evaluation([math.nan], key="other")

    engine.submit(entry, lane(held_back))
    assert held_back.entered.acquire(timeout=10)
    at_once = entry.request.rows_forward
    held_back.gate.set()
    entry.wait()
    engine.submit(bad, lane(failing))
    with pytest.raises(ArithmeticError):
        bad.wait()

    assert (at_once, entry.request.rows_forward, bad.request.rows_forward) == (3, 3, 0)


@pytest.mark.parametrize(
    ("before", "priority", "prediction", "express", "largest"),
    [
        ([], "interactive", False, False, 16),
        (["interactive"], "interactive", False, False, 16),
        (["bulk"], "interactive", False, False, 16),
        (["predictions"], "interactive", False, False, 4),
        (["interactive"], "bulk", False, False, 4),
        (["predictions"], "interactive", False, True, 16),
        ([], "predictions", True, False, 4),
        ([], "predictions", True, True, 4),
    ],
)
def test_chunks_are_long_unless_something_more_urgent_is_about(
    make_engine, before, priority, prediction, express, largest
):
    engine, program = make_engine(express=express), Doubling()
    for name in before:
        urgent = evaluation([0], key=name, request=request(priority=name), prediction=True)
        engine.submit(urgent, lane(Doubling()))
        urgent.wait()
    entry = evaluation(range(64), request=request(priority=priority), prediction=prediction)

    engine.submit(entry, lane(program, chunk_rows=16))
    entry.wait()

    assert len(program.batches[0]) == largest


def test_a_caller_with_many_requests_has_no_more_of_a_chunk_than_one_with_one(make_engine):
    engine, program = make_engine(chunk_bytes=8 * 4), Doubling()
    held(engine, program, chunk_rows=8)
    many = [evaluation(range(16), request=request(number, caller="ann")) for number in range(20)]
    one = evaluation(range(100, 116), request=request(99, caller="bob"))
    for entry in (*many, one):
        engine.submit(entry, lane(program))

    program.gate.set()
    one.wait()

    assert [sum(value >= 100 for value in batch) for batch in program.batches[1:5]] == [4] * 4


def test_a_request_that_is_alone_shares_its_chunk_with_nobody(engine):
    program = Doubling()
    held(engine, program, chunk_rows=64)
    entries = [evaluation([number], request=request(number, alone=number == 1)) for number in range(3)]
    for entry in entries:
        engine.submit(entry, lane(program))

    program.gate.set()
    for entry in entries:
        entry.wait()

    assert sorted(program.batches[1:]) == [[0.0, 2.0], [1.0]]


def test_the_record_names_the_requests_on_the_device_while_they_are_there(make_engine):
    recorder = Recorder(new_record())
    engine, slow, quick = make_engine(express=True, recorder=recorder), Doubling(), Doubling()
    quick.gate.clear()
    slow.gate.clear()
    entries = [evaluation([1], request=request(7)), evaluation([1], request=request(8, "predictions"), prediction=True)]
    for entry, program in zip(entries, (slow, quick), strict=True):
        engine.submit(entry, lane(program))
        assert program.entered.acquire(timeout=10)

    both = recorder.suspects()
    quick.gate.set()
    entries[1].wait()
    one = recorder.suspects()
    slow.gate.set()
    entries[0].wait()

    assert (both, one, recorder.suspects()) == ({7, 8}, {7}, frozenset())


def test_the_fault_point_is_reached_before_each_chunk_with_its_model(make_engine):
    faults = Reached()
    engine, program = make_engine(faults=faults), Doubling()
    entry = evaluation(range(8), request=request(model="iris"))

    engine.submit(entry, lane(program, chunk_rows=4))
    entry.wait()

    assert faults.reached == [("chunk", "iris")] * len(program.batches)


def test_the_device_is_busy_from_the_fault_point_on_until_the_chunk_ends(make_engine):
    faults, program = Reached(), Doubling()
    engine = make_engine(faults=faults)
    idle = engine.busy_seconds()
    faults.gate.clear()
    entry = evaluation([1])
    engine.submit(entry, lane(program))
    assert faults.entered.acquire(timeout=10)

    found = [engine.busy_seconds(), engine.busy_seconds()]
    faults.gate.set()
    entry.wait()

    assert idle == 0.0
    assert 0.0 < found[0] < found[1]
    assert engine.busy_seconds() == 0.0


@pytest.mark.parametrize(("kind", "other"), [("forward", "suffix@a"), ("suffix@a", "suffix@b")])
def test_the_time_of_a_row_is_at_most_what_the_rows_took(make_engine, kind, other):
    engine, program = make_engine(chunk_seconds=1e-9), Doubling()
    program.kind = kind
    entry = evaluation(range(50))
    unknown = engine.row_seconds("iris", kind=kind)
    started = time.monotonic()

    engine.submit(entry, lane(program, model="iris"))
    entry.wait()

    assert unknown == 0.0
    assert 0.0 < engine.row_seconds("iris", kind=kind) <= (time.monotonic() - started) / 50
    assert engine.row_seconds("iris", kind=other) == 0.0


def test_rows_that_may_take_longer_say_less_of_the_others(make_engine):
    engine, program = make_engine(chunk_seconds=1e-9), Doubling()
    entry = evaluation(range(50))
    started = time.monotonic()

    engine.submit(entry, lane(program, model="iris", growth=1e6))
    entry.wait()

    assert 0.0 < engine.row_seconds("iris", kind="forward") <= (time.monotonic() - started) / 50 / 1e6
