"""A worker's starts, restarts and ends."""

import asyncio
import gc
import os
import signal
import time
from pathlib import Path

import pytest
from pellucid_server.errors import UnavailableError
from pellucid_server.pool.workers.launcher import Launcher
from pellucid_server.pool.workers.process import WorkerProcess, WorkerStartError
from pellucid_server.settings.sections import PoolConfig
from pellucid_server.vocabulary.messages import WorkerSettings
from server.pool.conftest import COMMAND, Health, answer, request, sent

NEVER_SECONDS = 600.0


@pytest.fixture
def by_command():
    return True


def children():
    """Return the ids of this process's children, those that ended and were not waited for included."""
    lists = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return {int(pid) for path in lists for pid in path.read_text().split()}


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def kill(pool, number=0):
    os.kill(pool.workers[number].pid, signal.SIGKILL)


async def restarted(pool):
    """Start a pool, kill its worker, and wait until there is another."""
    health = Health(pool)
    await pool.start()
    kill(pool)
    await health.becomes(False)
    await health.becomes(True)


async def test_the_worker_has_its_environment_and_a_process_group_of_its_own(pool):
    assert int(await answer(pool, "threads")) == 7
    assert os.getpgid(pool.workers[0].pid) != os.getpgid(0)


async def test_a_lost_worker_is_started_again_and_nothing_is_left_of_it(make_pool, diary):
    pool = make_pool()
    health = Health(pool)
    await pool.start()
    first = pool.workers[0].pid

    kill(pool)

    await health.becomes(False)
    await health.becomes(True)
    assert int(await answer(pool, "pid")) == pool.workers[0].pid != first
    assert not alive(first)
    assert (diary.restarts, diary.losses) == (["cpu"], [("cpu", "exit")])


async def test_bytes_that_are_no_message_count_as_a_lost_worker(make_pool, diary, caplog):
    pool = make_pool()
    health = Health(pool)
    await pool.start()

    with pytest.raises(UnavailableError, match="Two workers, one after the other, were lost"):
        await pool.run(request("garbage"), 20)

    await health.becomes(False)
    await health.becomes(True)
    assert caplog.text.count("a message cannot be decoded") == len(diary.losses) == 2


async def test_a_worker_that_refuses_a_restart_is_tried_again(make_pool, diary):
    await restarted(make_pool(start="flaky"))

    assert diary.restarts == ["cpu", "cpu"]
    assert diary.losses == [("cpu", "exit"), ("cpu", "start")]


async def test_a_bug_at_a_restart_is_logged_and_the_worker_is_tried_again(make_pool, diary, caplog):
    command = list(COMMAND)

    def change_command(count):
        command[:] = ["a null \0 byte"] if count == 1 else COMMAND

    diary.before_restart = change_command

    await restarted(make_pool(command=command))

    assert diary.restarts == ["cpu", "cpu"]
    (logged,) = [record for record in caplog.records if record.exc_info]
    assert (logged.exc_info[0], str(logged.exc_info[1])) == (ValueError, "embedded null byte")


async def test_a_restart_that_a_listener_breaks_leaves_no_process(make_pool, caplog):
    before = children()
    told = []

    def listener(healthy):
        told.append(healthy)
        if told == [True, False, True]:
            raise RuntimeError("a listener's bug")

    pool = make_pool()
    pool.watch(listener)
    health = Health(pool)
    await pool.start()

    kill(pool)

    await health.becomes(True)
    await health.becomes(True)
    assert told == [True, False, True, False, True]
    assert children() - before == {pool.workers[0].pid}
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["a listener's bug"]


async def test_a_worker_that_hangs_at_its_start_is_killed_and_has_failed(make_pool):
    before = children()
    pool = make_pool(start="stuck", start_seconds=0.2, exit_seconds=0.05)

    with pytest.raises(WorkerStartError, match=r"worker for cpu was not ready within 0\.2 s \(pool\.start_seconds\)"):
        await pool.start()

    assert children() <= before


async def test_a_worker_that_hangs_at_a_restart_is_tried_again(make_pool, diary, monkeypatch):
    def change_limit(count):
        limit = 0.001 if count == 1 else 60.0
        monkeypatch.setattr(pool.workers[0], "_config", PoolConfig(start_seconds=limit, exit_seconds=0.05))

    diary.before_restart = change_limit
    pool = make_pool()
    health = Health(pool)
    await pool.start()

    kill(pool)

    await health.becomes(False)
    await health.becomes(True)
    assert diary.restarts == ["cpu", "cpu"]


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("refuse", "model 'm': there is no model.toml"),
        ("crash", "ended before it was ready"),
        (
            "fatal",
            "ended before it was ready, when it had begun to load the model 'iris', version 2; its own log says why",
        ),
    ],
)
async def test_a_worker_that_cannot_start_is_an_error_at_the_first_start(make_pool, start, message):
    pool = make_pool(start=start, workers=2)

    with pytest.raises(WorkerStartError, match=message):
        await pool.start()

    assert not pool.healthy


async def test_a_command_that_is_not_there_is_an_error_at_the_first_start(make_pool):
    pool = make_pool(command=("/nowhere",))

    with pytest.raises(WorkerStartError, match="cannot be started: No such file"):
        await pool.start()


async def test_a_start_that_is_cancelled_leaves_no_process(make_pool):
    before = children()
    pool = make_pool()
    start = asyncio.create_task(pool.start())
    await asyncio.sleep(0)

    start.cancel()

    assert isinstance((await asyncio.gather(start, return_exceptions=True))[0], asyncio.CancelledError)
    assert children() <= before


async def test_a_launch_that_is_cancelled_ends_so_though_it_fails():
    settings = WorkerSettings("cpu", "", 1, 0.05, 1 << 28)
    launch = asyncio.create_task(WorkerProcess.launch(Launcher({}, ("/no/such/command",)), settings, print))
    await asyncio.sleep(0)

    launch.cancel()

    # A keeper that met the failure in its place would go on, and whoever closes the worker wait for it for ever.
    assert isinstance((await asyncio.gather(launch, return_exceptions=True))[0], asyncio.CancelledError)


async def test_a_process_that_cannot_be_told_its_settings_is_not_left_behind(make_pool):
    before = children()
    pool = make_pool(beats=object())

    with pytest.raises(TypeError, match="cannot cross"):
        await pool.start()

    assert children() <= before


async def test_closing_ends_the_process_and_is_no_loss(make_pool, diary):
    pool = make_pool()
    await pool.start()
    pid = pool.workers[0].pid
    left = await sent(pool, 1)

    await pool.close()

    assert not alive(pid)
    assert isinstance((await asyncio.gather(*left, return_exceptions=True))[0], UnavailableError)
    assert diary.losses == []


async def test_a_worker_that_stays_is_killed(make_pool):
    pool = make_pool(start="stay", exit_seconds=0.05)
    await pool.start()
    pid = pool.workers[0].pid

    await pool.close()

    assert not alive(pid)


def mapped():
    """Return how many deleted files this process has open, and how many it has mapped: records are such."""
    links = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    maps = Path("/proc/self/maps").read_text().splitlines()
    return sum(link.endswith("(deleted)") for link in links), sum(line.endswith("(deleted)") for line in maps)


async def test_the_record_of_a_lost_worker_is_let_go_of(make_pool):
    gc.collect()
    gc.disable()
    try:
        pool = make_pool()
        health = Health(pool)
        await pool.start()
        before = mapped()
        for _ in range(3):
            kill(pool)
            await health.becomes(False)
            await health.becomes(True)

        assert mapped() == before
        assert before[1] > 0
    finally:
        gc.enable()


async def test_the_wait_for_a_worker_is_told_as_long_as_it_is(make_pool):
    pool = make_pool(restart_initial_seconds=NEVER_SECONDS, restart_max_seconds=10 * NEVER_SECONDS)
    health = Health(pool)
    await pool.start()
    kill(pool)
    await health.becomes(False)

    # It is not twice that, for the time after the next.
    assert NEVER_SECONDS - 60 < pool.workers[0].recovery_seconds < NEVER_SECONDS + 60


async def test_while_a_worker_starts_only_its_start_is_waited_for(make_pool, diary):
    pool = make_pool(restart_initial_seconds=0.5, restart_max_seconds=NEVER_SECONDS)
    began = time.monotonic()
    await pool.start()
    start_seconds = time.monotonic() - began
    found = asyncio.get_running_loop().create_future()
    diary.before_restart = lambda count: found.set_result(pool.workers[0].recovery_seconds)
    kill(pool)

    # The wait is over; the one before the next start, should this fail, is a second.
    assert 0 < await asyncio.wait_for(found, 20) <= start_seconds


@pytest.mark.parametrize(("first_seconds", "times"), [(0.3, [1, 2]), (1e-6, [1, 1])])
async def test_the_wait_doubles_unless_the_worker_lived_long_beside_its_own(make_pool, caplog, first_seconds, times):
    pool = make_pool(restart_initial_seconds=first_seconds)
    health = Health(pool)
    await pool.start()

    for _ in times:
        kill(pool)
        await health.becomes(False)
        await health.becomes(True)

    waits = [record.args[1] for record in caplog.records if "started again in" in record.msg]
    assert waits == [first_seconds * each for each in times]


async def test_a_restarted_worker_is_given_what_was_found_of_the_models(make_pool, tmp_path):
    pool = make_pool(start="tried")

    await pool.start()
    first = (tmp_path / "tried" / "verdicts").read_text()
    health = Health(pool)
    kill(pool)
    await health.becomes(False)
    await health.becomes(True)

    assert (first, (tmp_path / "tried" / "verdicts").read_text()) == ("0", "1")
