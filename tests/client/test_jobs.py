"""Jobs by both clients, on a server whose replies are written by hand."""

import asyncio
from datetime import UTC, datetime

import grpc
import pytest
from client.conftest import HurriedAsyncClient, HurriedClient
from client.job_server import DONE, LOST, RUNNING, change, last, message, script, served, table
from pellucid import errors
from pellucid.job_records import Job
from pellucid.v1 import explanation_service_pb2, job_service_pb2

__all__ = ["script", "served"]


class AwaitedJobs:
    """The asyncio client's jobs, each call run to its end."""

    def __init__(self, address):
        self._loop = asyncio.new_event_loop()
        self._client = self._loop.run_until_complete(self._made(address))

    async def _made(self, address):
        return HurriedAsyncClient([], address)

    def __getattr__(self, name):
        return lambda *args, **kwargs: self._loop.run_until_complete(getattr(self._client.jobs, name)(*args, **kwargs))

    def watch(self, *args, **kwargs):
        async def gathered():
            return [each async for each in self._client.jobs.watch(*args, **kwargs)]

        return self._loop.run_until_complete(gathered())

    def release(self):
        self._loop.run_until_complete(self._client.close())
        self._loop.close()


@pytest.fixture(params=["blocking", "asyncio"])
def jobs(request, served):
    _, address = served
    if request.param == "asyncio":
        made = AwaitedJobs(address)
        yield made
        made.release()
        return
    with HurriedClient([], address) as client:
        yield client.jobs


def test_a_job_is_read_with_all_that_is_known_of_it(jobs, script):
    job = message(DONE, 1.0, dataset="set", parts=3, size_bytes=700, resumed=2, shared=True, owner="ann")
    job.created_at.FromJsonString("2026-01-02T03:04:05.250Z")
    job.ended_at.FromJsonString("2026-01-02T04:04:05Z")
    requests = script(GetJob=[job_service_pb2.GetJobResponse(job=job)])

    found = jobs.get("ab")

    assert [each.id for each in requests] == ["ab"]
    assert (found.id, found.state, found.rpc, found.method, found.over) == (
        "ab",
        "done",
        "Dissect",
        "activations",
        True,
    )
    assert (found.model.name, found.model.version, found.dataset) == ("iris", 2, "set")
    assert (found.progress.share, found.progress.rows_done, found.progress.rows) == (1.0, 5, 10)
    assert (found.progress.rows_per_second, found.progress.seconds_left) == (2.5, 2.0)
    assert found.created == datetime(2026, 1, 2, 3, 4, 5, 250_000, UTC)
    assert (found.started, found.expires, found.failure, found.preview) == (None, None, None, None)
    assert (found.parts, found.size_bytes, found.resumed, found.shared, found.owner) == (3, 700, 2, True, "ann")
    assert found.to_dict()["ended"] == "2026-01-02T04:04:05.000+00:00"
    assert found.to_dict()["progress"]["rows"] == 10
    assert found.to_dict()["failure"] is None


def test_what_is_submitted_is_put_into_its_place(jobs, script):
    reply = job_service_pb2.SubmitJobResponse(job=message())
    requests = script(SubmitJob=[reply, reply])
    dissect = explanation_service_pb2.DissectRequest(method="activations")
    ablate = explanation_service_pb2.AblateRequest(method="ablation")

    jobs.submit(dissect)
    jobs.submit(ablate)

    assert (requests[0].dissect, requests[1].ablate) == (dissect, ablate)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda jobs: jobs.submit("activations"), "request"),
        (lambda jobs: jobs.list(states=["waiting"]), "states[0]"),
        (lambda jobs: jobs.get(7), "job"),
        (lambda jobs: jobs.fetch(None), "job"),
    ],
)
def test_what_cannot_be_sent_is_refused(call, field, jobs, script):
    requests = script()

    with pytest.raises(errors.InvalidRequestError) as refused:
        call(jobs)

    assert refused.value.metadata["field"] == field
    assert requests == []


def test_all_pages_are_listed(jobs, script):
    pages = [
        job_service_pb2.ListJobsResponse(jobs=[message(), message()], next_page_token="more"),
        job_service_pb2.ListJobsResponse(jobs=[message(DONE)]),
    ]
    requests = script(ListJobs=pages)

    assert [each.state for each in jobs.list(model="iris", states=["running", "done"])] == [
        "running",
        "running",
        "done",
    ]
    assert [each.page_token for each in requests] == ["", "more"]
    assert [each.of_model for each in requests] == ["iris", "iris"]
    assert list(requests[1].states) == [RUNNING, DONE]


def test_a_job_is_watched_through_lost_connections_to_its_end(jobs, script):
    requests = script(
        WatchJob=[[change(share=0.1), LOST], [LOST], [change(share=0.4, preview=table(1.0)), LOST], [change(DONE, 1.0)]]
    )

    found = list(jobs.watch("ab"))

    assert [(each.state, each.progress.share) for each in found] == [("running", 0.1), ("running", 0.4), ("done", 1.0)]
    assert found[1].preview.tables["units"]["mean"].tolist() == [1.0]
    assert len(requests) == 4


def test_a_watch_that_ends_before_the_job_says_how_far_the_job_is(jobs, script):
    script(WatchJob=[[change(share=0.25), grpc.StatusCode.DEADLINE_EXCEEDED]] * 2)

    for call in (jobs.wait, lambda job, timeout: list(jobs.watch(job, timeout=timeout))):
        with pytest.raises(errors.TimedOutError, match="ab has not ended within 9 s; it is running, 25% done"):
            call("ab", timeout=9)


def test_a_watch_without_any_answer_raises_what_the_call_did(jobs, script):
    script(WatchJob=[[grpc.StatusCode.DEADLINE_EXCEEDED]])

    with pytest.raises(errors.TimedOutError, match="No answer from"):
        jobs.wait("ab", timeout=9)


def test_a_job_that_is_gone_is_not_watched_on(jobs, script):
    script(WatchJob=[[change(), grpc.StatusCode.NOT_FOUND]])

    with pytest.raises(errors.NotFoundError):
        list(jobs.watch("ab"))


def test_a_stream_that_ends_before_the_job_is_no_answer(jobs, script):
    script(WatchJob=[[change()]])

    with pytest.raises(errors.PellucidError, match="cannot be read"):
        list(jobs.watch("ab"))


def test_waiting_shows_progress_and_raises_what_the_job_failed_with(jobs, script):
    failed = change(job_service_pb2.JOB_STATE_FAILED)
    failed.job.status.code = grpc.StatusCode.INVALID_ARGUMENT.value[0]
    failed.job.status.message = "layers is empty."
    shares = []
    script(WatchJob=[[change(share=0.25), failed], [change(job_service_pb2.JOB_STATE_CANCELLED)], [change(DONE, 1.0)]])

    with pytest.raises(errors.InvalidRequestError, match=r"layers is empty\."):
        jobs.wait("ab", progress=lambda share, left: shares.append(share))
    with pytest.raises(errors.CancelledError, match="was cancelled"):
        jobs.wait("ab")
    assert isinstance(jobs.wait("ab"), Job)
    assert shares == [0.25, 0.5]


def test_an_answer_is_fetched_on_from_where_a_connection_was_lost(jobs, script):
    def part(number, found):
        return job_service_pb2.FetchJobResponse(findings=found, part=number)

    requests = script(FetchJob=[[part(0, table(1.0, 2.0)), LOST], [LOST], [part(1, table(3.0)), part(2, last())]])

    found = jobs.fetch("ab")

    assert found.tables["units"]["mean"].tolist() == [1.0, 2.0, 3.0]
    assert found.receipt.method == "activations"
    assert [each.first_part for each in requests] == [0, 1, 1]


@pytest.mark.parametrize("numbers", [[1], [0, 0], [0]])
def test_parts_that_are_not_all_there_are_no_answer(numbers, jobs, script):
    parts = [job_service_pb2.FetchJobResponse(findings=table(1.0), part=number) for number in numbers]
    script(FetchJob=[parts])

    with pytest.raises(errors.PellucidError, match="cannot be read"):
        jobs.fetch("ab")


def test_a_job_is_named_by_itself_too(jobs, script):
    reply = message(job_service_pb2.JOB_STATE_CANCELLED)
    requests = script(
        GetJob=[job_service_pb2.GetJobResponse(job=message())],
        CancelJob=[job_service_pb2.CancelJobResponse(job=reply)],
        DeleteJob=[job_service_pb2.DeleteJobResponse()],
    )

    job = jobs.cancel(jobs.get("ab"))
    assert job.state == "cancelled"
    assert jobs.delete(job) is None
    assert [each.id for each in requests] == ["ab"] * 3


def test_a_state_that_is_not_known_is_no_answer(jobs, script):
    script(GetJob=[job_service_pb2.GetJobResponse(job=message(77))])

    with pytest.raises(errors.PellucidError, match="cannot be read"):
        jobs.get("ab")
