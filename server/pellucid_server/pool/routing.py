"""Which worker a request goes to."""

from collections.abc import Sequence

from pellucid_server.pool.queue.ticket import Ticket
from pellucid_server.pool.workers.worker_supervisor import WorkerSupervisor


class Routing:
    """The places of the workers, by class."""

    def __init__(self, workers: Sequence[WorkerSupervisor]) -> None:
        self._workers = workers
        self._ready: Sequence[WorkerSupervisor] = ()

    def look(self) -> bool:
        """See which workers are ready; tell whether one is."""
        self._ready = [worker for worker in self._workers if worker.ready]
        return bool(self._ready)

    def worker(self, ticket: Ticket, *, running: int, places: int) -> WorkerSupervisor | None:
        """Return the worker that has a place for a request now, if one has.

        Parameters
        ----------
        running
            The places that the request's caller has in its class.
        places
            Requests of its class that a worker has at once; callers without any get places beyond, up to twice as many.
        """
        most = places if running else 2 * places
        if len(self._ready) == 1:
            (only,) = self._ready
            return only if _takes(only, ticket, most) else None
        # One that does not serve the model as the others do has none of its requests, unless no other is there.
        able = [worker for worker in self._ready if ticket.model not in worker.behind] or self._ready
        found = [worker for worker in able if _takes(worker, ticket, most)]
        # Rows of one model pack: stay with a worker that has some, unless its places are taken.
        beside = [each for each in found if each.runs(ticket.model) and each.places(ticket.priority) < places]
        return min(beside or found, key=lambda each: each.load, default=None)

    def worker_for_suspect(self) -> WorkerSupervisor | None:
        """Return a worker that has no request which was lost before."""
        found = [worker for worker in self._ready if not worker.retried]
        return min(found, key=lambda each: each.load, default=None)

    def cancel(self, ticket: Ticket) -> None:
        """Tell the worker that has a request that nobody waits for it."""
        for worker in self._workers:
            worker.cancel(ticket)

    def grant(self, ticket: Ticket, parts: int, size_bytes: int) -> None:
        """Allow the worker that has a request so many more parts of its answer."""
        for worker in self._workers:
            worker.grant(ticket, parts, size_bytes)


def _takes(worker: WorkerSupervisor, ticket: Ticket, most: int) -> bool:
    return worker.places(ticket.priority) < most and not (ticket.losses and worker.suspects)
