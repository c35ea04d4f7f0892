import asyncio
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
from pellucid_server.errors import (
    InvalidRequestError,
    OverloadedError,
    PellucidError,
    TimedOutError,
    UnavailableError,
    error_classes,
)
from pellucid_server.pool.workers.process import WorkerStartError
from pellucid_server.settings.sections import ClassConfig
from pellucid_server.vocabulary.requests import AttributeRequest, ExplanationSpec
from server.pool.conftest import answer, end, request, sent, until
from standstill import stop

NARROW = {"predictions": ClassConfig(queue_rows=2)}
"""Room for two one-row requests to wait."""
NOBODY_WAITS = (0, 0, 0)


async def test_a_result_and_its_timing_are_the_workers_and_its_wait_in_the_front_is_added(pool):
    result, timing = await pool.run(request("echo", np.array([[1.5, -2.0]])), 20)

    np.testing.assert_array_equal(result.outputs["y"].values, [[3.0, -4.0]])
    assert replace(timing, queue_seconds=0.0) == replace(timing, queue_seconds=0.0, compute_seconds=0.5)
    assert (timing.rows_forward, timing.rows_backward) == (3, 4)
    assert 0.25 < timing.queue_seconds < 20


async def test_the_time_for_which_a_request_waited_for_its_place_is_in_its_timing(pool):
    ahead = await sent(pool, 2)
    waiting = asyncio.create_task(pool.run(request("echo")))
    await asyncio.sleep(0)
    began = time.monotonic()
    await until(lambda: time.monotonic() - began > 0.01)

    held = time.monotonic() - began
    await end(ahead)

    _, timing = await waiting
    assert timing.queue_seconds > 0.25 + held


async def test_hello_names_what_is_served(pool):
    assert [model.key.name for model in pool.hello.models] == ["echo", "hang"]


async def test_many_large_requests_cross_at_once(pool):
    # More bytes both ways than a socket's buffers hold: a side that only wrote would block for ever.
    arrays = [np.full((1, 1_000_000), number, np.float32) for number in range(4)]

    results = await asyncio.gather(*(pool.run(request("echo", array), 60) for array in arrays))

    assert [float(result.outputs["y"].values[0, -1]) for result, _ in results] == [0.0, 2.0, 4.0, 6.0]


async def test_the_loop_runs_on_while_the_worker_does_not_read(pool):
    stop(pool.workers[0].pid)

    started = time.monotonic()
    task = asyncio.create_task(pool.run(request("echo", np.zeros(4_000_000, np.float32)), 60))
    await asyncio.sleep(0)
    blocked_seconds = time.monotonic() - started

    os.kill(pool.workers[0].pid, signal.SIGCONT)
    await task
    assert blocked_seconds < 1


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.__name__)
async def test_a_failure_comes_back_as_its_class(pool, kind):
    with pytest.raises(PellucidError, match=f"said {kind.reason}") as caught:
        await pool.run(request(f"fail/{kind.reason}"), 20)

    assert (type(caught.value), caught.value.metadata) == (kind, {"seen": "yes"})


async def test_an_answer_with_neither_result_nor_failure_is_a_bug(pool):
    with pytest.raises(PellucidError, match="neither a result nor a failure"):
        await pool.run(request("empty"), 20)


async def test_a_request_that_cannot_be_sent_is_a_bug_and_leaves_no_place_taken(pool):
    with pytest.raises(TypeError, match="cannot cross"):
        await pool.run(request("echo", np.array(["text"])), 20)

    assert pool.pending == 0
    assert (await answer(pool, "echo")).tolist() == [0.0]


async def test_a_waiting_request_that_has_no_frame_fails_alone(make_pool, diary):
    pool = make_pool(places=1)
    await pool.start()
    ahead = await sent(pool, 2)
    waiting = asyncio.create_task(pool.run(replace(request("echo"), outputs=("\ud800",))))
    await asyncio.sleep(0)

    await end(ahead)

    with pytest.raises(UnicodeEncodeError):
        await waiting
    assert (await answer(pool, "echo")).tolist() == [0.0]
    assert (pool.pending, diary.losses) == (0, [])


async def test_progress_is_passed_on(pool):
    shares = []

    await pool.run(request("progress"), 20, on_progress=lambda progress: shares.append(progress.share))

    assert shares == [0.25, 0.75]


async def test_a_cancelled_call_cancels_the_request(pool):
    outcomes = await end(await sent(pool, 2))

    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2
    assert (await answer(pool, "cancelled")).tolist() == [1, 2]


async def test_a_cancelled_call_that_waited_leaves_no_trace(pool):
    ahead = await sent(pool, 2)
    waiting = await sent(pool, 1, "die")
    assert pool.waiting["predictions"] == (1, 1, 8)

    await end(waiting)

    assert pool.waiting["predictions"] == NOBODY_WAITS
    await end(ahead)
    assert (await answer(pool, "cancelled")).tolist() == [1, 2]


async def test_the_deadline_ends_the_wait_and_the_request(pool):
    with pytest.raises(TimedOutError) as caught:
        await pool.run(request("hang"), 0.05)

    assert caught.value.metadata == {"stage": "running"}
    assert (await answer(pool, "cancelled")).tolist() == [1]


async def test_a_request_that_has_no_place_times_out_as_queued(pool):
    ahead = await sent(pool, 2)

    with pytest.raises(TimedOutError) as caught:
        await pool.run(request("die"), 0.05)

    await end(ahead)
    assert caught.value.metadata == {"stage": "queued"}
    assert pool.waiting["predictions"] == NOBODY_WAITS


async def test_the_worker_is_told_the_deadline(pool):
    result, _ = await pool.run(request("deadline"), 20)

    assert 0 < result.outputs["y"].values <= 20


@pytest.mark.parametrize("seconds", [0.0, -1.0])
async def test_a_deadline_that_has_passed_is_refused_at_once(pool, seconds):
    with pytest.raises(TimedOutError, match="had passed"):
        await pool.run(request("die"), seconds)

    assert pool.pending == 0


async def test_what_a_worker_did_is_told_and_whether_anybody_got_it(pool, diary):
    await answer(pool, "echo")
    await end(await sent(pool, 1))
    await until(lambda: not pool.pending)

    assert [(model, timing.rows_forward, wasted) for model, timing, wasted in diary.work] == [
        ("echo", 3, False),
        ("hang", 3, True),
    ]


async def test_a_request_that_waited_is_done_once_there_is_a_place(pool):
    ahead = await sent(pool, 2)
    waiting = asyncio.create_task(answer(pool, "echo"))
    await asyncio.sleep(0)
    assert (pool.pending, pool.waiting["predictions"][0]) == (2, 1)

    await end(ahead)

    assert (await waiting).tolist() == [0.0]


async def test_one_request_beyond_the_bound_is_refused_with_a_time_to_retry(make_pool, diary):
    pool = make_pool(classes=NARROW)
    await pool.start()
    taken = await sent(pool, 4)  # two that run and two that wait

    with pytest.raises(OverloadedError, match="'predictions' has 2 evaluation rows waiting and room for 2") as caught:
        await pool.run(request("echo"), 20)

    assert float(caught.value.metadata["retry_after_seconds"]) >= 0.05
    assert diary.refusals == [("predictions", "rows")]
    await end(taken)


async def test_requests_with_more_bytes_than_a_worker_should_have_wait_for_each_other(make_pool):
    array = np.zeros(1000)
    pool = make_pool(classes={"predictions": ClassConfig(queue_bytes=array.nbytes * 3 // 2)})
    await pool.start()

    async def ask(name):
        return asyncio.create_task(pool.run(request(name, array)))

    ahead, behind = await ask("hang"), await ask("echo")
    await asyncio.sleep(0)

    assert (pool.pending, pool.waiting["predictions"]) == (1, (1, 1000, array.nbytes))
    await end([ahead])
    await behind


async def test_the_bounds_hold_for_each_worker(make_pool):
    pool = make_pool(workers=2, classes=NARROW)
    await pool.start()

    taken = await sent(pool, 8)

    assert (pool.pending, pool.waiting["predictions"][0]) == (4, 4)
    with pytest.raises(OverloadedError):
        await pool.run(request("echo"), 20)
    await end(taken)


async def test_a_full_class_leaves_room_in_others(make_pool):
    pool = make_pool(classes=NARROW)
    await pool.start()
    taken = await sent(pool, 4)

    assert (await answer(pool, "echo", priority="bulk")).tolist() == [0.0]
    await end(taken)


async def test_a_caller_without_a_place_gets_one_though_another_has_them_all(make_pool):
    pool = make_pool(classes=NARROW)
    await pool.start()
    taken = await sent(pool, 4, caller="ada")

    assert (await answer(pool, "echo", caller="grace")).tolist() == [0.0]
    await end(taken)


async def test_callers_without_a_place_get_no_more_than_the_places_twice(pool):
    taken = [await sent(pool, 1, caller=name) for name in "abcdef"]

    assert (pool.pending, pool.waiting["predictions"][0]) == (4, 2)
    await asyncio.gather(*map(end, taken))


async def test_a_place_is_free_again_when_the_worker_lets_go(pool):
    taken = await sent(pool, 2)
    await end(taken)
    assert pool.pending == 2  # the worker has not yet said that it stopped

    await until(lambda: not pool.pending)

    assert (await answer(pool, "cancelled")).tolist() == [1, 2]


async def test_a_request_that_the_worker_does_not_let_go_keeps_its_place(pool):
    await end(await sent(pool, 2, "deaf"))

    with pytest.raises(TimedOutError) as caught:
        await pool.run(request("echo"), 0.05)

    assert caught.value.metadata == {"stage": "queued"}


EXPLAINED = AttributeRequest(request("echo").model, request("echo").inputs, ExplanationSpec("saliency"))


@pytest.mark.parametrize(
    ("asked", "priority", "message"),
    [
        (request("echo"), "urgent", "no class 'urgent' of requests; there are: predictions, interactive, bulk"),
        (request("echo"), "x" * 1000, "no class 'xxxx"),
        (EXPLAINED, "predictions", "class 'predictions' takes no explanations; these do: interactive, bulk"),
        (replace(request("echo"), explanations=(ExplanationSpec("saliency"),)), "predictions", "takes no explanations"),
    ],
)
async def test_a_class_that_cannot_be_is_refused(pool, asked, priority, message):
    with pytest.raises(InvalidRequestError, match=message) as caught:
        await pool.run(asked, 20, priority=priority)

    assert caught.value.metadata == {"field": "priority"}
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("asked", "priority"),
    [
        (request("hang"), "predictions"),
        (replace(EXPLAINED, model=request("hang").model), "interactive"),
        (replace(request("hang"), explanations=(ExplanationSpec("saliency"),)), "interactive"),
        (request("hang"), "bulk"),
    ],
)
async def test_a_request_waits_in_the_class_that_it_names(pool, asked, priority):
    ahead = await sent(pool, 2, priority=priority)

    waiting = asyncio.create_task(pool.run(asked, priority=priority))
    await asyncio.sleep(0)

    assert {name for name, (requests, _, _) in pool.waiting.items() if requests} == {priority}
    await end([waiting, *ahead])


async def test_before_the_start_nothing_is_taken(make_pool, diary):
    with pytest.raises(UnavailableError, match="No worker is ready"):
        await make_pool().run(request("echo"), 20)
    assert diary.refusals == [("predictions", "unready")]


async def test_requests_of_one_model_stay_on_one_worker_until_it_is_full(make_pool):
    pool = make_pool(workers=2)
    await pool.start()

    taken = await sent(pool, 3)

    assert [worker.load for worker in pool.workers] == [2, 1]
    await end(taken)


async def test_requests_of_other_models_go_to_the_least_loaded_worker(make_pool):
    pool = make_pool(workers=2, places=4)
    await pool.start()

    taken = await sent(pool, 2) + await sent(pool, 1, "deaf")

    assert [worker.load for worker in pool.workers] == [2, 1]
    await end(taken)


async def test_a_draining_pool_finishes_what_it_has_and_what_waits_and_takes_no_more(pool, diary):
    ahead = await sent(pool, 2)
    waiting = asyncio.create_task(answer(pool, "echo"))
    await asyncio.sleep(0)

    pool.drain()

    with pytest.raises(UnavailableError, match="shutting down"):
        await pool.run(request("echo"), 20)
    await end(ahead)
    assert (await waiting).tolist() == [0.0]
    assert diary.refusals == [("predictions", "draining")]
    assert not pool.healthy


async def test_closing_fails_what_is_left_and_what_waits(make_pool):
    pool = make_pool()
    await pool.start()
    left = await sent(pool, 3)

    await pool.close()

    outcomes = await asyncio.gather(*left, return_exceptions=True)
    assert [type(error) for error in outcomes] == [UnavailableError] * 3
    assert {error.message for error in outcomes} == {
        "The server is shutting down; send the request again, to another one."
    }
    assert (pool.pending, set(pool.waiting.values())) == (0, {NOBODY_WAITS})


async def test_every_worker_is_heard_under_its_own_number(make_pool, diary):
    pool = make_pool(workers=2, beats=0.01)
    await pool.start()

    await until(lambda: len({worker for _, worker in diary.beats}) == 2)

    assert set(diary.beats) == {("cpu", 0), ("cpu", 1)}
    assert [worker.number for worker in pool.workers] == [0, 1]


async def test_the_backlog_of_a_class_is_that_of_its_queue(make_pool):
    pool = make_pool()
    await pool.start()
    ahead = await sent(pool, 2)
    waiting = asyncio.create_task(answer(pool, "echo"))
    await until(lambda: pool.waiting["predictions"][0])

    # Nothing has left yet, so that there is no pace: it is for how long the request has waited.
    first, second = pool.backlog_seconds("predictions"), pool.backlog_seconds("predictions")

    assert 0 <= first <= second
    assert pool.backlog_seconds("interactive") == 0
    await end(ahead)
    await waiting
    assert pool.backlog_seconds("predictions") == 0


async def test_a_pool_whose_start_fails_takes_nothing(make_pool):
    pool = make_pool(start="refuse", workers=2)

    with pytest.raises(WorkerStartError):
        await pool.start()

    with pytest.raises(UnavailableError):
        await pool.run(request("echo"), 20)
    assert not pool.healthy


async def test_a_request_that_is_held_before_its_place_is_admitted_and_times_out_as_queued(make_pool, tmp_path):
    pool = make_pool(folder=str(tmp_path))
    await pool.start()
    (tmp_path / "queued").write_text("hold echo")

    with pytest.raises(TimedOutError) as caught:
        await pool.run(request("echo"), 0.05)

    (tmp_path / "queued").unlink()
    assert caught.value.metadata == {"stage": "queued"}
    assert (await answer(pool, "cancelled")).tolist() == []


async def test_a_request_that_expires_before_its_place_while_others_wait_leaves_no_trace(make_pool, tmp_path):
    pool = make_pool(folder=str(tmp_path))
    await pool.start()
    ahead = await sent(pool, 2)
    await until(lambda: pool.pending == 2)
    (tmp_path / "queued").write_text("hold echo")

    with pytest.raises(TimedOutError):
        await pool.run(request("echo"), 0.05)

    assert pool.waiting["predictions"] == NOBODY_WAITS
    await end(ahead)
