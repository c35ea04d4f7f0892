"""Workers that are forked from a template, and templates that are lost or cannot start."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from pellucid_server.pool.workers import launcher, templates
from pellucid_server.pool.workers.process import WorkerStartError
from pellucid_server.template import Template
from server.adoption import adopting_for_a_while
from server.pool.conftest import Health, answer, until
from server.pool.test_worker_supervisor import alive, children, kill

TEMPLATE_LOST = "the template of the workers was lost (exit status -9)"


@pytest.fixture(autouse=True)
def _adopting():
    with adopting_for_a_while():
        yield


@pytest.fixture
def by_command():
    return True


@pytest.fixture
def before():
    return children()


@pytest.fixture
def starts(tmp_path):
    """Return how often a template was started."""
    return lambda: len((tmp_path / "starts").read_text())


def template_pid(before):
    """Return the id of the template, by the name that it gives itself."""
    (found,) = [pid for pid in children() - before if Path(f"/proc/{pid}/comm").read_text() == "fake-template\n"]
    return found


async def replaced(pool):
    """Kill the worker, and wait until there is another."""
    health = Health(pool)
    kill(pool)
    await health.becomes(False)
    await health.becomes(True)


async def test_workers_come_from_one_template_and_each_leads_a_group_with_its_environment(make_pool, before, starts):
    pool = make_pool(template="plain", workers=3)
    await pool.start()

    pids = [worker.pid for worker in pool.workers]
    assert starts() == 1
    assert children() - before == {*pids, template_pid(before)}
    assert [os.getpgid(pid) for pid in pids] == pids
    assert int(await answer(pool, "threads")) == 7


async def test_a_killed_worker_is_replaced_with_its_status_in_the_log_and_nothing_left_of_it(
    make_pool, before, starts, caplog
):
    pool = make_pool(template="plain")
    await pool.start()
    first = pool.workers[0].pid

    await replaced(pool)

    assert int(await answer(pool, "pid")) == pool.workers[0].pid != first
    assert not alive(first)
    assert "the worker for cpu was lost (exit status -9)" in caplog.text
    assert (starts(), children() - before) == (1, {pool.workers[0].pid, template_pid(before)})


async def test_a_killed_template_costs_no_request_and_the_next_worker_has_another(make_pool, before, starts, caplog):
    pool = make_pool(template="plain")
    await pool.start()
    worker = pool.workers[0].pid

    os.kill(template_pid(before), signal.SIGKILL)
    await until(lambda: TEMPLATE_LOST in caplog.text)

    assert int(await answer(pool, "pid")) == worker
    assert children() - before == {worker}
    await replaced(pool)
    assert "the worker for cpu was lost (exit status -9)" in caplog.text
    assert starts() == 2
    assert children() - before == {pool.workers[0].pid, template_pid(before)}


async def test_a_template_that_has_long_been_there_is_replaced_at_once(make_pool, before, starts, monkeypatch):
    monkeypatch.setattr(templates, "_STABLE_SECONDS", 0.0)
    pool = make_pool(template="plain")
    await pool.start()

    os.kill(template_pid(before), signal.SIGKILL)

    await until(lambda: starts() == 2)
    assert int(await answer(pool, "pid")) == pool.workers[0].pid


async def test_a_template_and_its_worker_that_are_killed_together_are_both_replaced(make_pool, before, starts):
    pool = make_pool(template="plain")
    await pool.start()

    os.kill(template_pid(before), signal.SIGKILL)
    await replaced(pool)

    assert int(await answer(pool, "pid")) == pool.workers[0].pid
    assert starts() == 2
    assert children() - before == {pool.workers[0].pid, template_pid(before)}


async def test_a_template_that_is_killed_before_it_is_ready_is_started_again(make_pool, before, starts, monkeypatch):
    begun = []
    start = Template.start

    def start_and_kill(command, environment):
        begun.append(start(command, environment))
        if len(begun) == 1:
            os.kill(begun[0].process.pid, signal.SIGKILL)
        return begun[-1]

    monkeypatch.setattr(Template, "start", start_and_kill)
    pool = make_pool(template="plain")

    await pool.start()

    assert len(begun) == 2
    assert children() - before == {pool.workers[0].pid, template_pid(before)}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("crash", "the template of the workers has ended"),
        ("stuck", "the template of the workers was not ready within 0.3 s"),
        ("unable", "the template of the workers cannot fork: Resource temporarily unavailable"),
    ],
)
async def test_without_a_template_a_worker_is_started_by_its_command(
    make_pool, before, caplog, monkeypatch, how, message
):
    if how == "stuck":
        monkeypatch.setattr(templates, "READY_SECONDS", 0.3)
    pool = make_pool(template=how)
    await pool.start()

    assert int(await answer(pool, "pid")) == pool.workers[0].pid
    assert caplog.text.count(message) == 2
    assert "the worker is started without a template" in caplog.text
    assert children() - before == {pool.workers[0].pid}


async def test_a_template_that_is_stopped_does_not_hold_up_a_worker_for_good(make_pool, before, starts, monkeypatch):
    fork = Template.fork
    monkeypatch.setattr(Template, "fork", lambda *given, **options: fork(*given, **options, seconds=0.3))
    pool = make_pool(template="plain")
    await pool.start()

    os.kill(template_pid(before), signal.SIGSTOP)
    await replaced(pool)

    assert starts() == 2
    assert children() - before == {pool.workers[0].pid, template_pid(before)}


async def test_closing_ends_the_template_and_its_workers(make_pool, before):
    pool = make_pool(template="plain", workers=2)
    await pool.start()

    await pool.close()

    assert children() == before


async def test_a_worker_that_refuses_leaves_no_template(make_pool, before):
    pool = make_pool(template="plain", start="refuse")

    with pytest.raises(WorkerStartError, match=r"there is no model\.toml"):
        await pool.start()

    assert children() == before


@pytest.mark.parametrize("how", ["plain", "stuck"])
async def test_a_start_that_is_cancelled_leaves_neither_template_nor_worker(make_pool, before, starts, how):
    pool = make_pool(template=how)
    start = asyncio.create_task(pool.start())
    await until(lambda: children() != before)

    start.cancel()
    await asyncio.gather(start, return_exceptions=True)

    assert start.cancelled()
    assert children() == before


async def test_a_fork_that_is_cancelled_leaves_no_worker(make_pool, before, monkeypatch):
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    fork = Template.fork

    def fork_and_tell(*given, **options):
        loop.call_soon_threadsafe(asked.set)
        return fork(*given, **options)

    monkeypatch.setattr(Template, "fork", fork_and_tell)
    pool = make_pool(template="plain")
    start = asyncio.create_task(pool.start())
    await asked.wait()

    start.cancel()
    await asyncio.gather(start, return_exceptions=True)

    assert children() == before


async def test_fifty_restarts_leave_no_descriptor_on_either_side(make_pool, before):
    pool = make_pool(template="plain", restart_max_seconds=0.001)
    await pool.start()
    await replaced(pool)

    def held():
        return len(os.listdir("/proc/self/fd")), len(os.listdir(f"/proc/{template_pid(before)}/fd"))

    at_first = held()
    for _ in range(50):
        await replaced(pool)

    assert held() == at_first
    assert children() - before == {pool.workers[0].pid, template_pid(before)}


async def test_a_template_of_a_command_that_is_not_there_is_an_error_of_the_command(make_pool, caplog):
    pool = make_pool(template="plain", command=("/nowhere",))

    with pytest.raises(WorkerStartError, match="cannot be started: No such file"):
        await pool.start()

    assert "the template of the workers cannot be started: No such file" in caplog.text


async def test_where_orphans_cannot_be_adopted_workers_are_started_by_their_command(make_pool, before, monkeypatch):
    monkeypatch.setattr(launcher, "CAN_ADOPT", False)
    pool = make_pool(template="plain")

    await pool.start()

    assert children() - before == {pool.workers[0].pid}
