"""A process of callers with bare stubs: `python -m soak.callers ADDRESS FOLDER NAME SEED`.

Each asks for something of the catalogue at random, under a random name and class; some cancel, some have
short deadlines. Ends when standard input has and the last call has; may be killed at any time.
"""

import asyncio
import random
from pathlib import Path

import grpc

from soak import answers, calling, catalogue, command, records

CALLERS = 6
"""Callers in a process, each with one call at a time."""

_NAMES = ("", "ada", "ben", "cleo")
_LEAVING, _HURRIED = 0.12, 0.15
_PAUSE_SECONDS = 0.05
_REFUSED_PAUSE_SECONDS = 0.25


class Callers:
    """The callers of one process."""

    def __init__(self, address: str, folder: Path, name: str, seed: str) -> None:
        self._address = address
        self._folder = folder
        self._name = name
        self._random = random.Random(f"{seed}/{name}")
        self._catalogue = catalogue.read(folder)
        self._weights = [entry.weight for entry, _, _ in self._catalogue]
        self._notes = records.Notebook(folder / f"{name}.calls")
        self._made = 0
        self._lateness = 0.0

    async def run(self, stopped: asyncio.Event) -> None:
        """Call until `stopped` is set."""
        watching = asyncio.create_task(self._watch())
        async with grpc.aio.insecure_channel(self._address, options=calling.OPTIONS) as channel:
            await asyncio.gather(*(self._caller(channel, stopped) for _ in range(CALLERS)))
        watching.cancel()

    async def _caller(self, channel: grpc.aio.Channel, stopped: asyncio.Event) -> None:
        while not stopped.is_set():
            ended = await self._call(channel)
            pause = self._random.expovariate(1 / _PAUSE_SECONDS)
            await asyncio.sleep(pause if ended.code == "OK" else pause + _REFUSED_PAUSE_SECONDS)

    async def _call(self, channel: grpc.aio.Channel) -> records.Ended:
        choose = self._random
        (number,) = choose.choices(range(len(self._catalogue)), self._weights)
        entry, request, quiet = self._catalogue[number]
        plan = self._plan()
        # Moments from the first bytes to well after a quiet server would have answered.
        short = choose.choice((0.002, 0.02, 0.1, 0.5)) * choose.uniform(0.5, 2)
        seconds = short if plan == "hurried" else entry.seconds
        self._made += 1
        identity = f"{self._name}-{self._made}"
        self._notes.note(records.Begun(identity, number, plan, seconds, calling.seconds_now()))
        outcome = await calling.call(
            channel,
            entry.path,
            request,
            seconds=seconds,
            metadata=self._metadata(identity, entry),
            streaming=entry.streaming,
            cancel_after=short if plan == "leaving" else None,
            patience_seconds=calling.HANG_SECONDS + self._lateness,
        )
        ended = self._judged(identity, plan, (entry, quiet), outcome)
        self._notes.note(ended)
        return ended

    def _plan(self) -> str:
        draw = self._random.random()
        if draw < _LEAVING:
            return "leaving"
        return "hurried" if draw < _LEAVING + _HURRIED else "patient"

    def _metadata(self, identity: str, entry: catalogue.Entry) -> tuple[tuple[str, str], ...]:
        caller, priority = self._random.choice(_NAMES), self._random.choice(entry.priorities)
        return calling.metadata(identity, caller=caller, priority=priority)

    def _judged(
        self, identity: str, plan: str, asked: tuple[catalogue.Entry, bytes], outcome: calling.Outcome
    ) -> records.Ended:
        entry, quiet = asked
        right = outcome.code == "OK" and entry.code == "OK"
        partial = right and answers.partial(entry, outcome.reply)
        return records.Ended(
            identity,
            outcome.code,
            calling.seconds_now(),
            answered=outcome.answered,
            retry_seconds=outcome.retry_seconds,
            stage=outcome.stage,
            message=outcome.message[:300],
            faults=tuple(answers.faults(entry, outcome.reply, quiet, hurried=plan == "hurried")) if right else (),
            partial=partial,
            kept=self._keep(identity, outcome.reply) if partial else "",
        )

    def _keep(self, identity: str, answer: bytes) -> str:
        """Keep an answer that was cut short, to be made again; return its file's name."""
        name = f"{identity}.partial"
        (self._folder / name).write_bytes(answer)
        return name

    async def _watch(self) -> None:
        """Measure how late this process itself is, which no server can help."""
        while True:
            before = calling.seconds_now()
            await asyncio.sleep(0.1)
            late = calling.seconds_now() - before - 0.1
            self._lateness = max(late, 0.9 * self._lateness)


if __name__ == "__main__":
    command.main(__doc__, Callers)
