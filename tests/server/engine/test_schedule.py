import threading
from collections import Counter

import numpy as np
import pytest
from pellucid_server.engine.asking.question import Target
from pellucid_server.engine.device.evaluation import Evaluation
from pellucid_server.engine.device.schedule import Flows, Schedule
from pellucid_server.engine.evaluations.recipes import Rows
from pellucid_server.engine.evaluations.score import Score
from pellucid_server.engine.tasks.request_state import RequestState, Tally
from pellucid_server.errors import CancelledError, TimedOutError

WEIGHTS = {"predictions": 100.0, "interactive": 10.0, "bulk": 1.0}
TARGET = Target("y", ((0, 1.0),))
ENDLESS = 1 << 40


def evaluation(count=ENDLESS, *, priority="interactive", caller="ann", lane="lane", alone=False, request=None):
    rows = np.broadcast_to(np.float32(0), (count, 1))
    request = request or RequestState(1, None, priority=priority, caller=caller, alone=alone)
    return Evaluation(lane, Score(Rows({"x": rows}), TARGET), request, Tally(), threading.Event())


def schedule_of(*evaluations):
    made = Schedule(WEIGHTS)
    for entry in evaluations:
        made.add(entry, 0.0)
    return made


class Device:
    """Serves a schedule by the clock of the rows: each takes the seconds that its lane says, 1 by default."""

    def __init__(self, schedule, *, room=4, row_seconds=None):
        self.schedule = schedule
        self.room = room
        self.row_seconds = row_seconds or {}
        self.clock = 0.0
        self.chunks = []
        self.by_class, self.by_caller, self.by_evaluation = Counter(), Counter(), Counter()

    def step(self, *arrivals):
        """Serve one chunk, while which `arrivals` come."""
        first = self.schedule.next()
        chunk = self.schedule.take(first, self.room)
        for entry in arrivals:
            self.schedule.add(entry, self.clock)
        row_seconds = self.row_seconds.get(first.lane_key, 1.0)
        for entry, count in chunk:
            entry.done += count
            self.by_class[entry.request.priority] += count * row_seconds
            self.by_caller[entry.request.caller] += count * row_seconds
            self.by_evaluation[entry] += count
            self.put_back(entry)
        seconds = row_seconds * sum(count for _, count in chunk)
        self.schedule.charge(chunk, seconds)
        self.clock += seconds
        self.chunks.append(chunk)
        return chunk

    def put_back(self, entry):
        if entry.done < entry.count:
            self.schedule.put_back(entry)


def test_classes_that_always_wait_have_their_weights_shares_at_every_moment():
    """Theorem 1 of Goyal, Vin and Cheng: normalised services differ by at most one chunk of each."""
    seconds = {"predictions": 0.3, "interactive": 1.7, "bulk": 0.9}
    entries = [evaluation(priority=name, lane=name) for name in WEIGHTS]
    device = Device(schedule_of(*entries), room=4, row_seconds=seconds)
    differences = []

    for _ in range(3000):
        device.step()
        normal = {name: device.by_class[name] / weight for name, weight in WEIGHTS.items()}
        bound = {name: 4 * seconds[name] / weight for name, weight in WEIGHTS.items()}
        differences += [
            abs(normal[one] - normal[other]) - bound[one] - bound[other] for one in WEIGHTS for other in WEIGHTS
        ]

    assert max(differences) <= 1e-9
    shares = {name: device.by_class[name] / device.clock for name in WEIGHTS}
    assert shares == pytest.approx({name: weight / 111 for name, weight in WEIGHTS.items()}, rel=0.05)


def test_a_class_that_is_not_named_weighs_one():
    device = Device(schedule_of(evaluation(priority="bulk"), evaluation(priority="unheard-of")))

    for _ in range(100):
        device.step()

    assert device.by_class["bulk"] == device.by_class["unheard-of"]


@pytest.mark.parametrize("lane", ["lane", "another"])
@pytest.mark.parametrize("room", [1, 3, 4, 200])
def test_a_caller_with_64_requests_and_one_with_one_have_half_each(lane, room):
    many = [evaluation(caller="ann") for _ in range(64)]
    device = Device(schedule_of(*many, evaluation(caller="bob", lane=lane)), room=room)

    for _ in range(1000):
        device.step()

    assert device.by_caller["bob"] == pytest.approx(device.clock / 2, rel=0.01)
    shares = [device.by_evaluation[entry] for entry in many]
    assert max(shares) - min(shares) <= max(1, room)


def test_callers_have_equal_time_however_long_their_rows_take():
    slow, fast = evaluation(caller="ann", lane="slow"), evaluation(caller="bob", lane="fast")
    device = Device(schedule_of(slow, fast), room=1, row_seconds={"slow": 7.0, "fast": 0.1})

    for _ in range(5000):
        device.step()

    assert device.by_caller["ann"] == pytest.approx(device.by_caller["bob"], abs=7.1)


def test_a_prediction_that_arrives_during_a_chunk_is_next():
    others = [evaluation(priority=name, caller=caller) for name in ("interactive", "bulk") for caller in "abc"]
    device = Device(schedule_of(*others))
    served = []

    for _ in range(50):
        prediction = evaluation(1, priority="predictions", lane="prediction")
        device.step(prediction)
        served.append(device.step() == [(prediction, 1)])

    assert served == [True] * 50


def test_every_one_of_many_callers_is_served_once_a_round():
    device = Device(schedule_of(*(evaluation(caller=str(number)) for number in range(200))), room=1)

    for _ in range(600):
        device.step()

    assert set(device.by_caller.values()) == {3.0}


def test_when_not_all_fit_those_who_had_least_are_taken():
    entries = [evaluation(caller=str(number)) for number in range(10)]
    device = Device(schedule_of(*entries), room=4)

    for _ in range(5):
        device.step()

    assert set(device.by_caller.values()) == {2.0}


@pytest.mark.parametrize(("early", "late"), [("bulk", "interactive"), ("interactive", "bulk")])
def test_a_class_that_was_idle_has_saved_nothing_up_and_one_that_ran_alone_owes_nothing(early, late):
    device = Device(schedule_of(evaluation(priority=early)), room=1)
    for _ in range(1000):
        device.step()
    device.step(evaluation(priority=late, lane="late"))
    before = Counter(device.by_class)

    for _ in range(1100):
        device.step()

    shares = {name: (device.by_class[name] - before[name]) / 1100 for name in (early, late)}
    assert shares == pytest.approx({name: WEIGHTS[name] / 11 for name in (early, late)}, rel=0.02)


def test_after_a_pause_in_which_nobody_waited_all_begin_alike():
    first = evaluation(1000, caller="ann")
    device = Device(schedule_of(first), room=1)
    for _ in range(1000):
        device.step()
    assert not device.schedule
    for caller in ("ann", "bob"):
        device.schedule.add(evaluation(caller=caller), device.clock)
    device.by_caller.clear()

    for _ in range(100):
        device.step()

    assert device.by_caller == {"ann": 50.0, "bob": 50.0}


def test_a_caller_who_leaves_and_comes_back_at_once_is_not_forgiven_what_it_had():
    device = Device(schedule_of(evaluation(caller="patient")), room=1, row_seconds={"long": 10.0})
    served = [[evaluation(1, caller="greedy")]]

    for _ in range(1000):
        returning = [entry for entry in served[-1] if entry.request.caller == "greedy"]
        again = [evaluation(1, caller="greedy", lane="long") for _ in returning]
        served.append([entry for entry, _ in device.step(*again)])

    assert device.by_caller["patient"] == pytest.approx(device.by_caller["greedy"], abs=11)


@pytest.mark.parametrize(
    ("room", "ann", "bob", "expected"),
    [
        (12, [10, 10, 10], [10], [2, 2, 2, 6]),
        (12, [10, 10, 10], [2], [4, 3, 3, 2]),
        (12, [1, 1, 1], [20], [1, 1, 1, 9]),
        (7, [10, 10], [10], [2, 2, 3]),
        (8, [1, 10], [10], [1, 3, 4]),
        (2, [10, 10], [10], [1, 0, 1]),
        (1, [10, 10], [10], [1, 0, 0]),
        (100, [10, 10], [10], [10, 10, 10]),
    ],
)
def test_a_chunk_that_is_full_is_shared_evenly_by_caller_and_then_by_evaluation(room, ann, bob, expected):
    entries = [evaluation(count, caller="ann") for count in ann] + [evaluation(count, caller="bob") for count in bob]
    schedule = schedule_of(*entries)

    chunk = dict(schedule.take(schedule.next(), room, even=False))

    assert [chunk.get(entry, 0) for entry in entries] == expected


@pytest.mark.parametrize(
    ("room", "counts", "expected"),
    [
        (12, [50], [10] * 5),
        (12, [26, 24], [10] * 5),
        (12, [13], [7, 6]),
        (12, [12], [12]),
        (1, [3], [1] * 3),
        (5, [9, 2], [4, 4, 3]),
    ],
)
def test_rows_that_wait_are_divided_into_chunks_of_about_one_size(room, counts, expected):
    entries = [evaluation(count) for count in counts]
    for entry in entries:
        entry.alone = len(entries) == 1
    schedule, sizes = schedule_of(*entries), []
    while schedule:
        chunk = schedule.take(schedule.next(), room)
        sizes.append(sum(count for _, count in chunk))
        for entry, count in chunk:
            entry.done += count
            if entry.done < entry.count:
                schedule.put_back(entry)

    assert sizes == expected


def test_a_chunk_has_rows_of_one_lane_and_one_class():
    entries = [
        evaluation(3, priority=priority, lane=lane) for priority in ("bulk", "interactive") for lane in ("one", "two")
    ]
    device = Device(schedule_of(*entries), room=100)

    chunks = [device.step() for _ in range(4)]

    assert [len(chunk) for chunk in chunks] == [1] * 4
    assert {chunk[0][0] for chunk in chunks} == set(entries)


def test_a_request_that_is_alone_shares_no_chunk_and_has_its_turn():
    entries = [evaluation(4, caller=caller, alone=caller == "loner") for caller in ("ann", "loner", "bob")]
    device = Device(schedule_of(*entries), room=100)

    chunks = [device.step(), device.step()]

    assert [[entry.request.caller for entry, _ in chunk] for chunk in chunks] == [["ann", "bob"], ["loner"]]


def test_an_evaluation_that_cannot_be_packed_has_its_chunk_to_itself():
    entries = [evaluation(4), evaluation(4)]
    schedule = schedule_of(*entries)

    assert schedule.take(schedule.next(), 4, packed=False) == [(entries[0], 4)]


def test_stopped_requests_leave_with_their_errors_and_others_stay():
    requests = [RequestState(1, None, cancelled=True), RequestState(2, 99.0), RequestState(3, 101.0)]
    entries = [evaluation(request=request) for request in requests]
    schedule = schedule_of(*entries)

    stopped = {entry: type(error) for entry, error in schedule.drop_stopped(100.0)}

    assert stopped == {entries[0]: CancelledError, entries[1]: TimedOutError}
    assert schedule.take(schedule.next(), 1 << 50) == [(entries[2], ENDLESS)]
    assert not schedule


def cancelled_after(steps, device, request):
    """Serve some chunks, then cancel a request whose caller has another at once."""
    for _ in range(steps):
        device.step()
    request.cancelled = True
    device.schedule.drop_stopped(device.clock)
    device.schedule.add(evaluation(priority=request.priority, caller=request.caller), device.clock)


@pytest.mark.parametrize("steps", [0, 20])
def test_a_caller_is_charged_for_no_row_of_a_cancelled_request_that_was_not_done(steps):
    request = RequestState(1, None, priority="interactive", caller="ann")
    device = Device(schedule_of(evaluation(1000, request=request), evaluation(caller="bob")), room=1)
    cancelled_after(steps, device, request)

    for _ in range(100):
        device.step()

    assert device.by_caller == {"ann": (steps + 100) / 2, "bob": (steps + 100) / 2}


@pytest.mark.parametrize("steps", [0, 22])
def test_a_class_is_charged_for_no_row_of_a_cancelled_request_that_was_not_done(steps):
    request = RequestState(1, None, priority="bulk", caller="ann")
    device = Device(schedule_of(evaluation(1000, request=request), evaluation()), room=1)
    cancelled_after(steps, device, request)

    for _ in range(110):
        device.step()

    assert device.by_class["bulk"] == pytest.approx((steps + 110) / 11, abs=1)


def test_it_is_known_when_work_of_a_heavier_class_came():
    schedule = Schedule(WEIGHTS)
    schedule.add(evaluation(priority="interactive"), 5.0)
    schedule.add(evaluation(priority="bulk"), 7.0)

    found = [schedule.heavier_arrived(evaluation(priority=name)) for name in ("bulk", "interactive")]

    assert found == [5.0, float("-inf")]


def test_a_stream_of_new_callers_does_not_hold_up_an_old_one():
    device = Device(schedule_of(evaluation(caller="patient")), room=1)
    served = [[evaluation(1, caller="new")]]

    for number in range(1000):
        replaced = [entry for entry in served[-1] if entry.request.caller != "patient"]
        served.append([entry for entry, _ in device.step(*(evaluation(1, caller=str(number)) for _ in replaced))])

    assert device.by_caller["patient"] == pytest.approx(500, abs=2)


def test_callers_who_owe_nothing_are_forgotten():
    flows = Flows(countless=True)
    flows.enter("patient")

    for number in range(10_000):
        flows.enter(str(number))
        flows.leave(str(number))
        flows.charge({str(number): 1.0, "patient": 1.0})

    assert len(flows._times) < 200


def crowd(generator, count, *, most):
    """Draw evaluations of fewer than `most` rows, of any class, caller and lane; some are alone."""
    return [
        evaluation(
            int(generator.integers(1, most)),
            priority=str(generator.choice([*WEIGHTS, "other"])),
            caller=str(generator.integers(5)),
            lane=str(generator.integers(3)),
            alone=bool(generator.random() < 0.1),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_every_row_of_a_random_crowd_is_evaluated_once_and_no_chunk_is_too_large(seed):
    print(f"seed {seed}")
    generator = np.random.default_rng(seed)
    entries = crowd(generator, 300, most=40)
    room = int(generator.integers(1, 30))
    coming = list(reversed(entries))
    device = Device(schedule_of(coming.pop()), room=room, row_seconds={"0": 0.01, "1": 3.0})

    while device.schedule or coming:
        arrivals = [coming.pop() for _ in range(min(len(coming), int(generator.integers(1, 6))))]
        device.step(*arrivals)

    assert device.by_evaluation == {entry: entry.count for entry in entries}
    for chunk in device.chunks:
        members = [entry for entry, _ in chunk]
        assert 0 < sum(count for _, count in chunk) <= room
        assert len({(entry.lane_key, entry.request.priority) for entry in members}) == 1
        assert len(members) == len(set(members))
        assert len(members) == 1 or not any(entry.alone for entry in members)


def test_a_chunk_of_all_that_waits_in_a_class_leaves_the_other_classes_and_nothing_of_its_own():
    ann, ben, other = evaluation(2), evaluation(2, caller="ben"), evaluation(2, priority="bulk")
    schedule = schedule_of(ann, ben, other)

    chunk = schedule.take(schedule.next(), 4)
    schedule.charge(chunk, 1.0)

    assert chunk == [(ann, 2), (ben, 2)]
    assert schedule.next() is other
    assert schedule.take(other, 4) == [(other, 2)]
    assert not schedule
    assert schedule.lane_keys() == set()


class Looking(Device):
    """Looks at what would be next before each chunk and while it is out."""

    def step(self, *arrivals):
        upcoming = self.schedule.upcoming()
        expected = self.schedule.chunk(upcoming, self.room)
        assert self.schedule.upcoming() is upcoming
        chunk = super().step(*arrivals)
        assert chunk == expected
        return chunk

    def put_back(self, entry):
        # The device thread looks while the chunk is out.
        if self.schedule:
            self.schedule.chunk(self.schedule.upcoming(), 1)
        super().put_back(entry)


@pytest.mark.parametrize("seed", range(4))
def test_looking_at_what_is_next_changes_nothing_of_what_comes(seed):
    print(f"seed {seed}")
    found = []
    for kind in (Device, Looking):
        generator = np.random.default_rng(seed)
        coming = crowd(generator, 100, most=30)
        numbers = {entry: number for number, entry in enumerate(coming)}
        device = kind(schedule_of(coming.pop()), room=int(generator.integers(1, 20)), row_seconds={"0": 0.01, "1": 3.0})
        while device.schedule or coming:
            device.step(*[coming.pop() for _ in range(min(len(coming), int(generator.integers(0, 3))))])
            if not device.schedule and coming:
                device.schedule.add(coming.pop(), device.clock)
        found.append([[(numbers[entry], count) for entry, count in chunk] for chunk in device.chunks])

    assert found[0] == found[1]
    assert sum(count for chunk in found[0] for _, count in chunk) == sum(entry.count for entry in numbers)


def test_nothing_is_next_where_nothing_waits():
    assert schedule_of().upcoming() is None
