"""Calls of Dissect that are answered by jobs."""

import asyncio
import time

import pytest
from pellucid.v1 import findings_pb2
from pellucid_server.errors import CancelledError, TimedOutError, UnavailableError
from pellucid_server.jobs.records import DONE
from pellucid_server.rpc.arrival import Call
from pellucid_server.rpc.findings import findings_message
from pellucid_server.rpc.followed_jobs import FollowedJobs
from pellucid_server.settings.sections import DEFAULT_CLASSES
from pellucid_server.vocabulary.messages import Part, Progress
from server.jobs.conftest import ANSWER, found, over, request, silent, until


def call(seconds=None):
    return Call("Dissect", "1", time.monotonic(), seconds)


def encoded(part):
    return findings_message(part).SerializeToString()


class Caller:
    """One call; `responses` fills as it goes on."""

    def __init__(self, world, seconds=None, *, large=False):
        self.call = call(seconds)
        self.call.large = large
        self.responses = []
        self.aside = []
        followed = FollowedJobs(world.jobs, DEFAULT_CLASSES, self)
        self.task = asyncio.create_task(self._go(followed.answer(request(), self.call, world.workers.hello)))

    async def run(self, function):
        """Stand in for the thread that works beside the event loop."""
        self.aside.append(function.func.__name__)
        return function()

    async def _go(self, answer):
        async for each in answer:
            self.responses.append(each)

    @property
    def parts(self):
        return [each.part for each in self.responses if each.HasField("findings") and not each.preview]

    @property
    def answer(self):
        found = [each for each in self.responses if each.HasField("findings") and not each.preview]
        return [each.findings.SerializeToString() for each in found]


@pytest.fixture
async def make(make_world):
    async def made(*scripts, **options):
        return await make_world(*scripts, encode=encoded, **options)

    return made


async def test_the_key_of_a_large_request_is_found_beside_the_event_loop(make):
    world = await make()
    small, large = Caller(world), Caller(world, large=True)
    await asyncio.gather(small.task, large.task)

    assert (small.aside, large.aside) == ([], ["wish_of"])
    assert small.answer == large.answer
    assert len(world.workers.requests) == 1


async def test_a_caller_gets_parts_progress_and_previews_and_a_second_one_the_same(make):
    hold = asyncio.Event()
    preview = Part(1, 0, found(7), 0.1, preview=True)
    world = await make([Progress(1, 0.2, 2, 10), preview, hold, *ANSWER])
    first = Caller(world)
    await until(lambda: any(each.preview for each in first.responses))
    second = Caller(world)
    hold.set()
    await asyncio.gather(first.task, second.task)
    third = Caller(world)
    await third.task

    assert first.parts == second.parts == third.parts == [0, 1, 2]
    (shown,) = [each for each in first.responses if each.preview]
    assert shown.findings == findings_message(found(7))
    assert first.responses[-1].progress.share == 1
    answers = [
        [
            each.findings.SerializeToString()
            for each in caller.responses
            if each.HasField("findings") and not each.preview
        ]
        for caller in (first, second, third)
    ]
    assert answers == [answers[0]] * 3
    assert findings_pb2.Findings.FromString(answers[0][0]) == findings_message(found(0))
    assert first.call.answered_by.name == "echo"
    assert len(world.workers.requests) == 1


async def test_a_deadline_ends_the_call_and_with_it_what_nobody_else_follows(make):
    world = await make([silent(1), asyncio.Event()])

    # Longer than it takes to write the job and begin it, on a crowded machine too.
    caller = Caller(world, seconds=1.0)
    with pytest.raises(TimedOutError, match="submitted as a job") as late:
        await caller.task

    assert late.value.metadata["stage"] == "running"
    await until(lambda: world.workers.closed == 1)
    assert list(world.jobs.all()) == []


async def test_a_deadline_costs_a_submitted_job_nothing(make):
    hold = asyncio.Event()
    world = await make([silent(1), hold, *ANSWER])
    job = await world.submit(owner="")

    with pytest.raises(TimedOutError):
        await Caller(world, seconds=0.05).task
    hold.set()

    assert (await over(job)).state == DONE


async def test_callers_of_a_job_that_is_cancelled_or_deleted_get_an_error(make):
    world = await make([silent(1), asyncio.Event()])
    for end, words in ((world.jobs.cancel, "was cancelled"), (world.jobs.remove, "was deleted")):
        job = await world.submit(owner="")
        caller = Caller(world)
        await until(lambda caller=caller: caller.responses)
        await end(job)
        with pytest.raises(CancelledError, match=words):
            await caller.task


async def test_a_stopping_server_sends_callers_of_submitted_jobs_away_and_finishes_what_is_only_followed(make):
    hold = asyncio.Event()
    world = await make([silent(1), asyncio.Event()])
    await world.submit(owner="")
    caller = Caller(world)
    await until(lambda: caller.responses)
    await world.jobs.stop()
    with pytest.raises(UnavailableError, match="goes on when it is started again"):
        await caller.task

    world = await make([silent(1), hold, *ANSWER], start=False)
    await world.jobs.remove(next(iter(world.jobs.all())))
    world.jobs.start()
    caller = Caller(world)
    await until(lambda: caller.responses)
    await world.jobs.stop()
    hold.set()
    await caller.task
    assert caller.parts == [0, 1, 2]
