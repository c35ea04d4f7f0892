import asyncio
import os
import sys
from pathlib import Path

import pytest
from pellucid_server.config import PoolConfig
from pellucid_server.jobs import WorkerSettings
from pellucid_server.pool.pool import Pool
from pellucid_server.pool.process import Launcher

COMMAND = (sys.executable, str(Path(__file__).parent / "fake_worker.py"))


class Health:
    """Collects what a pool tells of its health, and waits for it."""

    def __init__(self, pool):
        self._told = asyncio.Queue()
        pool.watch(self._told.put_nowait)

    async def becomes(self, healthy):
        while await asyncio.wait_for(self._told.get(), 20) is not healthy:
            pass


@pytest.fixture
def make_pool(tmp_path):
    def make(*, workers=1, start="plain", concurrent_jobs=2, command=COMMAND, on_restart=lambda device: None, **config):
        (tmp_path / start).mkdir(exist_ok=True)
        settings = WorkerSettings("cpu", str(tmp_path / start), 1, concurrent_jobs, 0.05, 1 << 28)
        quick = {"restart_initial_seconds": 0.001, "restart_max_seconds": 60.0, "queue_limit": 2, **config}
        launcher = Launcher({**os.environ, "OMP_NUM_THREADS": "7"}, command)
        return Pool((settings,) * workers, PoolConfig(**quick), launcher, on_restart=on_restart)

    return make


@pytest.fixture
async def pool(make_pool):
    made = make_pool()
    await made.start()
    yield made
    await made.close()
