"""Jobs through the real server: done once, whatever becomes of workers and the server, and stored."""

import csv
import hashlib
import hmac
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from e2e.fault_points import Points, kill, serve_with_points, worker_pids
from e2e.serving import LONG_SECONDS, Server, wait_until
from pellucid import AblationSpec, Client, Zero, errors
from pellucid.ablation_specs import ablate_request
from pellucid.aio import AsyncClient
from pellucid.v1 import (
    dissection_pb2,
    explanation_pb2,
    explanation_service_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
)

ROWS = 10_000
ROLES = {"ann": ["dissect", "explain"], "bob": ["dissect"], "eve": ["predict"], "root": ["admin"]}
KEY = b"a key of some thirty bytes, say."
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


def stepwise_request() -> explanation_service_pb2.DissectRequest:
    """Ask for work that saves where it stands every 50 steps of 2,000, however fast the machine is."""
    return explanation_service_pb2.DissectRequest(
        model=explanation_pb2.ModelSpec(name="breast-cancer"),
        method="activation-maximization",
        layers=[dissection_pb2.LayerUnits(layer="hidden1", units=[0, 3])],
        parameters={"steps": explanation_pb2.ParamValue(integer=2000)},
        exact=True,
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
        job = submit(server, stepwise_request()).job.id
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
        assert 0 < get(server, job).progress.share < 1
        advance(points, server, job)
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait(LONG_SECONDS)
    with serve_with_points(table_models, tmp_path / "third", settings) as (server, _):
        found = ended(server, job)
        assert found.state == job_service_pb2.JOB_STATE_DONE, found
        assert found.progress.rows_done == found.progress.rows > 0
        assert found.resumed == 4
        interrupted = answer(server, job)
    other = {**settings, "PELLUCID_JOBS__FOLDER": str(tmp_path / "others")}
    with serve_with_points(table_models, tmp_path / "quiet", other) as (server, _):
        again = submit(server, stepwise_request()).job.id
        assert ended(server, again).resumed == 0
        assert answer(server, again) == interrupted
    assert len(interrupted) > 1


@dataclass(frozen=True)
class World:
    """A server that knows its callers, and its points."""

    server: Server
    points: Points
    tokens: Mapping[str, str]
    folder: Path

    def client(self, name: str) -> Client:
        return Client(self.server.address, token=self.tokens[name])


@pytest.fixture(scope="module")
def world(table_models: Path, datasets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server with the identities ann, bob, who may look inside, eve, who may predict alone, and an operator."""
    folder = tmp_path_factory.mktemp("world")
    tokens, policy = {}, ""
    for name, roles in {
        "ann": ["dissect", "explain"],
        "bob": ["dissect"],
        "eve": ["predict"],
        "root": ["admin"],
    }.items():
        tokens[name] = secrets.token_urlsafe(32)
        digest = hashlib.sha256(tokens[name].encode()).hexdigest()
        policy += f'[identities.{name}]\nroles = {roles}\ntokens = ["sha256:{digest}"]\n'
    (folder / "access.toml").write_text(policy)
    (folder / "digest.key").write_bytes(KEY)
    settings = {
        "PELLUCID_MODELS__DATASETS": str(datasets),
        "PELLUCID_JOBS__FOLDER": str(folder / "jobs"),
        "PELLUCID_ACCESS__FILE": str(folder / "access.toml"),
        "PELLUCID_ACCESS__DIGEST_KEY_FILE": str(folder / "digest.key"),
    }
    with serve_with_points(table_models, folder, settings) as (server, points):
        yield World(server, points, tokens, folder / "jobs")


@pytest.fixture
def ann(world: World) -> Iterator[Client]:
    with world.client("ann") as client:
        yield client
    world.points.release()


@pytest.fixture
def bob(world: World) -> Iterator[Client]:
    with world.client("bob") as client:
        yield client


def test_twenty_submits_of_one_request_are_one_job_and_twenty_answers(world: World) -> None:
    def answered(_: int) -> tuple[str, Any]:
        with world.client("ann") as client:
            job = client.jobs.submit(request(seed=20))
            client.jobs.wait(job, timeout=LONG_SECONDS)
            return job.id, client.jobs.fetch(job).tables["hidden1/units"]["mean"].tobytes()

    with ThreadPoolExecutor(20) as callers:
        found = list(callers.map(answered, range(20)))

    assert len(set(found)) == 1
    assert world.server.metrics().count('pellucid_jobs_ended_total{outcome="done"} 1.0') == 1


def test_twenty_calls_of_dissect_at_once_are_one_job_and_the_answer_is_stored(world: World, ann: Client) -> None:
    def asked(_: int) -> list[bytes]:
        metadata = [("authorization", f"Bearer {world.tokens['ann']}")]
        responses = list(world.server.explanations.Dissect(request(seed=21), timeout=LONG_SECONDS, metadata=metadata))
        assert responses[-1].progress.share == 1
        numbers = [each.part for each in responses if each.HasField("findings")]
        assert len(numbers) > 1
        assert numbers == list(range(len(numbers)))
        return [each.findings.SerializeToString(deterministic=True) for each in responses if each.HasField("findings")]

    before = len(ann.jobs.list())
    with ThreadPoolExecutor(20) as callers:
        found = list(callers.map(asked, range(20)))
    job = ann.jobs.submit(request(seed=21))

    assert found == [found[0]] * 20
    assert len(ann.jobs.list()) == before + 1
    assert job.state == "done"
    assert ann.jobs.fetch(job).receipt is not None


def test_dissect_ends_when_its_last_caller_leaves_unless_it_was_submitted(world: World, ann: Client) -> None:
    world.points.arm("storing")
    metadata = [("authorization", f"Bearer {world.tokens['ann']}")]
    calls = [world.server.explanations.Dissect(request(seed=22), timeout=LONG_SECONDS, metadata=metadata) for _ in "ab"]
    world.points.wait("storing")
    (job,) = ann.jobs.list(states=["running"])
    calls[0].cancel()
    assert ann.jobs.get(job).state == "running"
    calls[1].cancel()
    wait_until(lambda: not ann.jobs.list(states=["running"]), seconds=LONG_SECONDS, what="the job is gone")
    wait_until(lambda: not world.server.busy(), seconds=LONG_SECONDS, what="its work is gone")

    again = world.server.explanations.Dissect(request(seed=22), timeout=LONG_SECONDS, metadata=metadata)
    wait_until(lambda: bool(ann.jobs.list(states=["running"])), seconds=LONG_SECONDS, what="it is there again")
    kept = ann.jobs.submit(request(seed=22))
    again.cancel()
    world.points.release()
    assert ann.jobs.wait(kept, timeout=LONG_SECONDS).state == "done"


def test_a_failure_reaches_the_caller_of_dissect_as_without_jobs_and_leaves_nothing(world: World, ann: Client) -> None:
    wrong = request(seed=23)
    wrong.layers[0].layer = "nothing"
    before = ann.jobs.list()
    metadata = [("authorization", f"Bearer {world.tokens['ann']}")]
    with pytest.raises(grpc.RpcError) as refused:
        list(world.server.explanations.Dissect(wrong, timeout=LONG_SECONDS, metadata=metadata))

    assert refused.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]
    wait_until(lambda: ann.jobs.list() == before or len(ann.jobs.list()) == len(before), seconds=9, what="it is gone")


def test_a_job_that_fails_says_why_and_is_done_again_when_it_is_submitted_again(ann: Client) -> None:
    wrong = request(seed=24)
    wrong.layers[0].layer = "nothing"
    job = ann.jobs.submit(wrong)
    with pytest.raises(errors.NotFoundError, match="nothing"):
        ann.jobs.wait(job, timeout=LONG_SECONDS)
    found = ann.jobs.get(job)

    assert isinstance(found.failure, errors.NotFoundError)
    assert (found.state, found.parts, found.size_bytes) == ("failed", 0, 0)
    with pytest.raises(errors.UnsupportedError, match="is failed, and has no answer to send; submit it again"):
        ann.jobs.fetch(job)
    assert ann.jobs.submit(wrong).id != job.id


def test_nobody_but_the_owner_and_an_administrator_knows_of_a_job(world: World, ann: Client, bob: Client) -> None:
    mine = ann.jobs.wait(ann.jobs.submit(request(seed=25)), timeout=LONG_SECONDS)
    others = bob.jobs.submit(request(seed=25))

    assert others.id != mine.id
    bob.jobs.wait(others, timeout=LONG_SECONDS)
    assert {each.id for each in bob.jobs.list()} == {others.id}
    none = "0" * 32
    for call in (bob.jobs.get, bob.jobs.cancel, bob.jobs.delete, bob.jobs.fetch, lambda job: list(bob.jobs.watch(job))):
        texts = []
        for each in (mine.id, none):
            with pytest.raises(errors.NotFoundError) as refused:
                call(each)  # type: ignore[operator]
            texts.append(str(refused.value).replace(each, "ID"))
        # Its error is that of an id that does not exist.
        assert texts[0] == texts[1]
    with world.client("root") as root:
        assert root.jobs.get(mine).owner == "ann"
        assert {mine.id, others.id} <= {each.id for each in root.jobs.list()}
        assert root.jobs.fetch(mine).receipt is not None
        root.jobs.delete(others)
    assert bob.jobs.list() == ()
    assert ann.jobs.get(mine).owner == ""


def test_what_a_job_asks_needs_the_role_of_its_call(world: World, bob: Client) -> None:
    ablate = explanation_service_pb2.AblateRequest(model=request().model, method="ablation")
    with world.client("eve") as eve:
        with pytest.raises(errors.PermissionDeniedError, match="'dissect'"):
            eve.jobs.submit(request(seed=26))
        assert eve.jobs.list() == ()
    with pytest.raises(errors.PermissionDeniedError, match="'explain'"):
        bob.jobs.submit(ablate)


def test_digests_of_stored_answers_are_keyed(ann: Client, datasets: Path) -> None:
    found = ann.jobs.fetch(ann.jobs.wait(ann.jobs.submit(request(seed=27)), timeout=LONG_SECONDS))
    (described,) = ann.datasets()

    assert found.receipt is not None
    assert found.receipt.input_digest == hmac.digest(KEY, described.digest.encode(), "sha256").hex()


def test_a_running_job_is_watched_and_cancelled(world: World, ann: Client) -> None:
    world.points.arm("storing")
    job = ann.jobs.submit(request(seed=28))
    world.points.wait("storing")
    changes = ann.jobs.watch(job)
    assert next(changes).state == "running"
    with pytest.raises(errors.TimedOutError):
        list(ann.jobs.watch(job, timeout=0.5))

    assert ann.jobs.cancel(job).state == "cancelled"

    *_, last = changes
    assert last.state == "cancelled"
    with pytest.raises(errors.CancelledError):
        ann.jobs.wait(job)
    wait_until(lambda: not world.server.busy(), seconds=LONG_SECONDS, what="its work is gone")


def test_a_deleted_job_is_gone_from_the_disk_and_from_those_who_watch(world: World, ann: Client) -> None:
    world.points.arm("storing")
    job = ann.jobs.submit(request(seed=29))
    world.points.wait("storing")
    assert (world.folder / "answers" / job.id).is_dir()
    changes = ann.jobs.watch(job)
    next(changes)

    ann.jobs.delete(job)

    assert not (world.folder / "answers" / job.id).exists()
    with pytest.raises(errors.NotFoundError):
        list(changes)
    with pytest.raises(errors.NotFoundError):
        ann.jobs.get(job)


def test_a_long_ablation_is_a_job_too(ann: Client, table: Floats) -> None:
    signature = ann.model("breast-cancer")
    spec = AblationSpec("ablation", (Zero("hidden2[*]"),), exact=True)
    asked = ablate_request(signature, "breast-cancer", 0, table[:4], spec)

    job = ann.jobs.wait(ann.jobs.submit(asked), timeout=LONG_SECONDS)
    found = ann.jobs.fetch(job)

    assert (job.rpc, job.method, job.progress.share) == ("Ablate", "ablation", 1)
    direct = ann.ablate("breast-cancer", table[:4], Zero("hidden2[*]"), exact=True)
    assert found.tables["effects"]["effect"].tobytes() == direct.tables["effects"]["effect"].tobytes()


def test_jobs_are_listed_page_by_page_the_newest_first(world: World, ann: Client) -> None:
    mine = [ann.jobs.submit(request(seed=each)).id for each in (30, 31, 32)]
    stub, metadata = jobs(world.server), [("authorization", f"Bearer {world.tokens['ann']}")]
    found, token = list[str](), ""
    while True:
        page = stub.ListJobs(job_service_pb2.ListJobsRequest(page_size=2, page_token=token), metadata=metadata)
        found += [each.id for each in page.jobs]
        token = page.next_page_token
        if not token:
            break

    assert found[:3] == mine[::-1]
    assert found == [each.id for each in ann.jobs.list()]
    assert ann.jobs.list(model="other") == ()
    assert {each.state for each in ann.jobs.list(states=["done"])} <= {"done"}


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (job_service_pb2.SubmitJobRequest(), "request"),
        (job_service_pb2.SubmitJobRequest(dissect={"model": {"name": "breast-cancer"}}), "dissect.method"),
        (job_service_pb2.ListJobsRequest(page_size=-1), "page_size"),
        (job_service_pb2.ListJobsRequest(page_token="x"), "page_token"),
        (job_service_pb2.ListJobsRequest(states=[77]), "states[0]"),
        (job_service_pb2.GetJobRequest(), "id"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_can_never_be_right_is_refused_with_the_field(world: World, asked: Any, field: str) -> None:
    rpc = getattr(jobs(world.server), type(asked).__name__.removesuffix("Request"))
    with pytest.raises(grpc.RpcError) as refused:
        rpc(asked, timeout=LONG_SECONDS, metadata=[("authorization", f"Bearer {world.tokens['ann']}")])

    error = errors.from_rpc_error(refused.value, address="", timeout=None)
    assert isinstance(error, errors.InvalidRequestError)
    assert list(error.violations) == [field]


def test_a_class_that_there_is_not_is_refused(ann: Client) -> None:
    with pytest.raises(errors.InvalidRequestError, match="no class 'slow'"):
        ann.jobs.submit(request(seed=33), priority="slow")


async def test_the_asyncio_client_has_the_same_calls(world: World) -> None:
    async with AsyncClient(world.server.address, token=world.tokens["ann"]) as client:
        job = await client.jobs.submit(request(seed=34))
        states = [each.state async for each in client.jobs.watch(job)]
        assert states[-1] == "done"
        assert (await client.jobs.wait(job)).state == "done"
        assert (await client.jobs.fetch(job)).receipt is not None
        assert (await client.jobs.cancel(job)).state == "done"
        assert job.id in {each.id for each in await client.jobs.list(model="breast-cancer")}
        await client.jobs.delete(job)
        with pytest.raises(errors.NotFoundError):
            await client.jobs.get(job)


def test_the_command_lists_shows_watches_fetches_and_deletes(world: World, ann: Client, tmp_path: Path) -> None:
    job = ann.jobs.submit(request(seed=35)).id

    def run(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [str(Path(sys.executable).parent / "pellucid"), "jobs", *words, "--address", world.server.address]
        environment = {**os.environ, "PELLUCID_TOKEN": world.tokens["ann"], "COLUMNS": "200"}
        return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)

    watched = run("watch", job)
    assert watched.returncode == 0, watched.stderr
    assert f"{job}: done" in watched.stdout
    assert job in run("list", "--state", "done").stdout
    assert json.loads(run("show", job, "--json").stdout)["state"] == "done"
    assert "10000 of 10000 rows" in run("show", job).stdout
    assert "hidden1/units" in run("fetch", job).stdout
    assert json.loads(run("fetch", job, "--json").stdout)["tables"]
    assert json.loads(run("cancel", job, "--json").stdout)["state"] == "done"
    assert run("delete", job).returncode == 0
    gone = run("show", job)
    assert (gone.returncode, gone.stdout) == (2, "")
    assert "No job" in gone.stderr


def test_a_server_without_a_folder_takes_no_jobs(server: Server) -> None:
    with Client(server.address) as client, pytest.raises(errors.UnsupportedError, match=r"jobs\.folder"):
        client.jobs.submit(request())


def test_a_second_server_does_not_start_on_the_folder(world: World, table_models: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match=r"exit code 1(.|\n)*in use by another server"),
        serve_with_points(table_models, tmp_path, {"PELLUCID_JOBS__FOLDER": str(world.folder)}),
    ):
        pass
