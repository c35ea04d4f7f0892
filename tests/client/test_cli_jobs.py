"""`pellucid jobs`, against a server with written replies."""

import json

import grpc
import pytest
from client.job_server import DONE, LOST, change, last, message, script, served, table
from pellucid.cli.commands import app
from pellucid.v1 import dissection_pb2, job_service_pb2
from typer.testing import CliRunner

__all__ = ["script", "served"]

FAILED = job_service_pb2.JOB_STATE_FAILED


@pytest.fixture
def pellucid(served):
    """Run the command against the server."""
    _, address = served

    def run(*words):
        environment = {"PELLUCID_ADDRESS": address, "COLUMNS": "200", "NO_COLOR": "1"}
        return CliRunner().invoke(app, ["jobs", *words], env=environment)

    return run


def failed():
    job = message(FAILED, 0.3, owner="ann")
    job.status.code = grpc.StatusCode.INVALID_ARGUMENT.value[0]
    job.status.message = "layers is empty."
    return job


def got(job):
    return job_service_pb2.GetJobResponse(job=job)


def test_jobs_are_listed_a_line_each(pellucid, script):
    page = job_service_pb2.ListJobsResponse(jobs=[message(size_bytes=3 << 20), failed()])
    requests = script(ListJobs=[page])

    result = pellucid("list", "--model", "iris", "--state", "running", "--state", "failed")

    assert result.exit_code == 0, result.stderr
    first, second = [line for line in result.stdout.splitlines() if "iris/2" in line]
    assert "running" in first
    assert "50%, 2 s left" in first
    assert "3.0 MiB" in first
    assert "failed" in second
    assert (requests[0].of_model, list(requests[0].states)) == ("iris", [job_service_pb2.JOB_STATE_RUNNING, FAILED])


def test_ids_stay_in_one_piece_on_narrow_terminals(served, script):
    _, address = served
    script(ListJobs=[job_service_pb2.ListJobsResponse(jobs=[message(id="ab" * 16)])])

    terminal = {"COLUMNS": "60", "FORCE_COLOR": "1", "NO_COLOR": "1"}
    result = CliRunner().invoke(app, ["jobs", "list"], env={"PELLUCID_ADDRESS": address, **terminal})

    assert "ab" * 16 in result.stdout, result.stderr


def test_lines_of_pipes_are_wide(served, script):
    _, address = served
    script(ListJobs=[job_service_pb2.ListJobsResponse(jobs=[message(id="ab" * 16)])])

    result = CliRunner().invoke(app, ["jobs", "list"], env={"PELLUCID_ADDRESS": address, "COLUMNS": None})

    (line,) = [line for line in result.stdout.splitlines() if "iris/2" in line]
    assert line.split()[:5] == ["ab" * 16, "running", "50%,", "2", "s"]
    assert "activations" in line


def test_a_job_is_shown_with_why_it_failed(pellucid, script):
    script(GetJob=[got(failed()), got(failed())])

    shown = pellucid("show", "ab")
    assert shown.exit_code == 0, shown.stderr
    for words in ("ab: failed", "layers is empty.", "ann", "Dissect activations"):
        assert words in shown.stdout
    found = json.loads(pellucid("show", "ab", "--json").stdout)
    assert found["failure"] == {"code": "INVALID_ARGUMENT", "message": "layers is empty."}


def test_a_job_is_watched_until_it_ends_though_the_server_is_lost(pellucid, script):
    script(
        GetJob=[got(message())], WatchJob=[[change(share=0.1), LOST], [LOST], [LOST], [LOST], [LOST], [change(DONE)]]
    )

    result = pellucid("watch", "ab")

    assert result.exit_code == 0, result.stderr
    assert "ab: done" in result.stdout


def test_a_job_that_fails_ends_its_watch_with_the_code_of_its_failure(pellucid, script):
    script(GetJob=[got(message())], WatchJob=[[job_service_pb2.WatchJobResponse(job=failed())]])

    result = pellucid("watch", "ab")

    assert result.exit_code == 2
    assert "layers is empty." in result.stderr


def test_changes_are_lines_of_json(pellucid, script):
    script(GetJob=[got(message())], WatchJob=[[change(share=0.1), change(DONE, 1.0)]])

    lines = pellucid("watch", "ab", "--json").stdout.splitlines()

    assert [json.loads(line)["state"] for line in lines] == ["running", "done"]


def test_an_answer_is_fetched_as_a_table_as_json_and_as_arrays(pellucid, script):
    parts = [
        job_service_pb2.FetchJobResponse(findings=table(1.0, 2.0), part=0),
        job_service_pb2.FetchJobResponse(findings=last(), part=1),
    ]
    script(FetchJob=[parts, parts])

    shown = pellucid("fetch", "ab")
    assert shown.exit_code == 0, shown.stderr
    assert "2 rows: mean" in shown.stdout
    assert "units" in json.loads(pellucid("fetch", "ab", "--json").stdout)["tables"]


def test_an_answer_of_dissect_is_fetched_as_a_page_and_a_plot(pellucid, script, tmp_path):
    record = dissection_pb2.DissectionRecord(layers=[dissection_pb2.LayerUnits(layer="conv1")])
    parts = [
        job_service_pb2.FetchJobResponse(findings=table(1.0, 2.0), part=0),
        job_service_pb2.FetchJobResponse(findings=last(dissection=record), part=1),
    ]
    script(FetchJob=[parts])

    result = pellucid("fetch", "ab", "--html", str(tmp_path / "a.html"), "--plot", str(tmp_path / "a.png"))

    assert result.exit_code == 0, result.stderr
    page = (tmp_path / "a.html").read_text("utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "activations" in page
    assert "a.png" in result.stderr or (tmp_path / "a.png").stat().st_size


@pytest.mark.parametrize("option", ["--html", "--plot"])
def test_no_page_is_made_of_an_answer_of_ablate(pellucid, script, tmp_path, option):
    script(FetchJob=[[job_service_pb2.FetchJobResponse(findings=last(), part=0)]])

    result = pellucid("fetch", "ab", option, str(tmp_path / "a.png"))

    assert result.exit_code == 2
    assert f"{option} is for answers of Dissect" in result.stderr


def test_jobs_are_cancelled_and_deleted(pellucid, script):
    cancelled = job_service_pb2.CancelJobResponse(job=message(job_service_pb2.JOB_STATE_CANCELLED))
    requests = script(CancelJob=[cancelled], DeleteJob=[job_service_pb2.DeleteJobResponse()] * 2)

    assert "ab: cancelled" in pellucid("cancel", "ab").stdout
    assert pellucid("delete", "ab", "cd").exit_code == 0
    assert [each.id for each in requests] == ["ab", "ab", "cd"]
