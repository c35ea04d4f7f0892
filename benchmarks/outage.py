"""What callers see of a killed worker: the longest time without an answer, against what the worker's restart takes.

With one worker, callers use the shipped client, which tries again; with two, bare stubs, which do not.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import grpc
import numpy as np
from pellucid import PellucidError
from pellucid.aio import AsyncClient

from benchmarks import load, questions, servers

_CALLERS = 4
_CALL_SECONDS = 60.0
_PAUSE_SECONDS = 0.01
_QUIET_SECONDS = 4.0
_SETTINGS = {"PELLUCID_LOGGING__LEVEL": "info", "PELLUCID_LOGGING__FORMAT": "json"}
_START_SECONDS = 120.0


@dataclass
class Seen:
    """What the callers saw."""

    answers: list[tuple[float, float]] = field(default_factory=list)
    """When each call that was answered began and ended, on the wall clock."""
    failures: list[str] = field(default_factory=list)

    def gap(self, begin: float, end: float) -> float:
        """Return the longest time without an answer between two moments."""
        ends = sorted(moment for _, moment in self.answers if begin < moment < end)
        return float(np.diff([begin, *ends, end]).max())

    def longest(self, begin: float, end: float) -> float:
        """Return the longest time that an answer took that came between two moments."""
        return max((ended - began for began, ended in self.answers if begin < ended < end), default=float("nan"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="the demo model repository")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="threads of a worker")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    load.print_command(__spec__)
    for workers in (1, 2):
        settings = {**_SETTINGS, "PELLUCID_POOL__DEVICES": ",".join(["cpu"] * workers)}
        with servers.running(given.models, threads=given.threads, settings=settings) as server:
            asyncio.run(_measure(server, workers, given))


async def _measure(server: servers.Running, workers: int, given: argparse.Namespace) -> None:
    seen, choose = Seen(), random.Random(given.seed)
    rounds = []
    async with _callers(server.address, seen, trying_again=workers == 1):
        await asyncio.sleep(_QUIET_SECONDS)
        for _ in range(given.rounds):
            rounds.append(await _round(server, seen, choose))
    gaps, restarts, quiet, longest = ([each[number] for each in rounds] for number in range(4))
    print(f"{workers} worker(s), one killed {given.rounds} times beside {len(seen.answers)} answers")
    print(f"  failed calls {len(seen.failures)} {sorted(set(seen.failures))[:3] or ''}")
    print(f"  longest time without an answer {_text(gaps)}; quiet {_text(quiet)}")
    print(f"  longest call {_text(longest)}; restart {_text(restarts)}")
    if workers == 1:
        print(f"  outage by restart {_text([gap / restart for gap, restart in zip(gaps, restarts, strict=True)], '')}")


async def _round(server: servers.Running, seen: Seen, choose: random.Random) -> tuple[float, float, float, float]:
    """Kill a worker; return the gap, the restart's time, the gap of a quiet time before, and the longest call, in s."""
    ready, killed = _starts(server.log), time.time()
    os.kill(choose.choice(server.workers()), signal.SIGKILL)
    while len(_starts(server.log)) == len(ready):
        if time.time() - killed > _START_SECONDS:
            raise SystemExit(f"no worker was ready within {_START_SECONDS:g} s")
        await asyncio.sleep(0.05)
    restart = _starts(server.log)[-1] - killed
    # Callers that had waited come back, and have some quiet before the next round.
    await asyncio.sleep(_QUIET_SECONDS)
    end = time.time()
    return seen.gap(killed, end), restart, seen.gap(killed - _QUIET_SECONDS / 2, killed), seen.longest(killed, end)


@contextlib.asynccontextmanager
async def _callers(address: str, seen: Seen, *, trying_again: bool) -> AsyncIterator[None]:
    """Have callers ask one prediction after another."""
    body, row = questions.predict_row(), np.random.default_rng(0).normal(15, 3, (1, 30)).astype(np.float32)
    async with grpc.aio.insecure_channel(address, options=load.OPTIONS) as channel, AsyncClient(address) as client:

        async def shipped() -> str:
            try:
                await client.predict(questions.TABLES, row, timeout=_CALL_SECONDS)
            except PellucidError as error:
                return error.code.name
            return "OK"

        async def bare() -> str:
            code, _ = await load.call(channel, load.PREDICT, body, seconds=_CALL_SECONDS)
            return code

        tasks = [asyncio.create_task(_caller(shipped if trying_again else bare, seen)) for _ in range(_CALLERS)]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def _caller(ask: Callable[[], Awaitable[str]], seen: Seen) -> None:
    while True:
        began = time.time()
        code = await ask()
        if code == "OK":
            seen.answers.append((began, time.time()))
        else:
            seen.failures.append(code)
        await asyncio.sleep(_PAUSE_SECONDS)


def _starts(log: Path) -> list[float]:
    """Return when workers were ready, on the wall clock."""
    entries = [json.loads(line) for line in log.read_text().splitlines() if "is ready after" in line]
    return [datetime.fromisoformat(entry["time"]).timestamp() for entry in entries]


def _text(values: list[float], unit: str = " s") -> str:
    return f"{statistics.median(values):.2f}{unit} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
