"""Jobs over a pool that does as scripted: who joins which, what survives, and what ends."""

import asyncio
import errno
from dataclasses import replace

import numpy as np
import pytest
from pellucid_server.errors import (
    FatalRequestError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    UnavailableError,
)
from pellucid_server.jobs.disk import Disk
from pellucid_server.jobs.failures import error_of
from pellucid_server.jobs.records import CANCELLED, DONE, FAILED, QUEUED, RUNNING
from pellucid_server.vocabulary.descriptions import DatasetInfo
from pellucid_server.vocabulary.messages import Part, Progress
from pellucid_server.vocabulary.requests import AblateRequest, TensorInput
from server.jobs.conftest import ANSWER, KEY, found, last, over, request, silent, until, visible

STORED = [np.array([0.0]).tobytes(), np.array([1.0]).tobytes(), b"last"]
LOST = UnavailableError("The worker was lost.", retry_after_seconds="0.000")
FATAL = FatalRequestError("Two workers ended.")


async def test_a_job_is_done_and_its_answer_is_stored(make_world):
    world = await make_world()

    job = await world.submit()
    done = await over(job)

    assert (done.state, done.share, done.rows_done, done.rows, done.parts) == (DONE, 1.0, 5, 10, 3)
    assert (done.owner, done.verb, done.method, done.model) == ("ann", "Dissect", "activations", KEY)
    assert done.size_bytes > 0
    assert await world.answer(job) == STORED
    assert world.charged == [("ann", 3)]
    assert world.workers.priorities == ["bulk"]
    await until(lambda: world.ended)
    assert [each.state for each in world.ended] == [DONE]


async def test_twenty_equal_requests_at_once_are_one_job(make_world):
    world = await make_world()

    wishes = [world.jobs.wish(request(), owner="ann") for _ in range(20)]
    answers = await asyncio.gather(*(world.jobs.submit(each) for each in wishes))

    assert len({job.id for job, _ in answers}) == 1
    assert sorted(joined for _, joined in answers) == [False] + [True] * 19
    await over(answers[0][0])
    assert len(world.workers.requests) == 1


async def test_what_an_answer_is_a_function_of_makes_another_job(make_world):
    world = await make_world()
    ablate = AblateRequest(KEY, {"x": TensorInput(np.arange(4.0))}, "activations")
    different = [
        world.jobs.wish(request(), owner="ann"),
        world.jobs.wish(request(), owner="bob"),
        world.jobs.wish(request(), owner="ann", dataset_digest="ef" * 32),
        world.jobs.wish(request(seed=1), owner="ann"),
        world.jobs.wish(request(rows=5), owner="ann"),
        world.jobs.wish(replace(request(), model=replace(KEY, digest="cd" * 32)), owner="ann"),
        world.jobs.wish(replace(request(), model=replace(KEY, version=2)), owner="ann"),
        world.jobs.wish(ablate, owner="ann"),
    ]
    assert len({each.key for each in different}) == len(different)


async def test_the_order_of_names_and_the_class_make_no_other_job(make_world):
    world = await make_world()
    first = replace(request(), parameters={"a": 1, "b": 2})
    second = replace(request(), parameters={"b": 2, "a": 1})
    ablate = AblateRequest(
        KEY, {}, "m", {"a": 1, "b": 2}, source={"x": TensorInput(np.ones(1)), "y": TensorInput(np.ones(1))}
    )
    other = replace(ablate, parameters={"b": 2, "a": 1}, source=dict(reversed(ablate.source.items())))

    assert world.jobs.wish(first, owner="ann").key == world.jobs.wish(second, owner="ann", priority="bulk").key
    assert world.jobs.wish(ablate, owner="ann").key == world.jobs.wish(other, owner="ann").key


async def test_identities_share_jobs_only_where_the_server_says_so(make_world):
    apart = await make_world()
    assert await apart.submit(owner="ann") is not await apart.submit(owner="bob")

    shared = await make_world(shared=True)
    job = await shared.submit(request(seed=5), owner="ann")
    assert await shared.submit(request(seed=5), owner="bob") is job
    assert job.record.shared


async def test_a_job_that_failed_is_done_again(make_world):
    wrong = InvalidRequestError("layers is empty.", field="layers")
    world = await make_world([wrong], ANSWER)

    first = await world.submit()
    failed = await over(first)
    second = await world.submit()

    assert (failed.state, failed.failure.reason, failed.failure.metadata) == (
        FAILED,
        "INVALID_REQUEST",
        {"field": "layers"},
    )
    assert first is not second
    assert (await over(second)).state == DONE


async def test_a_job_that_was_cancelled_is_done_again_and_its_work_has_ended(make_world):
    world = await make_world([silent(1), asyncio.Event()], ANSWER)
    job = await world.submit()
    await until(lambda: job.record.rows_done == 1)

    await world.jobs.cancel(job)

    assert job.record.state == CANCELLED
    assert world.workers.closed == 1
    assert job.record.size_bytes == 0
    assert (await over(await world.submit())).state == DONE


async def test_a_job_that_has_ended_is_not_cancelled(make_world):
    world = await make_world()
    job = await world.submit()
    await over(job)

    await world.jobs.cancel(job)

    assert job.record.state == DONE
    assert await world.answer(job) == STORED


async def test_a_job_that_waits_can_be_cancelled_and_is_never_begun(make_world):
    hold = asyncio.Event()
    world = await make_world([hold, *ANSWER], ANSWER)
    first, second = await world.submit(), await world.submit(request(1))

    await world.jobs.cancel(second)
    hold.set()
    await over(first)

    assert second.record.state == CANCELLED
    assert len(world.workers.requests) == 1


async def test_a_job_that_is_cancelled_before_its_work_begins_leaves_its_turn_to_the_next(make_world):
    world = await make_world(start=False)
    first, second = await world.submit(), await world.submit(request(1))

    cancelling = asyncio.create_task(world.jobs.cancel(first))
    await asyncio.sleep(0)
    # Its work is a task now that has not had its first step, and never will.
    world.jobs.start()
    await cancelling

    assert (first.record.state, first.task) == (CANCELLED, None)
    assert (await over(second)).state == DONE


async def test_an_equal_request_does_not_join_a_job_that_is_being_cancelled(make_world):
    held = asyncio.Event()
    world = await make_world([held], ANSWER)
    job = await world.submit()
    await until(lambda: job.record.state == RUNNING)

    cancelling = asyncio.create_task(world.jobs.cancel(job))
    await until(lambda: job.halted)
    again = await world.submit()
    await cancelling

    assert again is not job
    assert (await over(again)).state == DONE


async def test_a_removed_job_is_gone_with_its_files_and_its_work(make_world, folder):
    world = await make_world([silent(1), asyncio.Event()], ANSWER)
    job = await world.submit()
    await until(lambda: job.record.rows_done == 1)

    await world.jobs.remove(job)

    assert world.workers.closed == 1
    assert list((folder / "answers").iterdir()) == []
    with pytest.raises(NotFoundError):
        world.jobs.find(job.id)
    assert (await over(await world.submit())).state == DONE


async def test_work_goes_on_from_the_last_state_when_the_worker_is_lost(make_world):
    world = await make_world(
        [silent(1), silent(3), LOST], [silent(4), visible(0, 4, 1), LOST], [visible(1, 4, 2), last()]
    )

    job = await world.submit()
    done = await over(job)

    assert (done.state, done.resumed) == (DONE, 2)
    assert await world.answer(job) == STORED
    first, second, third = world.workers.begun
    assert first is None
    assert (second.parts, second.checkpoint.values["rows"], second.digest) == (0, 3, KEY.digest)
    assert (third.parts, third.checkpoint.parts, third.checkpoint.values["rows"]) == (1, 1, 4)


async def test_an_ablation_goes_on_from_its_last_part(make_world):
    part = Part(1, 0, found(0), 0.5, True, KEY.digest)
    world = await make_world([part, LOST], [replace(part, number=1, body=found(1)), last()])

    job = await world.submit(AblateRequest(KEY, {"x": TensorInput(np.ones(1))}, "ablation"))
    await over(job)

    begun = world.workers.begun[1]
    assert (begun.parts, begun.checkpoint.arrays["n"].values.tolist()) == (1, [0.0])
    assert await world.answer(job) == STORED


async def test_a_job_gets_on_through_any_number_of_losses_if_it_gets_on_between(make_world):
    scripts = [[silent(rows), LOST if rows % 2 else FATAL] for rows in range(1, 9)]
    world = await make_world(*scripts, [visible(0, 8, 1), visible(1, 8, 2), last()])

    assert (await over(await world.submit())).state == DONE
    assert [each.checkpoint.values["rows"] for each in world.workers.begun[1:]] == list(range(1, 9))


async def test_three_losses_at_one_place_end_a_job(make_world):
    world = await make_world([silent(1), LOST], [LOST])

    failed = await over(await world.submit())

    assert (failed.state, failed.failure.reason) == (FAILED, "UNAVAILABLE")
    assert len(world.workers.begun) == 3


async def test_a_state_that_is_saved_again_is_not_getting_on(make_world):
    world = await make_world([silent(1), LOST])

    failed = await over(await world.submit())

    assert (failed.state, failed.failure.reason) == (FAILED, "UNAVAILABLE")
    # The first time it had got on.
    assert len(world.workers.begun) == 3


async def test_a_request_that_two_workers_die_over_at_one_place_ends_its_job_at_once(make_world):
    world = await make_world([silent(1), FATAL], [FATAL])

    failed = await over(await world.submit())

    assert (failed.state, failed.failure.reason) == (FAILED, "FATAL_REQUEST")
    assert len(world.workers.begun) == 2


async def test_a_full_queue_only_delays_a_job(make_world):
    full = OverloadedError("The queue is full.", retry_after_seconds="0.001")
    world = await make_world([full], [full], ANSWER)

    done = await over(await world.submit())

    assert (done.state, done.resumed) == (DONE, 0)


async def test_a_bug_fails_its_own_job_and_the_next_is_done(make_world):
    world = await make_world([silent(1), ZeroDivisionError()], ANSWER)

    first, second = await world.submit(), await world.submit(request(1))

    assert (await over(first)).failure.reason == "INTERNAL"
    assert (await over(second)).state == DONE


async def test_a_stopped_server_goes_on_where_its_jobs_stood(make_world):
    world = await make_world([silent(3), visible(0, 3, 1), asyncio.Event()])
    job = await world.submit()
    await until(lambda: job.record.parts == 1)

    world = await make_world([visible(1, 3, 2), last()], start=False)
    again = world.jobs.find(job.id)

    assert (again.record.state, again.record.parts, again.record.rows_done) == (QUEUED, 1, 3)
    world.jobs.start()
    done = await over(again)
    assert (done.state, done.resumed) == (DONE, 1)
    assert await world.answer(again) == STORED
    (begun,) = world.workers.begun
    assert (begun.parts, begun.checkpoint.parts) == (1, 1)


async def test_a_stored_answer_is_there_after_a_restart_and_joined(make_world):
    world = await make_world()
    job = await world.submit()
    await over(job)

    world = await make_world([AssertionError("it is not done again")])

    again = await world.submit()
    assert again.id == job.id
    assert await world.answer(again) == STORED


async def test_a_stopping_server_takes_no_jobs_and_says_when_to_come_back(make_world):
    world = await make_world()
    await world.jobs.stop()

    with pytest.raises(UnavailableError, match="shutting down"):
        await world.submit()


async def test_a_job_whose_model_is_gone_says_so(make_world):
    world = await make_world()
    world.workers.hello = replace(world.workers.hello, models=())

    failed = await over(await world.submit())

    assert failed.failure.reason == "UNSUPPORTED"
    assert "echo/1 that the job began on is no longer served" in failed.failure.message


async def test_a_job_does_not_go_on_with_other_data(make_world):
    world = await make_world([silent(1), LOST], ANSWER)
    world.workers.hello = replace(world.workers.hello, datasets=(DatasetInfo("set", digest="22" * 32),))
    asked = request()
    asked = replace(asked, probe=replace(asked.probe, inputs={}, dataset="set"))

    failed = await over(await world.submit(asked, digest="11" * 32))

    assert failed.failure.reason == "UNSUPPORTED"
    assert "'set' have changed since the job began" in failed.failure.message


async def test_an_answer_from_other_data_than_was_known_is_nobody_elses(make_world):
    world = await make_world([*ANSWER[:-1], last(digest="22" * 32)], ANSWER)

    first = await world.submit(digest="11" * 32)
    assert (await over(first)).state == DONE
    await until(lambda: first.task is None)

    assert await world.submit(digest="11" * 32) is not first


async def test_a_full_disk_ends_the_job_and_loses_no_earlier_answer(make_world, folder):
    left = [1 << 20]

    def step(what, size):
        if size > left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= size

    world = await make_world(ANSWER, [silent(1), visible(0, 1, 1), *[silent(2)] * 3, last()], ANSWER, disk=Disk(step))
    before = await world.submit()
    await over(before)

    left[0] = (folder / "answers" / before.id / "request").stat().st_size + 10
    failed = await over(await world.submit(request(1)))

    assert (failed.state, failed.failure.reason) == (FAILED, "OVERLOADED")
    assert "disk that the server stores jobs on is full" in failed.failure.message
    assert await world.answer(before) == STORED
    left[0] = 1 << 20
    assert (await over(await world.submit(request(2)))).state == DONE
    world = await make_world()
    assert {job.record.state for job in world.jobs.all()} == {DONE, FAILED}


async def test_a_disk_that_is_full_at_once_refuses_the_job(make_world):
    def step(what, size):
        if what == "write":
            raise OSError(errno.ENOSPC, "No space left on device")

    world = await make_world(disk=Disk(step))

    with pytest.raises(OverloadedError, match="is full"):
        await world.submit()
    assert list(world.jobs.all()) == []


async def test_a_job_that_has_no_room_among_the_others_fails_and_those_that_ended_first_make_room(make_world):
    large = Part(1, 0, found(0), 0.5, True, KEY.digest, silent(1).state)
    big = replace(large, state=replace(large.state, arrays={"x": np.zeros(120_000)}))
    huge = replace(large, state=replace(large.state, arrays={"x": np.zeros(140_000)}))
    world = await make_world([big, last()], [big, last()], [huge, last()], most_bytes=1 << 20)
    first = await world.submit()
    await over(first)
    second = await world.submit(request(1))
    assert (await over(second)).state == DONE
    await until(lambda: first.removed)

    third = await over(await world.submit(request(2)))

    assert (third.state, third.failure.reason) == (FAILED, "OVERLOADED")
    assert "may take 1048576 bytes" in third.failure.message


async def test_no_more_jobs_wait_than_may(make_world):
    world = await make_world([asyncio.Event()], most_waiting=2)
    await world.submit()
    await world.submit(request(1))

    with pytest.raises(OverloadedError, match="no more may wait"):
        await world.submit(request(2))
    # To join one that waits is no more work.
    await world.submit(request(1))


async def test_owners_take_turns(make_world):
    holds = [asyncio.Event() for _ in range(4)]
    world = await make_world(*([hold, *ANSWER] for hold in holds), ANSWER, capacity=2)
    mine = [await world.submit(request(number), owner="ann") for number in range(3)]
    yours = await world.submit(request(), owner="bob")
    await until(lambda: len(world.workers.requests) == 2)
    assert [job.task is not None for job in (*mine, yours)] == [True, True, False, False]

    holds[0].set()
    await until(lambda: len(world.workers.requests) == 3)

    assert [job.task is not None for job in (*mine[1:], yours)] == [True, False, True]
    for hold in holds:
        hold.set()
    assert {(await over(job)).state for job in (*mine, yours)} == {DONE}


async def test_what_callers_follow_is_done_at_once_and_ends_with_the_last_of_them(make_world, folder):
    hold = asyncio.Event()
    world = await make_world([hold], [silent(1), asyncio.Event()], ANSWER)
    await world.submit(request(7))
    async with world.follow() as first:
        async with world.follow() as second:
            await until(lambda: first.record.rows_done == 1)
            assert first is second
        assert not first.removed
    await until(lambda: len(list((folder / "answers").iterdir())) == 1)

    assert first.removed
    assert world.workers.priorities == ["bulk", "interactive"]
    async with world.follow() as third:
        assert (await over(third)).state == DONE
    assert third.id != first.id
    assert await world.answer(world.jobs.find(third.id)) == STORED


async def test_a_submit_keeps_what_callers_follow(make_world):
    hold = asyncio.Event()
    world = await make_world([silent(1), hold, *ANSWER])
    async with world.follow() as job:
        await until(lambda: job.record.rows_done == 1)
        assert await world.submit() is job
    hold.set()

    assert (await over(job)).state == DONE
    assert job.record.pinned


async def test_what_was_only_followed_is_not_gone_on_with_after_a_restart(make_world, folder):
    world = await make_world([silent(1), asyncio.Event()])
    async with world.follow() as job:
        await until(lambda: job.record.rows_done == 1)
        world = await make_world()

        assert list(world.jobs.all()) == []
        assert list((folder / "answers").iterdir()) == []


async def test_previews_and_progress_are_for_those_who_watch_alone(make_world):
    hold = asyncio.Event()
    preview = Part(1, 0, found(7), 0.1, preview=True)
    world = await make_world([Progress(1, 0.2, 2, 10), preview, hold, *ANSWER])
    job = await world.submit()
    await until(lambda: job.previews == 1)

    assert job.preview.arrays["n"].values.tolist() == [7.0]
    assert (job.record.rows_done, job.record.share, job.record.parts) == (2, 0.2, 0)
    hold.set()
    await over(job)
    assert job.preview is None
    assert await world.answer(job) == STORED


async def test_jobs_are_removed_when_their_time_is_over(make_world, folder):
    world = await make_world(keep_seconds=60)
    job = await world.submit()
    await over(job)

    world.clock.now += 61
    await over(await world.submit(request(1)))
    await until(lambda: job.removed)

    assert len(list((folder / "answers").iterdir())) == 1


async def test_the_states_are_counted(make_world):
    world = await make_world(ANSWER, [asyncio.Event()])
    await over(await world.submit())
    running = await world.submit(request(1))
    await world.submit(request(2))
    await until(lambda: running.record.state == RUNNING)

    assert world.jobs.counts() == {QUEUED: 1, RUNNING: 1, DONE: 1, FAILED: 0, CANCELLED: 0}
    assert world.jobs.size_bytes == sum(job.record.size_bytes for job in world.jobs.all())


@pytest.mark.parametrize("damage", ["emptied", "cut", "changed", "gone", "a folder"])
async def test_an_answer_that_the_disk_has_damaged_is_no_answer_and_is_made_again(make_world, folder, damage):
    world = await make_world(ANSWER, ANSWER)
    job = await world.submit()
    await over(job)
    path = folder / "answers" / job.id / "part-000001"
    content = path.read_bytes()
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage != "gone":
        path.write_bytes({"emptied": b"", "cut": content[:-1], "changed": b"\xff" + content[1:]}[damage])

    with pytest.raises(UnavailableError, match="gone or damaged; submit it again"):
        await world.answer(job)

    again = await world.submit()
    await over(again)
    assert again.id != job.id
    assert await world.answer(again) == STORED
    await until(lambda: job.record.state == FAILED)
    assert not (folder / "answers" / job.id).exists()
    with pytest.raises(UnavailableError, match="gone or damaged"):
        raise error_of(job.record.failure)


async def test_a_link_in_the_place_of_a_jobs_folder_is_removed_and_not_what_it_leads_to(make_world, folder, tmp_path):
    world = await make_world()
    job = await world.submit()
    await over(job)
    place, elsewhere = folder / "answers" / job.id, tmp_path / "elsewhere"
    place.rename(elsewhere)
    place.symlink_to(elsewhere)

    await world.jobs.remove(job)

    assert not place.is_symlink()
    assert (elsewhere / "request").exists()


async def test_a_folder_that_cannot_be_used_is_unavailable_until_it_can(make_world, folder):
    world = await make_world()
    answers, elsewhere = folder / "answers", folder / "elsewhere"
    answers.rename(elsewhere)

    for _ in range(2):
        with pytest.raises(UnavailableError, match="cannot read or write its folder of jobs now"):
            await world.submit()
    with pytest.raises(UnavailableError, match="cannot read or write"):
        async with world.follow():
            pass

    elsewhere.rename(answers)
    assert (await over(await world.submit())).state == DONE
