"""Models that change while others are asked: what a load costs the others, and what two hundred leave behind.

`loads`: predictions of the table model are sent at fixed times, in turns without anything else and while a new version
of the picture network is taken from the repository. `churn`: the table model changes again and again under load.
"""

import argparse
import asyncio
import collections
import contextlib
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from pellucid.v1 import admin_service_pb2, admin_service_pb2_grpc, explanation_pb2, explanation_service_pb2

from benchmarks import load, questions, servers

TABLE, PICTURES = questions.TABLES, questions.PICTURES
_POLL_SECONDS = 1.0
_CALL_SECONDS = 60.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("loads", "churn"))
    parser.add_argument("--models", type=Path, default=Path("models"), help="the demo model repository")
    parser.add_argument("--rounds", type=int, default=5, help="of `loads`")
    parser.add_argument("--rate", type=float, default=50.0, help="predictions a second, of `loads`")
    parser.add_argument("--reloads", type=int, default=200, help="of `churn`")
    parser.add_argument("--callers", type=int, default=4, help="of `churn`")
    given = parser.parse_args()
    load.print_command(__spec__)
    with _repository(given.models) as models:
        settings = {"PELLUCID_MODELS__POLL_SECONDS": str(_POLL_SECONDS), "PELLUCID_ADMIN__PORT": "0"}
        with servers.running(models, threads=1, settings=settings) as server:
            asyncio.run((_loads if given.what == "loads" else _churn)(server, models, given))


@contextlib.contextmanager
def _repository(models: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        for name in (TABLE, PICTURES):
            shutil.copytree(models / name, Path(folder) / name)
        yield Path(folder)


async def _loads(server: servers.Running, models: Path, given: argparse.Namespace) -> None:
    quiet: list[list[float]] = []
    loading: list[list[float]] = []
    took = []
    folder = models / PICTURES
    async with _connected(server) as (channel, admin):
        for number in range(2, 2 + given.rounds):
            beside = folder / f".{number}"
            shutil.copytree(folder / "1", beside)
            quiet.append(await _predictions(channel, given.rate, asyncio.sleep(8.0)))
            beside.rename(folder / str(number))
            began = time.perf_counter()
            loading.append(await _predictions(channel, given.rate, _served(admin, PICTURES, number)))
            took.append(time.perf_counter() - began)
            shutil.rmtree(folder / str(number))
            await _served(admin, PICTURES, number, serving=False)
    print(f"from the rename to the first answer that lists it: {min(took):.1f} to {max(took):.1f} s")
    for name, rounds in (("quiet", quiet), ("during a load", loading)):
        p50, p99 = (statistics.median(np.quantile(each, share) for each in rounds) * 1000 for share in (0.5, 0.99))
        count = sum(map(len, rounds))
        worst = max(map(max, rounds)) * 1000
        print(f"{name:14} p50 {p50:6.2f} ms   p99 {p99:6.2f} ms   worst {worst:6.1f} ms   of {count}")
    ratios = sorted(np.quantile(b, 0.99) / np.quantile(a, 0.99) for a, b in zip(quiet, loading, strict=True))
    print(f"ratio of p99: {statistics.median(ratios):.2f} (rounds {ratios[0]:.2f} to {ratios[-1]:.2f}; aim 2)")


async def _churn(server: servers.Running, models: Path, given: argparse.Namespace) -> None:
    manifest = models / TABLE / "model.toml"
    text = manifest.read_text()
    digests: collections.Counter[str] = collections.Counter()
    failed: collections.Counter[str] = collections.Counter()
    ended = asyncio.Event()
    async with _connected(server) as (channel, admin):

        async def caller(method: str, body: bytes, reply: Any) -> None:
            while not ended.is_set():
                try:
                    found = reply.FromString(await channel.unary_unary(method)(body, timeout=_CALL_SECONDS))
                    receipt = found.receipt if method == load.PREDICT else found.explanation.attributions[0].receipt
                    digests[receipt.model.digest] += 1
                except grpc.aio.AioRpcError as error:
                    failed[error.code().name] += 1

        bodies = [(load.PREDICT, questions.predict_row(), explanation_service_pb2.PredictResponse)]
        bodies += [(load.ATTRIBUTE, questions.explain_row(), explanation_service_pb2.AttributeResponse)]
        tasks = [asyncio.create_task(caller(*bodies[number % 2])) for number in range(given.callers)]
        first = await admin.ListVersions(admin_service_pb2.ListVersionsRequest(name=TABLE))
        served, began = [first.versions[0].model.digest], time.perf_counter()
        for number in range(given.reloads + 1):
            if number % max(1, given.reloads // 10) == 0:
                print(f"{number:4} reloads, {time.perf_counter() - began:5.0f} s: {_memory(server)}", flush=True)
            beside = manifest.with_name(".model.toml")
            beside.write_text(f"# {number}\n{text}")
            beside.rename(manifest)
            request = admin_service_pb2.LoadModelRequest(model=explanation_pb2.ModelSpec(name=TABLE))
            reply = await admin.LoadModel(request, timeout=_CALL_SECONDS)
            served.append(reply.versions[0].model.digest)
        ended.set()
        await asyncio.gather(*tasks)
    print(f"{len(set(served))} versions were served, and {len(digests.keys() & set(served))} of them were asked")
    print(f"{sum(digests.values())} calls were answered, {sum(failed.values())} failed {dict(failed)}")
    print(f"answers by other models than those: {sum(n for each, n in digests.items() if each not in served)}")


@contextlib.asynccontextmanager
async def _connected(server: servers.Running) -> AsyncIterator[tuple[Any, Any]]:
    async with (
        grpc.aio.insecure_channel(server.address, options=load.OPTIONS) as channel,
        grpc.aio.insecure_channel(server.admin_address) as admin,
    ):
        for _ in range(20):
            await load.call(channel, load.PREDICT, questions.predict_row(), seconds=_CALL_SECONDS)
        yield channel, admin_service_pb2_grpc.AdminServiceStub(admin)


async def _predictions(channel: Any, rate: float, until: Any) -> list[float]:
    """Send predictions at fixed times until something has ended; return the seconds that each took."""
    ended = asyncio.ensure_future(until)
    took: list[asyncio.Task[float]] = []
    began = time.perf_counter()

    async def one(due: float) -> float:
        code, _ = await load.call(channel, load.PREDICT, questions.predict_row(), seconds=_CALL_SECONDS)
        if code != "OK":
            raise SystemExit(f"a prediction failed: {code}")
        return time.perf_counter() - due

    while not ended.done():
        due = began + len(took) / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        took.append(asyncio.create_task(one(due)))
    await ended
    return list(await asyncio.gather(*took))


async def _served(admin: Any, name: str, version: int, *, serving: bool = True) -> None:
    """Wait until a version is served, or is no more."""
    while True:
        listed = await admin.ListVersions(admin_service_pb2.ListVersionsRequest(name=name))
        found = [each for each in listed.versions if each.model.version == version]
        if any(each.state == admin_service_pb2.VERSION_STATE_SERVING for each in found) is serving:
            return
        await asyncio.sleep(0.1)


def _memory(server: servers.Running) -> str:
    """Return the proportional set size of worker and front, in MB."""
    return ", ".join(
        f"{name} {_pss(pid):.0f} MB" for name, pid in (("worker", server.workers()[0]), ("front", server.pid))
    )


def _pss(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000


if __name__ == "__main__":
    main()
