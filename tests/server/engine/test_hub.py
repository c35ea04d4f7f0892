import logging
import threading
import time

import pytest
from pellucid_server.engine.tasks.hub import HEAVY_BYTES, Hub
from pellucid_server.engine.tasks.turns import LONG_TURN_SECONDS, LongTurns
from pellucid_server.recorder import Recorder, new_record


def run(hub, function, **settings):
    """Run `function` as a task and return what it returned or raised."""
    found, ended = [], threading.Event()

    def task():
        try:
            found.append(function())
        except Exception as error:
            found.append(error)
        ended.set()

    hub.submit(task, **settings)
    assert ended.wait(10)
    return found[0]


def test_a_task_that_waits_lets_another_run():
    hub, met = Hub(), threading.Event()
    go = hub.signal()

    def waits():
        go.wait()
        met.set()

    hub.submit(waits)
    hub.submit(go.set)

    assert met.wait(10)


def test_a_signal_that_was_set_before_is_not_waited_for():
    hub = Hub()
    signal = hub.signal()
    signal.set()

    assert run(hub, signal.wait) is True


def test_a_task_waits_for_a_signal_no_longer_than_it_wants_to():
    hub = Hub()
    signal, until = hub.signal(), time.monotonic() + 0.05

    assert run(hub, lambda: (signal.wait(until), time.monotonic() >= until)) == (False, True)


def test_a_time_further_off_than_a_lock_can_wait_for_is_waited_for():
    hub, go = Hub(), threading.Event()
    signal, until = hub.signal(), time.monotonic() + 2 * threading.TIMEOUT_MAX
    hub.submit(lambda: signal.wait(until) and go.set())

    # The hub blocks for good by now, or is gone.
    assert run(hub, lambda: "next") == "next"
    hub.submit(signal.set)

    assert go.wait(10)


def test_a_signal_that_comes_in_time_is_not_waited_for_until_the_end():
    hub = Hub()
    signals, until = [hub.signal() for _ in range(3)], time.monotonic() + 1000
    ended = threading.Semaphore(0)

    for signal in signals:
        hub.submit(lambda signal=signal: (signal.wait(until), ended.release()))
    for signal in reversed(signals):
        threading.Thread(target=signal.set).start()

    assert all(ended.acquire(timeout=10) for _ in signals)


def test_a_signal_that_comes_too_late_does_not_disturb_what_the_task_waits_for_next():
    hub, order = Hub(), []
    late, following = hub.signal(), hub.signal()
    reached = threading.Event()

    def waits():
        order.append(late.wait(time.monotonic() + 0.01))
        reached.set()
        order.append(following.wait())

    hub.submit(waits)
    assert reached.wait(10)
    late.set()
    run(hub, lambda: order.append("another"))
    following.set()
    run(hub, lambda: None)

    assert order == [False, "another", True]


def test_each_of_many_goes_on_at_its_own_time_and_not_before():
    hub, found = Hub(), []
    ended = threading.Semaphore(0)
    now = time.monotonic()

    def waits(until):
        found.append((hub.signal().wait(until), time.monotonic() >= until))
        ended.release()

    for number in reversed(range(50)):
        hub.submit(lambda until=now + 0.002 * number: waits(until))

    assert all(ended.acquire(timeout=10) for _ in range(50))
    assert found == [(False, True)] * 50


def test_the_times_of_signals_that_were_set_do_not_pile_up():
    hub = Hub()
    until = time.monotonic() + 1000

    def waits():
        signal = hub.signal()
        hub.submit(signal.set)
        return signal.wait(until)

    assert all(run(hub, waits) for _ in range(500))
    assert len(hub._alarms) <= 65


def test_a_signal_set_by_another_thread_wakes_its_task_only():
    hub, order = Hub(), []
    signals = [hub.signal() for _ in range(4)]
    ended = threading.Semaphore(0)

    def waits(number):
        signals[number].wait()
        order.append(number)
        ended.release()

    for number in range(4):
        hub.submit(lambda number=number: waits(number))
    for number in (2, 0, 3, 1):
        threading.Thread(target=signals[number].set).start()
        assert ended.acquire(timeout=10)

    assert order == [2, 0, 3, 1]


def test_predictions_run_before_explanations_that_came_earlier():
    hub, order, ended = Hub(), [], threading.Event()

    def arrivals():
        hub.submit(lambda: order.append("explanation"))
        hub.submit(lambda: order.append("prediction"), prediction=True)
        hub.submit(ended.set)

    hub.submit(arrivals)

    assert ended.wait(10)
    assert order == ["prediction", "explanation"]


def test_map_gives_results_in_the_order_of_the_items():
    hub = Hub()

    assert run(hub, lambda: hub.map(lambda item: item * item, range(50))) == [item * item for item in range(50)]


def test_map_works_on_several_items_at_once():
    hub = Hub()
    signals = [hub.signal() for _ in range(3)]

    def meet(number):
        # Each waits for the next one and wakes the one before: alone, none would end.
        signals[number].set()
        signals[(number + 1) % 3].wait()
        return number

    assert run(hub, lambda: hub.map(meet, range(3))) == [0, 1, 2]


def test_map_of_nothing_is_nothing():
    hub = Hub()

    assert run(hub, lambda: hub.map(str, [])) == []


@pytest.mark.parametrize("bad", [0, 1, 29])
def test_map_raises_what_an_item_raised(bad):
    hub = Hub()

    def divide(item):
        hub.offload(lambda: None)
        return 1 // (item - bad)

    assert isinstance(run(hub, lambda: hub.map(divide, range(30))), ZeroDivisionError)


def test_maps_inside_maps_end():
    hub = Hub()

    def inner(item):
        return sum(hub.map(lambda number: number, range(item)))

    assert run(hub, lambda: hub.map(inner, range(6))) == [0, 0, 1, 3, 6, 10]


def test_what_blocks_is_offloaded_and_other_tasks_run_meanwhile():
    hub, go, other = Hub(), threading.Event(), threading.Event()

    def blocks():
        return hub.offload(lambda: go.wait(10) and "done")

    def lets_it_go():
        other.set()
        go.set()

    results = []
    hub.submit(lambda: results.append(blocks()))
    hub.submit(lets_it_go)

    assert other.wait(10)
    assert run(hub, lambda: hub.offload(lambda: "last")) == "last"


def test_an_offloaded_error_is_raised_in_the_task():
    hub = Hub()

    assert isinstance(run(hub, lambda: hub.offload(lambda: 1 // 0)), ZeroDivisionError)


def test_a_task_that_raises_does_not_end_the_hub():
    hub = Hub()

    for prediction in (True, False):
        hub.submit(lambda: 1 // 0, prediction=prediction)

    assert run(hub, lambda: "alive") == "alive"


def test_the_hub_tells_of_each_turn_and_of_having_nothing_to_do():
    turns, idle = [], threading.Event()

    def on_turn(nothing):
        turns.append(nothing)
        if nothing and False in turns:
            idle.set()

    hub = Hub(on_turn=on_turn)
    run(hub, lambda: None)

    assert idle.wait(10)


def test_a_woken_prediction_goes_on_before_what_was_woken_earlier():
    hub, order, ended = Hub(), [], threading.Event()
    signals = {name: hub.signal() for name in ("explanation", "prediction")}

    def waits(name):
        signals[name].wait()
        order.append(name)

    def wakes():
        signals["explanation"].set()
        signals["prediction"].set()
        hub.submit(ended.set)

    hub.submit(lambda: waits("explanation"))
    hub.submit(lambda: waits("prediction"), prediction=True)
    hub.submit(wakes)

    assert ended.wait(10)
    assert order == ["prediction", "explanation"]


def test_predictions_without_end_leave_a_turn_in_17_to_others():
    hub, order, ended = Hub(), [], threading.Event()

    def predict():
        order.append("prediction")
        # As if there were always another; the hub takes them in before its next turn.
        hub.submit(predict if len(order) < 100 else ended.set, prediction=True)

    def explain():
        order.append("explanation")
        hub.submit(explain)

    def begin():
        hub.submit(explain)
        hub.submit(predict, prediction=True)

    hub.submit(begin)

    assert ended.wait(10)
    assert [place for place, name in enumerate(order[:100]) if name == "explanation"] == [16, 33, 50, 67, 84]


def test_the_hub_is_busy_for_as_long_as_a_task_does_not_give_way():
    idle, began, go = threading.Semaphore(0), threading.Event(), threading.Event()
    hub = Hub(on_turn=lambda nothing: nothing and idle.release())
    assert idle.acquire(timeout=10)
    at_first = hub.busy_seconds()

    hub.submit(lambda: began.set() or go.wait(10))
    assert began.wait(10)
    held = [hub.busy_seconds() for _ in range(2)]
    go.set()
    assert idle.acquire(timeout=10)

    assert at_first == 0
    assert 0 < held[0] < held[1] < 10
    assert hub.busy_seconds() == 0


def test_a_task_that_waits_does_not_keep_the_hub_busy():
    idle = threading.Semaphore(0)
    hub = Hub(on_turn=lambda nothing: nothing and idle.release())
    never = hub.signal()
    assert idle.acquire(timeout=10)

    hub.submit(never.wait)

    assert idle.acquire(timeout=10)
    assert hub.busy_seconds() == 0


def test_the_recorder_knows_whose_python_runs_also_after_a_wait_and_in_the_hands_of_a_map():
    recorder, idle = Recorder(new_record()), threading.Semaphore(0)
    hub = Hub(on_turn=lambda nothing: nothing and idle.release(), recorder=recorder)
    go = hub.signal()

    def task():
        first = recorder.suspects()
        go.wait()
        return [first, recorder.suspects(), *hub.map(lambda _: recorder.suspects(), range(3))]

    hub.submit(go.set, request_number=6)
    found = run(hub, task, request_number=5)

    assert found == [{5}] * 5
    # Once before the tasks and once after them.
    assert idle.acquire(timeout=10)
    assert idle.acquire(timeout=10)
    assert recorder.suspects() == frozenset()


def test_the_recorder_knows_whose_work_is_done_beside_the_hub():
    recorder = Recorder(new_record())
    hub, both, ended = Hub(recorder=recorder), threading.Barrier(3), threading.Semaphore(0)
    found = []

    def beside():
        both.wait(10)
        found.append(recorder.suspects())
        both.wait(10)

    def request():
        hub.offload(beside)
        ended.release()

    for request_number in (7, 8):
        hub.submit(request, request_number=request_number)
    both.wait(10)
    both.wait(10)
    assert ended.acquire(timeout=10)
    assert ended.acquire(timeout=10)

    assert {7, 8} <= found[0]
    assert run(hub, lambda: hub.offload(recorder.suspects), request_number=9) == {9}


def compute(seconds):
    """Keep the processor of the calling thread busy."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def long_turns(caplog):
    return [record.getMessage() for record in caplog.records if record.name.endswith("tasks.turns")]


def test_a_turn_that_computes_for_long_is_logged_with_its_name_and_request(caplog):
    hub = Hub()

    run(hub, lambda: compute(0.03), request_number=7, name="Attribute")
    run(hub, lambda: None)

    (line,) = long_turns(caplog)
    assert line.startswith("request 7: a turn of Attribute took 0.")
    assert "0.03" in line


def test_a_task_that_waits_or_leaves_the_work_to_another_thread_has_no_long_turn(caplog):
    hub = Hub()
    go = hub.signal()

    def task():
        compute(LONG_TURN_SECONDS / 2)
        go.wait(time.monotonic() + 0.05)
        hub.offload(lambda: compute(0.03))
        time.sleep(0.03)

    run(hub, task, name="Attribute")
    run(hub, lambda: None)

    assert not long_turns(caplog)


def test_a_long_turn_has_the_name_of_what_the_task_is_at_also_in_the_hands_of_a_map(caplog):
    hub = Hub()

    def named(item):
        with hub.named(f"method-{item}"):
            # Both hands are named before one goes on.
            hub.offload(lambda: None)
            compute(0.03)
        hub.offload(lambda: None)
        if item:
            compute(0.03)

    run(hub, lambda: hub.map(named, range(2)), name="Predict")
    run(hub, lambda: None)

    assert sorted(line.split()[5] for line in long_turns(caplog)) == ["Predict", "method-0", "method-1"]


def test_long_turns_of_one_name_are_logged_once_a_minute_with_how_many_more_there_were(caplog, monkeypatch):
    turns, now = LongTurns(), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    for now[0], name in [(1, "a"), (2, "a"), (3, "b"), (60.9, "a"), (61, "a"), (62, "b"), (200, "a")]:
        turns.note(name, 1, wall_seconds=0.5, processor_seconds=0.25)

    text = "request 1: a turn of {} took 0.500 s (0.250 s of processor time), in which no other request went on{}"
    expected = [("a", ""), ("b", ""), ("a", "; 2 more since the last line"), ("a", "")]
    assert long_turns(caplog) == [text.format(*each) for each in expected]


def test_a_turn_that_only_takes_long_because_others_have_the_processor_is_not_logged(caplog):
    turns = LongTurns()

    turns.note("a", 1, wall_seconds=10.0, processor_seconds=LONG_TURN_SECONDS)
    assert not long_turns(caplog)
    turns.note("a", 1, wall_seconds=10.0, processor_seconds=1.01 * LONG_TURN_SECONDS)
    assert len(long_turns(caplog)) == 1
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


@pytest.mark.parametrize(("byte_count", "where"), [(HEAVY_BYTES, "requests"), (HEAVY_BYTES + 1, "offload")])
def test_work_on_large_arrays_leaves_the_hub(byte_count, where):
    hub = Hub()

    name = run(hub, lambda: hub.heavy(byte_count, lambda: threading.current_thread().name))

    assert name.partition("-")[0] == where
