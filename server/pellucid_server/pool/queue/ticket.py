"""A request on its way through the pool, from its admission to its answer."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from pellucid_server.errors import PellucidError
from pellucid_server.pool.queue.part_queue import PartQueue
from pellucid_server.tracing.request_trace import RequestTrace
from pellucid_server.vocabulary.messages import Done, Progress
from pellucid_server.vocabulary.requests import Request

OnProgress = Callable[[Progress], None]


@dataclass(slots=True, eq=False)
class Ticket:
    """A request, and where it is: it waits in a line, or a worker has it, or it is answered."""

    request: Request
    model: str
    priority: str
    """Name of its class."""
    caller: str
    rows: int
    """Evaluation rows that it weighs."""
    arrived: float
    deadline: float | None
    """On `time.monotonic()`'s clock, as are `arrived` and `sent`."""
    on_progress: OnProgress | None
    answer: "asyncio.Future[Done]"
    """Done once there is an answer, or nobody waits for one."""
    kind: str = ""
    """What it has in common with requests whose rows take as long: its model and its methods."""
    can_be_cut: bool = False
    """Whether it answers before its deadline with what it has, so that there is no knowing how long it takes."""
    beside: int = 0
    """Requests of its class in places when it got its own, itself included."""
    size_bytes: int = 0
    """Bytes that it brought."""
    line: "OrderedDict[Ticket, None] | None" = None
    """Where it waits."""
    worker_request_number: int = 0
    """Its id at the worker that has it; 0 if none has."""
    sent: float = 0.0
    """When a worker was last given it; 0 if none was."""
    losses: int = 0
    """Workers that were lost while they had it, since it last got on to another checkpoint."""
    suspect: bool = False
    """Whether one of them was busy with it when it died."""
    on_lost: Callable[[], None] | None = None
    """Called when it is to be done once more, or gone on with, as its worker was lost."""

    share: float = 0.0
    """The share of it that was last reported as done."""
    parts: PartQueue | None = None
    """What has arrived of an answer in parts; None if it is answered at once."""
    trace: RequestTrace | None = None
    """Notes when what happens to it; None if its trace is not recorded."""

    @property
    def parts_sent(self) -> int:
        """Parts that a worker has sent: above zero, the request cannot be done again as if nothing had happened."""
        return 0 if self.parts is None else self.parts.count

    @property
    def advanced(self) -> bool:
        """Whether it has got on to another checkpoint since a worker was last lost with it."""
        return self.parts is not None and self.parts.advanced

    @property
    def stage(self) -> str:
        """Where it is, for those who hear that its deadline has passed."""
        return "queued" if self.line is not None or not self.sent else "running"

    @property
    def answered(self) -> bool:
        """Whether a worker's answer is there; an error that is there instead counts as seen."""
        answer = self.answer
        return answer.done() and not answer.cancelled() and answer.exception() is None

    def fail(self, error: PellucidError) -> None:
        """Answer with an error, unless nobody waits any more."""
        if not self.answer.done():
            self.answer.set_exception(error)
