"""Which worker a job goes to."""

from collections.abc import Sequence

from pellucid_server.pool.supervised import SupervisedWorker
from pellucid_server.pool.ticket import Ticket


class Routing:
    """The places of the workers, by class."""

    def __init__(self, workers: Sequence[SupervisedWorker]) -> None:
        self._workers = workers
        self._ready: Sequence[SupervisedWorker] = ()

    def look(self) -> bool:
        """See which workers are ready; tell whether one is."""
        self._ready = [worker for worker in self._workers if worker.ready]
        return bool(self._ready)

    def worker(self, ticket: Ticket, *, running: int, places: int) -> SupervisedWorker | None:
        """Return the worker that has a place for a job now, if one has.

        Parameters
        ----------
        running
            The places that the job's caller has in its class.
        places
            Jobs of its class that a worker has at once; callers without any get places beyond, up to twice as many.
        """
        most = places if running else 2 * places
        if len(self._ready) == 1:
            (only,) = self._ready
            return only if _takes(only, ticket, most) else None
        found = [worker for worker in self._ready if _takes(worker, ticket, most)]
        # Rows of one model pack: stay with a worker that has some, unless its places are taken.
        beside = [each for each in found if each.runs(ticket.model) and each.places(ticket.priority) < places]
        return min(beside or found, key=lambda each: each.load, default=None)

    def worker_for_suspect(self) -> SupervisedWorker | None:
        """Return a worker that has no job which was lost before."""
        found = [worker for worker in self._ready if not worker.retried]
        return min(found, key=lambda each: each.load, default=None)

    def cancel(self, ticket: Ticket) -> None:
        """Tell the worker that has a job that nobody waits for it."""
        for worker in self._workers:
            worker.cancel(ticket)


def _takes(worker: SupervisedWorker, ticket: Ticket, most: int) -> bool:
    return worker.places(ticket.priority) < most and not (ticket.losses and worker.suspects)
