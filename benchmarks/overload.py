"""What is left of the work done when four times as much is asked as can be done.

The knee is what a closed loop reaches: a few callers, each of whom waits for its answer. Then four times that is
sent in an open loop, at fixed times, and the answers within the deadline are counted: the goodput. Once the
callers give a refused request up, once they heed the delay that the refusal names and send it again.
"""

import argparse
import asyncio
import statistics
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks import load, questions, servers

OVERLOAD = 4.0
AIM = 0.9


@dataclass(frozen=True)
class Case:
    """A request that too many are sent of."""

    name: str
    method: str
    body: bytes
    callers: int
    """In the closed loop, enough to keep the device busy."""
    deadline_seconds: float
    seconds: float
    """Length of one measurement."""
    compared: bool = False
    """Whether a bare gRPC echo is measured beside it: where requests cost less than their way through Python."""


def _cases() -> dict[str, Case]:
    cases = (
        Case("picture", load.PREDICT, questions.predict_photograph(), callers=8, deadline_seconds=2.0, seconds=6.0),
        Case("explanation", load.ATTRIBUTE, questions.explain_picture(10), callers=4, deadline_seconds=8.0, seconds=16),
        Case(
            "row", load.PREDICT, questions.predict_row(), callers=64, deadline_seconds=1.0, seconds=4.0, compared=True
        ),
    )
    return {case.name: case for case in cases}


def main() -> None:
    """Measure and print."""
    cases = _cases()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=Path, default=Path("models"), help="the demo model repository")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="threads of the worker; 0 for all cores")
    parser.add_argument("--cases", nargs="+", choices=cases, default=list(cases))
    given = parser.parse_args()
    load.print_command(__spec__)
    for name in given.cases:
        case = cases[name]
        with servers.running(given.models, threads=given.threads) as server:
            reply = load.once(server.address, case.method, case.body)
            asyncio.run(_measure(server.address, case, given.rounds))
        if case.compared:
            with servers.echo(len(reply)) as address:
                echo = replace(case, name=f"bare echo of a {name}", method=load.ECHO)
                asyncio.run(_measure(address, echo, given.rounds))


async def _measure(address: str, case: Case, rounds: int) -> None:
    print(f"{case.name}: deadline {case.deadline_seconds:g} s, {case.callers} callers in the closed loop")
    knees = []
    ratios: dict[bool, list[float]] = {False: [], True: []}
    async with grpc.aio.insecure_channel(address, options=load.OPTIONS) as channel:
        for _ in range(rounds):
            knees.append(await _knee(channel, case))
            for heeding, found in ratios.items():
                found.append(await _overload(channel, case, knees[-1], heeding=heeding) / knees[-1])
    for heeding, found in ratios.items():
        who = "heed the refusals" if heeding else "give up"
        print(
            f"  knee {statistics.median(knees):.2f}/s; callers who {who}: goodput {statistics.median(found):.2f} of it "
            f"(rounds {min(found):.2f} to {max(found):.2f}; aim {AIM})"
        )


async def _knee(channel: Any, case: Case) -> float:
    """Return the answers a second of the closed loop."""
    loop = asyncio.get_running_loop()
    answered, started = 0, loop.time()
    end = started

    async def caller() -> None:
        nonlocal answered, end
        while loop.time() - started < case.seconds:
            code, _ = await load.call(channel, case.method, case.body, seconds=300)
            answered += code == "OK"
            end = loop.time()

    await asyncio.gather(*(caller() for _ in range(case.callers)))
    return answered / (end - started)


async def _overload(channel: Any, case: Case, knee: float, *, heeding: bool) -> float:
    """Return the answers a second of the open loop once it has run as long as a deadline is, and print the rest."""
    whole = case.deadline_seconds + case.seconds
    sent = await load.open_loop(
        channel,
        case.method,
        case.body,
        rate=OVERLOAD * knee,
        seconds=whole,
        deadline_seconds=case.deadline_seconds,
        heeding=heeding,
    )
    answered = [each for each in sent if each.code == "OK"]
    codes = Counter(each.code for each in sent)
    # A sender that is late itself offers less.
    offered = len(sent) / (whole + max(each.lateness for each in sent))
    p99 = np.quantile([each.last_seconds for each in answered], 0.99) if answered else float("nan")
    attempts = sum(each.attempts for each in sent) / len(sent)
    print(
        f"  offered {offered:7.1f}/s ({offered / knee:.1f} times the knee), {attempts:.1f} attempts each: "
        f"{', '.join(f'{count} {code}' for code, count in codes.most_common())}; p99 of the accepted {p99:.2f} s"
    )
    return sum(case.deadline_seconds < each.ended <= whole for each in answered) / case.seconds


if __name__ == "__main__":
    main()
