import asyncio
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from pellucid_server.config import PoolConfig
from pellucid_server.errors import (
    OverloadedError,
    PellucidError,
    TimedOutError,
    UnavailableError,
    error_classes,
)
from pellucid_server.jobs import ModelKey, PredictJob, TensorInput
from pellucid_server.pool.process import WorkerStartError
from server.pool.conftest import COMMAND, Health


def job(name, array=None):
    return PredictJob(ModelKey(name), {"x": TensorInput(np.zeros(1) if array is None else array)})


async def answer(pool, name):
    result, _ = await pool.run(job(name), 20)
    return result.outputs["y"].values


def children():
    """Return the ids of this process's children, those that ended and were not waited for included."""
    lists = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {int(pid) for path in lists for pid in path.read_text().split()}


async def hanging(pool, count, name="hang"):
    """Start jobs that do not end by themselves, and return once the worker has them."""
    tasks = [asyncio.create_task(pool.run(job(name))) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def end(tasks):
    [task.cancel() for task in tasks]
    return await asyncio.gather(*tasks, return_exceptions=True)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_result_and_its_timing_are_the_workers(pool):
    result, timing = await pool.run(job("echo", np.array([[1.5, -2.0]])), 20)

    np.testing.assert_array_equal(result.outputs["y"].values, [[3.0, -4.0]])
    assert (timing.queue_seconds, timing.compute_seconds, timing.rows_forward, timing.rows_backward) == (
        0.25,
        0.5,
        3,
        4,
    )


async def test_hello_names_what_is_served(pool):
    assert [model.key.name for model in pool.hello.models] == ["echo", "hang"]


async def test_many_large_jobs_cross_at_once(pool):
    # More bytes both ways than a socket's buffers hold: a side that only wrote would block for ever.
    arrays = [np.full(1_000_000, number, np.float32) for number in range(4)]

    results = await asyncio.gather(*(pool.run(job("echo", array), 60) for array in arrays))

    assert [float(result.outputs["y"].values[-1]) for result, _ in results] == [0.0, 2.0, 4.0, 6.0]


async def test_the_loop_runs_on_while_the_worker_does_not_read(make_pool):
    pool = make_pool(queue_limit=100)
    await pool.start()
    os.kill(pool.workers[0].pid, signal.SIGSTOP)

    started = time.monotonic()
    task = asyncio.create_task(pool.run(job("echo", np.zeros(4_000_000, np.float32)), 60))
    await asyncio.sleep(0)
    blocked_seconds = time.monotonic() - started

    os.kill(pool.workers[0].pid, signal.SIGCONT)
    await task
    await pool.close()
    assert blocked_seconds < 1


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.__name__)
async def test_a_failure_comes_back_as_its_class(pool, kind):
    with pytest.raises(PellucidError, match=f"said {kind.reason}") as caught:
        await pool.run(job(f"fail/{kind.reason}"), 20)

    assert (type(caught.value), caught.value.metadata) == (kind, {"seen": "yes"})


async def test_an_answer_with_neither_result_nor_failure_is_a_bug(pool):
    with pytest.raises(PellucidError, match="neither a result nor a failure"):
        await pool.run(job("empty"), 20)


async def test_progress_is_passed_on(pool):
    shares = []

    await pool.run(job("progress"), 20, shares.append)

    assert shares == [0.25, 0.75]


async def test_a_cancelled_call_cancels_the_job(pool):
    outcomes = await end(await hanging(pool, 2))

    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2
    assert (await answer(pool, "cancelled")).tolist() == [1, 2]


async def test_the_deadline_ends_the_wait_and_the_job(pool):
    with pytest.raises(TimedOutError) as caught:
        await pool.run(job("hang"), 0.05)

    assert caught.value.metadata == {"stage": "running"}
    assert (await answer(pool, "cancelled")).tolist() == [1]


async def test_a_job_behind_more_than_the_worker_runs_times_out_as_queued(pool):
    ahead = await hanging(pool, 2)

    with pytest.raises(TimedOutError) as caught:
        await pool.run(job("hang"), 0.05)

    await end(ahead)
    assert caught.value.metadata == {"stage": "queued"}


async def test_the_worker_is_told_the_deadline(pool):
    result, _ = await pool.run(job("deadline"), 20)

    assert 0 < result.outputs["y"].values <= 20


@pytest.mark.parametrize("seconds", [0.0, -1.0])
async def test_a_deadline_that_has_passed_is_refused_at_once(pool, seconds):
    with pytest.raises(TimedOutError, match="had passed"):
        await pool.run(job("die"), seconds)

    assert pool.pending == 0


async def test_one_job_beyond_the_bound_is_refused_with_a_time_to_retry(pool):
    taken = await hanging(pool, 4)  # two that run and a queue of two

    with pytest.raises(OverloadedError, match="All 4 places") as caught:
        await pool.run(job("echo"), 20)

    await end(taken)
    assert 0.05 <= float(caught.value.metadata["retry_after_seconds"]) <= 5


async def test_a_place_is_free_again_when_the_worker_lets_go(pool):
    await end(await hanging(pool, 4))
    assert pool.pending == 4  # the worker has not yet said that it stopped

    await asyncio.wait_for(_until_free(pool), 20)

    assert (await answer(pool, "cancelled")).tolist() == [1, 2, 3, 4]


async def _until_free(pool):
    while pool.pending:
        await asyncio.sleep(0)


async def test_a_job_that_the_worker_does_not_let_go_keeps_its_place(pool):
    await end(await hanging(pool, 4, "deaf"))

    with pytest.raises(OverloadedError):
        await pool.run(job("echo"), 20)


async def test_a_lost_worker_fails_its_jobs_and_is_started_again(make_pool):
    restarted = []
    pool = make_pool(on_restart=restarted.append)
    health = Health(pool)
    await pool.start()
    first = int(await answer(pool, "pid"))
    beside = await hanging(pool, 1)

    with pytest.raises(UnavailableError, match="was lost") as caught:
        await pool.run(job("die"), 20)

    assert float(caught.value.metadata["retry_after_seconds"]) > 0
    assert [type(error) for error in await asyncio.gather(*beside, return_exceptions=True)] == [UnavailableError]
    await health.becomes(False)
    await health.becomes(True)
    assert int(await answer(pool, "pid")) != first
    assert not alive(first)
    assert restarted == ["cpu"]
    await pool.close()


async def test_the_death_of_one_of_two_workers_is_seen_at_once(make_pool):
    # A worker that held a copy of the other's socket would hide its death.
    pool = make_pool(workers=2, restart_initial_seconds=60)
    await pool.start()
    victim = await hanging(pool, 1)

    os.kill(pool.workers[0].pid, signal.SIGKILL)

    assert isinstance((await asyncio.gather(*victim, return_exceptions=True))[0], UnavailableError)
    assert (pool.healthy, [worker.ready for worker in pool.workers]) == (True, [False, True])
    assert int(await answer(pool, "pid")) == pool.workers[1].pid
    await pool.close()


async def test_bytes_that_are_no_message_count_as_a_lost_worker(make_pool):
    pool = make_pool()
    health = Health(pool)
    await pool.start()
    errors = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context["exception"]))

    with pytest.raises(UnavailableError):
        await pool.run(job("garbage"), 20)

    await health.becomes(False)
    await health.becomes(True)
    assert len(errors) == 1
    await pool.close()


async def test_a_worker_that_refuses_a_restart_is_tried_again(make_pool):
    restarted = []
    pool = make_pool(start="flaky", on_restart=restarted.append)
    health = Health(pool)
    await pool.start()

    os.kill(pool.workers[0].pid, signal.SIGKILL)

    await health.becomes(False)
    await health.becomes(True)
    assert restarted == ["cpu", "cpu"]
    await pool.close()


async def test_a_bug_at_a_restart_is_logged_and_the_worker_is_tried_again(make_pool, caplog):
    restarted = []

    def on_restart(device):
        restarted.append(device)
        command[:] = ["a null \0 byte"] if len(restarted) == 1 else COMMAND

    command = list(COMMAND)
    pool = make_pool(command=command, on_restart=on_restart)
    health = Health(pool)
    await pool.start()

    os.kill(pool.workers[0].pid, signal.SIGKILL)

    await health.becomes(False)
    await health.becomes(True)
    assert restarted == ["cpu", "cpu"]
    (logged,) = [record for record in caplog.records if record.exc_info]
    assert (logged.exc_info[0], str(logged.exc_info[1])) == (ValueError, "embedded null byte")
    await pool.close()


async def test_a_restart_that_a_listener_breaks_leaves_no_process(make_pool, caplog):
    before = children()
    told = []

    def listener(healthy):
        told.append(healthy)
        if told == [True, False, True]:
            raise RuntimeError("a listener's bug")

    pool = make_pool()
    pool.watch(listener)
    health = Health(pool)
    await pool.start()

    os.kill(pool.workers[0].pid, signal.SIGKILL)

    await health.becomes(True)
    await health.becomes(True)
    assert told == [True, False, True, False, True]
    assert children() - before == {pool.workers[0].pid}
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["a listener's bug"]
    await pool.close()


async def test_a_worker_that_hangs_at_its_start_is_killed_and_has_failed(make_pool):
    before = children()
    pool = make_pool(start="stuck", start_seconds=0.2, exit_seconds=0.05)

    with pytest.raises(WorkerStartError, match=r"worker for cpu was not ready within 0\.2 s \(pool\.start_seconds\)"):
        await pool.start()

    assert children() <= before


async def test_a_worker_that_hangs_at_a_restart_is_tried_again(make_pool, monkeypatch):
    restarted = []

    def on_restart(device):
        restarted.append(device)
        limit = 0.001 if len(restarted) == 1 else 60.0
        monkeypatch.setattr(pool.workers[0], "_config", PoolConfig(start_seconds=limit, exit_seconds=0.05))

    pool = make_pool(on_restart=on_restart)
    health = Health(pool)
    await pool.start()

    os.kill(pool.workers[0].pid, signal.SIGKILL)

    await health.becomes(False)
    await health.becomes(True)
    assert restarted == ["cpu", "cpu"]
    await pool.close()


@pytest.mark.parametrize(
    ("start", "message"), [("refuse", "model 'm': there is no model.toml"), ("crash", "ended before it was ready")]
)
async def test_a_worker_that_cannot_start_is_an_error_at_the_first_start(make_pool, start, message):
    pool = make_pool(start=start, workers=2)

    with pytest.raises(WorkerStartError, match=message):
        await pool.start()

    assert not pool.healthy


async def test_a_command_that_is_not_there_is_an_error_at_the_first_start(make_pool):
    pool = make_pool(command=("/nowhere",))

    with pytest.raises(WorkerStartError, match="cannot be started: No such file"):
        await pool.start()


async def test_before_the_start_nothing_is_taken(make_pool):
    with pytest.raises(UnavailableError, match="No worker is ready"):
        await make_pool().run(job("echo"), 20)


async def test_a_start_that_is_cancelled_leaves_no_process(make_pool):
    before = children()
    pool = make_pool()
    start = asyncio.create_task(pool.start())
    await asyncio.sleep(0)

    start.cancel()

    assert isinstance((await asyncio.gather(start, return_exceptions=True))[0], asyncio.CancelledError)
    assert children() <= before


async def test_jobs_of_one_model_stay_on_one_worker_until_it_is_full(make_pool):
    pool = make_pool(workers=2, concurrent_jobs=2)
    await pool.start()

    taken = await hanging(pool, 3)

    assert [worker.load for worker in pool.workers] == [2, 1]
    await end(taken)
    await pool.close()


async def test_jobs_of_other_models_go_to_the_least_loaded_worker(make_pool):
    pool = make_pool(workers=2, concurrent_jobs=4)
    await pool.start()

    taken = await hanging(pool, 2) + await hanging(pool, 1, "deaf")

    assert [worker.load for worker in pool.workers] == [2, 1]
    await end(taken)
    await pool.close()


async def test_a_draining_pool_finishes_what_it_has_and_takes_no_more(pool):
    running = asyncio.create_task(pool.run(job("echo"), 20))
    await asyncio.sleep(0)

    pool.drain()

    with pytest.raises(UnavailableError, match="shutting down"):
        await pool.run(job("echo"), 20)
    await running
    assert not pool.healthy


async def test_closing_ends_the_process_and_fails_what_is_left(make_pool):
    pool = make_pool()
    await pool.start()
    pid = pool.workers[0].pid
    left = await hanging(pool, 1)

    await pool.close()

    assert not alive(pid)
    assert isinstance((await asyncio.gather(*left, return_exceptions=True))[0], UnavailableError)


async def test_a_worker_that_stays_is_killed(make_pool):
    pool = make_pool(start="stay", exit_seconds=0.05)
    await pool.start()
    pid = pool.workers[0].pid

    await pool.close()

    assert not alive(pid)


async def test_the_worker_has_its_environment_and_a_process_group_of_its_own(pool):
    assert int(await answer(pool, "threads")) == 7
    assert os.getpgid(pool.workers[0].pid) != os.getpgid(0)
