"""What becomes of the requests of a worker that is lost."""

import asyncio
import os
import signal

import numpy as np
import pytest
from pellucid_server.errors import FatalRequestError, TimedOutError, UnavailableError
from server.pool.conftest import Health, answer, end, request, sent, until

NOT_ALONE, ALONE = 0, 1
NOTHING_WAITS = {(0, 0, 0)}
NEVER_SECONDS = 600.0


def kill(pool, number=0):
    os.kill(pool.workers[number].pid, signal.SIGKILL)


def deeds(folder, deed, count):
    """Return names of requests that do something the first time that they are done, and are answered the next time."""
    return [f"first/{deed}/{folder}/{number}" for number in range(count)]


async def started(pool, names, **options):
    tasks = [asyncio.create_task(answer(pool, name, **options)) for name in names]
    await asyncio.sleep(0)
    return tasks


async def reached(tmp_path, count):
    """Wait until the worker has so many of the requests that do something the first time."""
    await until(lambda: sum(path.is_file() for path in tmp_path.iterdir()) == count)


async def outcomes(tasks):
    return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)


async def test_the_requests_of_a_killed_worker_are_each_answered_once_by_the_next(make_pool, diary, tmp_path):
    pool = make_pool(places=8)
    await pool.start()
    tasks = await started(pool, deeds(tmp_path, "wait", 8))
    await reached(tmp_path, 8)

    kill(pool)

    assert await outcomes(tasks) == [NOT_ALONE] * 8
    assert (diary.losses, diary.retries) == ([("cpu", "exit")], 8)
    assert len(diary.work) == 8
    assert diary.wasted == []
    assert (pool.pending, set(pool.waiting.values())) == (0, NOTHING_WAITS)


async def test_nobody_notices_that_one_of_two_workers_is_killed(make_pool, diary, tmp_path):
    pool = make_pool(workers=2, places=2, restart_initial_seconds=NEVER_SECONDS, restart_max_seconds=NEVER_SECONDS)
    await pool.start()
    tasks = await started(pool, deeds(tmp_path, "wait", 4))
    await reached(tmp_path, 4)

    kill(pool, 0)
    await until(lambda: diary.losses)

    assert pool.healthy
    assert [worker.ready for worker in pool.workers] == [False, True]
    assert await outcomes(tasks[::2]) == [NOT_ALONE] * 2
    assert int(await answer(pool, "pid", caller="grace")) == pool.workers[1].pid
    await end(tasks[1::2])


async def test_requests_that_wait_when_the_only_worker_dies_are_done_by_the_next_and_are_not_retried(
    make_pool, diary, tmp_path
):
    pool = make_pool()
    await pool.start()
    ahead = await started(pool, deeds(tmp_path, "wait", 2))
    await reached(tmp_path, 2)
    waiting = await started(pool, ["echo", "echo"])

    kill(pool)

    assert [values.tolist() for values in await outcomes(waiting)] == [[0.0], [0.0]]
    assert await outcomes(ahead) == [NOT_ALONE] * 2
    assert diary.retries == 2


async def test_progress_does_not_keep_a_request_from_being_done_again(make_pool, tmp_path):
    pool = make_pool()
    await pool.start()
    shares = []

    (name,) = deeds(tmp_path, "die", 1)
    result, _ = await pool.run(request(name), 20, on_progress=lambda progress: shares.append(progress.share))

    assert result.outputs["y"].values == ALONE
    assert shares == [0.5]


async def test_a_request_that_is_lost_twice_is_told_to_come_back(make_pool, diary):
    pool = make_pool()
    health = Health(pool)
    await pool.start()
    (task,) = await sent(pool, 1)

    kill(pool)
    await health.becomes(False)
    await health.becomes(True)
    await until(lambda: pool.pending == 1)
    kill(pool)

    (error,) = await outcomes([task])
    assert isinstance(error, UnavailableError)
    assert "Two workers, one after the other, were lost" in error.message
    assert float(error.metadata["retry_after_seconds"]) > 0
    assert diary.retries == 1


async def test_a_request_that_two_workers_die_over_is_given_up_and_its_neighbours_are_answered(
    make_pool, diary, tmp_path
):
    pool = make_pool(places=8)
    await pool.start()
    neighbours = await started(pool, deeds(tmp_path, "wait", 4))

    with pytest.raises(FatalRequestError, match="Two worker processes ended") as caught:
        await pool.run(request("poison"), 20)

    assert caught.value.metadata == {}
    assert await outcomes(neighbours) == [NOT_ALONE] * 4
    assert diary.losses == [("cpu", "exit")] * 2


async def test_neighbours_in_its_batch_are_done_alone(make_pool, diary, tmp_path):
    pool = make_pool(places=8)
    await pool.start()
    neighbours = await started(pool, deeds(tmp_path, "wait", 4))

    with pytest.raises(FatalRequestError):
        await pool.run(request("poison/batch"), 20)

    assert await outcomes(neighbours) == [ALONE] * 4
    assert diary.losses == [("cpu", "exit")] * 2


async def test_a_suspect_is_not_with_requests_that_would_be_lost_twice(make_pool, diary):
    pool = make_pool(places=8)
    await pool.start()
    innocent = await sent(pool, 3)
    suspect = asyncio.create_task(pool.run(request("poison")))

    await until(lambda: diary.retries == 3)
    assert pool.waiting["predictions"][0] == 1
    await end(innocent)

    (error,) = await outcomes([suspect])
    assert isinstance(error, FatalRequestError)
    assert [type(found) for found in await outcomes(innocent)] == [asyncio.CancelledError] * 3


async def test_a_suspect_does_not_keep_new_requests_out(make_pool, diary, tmp_path):
    pool = make_pool(places=1)
    await pool.start()
    innocent = await sent(pool, 1)
    suspect = asyncio.create_task(pool.run(request("poison"), caller="grace"))
    await until(lambda: diary.retries == 1)

    assert (await answer(pool, "echo", caller="grace")).tolist() == [0.0]

    await end([*innocent, suspect])
    assert set(pool.waiting.values()) == NOTHING_WAITS


async def test_equal_requests_end_two_workers_together_and_not_two_each(make_pool, diary):
    pool = make_pool(places=8)
    await pool.start()

    found = await outcomes(await sent(pool, 5, "poison"))

    assert [type(error) for error in found] == [FatalRequestError] * 5
    assert len(diary.losses) == 2


async def test_a_request_like_one_that_was_given_up_is_refused_and_others_are_not(make_pool, diary):
    pool = make_pool()
    health = Health(pool)
    await pool.start()
    await outcomes(await sent(pool, 1, "poison"))
    await until(lambda: pool.healthy)

    with pytest.raises(FatalRequestError):
        await pool.run(request("poison"), 20)

    assert (await answer(pool, "echo")).tolist() == [0.0]
    assert len(diary.losses) == 2
    assert diary.refusals == [("predictions", "quarantined")]
    with pytest.raises(UnavailableError):
        await pool.run(request("die", np.ones(3)), 20)
    await health.becomes(True)


async def test_all_who_wait_fail_when_the_worker_cannot_be_started_again(make_pool, diary):
    pool = make_pool(start="flaky")
    health = Health(pool)
    await pool.start()
    tasks = await sent(pool, 4)  # two run and two wait

    kill(pool)

    found = await outcomes(tasks)
    assert [type(error) for error in found] == [UnavailableError] * 4
    assert {error.message for error in found} == {
        "The workers were lost and could not be started again; try again later."
    }
    assert min(float(error.metadata["retry_after_seconds"]) for error in found) > 0
    assert set(pool.waiting.values()) == NOTHING_WAITS
    await health.becomes(False)
    await health.becomes(True)
    assert (await answer(pool, "echo")).tolist() == [0.0]
    assert diary.retries == 0


async def test_requests_whose_deadline_is_before_the_next_worker_fail_at_once_and_others_wait(make_pool):
    pool = make_pool(restart_initial_seconds=NEVER_SECONDS, restart_max_seconds=NEVER_SECONDS)
    await pool.start()
    soon = [asyncio.create_task(pool.run(request("hang"), NEVER_SECONDS / 2)) for _ in range(3)]
    late = [asyncio.create_task(pool.run(request("hang"), 2 * NEVER_SECONDS)) for _ in range(3)]
    await asyncio.sleep(0)

    kill(pool)

    found = await outcomes(soon)
    assert [type(error) for error in found] == [UnavailableError] * 3
    assert [task.done() for task in late] == [False] * 3
    assert pool.waiting["predictions"][0] == 3
    with pytest.raises(UnavailableError, match="No worker is ready") as caught:
        await pool.run(request("echo"), 20)
    assert caught.value.metadata == {"retry_after_seconds": "5.000"}
    await end(late)
    assert set(pool.waiting.values()) == NOTHING_WAITS


async def test_a_lost_request_that_is_cancelled_while_there_is_no_worker_is_not_done_again(make_pool, diary):
    pool = make_pool(restart_initial_seconds=0.5)
    health = Health(pool)
    await pool.start()
    tasks = await sent(pool, 2)
    kill(pool)
    await health.becomes(False)

    await end(tasks)

    assert set(pool.waiting.values()) == NOTHING_WAITS
    await health.becomes(True)
    assert (await answer(pool, "cancelled")).tolist() == []
    assert diary.retries == 0


async def test_a_request_that_nobody_waits_for_is_not_done_again(make_pool, diary):
    pool = make_pool()
    health = Health(pool)
    await pool.start()
    await end(await sent(pool, 2, "deaf"))

    kill(pool)

    await health.becomes(False)
    await health.becomes(True)
    assert (pool.pending, diary.retries) == (0, 0)


async def test_a_lost_request_whose_deadline_passes_before_it_is_done_again_was_queued(make_pool, diary):
    pool = make_pool(start="dozy")
    await pool.start()
    task = asyncio.create_task(pool.run(request("hang"), 3.0))
    await asyncio.sleep(0)

    kill(pool)

    (error,) = await outcomes([task])
    assert isinstance(error, TimedOutError)
    assert error.metadata == {"stage": "queued"}
    assert diary.retries == 0


@pytest.mark.parametrize("kind", ["device", "python"])
async def test_a_worker_that_says_that_it_is_stuck_is_killed_and_its_requests_are_done_again(
    make_pool, diary, tmp_path, kind
):
    pool = make_pool()
    await pool.start()
    first = pool.workers[0].pid

    found = await outcomes(await started(pool, deeds(tmp_path, kind, 1)))

    assert found == [NOT_ALONE]
    assert diary.losses == [("cpu", "hang")]
    assert pool.workers[0].pid != first


async def hang_over(pool, diary, *names):
    """Have a worker hang over requests that nobody waits for any more; check that their callers were told only that."""
    count = len(diary.losses)
    tasks = [task for name in names for task in await sent(pool, 1, name)]
    assert {type(found) for found in await end(tasks)} == {asyncio.CancelledError}
    await until(lambda: len(diary.losses) > count and pool.healthy)


@pytest.mark.parametrize("how", ["ended", "silently"])
async def test_a_request_that_two_workers_hang_over_after_its_caller_left_is_refused(make_pool, diary, how):
    pool = make_pool()
    await pool.start()
    await hang_over(pool, diary, f"stuck/{how}")
    await hang_over(pool, diary, f"stuck/{how}")

    with pytest.raises(FatalRequestError, match="Two worker processes ended"):
        await pool.run(request(f"stuck/{how}"), 20)

    assert diary.losses == [("cpu", "hang")] * 2
    assert (await answer(pool, "echo")).tolist() == [0.0]


async def test_a_request_that_two_workers_hang_over_after_they_answered_it_in_part_is_refused(make_pool, diary):
    pool = make_pool()
    await pool.start()
    for number in (1, 2):
        assert await answer(pool, "stuck/and answered") == 1.0
        await until(lambda number=number: len(diary.losses) == number and pool.healthy)

    with pytest.raises(FatalRequestError, match="Two worker processes ended"):
        await pool.run(request("stuck/and answered"), 20)

    assert diary.losses == [("cpu", "hang")] * 2


async def test_a_request_that_a_worker_has_done_since_is_not_held_to_be_what_the_other_hung_over(
    make_pool, diary, tmp_path
):
    pool, name = make_pool(), f"stuck/in turns/{tmp_path}/visits"
    await pool.start()

    for _ in range(2):
        await hang_over(pool, diary, name)
        assert await answer(pool, name) == 1.0


async def test_requests_that_pass_by_when_a_worker_is_seen_to_hang_are_not_what_it_hangs_over(make_pool, diary):
    pool = make_pool(places=8)
    await pool.start()

    for number in (1, 2):
        stuck = await sent(pool, 1, "stuck/for long")
        await answer(pool, "echo")
        pool.workers[0]._look()
        passing = await sent(pool, 1, "stuck/in a batch")
        await answer(pool, "echo")
        await end([*stuck, *passing])
        await until(lambda number=number: len(diary.losses) == number and pool.healthy)

    with pytest.raises(FatalRequestError):
        await pool.run(request("stuck/for long"), 20)
    assert diary.losses == [("cpu", "hang")] * 2


async def test_a_request_is_not_to_blame_when_others_were_in_its_batch(make_pool, diary):
    pool = make_pool(places=8)
    await pool.start()

    # Were one of the three blamed each time, one would be a second time by the fourth, and refused at the fifth.
    for _ in range(5):
        await hang_over(pool, diary, "hang/1", "hang/2", "stuck/in a batch")
    assert diary.losses == [("cpu", "hang")] * 5


async def test_a_request_is_not_to_blame_for_workers_that_were_killed_while_they_were_at_it(make_pool, diary):
    pool = make_pool()
    await pool.start()

    for number in range(1, 4):
        (found,) = await end(await sent(pool, 1, "stuck/not for long"))
        assert isinstance(found, asyncio.CancelledError)
        await answer(pool, "echo")
        kill(pool)
        await until(lambda number=number: len(diary.losses) == number and pool.healthy)
    assert diary.losses == [("cpu", "exit")] * 3


async def test_a_worker_that_falls_silent_is_killed_and_its_requests_are_done_again(make_pool, diary, tmp_path):
    pool = make_pool(hang_seconds=1.0, beats=0.1)
    await pool.start()

    found = await outcomes(await started(pool, deeds(tmp_path, "stop", 1)))

    assert found == [NOT_ALONE]
    assert diary.losses == [("cpu", "hang")]
