"""The run: quiet answers, then callers and killings, then the account."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from soak import calling, catalogue, ledger, memory, processes, quiet, records, verdicts
from soak.server import HealthWatch, Server

_PATIENCE_SECONDS = catalogue.GENEROUS_SECONDS + calling.HANG_SECONDS + 30.0
_IDLE_SECONDS = 30.0


@dataclass(frozen=True)
class Plan:
    """How the run goes; an interval of 0 seconds is never."""

    seed: str
    seconds: float
    """Load with killings."""
    calm_seconds: float
    """Load without killed workers after that, so that one of them lives long enough to be judged."""
    kill_worker_seconds: float
    kill_callers_seconds: float
    bare: int
    """Processes of callers with bare stubs."""
    shipped: int
    """Processes of callers with the shipped client."""


class Crowd:
    """The callers' processes."""

    def __init__(self, address: str, folder: Path, seed: str) -> None:
        self.killed: list[str] = []
        self._address = address
        self._folder = folder
        self._seed = seed
        self._started = 0
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._kinds: dict[str, str] = {}

    def add(self, kind: str) -> None:
        """Start a process of callers, "callers" with bare stubs or "shipped"."""
        self._started += 1
        name = f"{kind}{self._started}"
        command = [sys.executable, "-m", f"soak.{kind}", self._address, str(self._folder), name, self._seed]
        self._running[name] = subprocess.Popen(
            command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdin=subprocess.PIPE
        )
        self._kinds[name] = kind

    def kill_one(self, choose: random.Random) -> None:
        """Kill a process of bare callers, calls in flight and all, and start another one."""
        name = choose.choice([name for name in self._running if self._kinds[name] == "callers"])
        process = self._running.pop(name)
        with process:
            process.kill()
        self.killed.append(name)
        self.add("callers")

    def end(self) -> Mapping[str, int]:
        """Tell all to end, wait until they have, and return their exit statuses."""
        for process in self._running.values():
            assert process.stdin is not None
            process.stdin.close()
        end = time.monotonic() + _PATIENCE_SECONDS
        statuses = {}
        for name, process in self._running.items():
            try:
                statuses[name] = process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                statuses[name] = process.wait()
        self._running.clear()
        return statuses

    def calls(self, kind: str) -> list[records.Call]:
        """Return all calls of a kind of callers, killed ones' too."""
        names = [name for name, each in self._kinds.items() if each == kind]
        return records.read(path for name in names if (path := self._folder / f"{name}.calls").exists())


@dataclass(frozen=True)
class Findings:
    """What the run found."""

    verdicts: Sequence[verdicts.Verdict]
    calls: Sequence[records.Call]
    """Those by bare stubs."""
    entries: Sequence[catalogue.Entry]
    workers_killed: int
    callers_killed: int
    outages: Sequence[tuple[float, float]]


def run(server: Server, folder: Path, plan: Plan) -> Findings:
    """Load a server that is ready, and judge it; it is stopped at the end.

    Raises
    ------
    SystemExit
        A request of the catalogue is not answered as it should be even while all is quiet.
    """
    entries = asyncio.run(quiet.prepare(server.address, folder, random.Random(plan.seed).getrandbits(32)))
    watch, sampler = HealthWatch(server.address), processes.Sampler(server.process.pid)
    before, loaded_at = sampler.now(), time.monotonic()
    crowd = Crowd(server.address, folder, plan.seed)
    killed = _load(server, crowd, plan)
    load_ended_at = time.monotonic()
    exits = crowd.end()
    replays = asyncio.run(quiet.replays(server.address, folder, crowd.calls("callers")))
    _wait_until_idle(server)
    after, outages = sampler.now(), watch.outages(until=time.monotonic())
    counters, log = ledger.Counters.of(server.metrics()), ledger.read_log(server.log)
    sampler.close()
    watch.close()
    ending = server.terminate()
    bare, shipped = crowd.calls("callers"), crowd.calls("shipped")
    found = [
        verdicts.answers([*bare, *shipped], entries, replays),
        verdicts.outcomes([*bare, *shipped], crowd.killed),
        verdicts.refusals(bare, entries, outages),
        verdicts.shipped(shipped),
        verdicts.log_agrees(bare, shipped, entries, log.without(quiet.ID)),
        verdicts.counters_agree(counters, log),
        *memory.memory(
            [each for each in sampler.samples if each.at <= load_ended_at],
            warm_at=loaded_at,
            calm_from=loaded_at + plan.seconds,
        ),
        memory.handles(before, after),
        verdicts.no_bugs(ledger.read_log(server.log), exits),
        verdicts.ended(ending),
    ]
    return Findings(found, bare, entries, killed, len(crowd.killed), outages)


def _load(server: Server, crowd: Crowd, plan: Plan) -> int:
    """Run the callers for the plan's time and kill on the way; return how many workers were killed."""
    choose = random.Random(plan.seed)
    for _ in range(plan.bare):
        crowd.add("callers")
    for _ in range(plan.shipped):
        crowd.add("shipped")
    started, killed = time.monotonic(), 0
    for seconds, what in sorted(_moments(plan)):
        time.sleep(max(0.0, started + seconds - time.monotonic()))
        if what == "callers":
            crowd.kill_one(choose)
        elif what == "worker":
            killed += _kill_a_worker(server, choose)
    return killed


def _moments(plan: Plan) -> list[tuple[float, str]]:
    """Return what happens when, in seconds after the start."""
    whole = plan.seconds + plan.calm_seconds
    moments = [(whole, "end")]
    moments += [(at, "worker") for at in _every(plan.kill_worker_seconds, plan.seconds)]
    moments += [(at, "callers") for at in _every(plan.kill_callers_seconds, whole)]
    return moments


def _every(interval: float, seconds: float) -> list[float]:
    return [number * interval for number in range(1, int(seconds / interval) + 1)] if interval else []


def _kill_a_worker(server: Server, choose: random.Random) -> int:
    there = processes.workers(server.process.pid)
    if not there:
        return 0
    with suppress(ProcessLookupError):
        os.kill(choose.choice(there), signal.SIGKILL)
    return 1


def _wait_until_idle(server: Server) -> None:
    """Wait until the server is done with what callers left behind; what is not done by then, the gauges show."""
    end = time.monotonic() + _IDLE_SECONDS
    while time.monotonic() < end:
        counters = ledger.Counters.of(server.metrics())
        busy = counters.not_zero(("pellucid_requests_in_flight", "pellucid_requests_pending"))
        if not busy and processes.workers(server.process.pid):
            return
        time.sleep(0.2)
