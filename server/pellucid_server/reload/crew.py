"""All workers together, as far as their models change: a version is served by all of them or by none."""

import asyncio
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pellucid_server.model_files.sight import Key
from pellucid_server.pool.workers.changes import WorkerLostError
from pellucid_server.pool.workers.worker_supervisor import WorkerSupervisor
from pellucid_server.vocabulary.changes import Adopt, Prepare, Prepared
from pellucid_server.vocabulary.descriptions import BrokenModel, Verdict

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of having a version loaded by every worker that is ready.

    Attributes
    ----------
    change
        The number by which it is adopted or dropped.
    fingerprint
        Of the files that were loaded.
    reason
        Why it is not ready, with the files' paths; empty if it is.
    digest
        Of the version; empty if it is not ready.
    loaded
        Whether a worker has loaded it: not if all serve the very same already.
    """

    change: int
    fingerprint: str
    reason: str = ""
    digest: str = ""
    loaded: bool = False


class Crew:
    """The workers.

    Parameters
    ----------
    patience_seconds
        Time for one worker to try out and load one version; a worker that takes longer is killed.
    """

    def __init__(self, workers: Sequence[WorkerSupervisor], *, patience_seconds: float) -> None:
        self.workers = workers
        self._patience_seconds = patience_seconds
        self._changes = itertools.count(1)

    async def prepare(self, key: Key) -> Outcome | None:
        """Have a version loaded beside those that are served; None if no worker is there to do so.

        One worker tries it out, and the others, which then load it, take its word for it.
        """
        change = next(self._changes)
        ready = [worker for worker in self.workers if worker.ready]
        found: list[Prepared] = []
        while ready and not found:
            first = ready.pop(0)
            answer = await self._prepared(first, Prepare(change, *key))
            if answer is not None:
                found.append(answer)
                tried, device = answer.verdict, first.device
        if not found:
            return None
        if not tried.reason:
            others = [self._prepared(each, Prepare(change, *key, _for(each, tried, device))) for each in ready]
            found += [answer for answer in await asyncio.gather(*others) if answer is not None]
        reasons = [answer.verdict.reason for answer in found if answer.verdict.reason]
        if not reasons and len({answer.digest for answer in found}) > 1:
            reasons = [f"{key[0]}/{key[1]}: its files changed while the workers loaded it."]
        return Outcome(
            change,
            tried.fingerprint,
            next(iter(reasons), ""),
            "" if reasons else found[0].digest,
            any(answer.loaded for answer in found),
        )

    async def adopt(
        self,
        broken: tuple[BrokenModel, ...],
        *,
        change: int = 0,
        kept: bool = True,
        removed: tuple[Key, ...] = (),
    ) -> None:
        """Have all workers serve what a change has prepared, and what is removed no more; wait until they do."""
        message = Adopt(change or next(self._changes), kept, removed, broken)
        await asyncio.gather(*(_adopted(worker, message) for worker in self.workers if worker.ready))

    async def _prepared(self, worker: WorkerSupervisor, message: Prepare) -> Prepared | None:
        """Return what a worker answers; None if it is lost. It is killed if it takes too long."""
        try:
            async with asyncio.timeout(self._patience_seconds):
                return await worker.prepare(message)
        except TimeoutError:
            worker.give_up(f"has been loading the model {message.name!r} for more than {self._patience_seconds:g} s")
        except WorkerLostError:
            pass
        return None


async def _adopted(worker: WorkerSupervisor, message: Adopt) -> None:
    try:
        await worker.adopt(message)
    except WorkerLostError:
        # The next one begins with what is to be served by then.
        _log.info("the worker for %s was lost before it took a change of its models over", worker.device)


def _for(worker: WorkerSupervisor, tried: Verdict, device: str) -> Verdict:
    """Return a verdict as it is worth to a worker: which graph is the faster one is known for one kind of device."""
    return tried if worker.device == device else replace(tried, fast_graph=None)
