"""Jobs through the real server: done once, whatever becomes of workers and the server, and stored."""

import csv
import os
import signal
import time
from pathlib import Path

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from e2e.fault_points import Points, kill, serve_with_points, worker_pids
from e2e.serving import LONG_SECONDS, Server, wait_until
from pellucid.v1 import (
    dissection_pb2,
    explanation_pb2,
    explanation_service_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
)

ROWS = 10_000
_TOML = """
kind = "table"
data = "rows.csv"
label = "label"
"""

Floats = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def datasets(table: Floats, columns: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set of ten thousand rows, drawn around those of the breast-cancer set."""
    folder = tmp_path_factory.mktemp("sets")
    (folder / "many").mkdir()
    (folder / "many" / "dataset.toml").write_text(_TOML)
    random = np.random.default_rng(5)
    rows = table[random.integers(0, len(table), ROWS)] * random.uniform(0.8, 1.2, (ROWS, 1))
    with (folder / "many" / "rows.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, "label"])
        writer.writerows([*row, "benign"] for row in rows.tolist())
    return folder


@pytest.fixture
def settings(datasets: Path, tmp_path: Path) -> dict[str, str]:
    return {
        "PELLUCID_MODELS__DATASETS": str(datasets),
        "PELLUCID_JOBS__FOLDER": str(tmp_path / "jobs"),
    }


def request(seed: int = 0, **fields: object) -> explanation_service_pb2.DissectRequest:
    return explanation_service_pb2.DissectRequest(
        model=explanation_pb2.ModelSpec(name="breast-cancer"),
        method="activations",
        layers=[dissection_pb2.LayerUnits(layer="hidden*")],
        probe=dissection_pb2.Probe(dataset="many"),
        exact=True,
        seed=seed,
        **fields,  # type: ignore[arg-type]
    )


def jobs(server: Server) -> job_service_pb2_grpc.JobServiceStub:
    return job_service_pb2_grpc.JobServiceStub(server.channel)


def submit(server: Server, asked: explanation_service_pb2.DissectRequest) -> job_service_pb2.SubmitJobResponse:
    found: job_service_pb2.SubmitJobResponse = jobs(server).SubmitJob(
        job_service_pb2.SubmitJobRequest(dissect=asked), timeout=LONG_SECONDS
    )
    return found


def get(server: Server, job: str) -> job_service_pb2.Job:
    found: job_service_pb2.Job = jobs(server).GetJob(job_service_pb2.GetJobRequest(id=job), timeout=LONG_SECONDS).job
    return found


def ended(server: Server, job: str) -> job_service_pb2.Job:
    """Watch a job to its end."""
    *_, last = jobs(server).WatchJob(job_service_pb2.WatchJobRequest(id=job), timeout=LONG_SECONDS)
    assert last.job.HasField("ended_at")
    return last.job  # type: ignore[no-any-return]


def answer(server: Server, job: str) -> list[bytes]:
    """Return the parts of a job's answer as bytes; of the last, what is the same each time it is made."""
    parts = [
        each.findings for each in jobs(server).FetchJob(job_service_pb2.FetchJobRequest(id=job), timeout=LONG_SECONDS)
    ]
    for part in parts:
        # What was evaluated is counted by each worker for itself.
        part.receipt.ClearField("work")
        part.receipt.ClearField("runtime")
    return [each.SerializeToString(deterministic=True) for each in parts]


def code(call: "object") -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as refused:
        call()  # type: ignore[operator]
    found: grpc.StatusCode = refused.value.code()
    return found


def advance(points: Points, server: Server, job: str) -> None:
    """Hold a job's next part or state, once it has got on from where it is."""
    before = get(server, job).progress.rows_done
    points.release("storing")
    wait_until(lambda: get(server, job).progress.rows_done > before, seconds=LONG_SECONDS, what="the job gets on")
    points.arm("storing")
    points.wait("storing")


def replace_worker(server: Server) -> None:
    """Kill the worker, and wait for the next."""
    (worker,) = worker_pids(server)
    kill(worker)
    wait_until(
        lambda: worker_pids(server) not in ({worker}, set()), seconds=LONG_SECONDS, what="there is another worker"
    )


def test_a_job_is_the_same_bit_for_bit_though_workers_and_servers_die_in_its_middle(
    table_models: Path, settings: dict[str, str], tmp_path: Path
) -> None:
    for name in ("first", "second", "third", "quiet"):
        (tmp_path / name).mkdir()
    with serve_with_points(table_models, tmp_path / "first", settings, armed={"storing": "hold"}) as (server, points):
        job = submit(server, request()).job.id
        points.wait("storing")
        for _ in range(2):
            advance(points, server, job)
            replace_worker(server)
        advance(points, server, job)
        assert get(server, job).state == job_service_pb2.JOB_STATE_RUNNING
        began = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - began < 15
    with serve_with_points(table_models, tmp_path / "second", settings, armed={"storing": "hold"}) as (server, points):
        points.wait("storing")
        assert 0 < get(server, job).progress.rows_done < ROWS
        advance(points, server, job)
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait(LONG_SECONDS)
    with serve_with_points(table_models, tmp_path / "third", settings) as (server, _):
        found = ended(server, job)
        assert found.state == job_service_pb2.JOB_STATE_DONE, found
        assert found.progress.rows_done == found.progress.rows == ROWS
        assert found.resumed == 4
        interrupted = answer(server, job)
    other = {**settings, "PELLUCID_JOBS__FOLDER": str(tmp_path / "others")}
    with serve_with_points(table_models, tmp_path / "quiet", other) as (server, _):
        again = submit(server, request()).job.id
        assert ended(server, again).resumed == 0
        assert answer(server, again) == interrupted
    assert len(interrupted) > 1
