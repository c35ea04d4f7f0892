"""The order of evaluations on one device thread: shares of its time for classes of requests, and for callers.

Start-time fair queueing. Each flow (a class, or a caller within its class) has a virtual time: the device
seconds that it has had, divided by its weight. The flow that has had least is next. One that comes back after
it had nothing to do starts at the present virtual time, that of the flow being served: it goes first, but
has saved nothing up.

Source: Goyal, Vin and Cheng, "Start-Time Fair Queueing: A Scheduling Algorithm for Integrated Services Packet
Switching Networks", IEEE/ACM Transactions on Networking 5(5), 1997.
"""

import math
from collections.abc import Hashable, Mapping

from pellucid_server.engine.device.evaluation import ChunkPart, Evaluation
from pellucid_server.errors import PellucidError

_MOST_IDLE = 64
"""Flows that are remembered, beyond as many as are waiting, before those without a debt are forgotten."""

Queue = dict[Evaluation, None]
"""Evaluations in the order of their turns: a dictionary, because any of them may leave."""


class Flows:
    """Which of some flows is next: the one with the least virtual time, of equal ones the heaviest, then the first.

    Parameters
    ----------
    countless
        Whether there may be ever new flows, all of weight 1. Then the present virtual time goes on at least as fast as
        that of flows served in equal parts: a stream of new ones would hold up the old ones for ever otherwise.
    """

    def __init__(self, *, countless: bool) -> None:
        self._countless = countless
        self._now = 0.0
        self._times: dict[str, float] = {}
        self._waiting: dict[str, float] = {}

    def enter(self, flow: str, weight: float = 1.0) -> None:
        """Let a flow wait for its turn that had nothing to do; nothing happens if it waits already."""
        if flow not in self._waiting:
            self._times[flow] = max(self._times.get(flow, 0.0), self._now)
            self._waiting[flow] = weight

    def stay(self, flow: str, weight: float = 1.0) -> None:
        """Let a flow wait that is being served and has more to do: it was never idle, and keeps its virtual time."""
        self._waiting.setdefault(flow, weight)

    def leave(self, flow: str) -> None:
        """Take out a flow that has nothing to do any more; it keeps its virtual time."""
        del self._waiting[flow]

    def first(self) -> str:
        """Return the flow whose turn it is, without giving it its turn; there must be one that waits."""
        times, waiting = self._times, self._waiting
        if self._countless:
            return min(waiting, key=times.__getitem__)
        return min(waiting, key=lambda name: (times[name], -waiting[name]))

    def next(self) -> str:
        """Return the flow whose turn it is; there must be one that waits."""
        flow = self.first()
        self._now = max(self._now, self._times[flow])
        return flow

    def order(self, flow: str) -> float:
        """Return the flow's virtual time: lower is sooner."""
        return self._times[flow]

    def charge(self, seconds: Mapping[str, float], weight: float = 1.0) -> None:
        """Note for how long the device served flows of one weight, after those that have more to do entered again."""
        for flow, served in seconds.items():
            self._times[flow] = self._times.get(flow, self._now) + served / weight
        if not self._waiting:
            # The device is idle, as far as these flows go: the next ones begin alike.
            self._now = max(self._times.values())
            self._times.clear()
            return
        if self._countless:
            self._now += sum(seconds.values()) / len(self._waiting.keys() | seconds.keys())
        if len(self._times) > 2 * len(self._waiting) + _MOST_IDLE:
            self._times = {
                flow: time for flow, time in self._times.items() if flow in self._waiting or time > self._now
            }


class _Class:
    """The waiting evaluations of one class of requests, by caller and by lane."""

    __slots__ = ("arrived", "callers", "flows", "lanes", "name", "weight")

    def __init__(self, name: str, weight: float) -> None:
        self.name = name
        self.weight = weight
        self.arrived = -math.inf
        self.flows = Flows(countless=True)
        self.callers: dict[str, Queue] = {}
        self.lanes: dict[Hashable, dict[str, Queue]] = {}

    def add(self, evaluation: Evaluation) -> None:
        """Let an evaluation wait, as the last of its caller's."""
        caller, key = evaluation.request.caller, evaluation.lane_key
        _queue(self.callers, caller)[evaluation] = None
        lane = self.lanes.get(key)
        if lane is None:
            lane = self.lanes[key] = {}
        _queue(lane, caller)[evaluation] = None

    def remove(self, evaluation: Evaluation) -> None:
        """Take an evaluation out."""
        caller, key = evaluation.request.caller, evaluation.lane_key
        if _leave(self.callers, caller, evaluation):
            self.flows.leave(caller)
        lane = self.lanes[key]
        if _leave(lane, caller, evaluation) and not lane:
            del self.lanes[key]

    def clear(self) -> None:
        """Take all evaluations out."""
        for caller in self.callers:
            self.flows.leave(caller)
        self.callers.clear()
        self.lanes.clear()


def _queue(queues: dict[str, Queue], caller: str) -> Queue:
    queue = queues.get(caller)
    if queue is None:
        queue = queues[caller] = {}
    return queue


def _leave(queues: dict[str, Queue], caller: str, evaluation: Evaluation) -> bool:
    """Take an evaluation out of its caller's queue; tell whether it was the last."""
    queue = queues[caller]
    del queue[evaluation]
    if queue:
        return False
    del queues[caller]
    return True


class Schedule:
    """The evaluations that wait for one device thread. Not for several threads at once.

    Parameters
    ----------
    weights
        Shares of the device's time by class; a class that is not named weighs 1.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights
        self._classes: dict[str, _Class] = {}
        self._flows = Flows(countless=False)

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return any(entry.callers for entry in self._classes.values())

    def add(self, evaluation: Evaluation, now: float) -> None:
        """Let an evaluation that has just arrived, at the time `now`, wait."""
        entry = self._class(evaluation)
        entry.add(evaluation)
        entry.arrived = now
        entry.flows.enter(evaluation.request.caller)
        self._flows.enter(entry.name, entry.weight)

    def put_back(self, evaluation: Evaluation) -> None:
        """Let an evaluation that was in the last chunk and has rows left wait, as the last of its caller's."""
        entry = self._class(evaluation)
        entry.add(evaluation)
        entry.flows.stay(evaluation.request.caller)
        self._flows.stay(entry.name, entry.weight)

    def lane_keys(self) -> set[Hashable]:
        """Return the keys of all lanes for which evaluations wait."""
        return {key for entry in self._classes.values() for key in entry.lanes}

    def drop_stopped(self, now: float) -> list[tuple[Evaluation, PellucidError]]:
        """Take out the evaluations whose requests were cancelled or are late, each with its error."""
        stopped = [
            (evaluation, error)
            for entry in self._classes.values()
            for queue in entry.callers.values()
            for evaluation in queue
            if (error := evaluation.request.error(now)) is not None
        ]
        for evaluation, _ in stopped:
            self._remove(evaluation)
        return stopped

    def next(self) -> Evaluation:
        """Return the evaluation whose turn it is, which fixes lane and class of the next chunk; something must wait."""
        entry = self._classes[self._flows.next()]
        return next(iter(entry.callers[entry.flows.next()]))

    def upcoming(self) -> Evaluation | None:
        """Return what `next` would, None if nothing waits, and leave everything as it is."""
        if not self:
            return None
        entry = self._classes[self._flows.first()]
        return next(iter(entry.callers[entry.flows.first()]))

    def chunk(self, first: Evaluation, room: int, *, packed: bool = True, even: bool = True) -> list[ChunkPart]:
        """Return the chunk that `take` would take out, and leave everything as it is."""
        if not packed or first.alone:
            left = first.count - first.done
            return [(first, min(_evenly(left, room) if even else room, left))]
        return self._shares(first, room, even=even)

    def take(self, first: Evaluation, room: int, *, packed: bool = True, even: bool = True) -> list[ChunkPart]:
        """Take out the next chunk: `first`, the evaluation whose turn it is, and others of its lane and class.

        The chunk has at most `room` rows, in equal shares by caller, and a caller's in equal shares by evaluation, as
        far as each has so many. Without `packed`, or if it is to be alone, `first` has it to itself. With `even`, the
        rows that wait are divided into chunks of about one size, so that the last one is not a small rest.
        """
        chunk = self.chunk(first, room, packed=packed, even=even)
        entry = self._class(first)
        if len(chunk) == sum(map(len, entry.callers.values())):
            # The usual case; one by one it takes seven times as long.
            entry.clear()
            self._flows.leave(entry.name)
            return chunk
        for evaluation, _ in chunk:
            self._remove(evaluation)
        return chunk

    def charge(self, chunk: list[ChunkPart], seconds: float) -> None:
        """Note what a chunk took, after those with rows left were put back."""
        entry = self._class(chunk[0][0])
        rows: dict[str, int] = {}
        for evaluation, count in chunk:
            caller = evaluation.request.caller
            rows[caller] = rows.get(caller, 0) + count
        row_seconds = seconds / sum(rows.values())
        entry.flows.charge({caller: count * row_seconds for caller, count in rows.items()})
        self._flows.charge({entry.name: seconds}, entry.weight)

    def heavier_arrived(self, evaluation: Evaluation) -> float:
        """Return when work of a class heavier than the evaluation's last arrived; minus infinity if never."""
        weight = self._class(evaluation).weight
        return max((entry.arrived for entry in self._classes.values() if entry.weight > weight), default=-math.inf)

    def _class(self, evaluation: Evaluation) -> _Class:
        name = evaluation.request.priority
        entry = self._classes.get(name)
        if entry is None:
            entry = self._classes[name] = _Class(name, self._weights.get(name, 1.0))
        return entry

    def _remove(self, evaluation: Evaluation) -> None:
        entry = self._class(evaluation)
        entry.remove(evaluation)
        if not entry.callers:
            self._flows.leave(entry.name)

    def _shares(self, first: Evaluation, room: int, *, even: bool) -> list[ChunkPart]:
        entry = self._class(first)
        lane = entry.lanes[first.lane_key]
        everything = [
            (evaluation, evaluation.count - evaluation.done)
            for queue in lane.values()
            for evaluation in queue
            if not evaluation.alone
        ]
        waiting = sum([count for _, count in everything])
        if waiting <= room:
            return everything
        room = _evenly(waiting, room) if even else room
        left: dict[str, list[ChunkPart]] = {}
        for part in everything:
            left.setdefault(part[0].request.caller, []).append(part)
        own = first.request.caller
        callers = sorted(left, key=lambda caller: (caller != own, entry.flows.order(caller)))
        wanted = [sum([count for _, count in left[caller]]) for caller in callers]
        chunk: list[ChunkPart] = []
        for caller, share in zip(callers, _even(room, wanted), strict=True):
            counts = _even(share, [count for _, count in left[caller]])
            chunk += [(evaluation, count) for (evaluation, _), count in zip(left[caller], counts, strict=True) if count]
        # Who has a row more this time is behind the others the next time.
        return sorted(chunk, key=lambda part: part[1])


def _evenly(waiting: int, room: int) -> int:
    """Return how many of the rows that wait to take, so that all go in as few chunks as the room allows, alike."""
    chunks = -(-waiting // room)
    return -(-waiting // chunks)


def _even(room: int, wanted: list[int]) -> list[int]:
    """Share `room` out evenly: nobody gets more than it wants, and the first ones get what does not divide."""
    shares = [0] * len(wanted)
    hungry = list(range(len(wanted)))
    while room and hungry:
        fair = max(1, room // len(hungry))
        for number in hungry[:room]:
            given = min(fair, wanted[number] - shares[number])
            shares[number] += given
            room -= given
        hungry = [number for number in hungry if shares[number] < wanted[number]]
    return shares
