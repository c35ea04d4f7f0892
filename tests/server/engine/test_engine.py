import threading
import time

import numpy as np
import pytest
import torch
from pellucid_server.engine.engine import Engine, Evaluation, Lane
from pellucid_server.engine.job_state import JobState, Tally
from pellucid_server.errors import CancelledError, OverloadedError, TimedOutError


class Doubling:
    """A program that doubles its rows, notes its batches, and can be made to wait or fail."""

    evaluation = "forward"
    backward = False

    def __init__(self, *, rows_in_memory: int = 1 << 30) -> None:
        self.batches: list[list[float]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.rows_in_memory = rows_in_memory

    def __call__(self, batch):
        self.batches.append(batch["x"][:, 0].tolist())
        self.entered.release()
        assert self.gate.wait(10)
        if len(batch["x"]) > self.rows_in_memory:
            raise torch.cuda.OutOfMemoryError("out of memory")
        if np.isnan(batch["x"]).any():
            raise ArithmeticError("a bug in the model")
        return {"y": batch["x"] * 2}


class Awaited(Evaluation):
    """An evaluation that the test's own thread waits for."""

    def wait(self):
        assert self._finished.wait(10)
        return self.answer()


@pytest.fixture
def engine():
    made = Engine(chunk_seconds=10.0, chunk_bytes=1 << 30, threads=1)
    yield made
    made.close()


def evaluation(values, *, key="lane", job=None):
    rows = np.array(values, np.float32).reshape(-1, 1)
    return Awaited(key, {"x": rows}, job or JobState(1, None), Tally(), threading.Event())


def lane(program, *, row_bytes=4, prediction=False, **settings):
    return lambda: Lane(program, row_bytes=row_bytes, prediction=prediction, **settings)


def held(engine, program, *, key="lane", **settings):
    """Occupy the device thread with one row until the program's gate is opened again."""
    program.gate.clear()
    first = evaluation([-1], key=key)
    engine.submit(first, lane(program, **settings))
    assert program.entered.acquire(timeout=10)
    return first


def test_rows_of_several_jobs_with_equal_keys_share_a_batch(engine):
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


def test_predictions_go_before_explanations_that_came_earlier(engine):
    program, order = Doubling(), []
    held(engine, program)
    explanation, prediction = evaluation([1], key="explanation"), evaluation([2], key="prediction")
    engine.submit(explanation, lane(program))
    engine.submit(prediction, lane(program, prediction=True))

    program.gate.set()
    explanation.wait()
    order = [batch[0] for batch in program.batches]

    assert order == [-1.0, 2.0, 1.0]


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


def test_a_cancelled_job_leaves_between_two_chunks_and_others_go_on(engine):
    program, job = Doubling(), JobState(1, None)
    held(engine, program)
    leaver, stayer = evaluation([1, 2, 3], job=job), evaluation([4])
    engine.submit(leaver, lane(program))
    engine.submit(stayer, lane(program))

    job.cancelled = True
    program.gate.set()

    with pytest.raises(CancelledError):
        leaver.wait()
    assert stayer.wait()["y"].tolist() == [[8]]
    assert program.batches[1:] == [[4.0]]


def test_a_job_whose_deadline_has_passed_is_not_evaluated(engine):
    program, late = Doubling(), JobState(1, time.monotonic() - 1)
    held(engine, program)
    entry = evaluation([1], job=late)
    engine.submit(entry, lane(program))

    program.gate.set()

    with pytest.raises(TimedOutError):
        entry.wait()
    assert len(program.batches) == 1


def test_a_failing_batch_fails_its_jobs_and_the_device_thread_goes_on(engine):
    program = Doubling()
    bad, good = evaluation([np.nan]), evaluation([3])
    engine.submit(bad, lane(program))
    with pytest.raises(ArithmeticError):
        bad.wait()

    engine.submit(good, lane(program))

    assert good.wait()["y"].tolist() == [[6]]


def test_out_of_device_memory_halves_the_chunk_until_it_fits(engine):
    program = Doubling(rows_in_memory=3)
    held(engine, program, chunk_rows=16)
    entry = evaluation(range(16))
    engine.submit(entry, lane(program))

    program.gate.set()

    np.testing.assert_array_equal(entry.wait()["y"][:, 0], np.arange(16) * 2)
    assert [len(batch) for batch in program.batches[1:4]] == [16, 8, 4]
    assert max(len(batch) for batch in program.batches[4:]) == 2


def test_out_of_device_memory_at_one_row_is_overloaded(engine):
    program = Doubling(rows_in_memory=0)
    entry = evaluation([1, 2])

    engine.submit(entry, lane(program))

    with pytest.raises(OverloadedError):
        entry.wait()


def test_a_chunk_is_never_larger_than_its_memory_bound():
    engine = Engine(chunk_seconds=10.0, chunk_bytes=1000, threads=1)
    program = Doubling()
    entry = evaluation(range(64))

    engine.submit(entry, lane(program, row_bytes=300))
    entry.wait()
    engine.close()

    assert {len(batch) for batch in program.batches} == {3, 1}


def test_chunks_shrink_to_the_time_allowed():
    engine = Engine(chunk_seconds=1e-9, chunk_bytes=1 << 30, threads=1)
    program = Doubling()
    entry = evaluation(range(20))

    engine.submit(entry, lane(program))
    entry.wait()
    engine.close()

    assert [len(batch) for batch in program.batches] == [4] + [1] * 16


def test_rows_that_depend_on_one_another_run_whole_and_alone(engine):
    program = Doubling()
    held(engine, program, whole=True)
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

    engine.submit(entry, lane(program, single=True))
    entry.wait()

    assert [len(batch) for batch in program.batches] == [1] * 5


def test_the_tally_counts_rows_and_the_batches_they_were_in(engine):
    program = Doubling()
    job = JobState(1, None)
    entry = evaluation(range(6), job=job)

    engine.submit(entry, lane(program))
    entry.wait()

    work = entry.tally.work()
    assert (work.rows_forward, work.rows_backward) == (6, 0)
    assert sum(shape.rows * shape.batches for shape in work.batch_shapes) == 6
    assert job.rows_forward == 6


def test_a_bad_row_fails_its_own_job_and_no_other_packed_with_it(engine):
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


def test_rows_left_of_a_forgotten_lane_are_still_evaluated():
    engine = Engine(chunk_seconds=10.0, chunk_bytes=1 << 30, threads=1, most_lanes=1)
    program, other = Doubling(), Doubling()
    program.gate.clear()
    entries = [evaluation(range(8)), evaluation([1], key="other"), evaluation([5])]
    engine.submit(entries[0], lane(program))
    assert program.entered.acquire(timeout=10)
    engine.submit(entries[1], lane(other))
    engine.submit(entries[2], lane(program))

    program.gate.set()

    assert [len(entry.wait()["y"]) for entry in entries] == [8, 1, 1]
    engine.close()


def test_a_part_of_a_job_ends_before_the_job_and_counts_for_it(engine):
    whole = JobState(1, time.monotonic() + 100)
    part = whole.part(reserve_seconds=1.0)
    entry = evaluation(range(3), job=part)

    engine.submit(entry, lane(Doubling()))
    entry.wait()

    assert part.deadline == pytest.approx(whole.deadline - 1)
    assert (part.rows_forward, whole.rows_forward) == (3, 3)
    whole.cancelled = True
    with pytest.raises(CancelledError):
        part.check()


@pytest.mark.parametrize(("predictions", "largest"), [(0, 16), (1, 4)])
def test_chunks_are_a_quarter_as_large_while_somebody_predicts(engine, predictions, largest):
    program = Doubling()
    for _ in range(predictions):
        prediction = evaluation([0], key="prediction")
        engine.submit(prediction, lane(Doubling(), prediction=True))
        prediction.wait()
    entry = evaluation(range(64))

    engine.submit(entry, lane(program, chunk_rows=16))
    entry.wait()

    assert len(program.batches[0]) == largest
