"""Answers in parts, with a worker that sends as many as it is asked for."""

import asyncio
import contextlib

import numpy as np
import pytest
from pellucid_server.errors import CancelledError, FatalRequestError, PellucidError, TimedOutError, UnavailableError
from pellucid_server.pool.queue.part_queue import WINDOW_BYTES, WINDOW_PARTS, Begun, PartQueue
from pellucid_server.vocabulary.findings import Axis, Findings, NamedArray
from pellucid_server.vocabulary.messages import Part
from pellucid_server.vocabulary.requests import AblateRequest, ModelKey
from server.pool.conftest import Health, answer, request, until


def ablation(name):
    return AblateRequest(ModelKey(name), {})


def stream(pool, name, **options):
    return pool.stream(ablation(name), options.pop("deadline_seconds", 20), priority="interactive", **options)


def numbers(parts):
    return [int(part.body.arrays["n"].values[0]) for part in parts]


async def test_parts_come_in_order_and_then_the_timing(pool):
    timings = []

    found = [part async for part in stream(pool, "parts/50/8", on_end=timings.append)]

    assert [part.number for part in found] == numbers(found) == list(range(50))
    assert [timing.rows_forward for timing in timings] == [3]
    assert pool.pending == 0


async def test_a_worker_is_never_further_ahead_than_the_window(pool):
    parts = stream(pool, "parts/100/8")
    ahead = []

    async for _ in parts:
        # Another request is answered behind all parts that the worker had credit for.
        ahead.append(int(await answer(pool, "sent")) - len(ahead) - 1)

    assert len(ahead) == 100
    assert 0 < max(ahead) <= WINDOW_PARTS


async def test_large_parts_are_bounded_by_their_bytes(pool):
    parts = stream(pool, f"parts/40/{WINDOW_BYTES // 3}")

    async with contextlib.aclosing(parts):
        first = await anext(parts)
        assert int(await answer(pool, "sent")) <= 4
        rest = [part async for part in parts]

    assert numbers([first, *rest]) == list(range(40))


async def test_a_part_larger_than_the_window_is_sent_all_the_same(pool):
    found = [part async for part in stream(pool, f"parts/3/{2 * WINDOW_BYTES}")]

    assert numbers(found) == [0, 1, 2]


@pytest.mark.parametrize("end", ["close", "cancel"])
async def test_a_reader_that_leaves_cancels_the_request(pool, end):
    parts = stream(pool, "parts/1000/8")
    await anext(parts)

    if end == "close":
        await parts.aclose()
    else:
        task = asyncio.create_task(read_all(parts))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await parts.aclose()

    await until(lambda: pool.pending == 0)
    assert (await answer(pool, "cancelled")).tolist() == [1]


async def read_all(parts):
    async for _ in parts:
        await asyncio.sleep(3600)


async def test_a_failure_after_parts_is_raised_behind_them(pool):
    found = []

    with pytest.raises(CancelledError, match="said CANCELLED"):
        await gather(stream(pool, "parts/3/8/fail"), found)

    assert numbers(found) == [0, 1, 2]


async def gather(parts, found):
    async for part in parts:
        found.append(part)


async def test_a_deadline_ends_a_stream_whose_worker_is_silent(pool):
    found = []

    with pytest.raises(TimedOutError):
        await gather(stream(pool, "parts/3/8/hang", deadline_seconds=0.3), found)

    assert numbers(found) == [0, 1, 2]


async def test_a_request_that_has_sent_parts_is_not_done_again(make_pool, diary):
    pool, found = make_pool(), []
    await pool.start()

    with pytest.raises(UnavailableError, match="after it had sent 3 parts"):
        await gather(stream(pool, "parts/3/8/die"), found)

    assert numbers(found) == [0, 1, 2]
    assert diary.retries == 0


async def test_a_request_that_has_sent_nothing_is_done_again(make_pool, diary, tmp_path):
    pool, found = make_pool(), []
    await pool.start()

    await gather(stream(pool, f"parts/2/8/die once/{tmp_path}/died"), found)

    assert numbers(found) == [0, 1]
    assert diary.retries == 1


async def test_a_request_goes_on_from_a_checkpoint_where_the_verb_resumes(make_pool, diary, tmp_path):
    pool, found = make_pool(start="resumes"), []
    await pool.start()

    await gather(stream(pool, f"parts/6/8/die at 3/{tmp_path}/died"), found)

    # What is sent again begins with the body of the checkpoint, and no number comes twice.
    assert [part.number for part in found] == list(range(6))
    assert numbers(found) == list(range(6))
    assert diary.retries == 1


async def test_a_request_goes_on_through_any_number_of_losses_if_it_gets_on_between(make_pool, diary):
    pool, found, losses = make_pool(start="resumes", restart_max_seconds=0.001), [], []
    await pool.start()

    await gather(stream(pool, "parts/15/8/poison at checkpoints", on_lost=lambda: losses.append(len(found))), found)

    assert numbers(found) == list(range(15))
    # Each worker died over it.
    assert len(losses) == len(diary.losses) == 4
    assert sorted(losses) == losses
    await gather(stream(pool, "parts/15/8/poison at checkpoints"), [])


def test_a_state_that_is_saved_again_is_not_getting_on():
    queue = PartQueue(resumes=True)

    def gets_on(**facts):
        queue.advanced = False
        queue.add(Part(1, queue.count, Findings(), **{"share": 0.5, "checkpoint": True, "silent": True, **facts}))
        return queue.advanced

    assert gets_on()
    assert not gets_on()
    assert not gets_on(rows_done=1, checkpoint=False)
    assert gets_on(rows_done=2)
    assert gets_on(share=0.75, rows_done=2)
    assert not gets_on(share=0.75, rows_done=2)
    assert gets_on(share=0.75, rows_done=2, silent=False)


async def test_a_request_that_kills_two_workers_at_one_checkpoint_is_given_up(make_pool, diary):
    pool, found = make_pool(start="resumes"), []
    await pool.start()

    with pytest.raises(FatalRequestError):
        await gather(stream(pool, "parts/6/8/poison at 3"), found)

    assert numbers(found) == [0, 1, 2]
    assert len(diary.losses) == 2


async def test_a_request_goes_on_from_where_another_pool_left_it(make_pool):
    pool, found = make_pool(start="resumes"), []
    last = Findings(arrays={"n": NamedArray(np.array([5.0]), (Axis("value"),))})
    begun = Begun(6, last, "ab" * 32)
    await pool.start()

    await gather(stream(pool, "parts/9/8", begun=begun), found)

    assert [part.number for part in found] == [6, 7, 8]
    assert numbers(found) == [6, 7, 8]


async def test_a_checkpoint_is_of_no_use_where_the_verb_does_not_resume(make_pool, tmp_path):
    pool, found = make_pool(), []
    await pool.start()

    with pytest.raises(UnavailableError, match="after it had sent 3 parts"):
        await gather(stream(pool, f"parts/6/8/die at 3/{tmp_path}/died"), found)


async def test_a_request_that_kills_two_workers_after_parts_is_not_done_a_third_time(make_pool):
    pool = make_pool()
    health = Health(pool)
    await pool.start()

    with pytest.raises(UnavailableError):
        await gather(stream(pool, "parts/1/8/poison"), [])
    await health.becomes(False)
    await health.becomes(True)
    with pytest.raises(FatalRequestError):
        await gather(stream(pool, "parts/1/8/poison"), [])
    with pytest.raises(FatalRequestError):
        await anext(stream(pool, "parts/1/8/poison"))


async def test_a_part_out_of_order_costs_the_worker(pool, caplog):
    with pytest.raises(UnavailableError):
        await gather(stream(pool, "parts/1/8/repeat"), [])

    assert "part 0 came where part 1 was due" in caplog.text


async def test_an_answer_at_once_to_a_request_without_parts_must_be_a_result(pool):
    with pytest.raises(PellucidError, match="neither a result nor a failure"):
        await pool.run(request("empty"), 20)


async def test_progress_never_becomes_less_when_another_worker_begins_again(make_pool, tmp_path):
    pool, shares = make_pool(), []
    await pool.start()

    await pool.run(request(f"back/{tmp_path}/begun"), 20, on_progress=lambda progress: shares.append(progress.share))

    assert shares == [0.25, 0.75, 1.0]


async def test_models_that_changed_are_taken_over_and_reported(pool):
    told = []
    pool.watch(told.append)
    assert "new" not in [model.key.name for model in pool.hello.models]

    await answer(pool, "change models")

    assert [model.key.name for model in pool.hello.models] == ["new"]
    assert told == [True]
