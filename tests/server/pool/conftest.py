import asyncio
import os
import sys
from pathlib import Path

import numpy as np
import nursery
import pytest
from pellucid_server.faults import Faults
from pellucid_server.pool.observer import Observer
from pellucid_server.pool.pool import Pool
from pellucid_server.pool.workers.launcher import Launcher
from pellucid_server.settings.sections import DEFAULT_CLASSES, PoolConfig
from pellucid_server.vocabulary.messages import WorkerSettings
from pellucid_server.vocabulary.requests import ModelKey, PredictRequest, TensorInput

COMMAND = (sys.executable, str(Path(__file__).parent / "fake_worker.py"))


class Health:
    """Collects what a pool tells of its health, and waits for it."""

    def __init__(self, pool):
        self._told = asyncio.Queue()
        pool.watch(self._told.put_nowait)

    async def becomes(self, healthy):
        while await asyncio.wait_for(self._told.get(), 20) is not healthy:
            pass


class Diary(Observer):
    """Writes down all that a pool tells."""

    def __init__(self):
        self.before_restart = lambda count: None
        self.restarts = []
        self.losses = []
        self.retries = 0
        self.work = []
        self.refusals = []
        self.beats = []

    def restarted(self, device):
        self.restarts.append(device)
        self.before_restart(len(self.restarts))

    def lost(self, device, cause):
        self.losses.append((device, cause))

    def retried(self):
        self.retries += 1

    def worked(self, model, timing, wasted):
        self.work.append((model, timing, wasted))

    def refused(self, priority, cause):
        self.refusals.append((priority, cause))

    def beat(self, device, worker, beat):
        self.beats.append((device, worker))

    @property
    def wasted(self):
        return [model for model, _, wasted in self.work if wasted]


def request(name, array=None):
    return PredictRequest(ModelKey(name), {"x": TensorInput(np.zeros(1) if array is None else array)})


async def answer(pool, name, **options):
    result, _ = await pool.run(request(name), 20, **options)
    return result.outputs["y"].values


async def sent(pool, count, name="hang", **options):
    """Start requests, and return once they are sent, or wait."""
    tasks = [asyncio.create_task(pool.run(request(name), **options)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def end(tasks):
    [task.cancel() for task in tasks]
    return await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition):
    """Let the loop run until something is so."""

    async def look():
        while not condition():
            await asyncio.sleep(0)

    await asyncio.wait_for(look(), 20)


@pytest.fixture
def diary():
    return Diary()


class NurseryLauncher(Launcher):
    """Has workers forked, which takes a tenth of a start."""

    def _popen(self, connection, record):
        return nursery.fork("fake", ["--fd", "{0}", "--record", "{1}"], self._environment, [connection, record], 2)


@pytest.fixture
def by_command():
    """Whether workers are started by their command, as children of this process; modules override it."""
    return False


@pytest.fixture
async def make_pool(tmp_path, diary, by_command):
    """Make pools of fake workers; they are closed afterwards."""
    made = []

    def make(
        *,
        workers=1,
        start="plain",
        places=2,
        command=None,
        classes=None,
        beats=0.0,
        folder="",
        environment=None,
        template="",
        **config,
    ):
        (tmp_path / start).mkdir(exist_ok=True)
        settings = WorkerSettings("cpu", str(tmp_path / start), 1, 0.05, 1 << 28, heartbeat_seconds=beats)
        quick = {"restart_initial_seconds": 0.001, "restart_max_seconds": 60.0, **config}
        pool = Pool(
            (settings,) * workers,
            PoolConfig(**quick),
            (Launcher if by_command or command else NurseryLauncher)(
                {
                    **os.environ,
                    "OMP_NUM_THREADS": "7",
                    "FAKE_TEMPLATE": template,
                    "FAKE_TEMPLATES": str(tmp_path),
                    **(environment or {}),
                },
                command or COMMAND,
                template=bool(template),
            ),
            classes={**DEFAULT_CLASSES, **(classes or {})},
            concurrent_requests=places,
            observer=diary,
            faults=Faults(folder),
            spread=lambda: 0.0,
        )
        made.append(pool)
        return pool

    yield make
    await asyncio.gather(*(pool.close() for pool in made))


@pytest.fixture
async def pool(make_pool):
    made = make_pool()
    await made.start()
    return made
