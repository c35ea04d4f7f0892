import threading

import pytest
from pellucid_server.engine.threads import JobThreads


def run(threads: JobThreads, function):
    """Run `function` as a task and return what it returned."""
    found, ended = [], threading.Event()

    def task():
        try:
            found.append(function())
        except Exception as error:
            found.append(error)
        ended.set()

    threads.submit(task)
    assert ended.wait(10)
    return found[0]


def test_only_one_task_runs_python_at_a_time():
    threads, inside, most, ended = JobThreads(4, reserved=0), [], [], threading.Semaphore(0)

    def task():
        inside.append(1)
        most.append(len(inside))
        sum(range(50_000))
        inside.pop()
        ended.release()

    for _ in range(20):
        threads.submit(task)
    for _ in range(20):
        assert ended.acquire(timeout=10)

    assert max(most) == 1


def test_a_task_that_waits_lets_another_run():
    threads, go, met = JobThreads(2, reserved=0), threading.Event(), threading.Event()

    def waits():
        with threads.baton.dropped():
            assert go.wait(10)
        met.set()

    threads.submit(waits)
    threads.submit(go.set)

    assert met.wait(10)


def test_a_prediction_finds_a_thread_when_explanations_hold_all_others():
    threads, release, predicted = JobThreads(2, reserved=1), threading.Event(), threading.Event()

    def explanation():
        with threads.baton.dropped():
            release.wait(10)

    for _ in range(5):
        threads.submit(explanation)
    threads.submit(predicted.set, prediction=True)

    assert predicted.wait(10)
    release.set()


def test_map_gives_results_in_the_order_of_the_items():
    threads = JobThreads(4, reserved=0)

    assert run(threads, lambda: threads.map(lambda item: item * item, range(50))) == [item * item for item in range(50)]


def test_map_works_when_every_other_thread_is_taken():
    threads = JobThreads(1, reserved=0)

    assert run(threads, lambda: threads.map(str, [1, 2, 3])) == ["1", "2", "3"]


def test_map_of_nothing_is_nothing():
    threads = JobThreads(1, reserved=0)

    assert run(threads, lambda: threads.map(str, [])) == []


def test_map_raises_what_an_item_raised():
    threads = JobThreads(2, reserved=0)

    error = run(threads, lambda: threads.map(lambda item: 1 // item, [1, 0, 2]))

    assert isinstance(error, ZeroDivisionError)


def test_maps_inside_maps_end():
    threads = JobThreads(2, reserved=0)

    def inner(item):
        return sum(threads.map(lambda number: number, range(item)))

    assert run(threads, lambda: threads.map(inner, range(6))) == [0, 0, 1, 3, 6, 10]


@pytest.mark.parametrize("reserved", [0, 2])
def test_predictions_run_before_explanations_that_came_earlier(reserved):
    threads, order, release, ended = JobThreads(1, reserved=reserved), [], threading.Event(), threading.Semaphore(0)
    started = threading.Event()

    def holder():
        started.set()
        release.wait(10)

    def note(name):
        order.append(name)
        ended.release()

    threads.submit(holder)
    assert started.wait(10)
    threads.submit(lambda: note("explanation"))
    threads.submit(lambda: note("prediction"), prediction=True)
    release.set()
    for _ in range(2):
        assert ended.acquire(timeout=10)

    assert order == ["prediction", "explanation"]
